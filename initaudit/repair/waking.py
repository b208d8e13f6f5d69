"""Parameters that never move, as a fault of one zero for each set of zeros that keep each other at zero.

Of several factors the one is drawn that is drawn by convention: LoRA's first, the weight nearest to the input; never
one that is closed on purpose (a gate, the end of a branch, a head) where another will do. Units that nothing can switch
on get a bias of zero, and other weights where that is not it. The analysis is asked again what still sleeps for ever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import numpy as np

from initaudit import symmetry
from initaudit.freedom import Cause, ParameterFreedom
from initaudit.grounds import OPERATORS
from initaudit.repair.overlaying import laid
from initaudit.repair.rows import Anew
from initaudit.types import Array, Measured, Model, Role, Stats, Tensor

_ROUNDS = 8
_FIRST = re.compile(r"(^|[._])((lora|ia3|adapter)[._]?(embedding_)?)?(A|down)([._]|$)", re.IGNORECASE)
_CLOSED = {Role.BRANCH_END: 3, Role.ROUTER: 3, Role.GATE: 4, Role.HEAD: 5}  # closed by convention, the last one most


def first_factor(m: Measured) -> bool:
    """Whether a weight is the factor of an adapter that is drawn, its other one being zero."""
    return bool(_FIRST.search(m.layer.name))


def woken(
    measured: Sequence[Measured],
    model: Model,
    dead: Mapping[str, str],
    free: Callable[[Measured], bool],
    others: Sequence[Anew] = (),
) -> list[Anew]:
    """Return what is drawn so that dead parameters move.

    Args:
        measured: all layers, in the order of execution.
        model: in which they are dead.
        dead: names of the parameters, and why they are.
        free: whether a layer may be drawn.
        others: what is drawn anyway.
    """
    held = {t.name: (k, m, t, s) for k, m in enumerate(measured) if free(m) for t, s in m.tensors}
    out: list[Anew] = []
    for _ in range(_ROUNDS):
        shown = laid(model, [one.edit for one in (*others, *out)])
        left = [p for p in symmetry.of_model(shown, ()).parameters if p.dead and p.cause == dead.get(p.name)]
        taken = {one.tensor.name for one in (*others, *out)}
        new = [*_factors(left, held, taken), *_off(left, shown, held, taken)]
        if not new:
            break
        out += new
    return out


_Held = Mapping[str, tuple[int, Measured, Tensor, Stats]]


def _factors(left: Sequence[ParameterFreedom], held: _Held, taken: Collection[str]) -> Iterator[Anew]:
    """Yield the zero of each set that is to be drawn."""
    sets = dict.fromkeys(frozenset(p.blocked_by) for p in left if p.cause is Cause.ZEROS)
    for blocked in sets:
        own = [held[name] for name in blocked if name in held and name not in taken]
        own = [one for one in own if one[2] == one[1].layer.weight and one[3].zeros]
        if own:
            _, m, tensor, stats = min(own, key=_rank)
            units = tuple(int(k) for k in np.flatnonzero(stats.rows.nonzero == 0))
            if units:
                yield Anew(m, tensor, None if stats.zeros == stats.count else units)


def _rank(one: tuple[int, Measured, Tensor, Stats]) -> tuple[int, int]:
    at, m, _, _ = one
    if m.layer.role is Role.ADAPTER:
        return (0 if first_factor(m) else 6), at
    return _CLOSED.get(m.layer.role, 1 if m.layer.kind in OPERATORS else 2), at


def _off(left: Sequence[ParameterFreedom], model: Model, held: _Held, taken: Collection[str]) -> Iterator[Anew]:
    """Yield the biases of units that nothing switches on; their weights where the biases are zero already."""
    names = {p.name for p in left if p.cause is Cause.OFF}
    own = dict.fromkeys(name for name in held if name in names)
    if not own:
        return
    still = _still(model, names)
    for name in own:
        _, m, tensor, _ = held[name]
        bias = m.layer.bias
        if tensor != m.layer.weight or bias is None or bias.name not in still:
            continue
        units = _units(m, bias, still[bias.name])
        if not units:
            continue
        if bias.name not in taken and np.asarray(bias.load()).reshape(-1)[list(units)].any():
            yield Anew(m, bias, units)
        elif name not in taken:
            yield Anew(m, tensor, units)


def _still(model: Model, names: Collection[str]) -> dict[str, Array]:
    """Return which elements of parameters never move."""
    out: dict[str, Array] = {}
    graph = model.graph
    if graph is None:
        return out
    for value, moving in symmetry.movements(graph).items():
        tensor = graph.constants[value]
        if tensor.name in names:
            never = moving.reach & (moving.step == 0) & ~moving.cancelled
            out[tensor.name] = np.broadcast_to(never, tensor.shape)
    return out


def _units(m: Measured, bias: Tensor, never: Array) -> tuple[int, ...]:
    """Return the units whose bias never moves, as the weight's are counted."""
    if never.shape != bias.shape or bias.size != m.layer.units:
        return ()
    return tuple(int(k) for k in np.flatnonzero(never))
