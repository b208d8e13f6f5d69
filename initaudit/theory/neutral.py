"""What an operation that is not understood is taken to do: nothing to the size of signal and gradient.

Its output has the second moments of what it reads, and every operand gets the gradient of the output whole. That is
right on average for what nets are made of, since they keep both sizes about the same; and it costs less than to know
nothing of all that follows. The operation is told as not understood (`Signals.unread`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from initaudit.theory.engine import NO_SIGNAL, Case, Grads, Step, Unread
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Back, Kernel, plain_axes


def neutral(c: Case) -> Step:
    """Return what a node is taken to make. Raises Unread where there is nothing to go by."""
    if c.node.op in NO_SIGNAL:
        raise Unread
    values = {k: v for k in c.walk.view.moving(c.node) if (v := c.walk.kernels.get(c.name(k))) is not None}
    if not values:
        raise Unread
    main = max(values.values(), key=lambda v: (v.inputs, v.size))
    outs = tuple(_made(c, k, main) if name else None for k, name in enumerate(c.node.outputs))
    if all(out is None for out in outs):
        raise Unread

    def down(d: Grads) -> dict[int, Back | None]:
        given = [(out, back) for out, back in zip(outs, d, strict=False) if out is not None and back is not None]
        if not given:
            return {}
        out, back = max(given, key=lambda pair: float(pair[1].each[0]) * pair[0].size)
        return {k: _returned(out, back, value) for k, value in values.items()}

    return Step(outs, down)


def _made(c: Case, output: int, main: Kernel) -> Kernel | None:
    told = c.shape(output)
    shape = main.shape if told is None else _filled(told, main)
    if shape == main.shape:
        return replace(main, bend=None)
    axes, grid = plain_axes(shape, _kinds(shape, main))
    own, shared = main.grid.collapsed(main.own), main.grid.collapsed(main.shared)
    out = Kernel(axes, grid, grid.full(own[-1]), grid.full(shared[-1]), main.mean)
    out.own[0], out.shared[0] = own[0], shared[0]
    return replace(out, alike=min(1.0, max(main.alike, 1 / max(1, out.units))))


def _filled(told: Sequence[int | None], main: Kernel) -> tuple[int, ...]:
    """Return a shape with its open extents taken from what is read, at the same place."""
    return tuple(int(n) if n is not None else main.shape[k] if k < len(main.shape) else 1 for k, n in enumerate(told))


def _kinds(shape: Sequence[int], main: Kernel) -> str:
    """Return what the axes of an output are: as those of the same length of what is read, else by their place."""
    batch = main.inputs > 1 or any(t.kind == BATCH for t in (main.axes[0] if main.axes else ()))
    kinds = [BATCH if batch and k == 0 and n == main.inputs else "" for k, n in enumerate(shape)]
    for kind in (UNIT, PLACE):
        left = [math.prod(t.extent for t in a) for a in main.axes if a and all(t.kind == kind for t in a)]
        for k, n in enumerate(shape):
            if not kinds[k] and n in left:
                kinds[k] = kind
                left.remove(n)
    usual = 1 if len(shape) > 3 else len(shape) - 1
    if UNIT not in kinds and shape and not kinds[usual]:
        kinds[usual] = UNIT
    return "".join(kind or PLACE for kind in kinds)


def _returned(out: Kernel, back: Back, value: Kernel) -> Back:
    """Return the gradient of an operand: as large as that of the output, as a whole."""
    if value.grid == back.grid and value.shape == out.shape:
        return replace(back, bend=None)
    per = max(1, out.inputs) / max(1, value.inputs)
    ratio = out.size / max(1, value.size) / per
    made = replace(back.mapped(lambda f: value.grid.peak(float(f[0]) * ratio), value.grid), profile=())
    return replace(made, alike=1 / max(1, value.units))
