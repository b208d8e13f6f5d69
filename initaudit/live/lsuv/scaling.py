"""What happens where a weight meets the data: its product is measured, and it is scaled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from initaudit.errors import UnsupportedError
from initaudit.live.lsuv.meetings import RECURRENT, projects
from initaudit.live.lsuv.moments import Moments, pooled
from initaudit.live.lsuv.owners import owners
from initaudit.live.lsuv.recurrences import Recurrence
from initaudit.live.lsuv.stored import Stored
from initaudit.live.lsuv.sweep import Stop, Sweep
from initaudit.live.lsuv.targets import CONSTANT, DEAD, NOTHING, ZERO, Settings, Target

_LINEAR = 0.01  # relative difference to what a linear product would be
_STIFF = 0.1  # share of a change of its square that a scale lets through where it is divided out again
UNMOVED = "its output does not change with the scale of the weight, which is normalised"


@dataclass(slots=True)
class _Group:
    """Parts that are scaled together, and the elements that they make: None for all."""

    parts: list[int]
    masks: list[torch.Tensor] | None

    def of(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the elements of some values that are made by these parts."""
        if self.masks is None:
            return list(values)
        return [v[m.expand(v.shape)] for v, m in zip(values, self.masks, strict=True)]


class Scaling:
    """Scales weights as a sweep comes to their products.

    Args:
        sweep: that runs the graph.
        stored: the weights in it.
        targets: what to scale.
        settings: to what.
    """

    def __init__(self, sweep: Sweep, stored: Stored, targets: Sequence[Target], settings: Settings) -> None:
        self.sweep = sweep
        self.stored = stored
        self.settings = settings
        self.targets = targets
        self.why = ""  # why a product could not be computed, of the first one
        self._due: dict[int, list[tuple[Target, str]]] = {}
        for one in targets:
            for out in (*one.meeting.outs, *one.meeting.others):
                at = sweep.maker(out)
                if at is not None:
                    self._due.setdefault(at, []).append((one, out))

    @property
    def wanted(self) -> list[str]:
        """Values that the sweep has to make."""
        return [out for due in self._due.values() for _, out in due]

    @property
    def done(self) -> int:
        """Number of parts that were decided."""
        return sum(part.done for one in self.targets for part in one.states)

    @property
    def stops(self) -> Mapping[int, list[Stop]]:
        """Where the sweep has to stop."""
        return {
            at: [
                Stop(frozenset(self.stored.readers[one.at]), out, frozenset(o for o in one.meeting.outs if o != out))
                for one, out in due
                if out not in one.meeting.others
            ]
            for at, due in self._due.items()
        }

    def at(self, stop: int) -> None:
        """Scale what is to be scaled after a node."""
        due = self._due[stop]
        if self.sweep.graph.nodes[stop].op in RECURRENT:
            self._unrolled([one for one, _ in due], stop)
            return
        for one, out in due:
            self._scale(one, out, stop)

    def _unrolled(self, due: Sequence[Target], stop: int) -> None:
        why = next((w for name in self.sweep.graph.nodes[stop].outputs if name and (w := self.sweep.why(name))), "")
        try:
            if not why:
                Recurrence(self.sweep, self.stored, due, stop, self.settings).scale()
        except UnsupportedError as error:
            why = error.reason
        if why:
            self.why = self.why or why
            for part in (part for one in due for part in one.states if not part.done):
                part.why = f"its product cannot be computed: {why}"

    def _scale(self, one: Target, out: str, stop: int) -> None:
        why = self.sweep.why(out)
        if out in one.meeting.others:
            if not why:
                one.later.append(("", pooled(self.sweep.seen(out))))
            return
        if why:
            self.why = self.why or why
            for k in one.open:
                one.states[k].why = f"its product cannot be computed: {why}"
            return
        base = self._seen(out, stop)
        if not base:
            return
        if not one.open:
            one.later.append(("", pooled(base)))
            return
        if not all(bool(torch.isfinite(value).all()) for value in base):
            for k in one.open:
                one.states[k].why = "what it makes is not finite"
            return
        added = self._made(one, out, stop, [0.0 if k in one.open else p.scale for k, p in enumerate(one.states)])
        linear = all(bool(torch.isfinite(value).all()) for value in added)
        product = [a - b for a, b in zip(base, added, strict=True)] if linear else base
        groups = self._groups(one, out, stop, product, added if linear else None)
        aims: dict[int, float] = {}
        before: dict[int, float] = {}
        alive: list[_Group] = []
        for group in groups:
            own = Moments()
            for a, b in zip(group.of(product), group.of(added if linear else product), strict=True):
                own.add(a, b if linear else None)
            if not own.count:
                continue
            if own.product <= max(NOTHING, 1e-12 * own.aa / own.count):
                for k in group.parts:
                    one.states[k].why = CONSTANT if own.aa else self._idle(one, out)
                continue
            for k in group.parts:
                one.states[k].why = ""
            scale = own.scale(self.settings.target)
            if scale is None:
                scale = math.sqrt(self.settings.target / own.product)
                if self._linear(one, out, stop, group, own):
                    for k in group.parts:
                        one.states[k].why = f"its bias alone has variance {own.added:.3g}, over the target"
            aims.update(dict.fromkeys(group.parts, scale))
            before[group.parts[0]] = own.at(1.0) if linear else own.product
            alive.append(group)
        self._reach(one, out, stop, alive, aims, before)

    def _linear(self, one: Target, out: str, stop: int, group: _Group, own: Moments) -> bool:
        """Whether a product grows with its weight, so that what does not is its bias."""
        scales = [2 * p.scale if k in group.parts else p.scale for k, p in enumerate(one.states)]
        twice = pooled(group.of(self._made(one, out, stop, scales)))
        return math.isclose(twice, own.at(2.0), rel_tol=_LINEAR)

    def _idle(self, one: Target, out: str) -> str:
        """Return why a product is zero."""
        source = one.meeting.sources.get(out, "")
        values = self.sweep.seen(source) if source else []
        return ZERO if any(bool((value != 0).any()) for value in values) else DEAD

    def _seen(self, out: str, stop: int) -> list[torch.Tensor]:
        """Return a product: the value itself, or what an operation keeps to itself that does more."""
        node = self.sweep.graph.nodes[stop]
        if not projects(node):
            return self.sweep.seen(out)
        runs = [[self.sweep.of_run(run, name) for name in node.inputs[:3] if name] for run in range(self.sweep.runs)]
        return [x @ weight + (bias[0] if bias else 0.0) for x, weight, *bias in runs]

    def _made(self, one: Target, out: str, stop: int, scales: Sequence[float]) -> list[torch.Tensor]:
        """Return a product as it is with other scales of the parts."""
        self.stored.place(self.sweep.replace, [one.at], {one.at: one.scaled(list(scales))})
        self.sweep.again(stop)
        return self._seen(out, stop)

    def _groups(
        self, one: Target, out: str, stop: int, product: list[torch.Tensor], added: list[torch.Tensor] | None
    ) -> list[_Group]:
        """Return which elements of a product the parts make that are not decided yet."""
        if one.parts.one:
            return [_Group([0], None)]
        open_ = one.open

        def made(scales: Sequence[float]) -> list[torch.Tensor]:
            values = self._made(one, out, stop, [s * p.scale for s, p in zip(scales, one.states, strict=True)])
            return values if added is None else [v - b for v, b in zip(values, added, strict=True)]

        labels = owners(made, product, len(one.states))
        if labels is None:
            return [_Group(open_, None)]
        there = {int(k) for own in labels for k in torch.unique(own)}
        return [_Group([k], [own == k for own in labels]) for k in open_ if k in there]

    def _reach(
        self,
        one: Target,
        out: str,
        stop: int,
        groups: Sequence[_Group],
        aims: Mapping[int, float],
        before: dict[int, float],
    ) -> None:
        """Scale until the variance is the target's."""
        target, tol = self.settings.target, self.settings.tol
        scales = [aims.get(k, part.scale) for k, part in enumerate(one.states)]
        held = [part.scale for part in one.states]
        for tries in range(1, max(1, self.settings.tmax) + 1):
            if not np.isfinite(self.stored.rounded(one.at, one.scaled(scales))).all():
                scales = [part.scale for part in one.states]
                for k in aims:
                    one.states[k].why = f"its values would not fit into {self.stored.tensors[one.at].dtype}"
                break
            values = self._made(one, out, stop, scales)
            off = False
            for group in groups:
                variance = pooled(group.of(values))
                for k in group.parts:
                    state = one.states[k]
                    state.variance, state.tries, state.done = variance, tries, True
                first = group.parts[0]
                if not abs(variance - target) < tol and not one.states[first].why and variance > 0:
                    ratio = scales[first] / held[first]
                    if abs(math.log(variance / before[first])) < _STIFF * abs(2 * math.log(ratio)):
                        for k in group.parts:
                            one.states[k].why, scales[k] = UNMOVED, one.states[k].scale
                        continue
                    off = True
                    held[first], before[first] = scales[first], variance
                    for k in group.parts:
                        scales[k] *= math.sqrt(target / variance) if 0 < variance < math.inf else 1.0
            if not off:
                break
        for k, part in enumerate(one.states):
            part.scale = scales[k]
        self.stored.values[one.at] = one.values()
        self._made(one, out, stop, scales)
