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
from initaudit.live.lsuv.stretches import stretches
from initaudit.live.lsuv.sweep import Stop, Sweep
from initaudit.live.lsuv.targets import (
    CONSTANT,
    DEAD,
    STIFF,
    UNMOVED,
    ZERO,
    Part,
    Settings,
    Target,
    nothing,
    over,
)

_WIDE = ("float32", "float64")  # types to which a weight is not rounded
_LINEAR = 0.01  # relative difference to what a linear product would be


@dataclass(slots=True)
class Group:
    """Parts that are scaled together, and the elements that they make: None for all."""

    parts: list[int]
    masks: list[torch.Tensor] | None

    def of(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Return the elements of some values that are made by these parts."""
        if self.masks is None:
            return list(values)
        return [v[m.expand(v.shape)] for v, m in zip(values, self.masks, strict=True)]


@dataclass(frozen=True, slots=True)
class Taken:
    """A product, taken apart."""

    product: list[torch.Tensor]  # of the weight
    added: list[torch.Tensor] | None  # what does not grow with it
    groups: list[Group]

    def moments(self, group: Group) -> Moments:
        """Return the moments of the elements of a group."""
        own = Moments()
        added = group.of(self.added) if self.added is not None else [None] * len(self.product)
        for a, b in zip(group.of(self.product), added, strict=True):
            own.add(a, b)
        return own


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
        self.stretches = {one.stops: one for one in stretches(targets, self._stops)}
        self._several = {id(one): own for own in self.stretches.values() for one in own.several}

    def _stops(self, one: Target) -> list[int]:
        """Return the nodes at which a weight meets the data."""
        found = [self.sweep.maker(out) for out in one.meeting.outs]
        return sorted({at for at in found if at is not None})

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

    def repeat(self, stops: frozenset[int]) -> bool:
        """Whether to go through a stretch again, with other weights."""
        return self.stretches[stops].again(self.settings, self._place)

    def _place(self, targets: Sequence[Target]) -> None:
        for one in targets:
            self.stored.values[one.at] = one.values()
        self.stored.place(self.sweep.replace, [one.at for one in targets])

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
                self._recurrent(due, stop)
        except UnsupportedError as error:
            why = error.reason
        if why:
            self.why = self.why or why
            for part in (part for one in due for part in one.states if not part.done):
                part.why = f"its product cannot be computed: {why}"

    def _recurrent(self, due: Sequence[Target], stop: int) -> None:
        several = [one for one in due if id(one) in self._several]
        once = [one for one in due if id(one) not in self._several]
        if once:
            Recurrence(self.sweep, self.stored, once, stop, self.settings).scale()
        if several:
            for (at, k), own in Recurrence(self.sweep, self.stored, several, stop, self.settings).sums().items():
                self._several[id(several[at])].take(several[at], [k], own)

    def _scale(self, one: Target, out: str, stop: int) -> None:
        why = self.sweep.why(out)
        if out in one.meeting.others:
            if not why:
                one.elsewhere = [*one.elsewhere, pooled(self.sweep.seen(out))]
            return
        if why:
            self.why = self.why or why
            for k in one.open:
                one.states[k].why = f"its product cannot be computed: {why}"
            return
        if not self._seen(out, stop) or not one.open:
            return
        taken = self.taken(one, out, stop)
        if taken is None:
            for k in one.open:
                one.states[k].why = "what it makes is not finite"
            return
        stretch = self._several.get(id(one))
        if stretch is not None:
            for group in taken.groups:
                own = taken.moments(group)
                own.times(self.sweep.copies(out))
                stretch.take(one, group.parts, own)
            self._made(one, out, stop, [part.scale for part in one.states])
            return
        aims: dict[int, float] = {}
        before: dict[int, float] = {}
        alive: list[Group] = []
        for group in taken.groups:
            own = taken.moments(group)
            if not own.count:
                continue
            if nothing(own):
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
                        one.states[k].why = over(own)
            aims.update(dict.fromkeys(group.parts, scale))
            before[group.parts[0]] = own.at(1.0)
            alive.append(group)
        if taken.added is None and len(alive) == 1 and self._at_once(one, stop, alive[0], aims):
            return
        self._reach(one, out, stop, alive, aims, before)

    def taken(self, one: Target, out: str, stop: int) -> Taken | None:
        """Take a product apart: what its weight makes, what is added to that, and who makes which element.

        Returns:
            None where it is not finite. The weight in the graph is changed by it.
        """
        base = self._seen(out, stop)
        if not all(bool(torch.isfinite(value).all()) for value in base):
            return None
        added: list[torch.Tensor] | None = None
        if self._biased(one):
            added = self._made(one, out, stop, [0.0 if k in one.open else p.scale for k, p in enumerate(one.states)])
            added = added if all(bool(torch.isfinite(value).all()) for value in added) else None
        product = base if added is None else [a - b for a, b in zip(base, added, strict=True)]
        return Taken(product, added, self._groups(one, out, stop, product, added))

    def _biased(self, one: Target) -> bool:
        """Whether something is added to a product: else it need not be made without its weight."""
        bias = one.layer.bias
        if bias is None:
            return False
        held = [name for name, constant in self.sweep.graph.constants.items() if constant.name == bias.name]
        values = [self.sweep.constant(name) for name in held]
        return not values or any(value is None or bool((value != 0).any()) for value in values)

    def _at_once(self, one: Target, stop: int, group: Group, aims: Mapping[int, float]) -> bool:
        """Scale a weight that is one part, and what it makes, without making that again; whether that can be done."""
        if not one.parts.one or one.states[0].why or self.stored.tensors[one.at].dtype not in _WIDE:
            return False
        before = one.states[0].scale
        if not self._fits(one, [aims[0]]):
            return False
        if not self.sweep.scale(stop, self.stored.readers[one.at], aims[0] / before):
            return False
        one.states[0] = Part(aims[0], 0.0, 1, "", True)
        one.states[0].variance = pooled(group.of(self._seen(self.sweep.graph.nodes[stop].outputs[0], stop)))
        self._place([one])
        return True

    def _linear(self, one: Target, out: str, stop: int, group: Group, own: Moments) -> bool:
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
    ) -> list[Group]:
        """Return which elements of a product the parts make that are not decided yet."""
        if one.parts.one:
            return [Group([0], None)]
        open_ = one.open

        def made(scales: Sequence[float]) -> list[torch.Tensor]:
            values = self._made(one, out, stop, [s * p.scale for s, p in zip(scales, one.states, strict=True)])
            return values if added is None else [v - b for v, b in zip(values, added, strict=True)]

        labels = owners(made, product, len(one.states))
        if labels is None:
            return [Group(open_, None)]
        there = {int(k) for own in labels for k in torch.unique(own)}
        return [Group([k], [own == k for own in labels]) for k in open_ if k in there]

    def _reach(
        self,
        one: Target,
        out: str,
        stop: int,
        groups: Sequence[Group],
        aims: Mapping[int, float],
        before: dict[int, float],
    ) -> None:
        """Scale until the variance is the target's."""
        scales = [aims.get(k, part.scale) for k, part in enumerate(one.states)]
        held = [part.scale for part in one.states]
        placed: list[float] = []
        for tries in range(1, max(1, self.settings.tmax) + 1):
            if not self._fits(one, scales):
                scales = [part.scale for part in one.states]
                for k in aims:
                    one.states[k].why = f"its values would not fit into {self.stored.tensors[one.at].dtype}"
                break
            values, placed = self._made(one, out, stop, scales), list(scales)
            for k in aims:
                one.states[k].tries, one.states[k].done = tries, True
            missed = [self._missed(one, group, values, scales, held, before) for group in groups]
            if not any(missed):
                scales = self._together(one, groups, values, scales)
                break
        same = scales == placed
        for k, part in enumerate(one.states):
            part.scale = scales[k]
        self.stored.values[one.at] = one.values()
        if not same:
            values = self._made(one, out, stop, scales)
        for group in groups:
            variance = pooled(group.of(values))
            for k in group.parts:
                one.states[k].variance = variance

    def _fits(self, one: Target, scales: Sequence[float]) -> bool:
        """Whether the file's type has room for the weight at these scales."""
        return bool(np.isfinite(self.stored.rounded(one.at, one.scaled(list(scales)))).all())

    def _missed(
        self,
        one: Target,
        group: Group,
        values: Sequence[torch.Tensor],
        scales: list[float],
        held: list[float],
        before: dict[int, float],
    ) -> bool:
        """Set the next scale of a group whose variance is not the target's; whether there is one."""
        target, first = self.settings.target, group.parts[0]
        variance = pooled(group.of(values))
        if abs(variance - target) < self.settings.tol or one.states[first].why or not 0 < variance < math.inf:
            return False
        ratio = scales[first] / held[first]
        if abs(math.log(variance / before[first])) < STIFF * abs(2 * math.log(ratio)):
            for k in group.parts:
                one.states[k].why, scales[k] = UNMOVED, one.states[k].scale
            return False
        held[first], before[first] = scales[first], variance
        for k in group.parts:
            scales[k] *= math.sqrt(target / variance)
        return True

    def _together(
        self, one: Target, groups: Sequence[Group], values: Sequence[torch.Tensor], scales: list[float]
    ) -> list[float]:
        """Return scales at which the parts and what they make as a whole are within the tolerance.

        Where the means of parts differ, the whole varies more than each of them.
        """
        target, tol = self.settings.target, self.settings.tol
        between = pooled(values) / target
        if len(groups) < 2 or any(one.states[k].why for group in groups for k in group.parts):
            return scales
        if not 1 + tol / target / 2 < between < 1 + 1.6 * tol / target:
            return scales
        both = between**-0.25  # of the std: parts fall as far short as the whole goes beyond
        chosen = {k for group in groups for k in group.parts}
        return [scale * both if k in chosen else scale for k, scale in enumerate(scales)]
