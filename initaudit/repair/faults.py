"""From findings to the tensors that are at fault: what a remedy says in words, as a list."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from initaudit.cures import CURED, Cure
from initaudit.freedom import Freedom
from initaudit.grounds import OPERATORS, analysed, varied
from initaudit.naming import natural, pattern
from initaudit.repair.findings import exact, grave, signal, told
from initaudit.repair.keeping import fixed
from initaudit.repair.parting import parted, sets_of
from initaudit.repair.rows import Anew, again, copies
from initaudit.repair.waking import first_factor, woken
from initaudit.types import Audit, Finding, Measured, Model, Role, Severity, Tensor

_OFF = 1.5  # of a layer's variance against He or Xavier, from which drawing it again changes much
_FAR = 16.0  # the same where the layers stand in residual branches, whose ends matter more
_WIDE = 8.0  # of a norm's constant scale
_TINY, _HUGE = 2e-3, 3.0  # standard deviations of a table beyond which it drowns what it is added to, or drowns in it
_WHOLE = 0.9  # share of a file's weights, from which clones are all of it
_NEARLY = 0.75  # share of those that can be told as clones, and are
_LEAST = 64  # values of a weight that can be told as a clone
_SAME = 0.1  # of a std, within which two weights may have been drawn by one call
_BIAS = 0.5  # root mean square of a bias that outweighs a signal of variance 1
_CHAIN = 3  # layers that are off, from which the chain is at fault and not a layer
_MOST = 0.5  # share of a run that is off, from which all of it is drawn again
_ADDED = frozenset({"position embedding", "segment embedding", "relative position bias"})
_MEANT = frozenset({Role.BRANCH_END, Role.GATE, Role.ADAPTER, Role.HEAD})  # roles in which zeros may be meant


@dataclass(frozen=True, slots=True)
class Fault:
    """A tensor of a layer that is drawn again."""

    m: Measured
    tensor: Tensor
    why: str  # code of the rule, or the option that named it
    units: tuple[int, ...] | None = None
    ends: bool = False  # the end of a residual branch, to be drawn smaller
    chain: bool = False  # one of many layers through which signal or gradient is lost or blows up

    @property
    def key(self) -> object:
        """Equal for ties."""
        return self.tensor.identity

    @property
    def weight(self) -> bool:
        """Whether it is the weight of something that maps units to units."""
        return self.tensor == self.m.layer.weight and self.m.layer.kind in OPERATORS


def whole(m: Measured, why: str, *, ends: bool = False, chain: bool = False) -> Fault:
    """Return the weight of a layer as a fault."""
    return Fault(m, m.layer.weight, why, ends=ends, chain=chain)


def some(m: Measured, units: Sequence[int], why: str) -> Fault:
    """Return units of the weight of a layer as a fault; all of them are the whole."""
    return Fault(m, m.layer.weight, why, tuple(units) if len(units) < m.stats.rows.hash.size else None)


def operates(m: Measured) -> bool:
    """Whether a layer has a weight of its own that maps units to units, broken or not."""
    return m.layer.kind in OPERATORS and not m.layer.tied and m.stats.count > 0


def zero(m: Measured) -> bool:
    """Whether the weight is zero throughout."""
    return m.stats.count > 0 and m.stats.zeros == m.stats.count


def wide_bias(m: Measured) -> bool:
    """Whether a layer's bias outweighs its signal."""
    stats = m.others.get(m.layer.bias.name) if m.layer.bias is not None else None
    return stats is not None and (stats.mean**2 + stats.variance) ** 0.5 > _BIAS


def _far_from_one(m: Measured) -> bool:
    """Whether the scales of a norm are one number, not zero, that nobody starts with."""
    return m.stats.constant and m.stats.min != 0 and not 1 / _WIDE <= abs(m.stats.min) <= _WIDE


def off(m: Measured, beyond: float = _OFF) -> bool:
    """Whether a layer's variance is further from what the literature would draw than a factor."""
    ratio = m.variance_ratio
    return ratio is not None and not 1 / beyond <= ratio <= beyond


class Faults:
    """What is at fault in a net, told finding by finding.

    Args:
        measured: all layers, in execution order.
        findings: all that was found in it.
        model: whose graph tells which units part and what wakes; None where that is not asked for.
        freedom: what was told of it.
        fixed: names of layers that are not drawn, whatever is found.
    """

    def __init__(
        self,
        measured: Sequence[Measured],
        findings: Sequence[Finding],
        model: Model | None = None,
        freedom: Freedom | None = None,
        fixed: Collection[str] = (),
    ) -> None:
        self.measured = tuple(measured)
        self.findings = tuple(findings)
        self.model, self.freedom = model, freedom
        self.fixed = frozenset(fixed)
        self._named: dict[str, list[Measured]] = defaultdict(list)
        for m in measured:
            self._named[m.layer.name].append(m)

    def of(self, finding: Finding) -> list[Fault]:
        """Return what is drawn again to cure a finding."""
        found = list(self._of(finding))
        return [*found, *self._drawn_alike(found)] if signal(finding) else found

    def _of(self, finding: Finding) -> Iterator[Fault]:
        cure = CURED.get(finding.rule, Cure.NOTHING)
        run = self.run(finding)
        if cure is Cure.TENSOR:
            yield from self._tensor(finding)
        elif cure is Cure.UNITS:
            for m in run[:1]:
                yield from self._again(m, finding)
        elif cure is Cure.TIES:
            yield from self._tied(finding, run)
        elif cure is Cure.FACTOR:
            yield from self._woken  # for all that never moves at once: what wakes one wakes others
        elif cure is Cure.CLONES:
            yield from () if self._copies(finding) else _clones(run, finding.rule)
        elif cure is Cure.CHAIN:
            yield from self._chain(finding, run)
        elif cure is Cure.BRANCHES:
            yield from self._branches(finding.rule, run)
        elif cure is Cure.ATTENTION:
            yield from (whole(m, finding.rule) for m in run if operates(m))
        elif cure is Cure.HEAD:
            yield from (whole(m, finding.rule) for m in run if operates(m) and (off(m) or not self._grows()))
            yield from (Fault(m, m.layer.bias, finding.rule) for m in run if m.layer.bias is not None and wide_bias(m))

    def _again(self, m: Measured, finding: Finding) -> Iterator[Fault]:
        """Yield the units of a layer that have no weights, or are copies that training does not part."""
        if m.stats.nonfinite:
            yield whole(m, finding.rule)
            return
        units = tuple(int(k) for k in np.flatnonzero(m.stats.rows.nonzero == 0))
        if finding.rule != "INI202":
            sets = copies(m)
            if m.freedom is not None and analysed(self.freedom):
                tied = [s for one in (*m.freedom.classes, *m.freedom.nearly) for s in copies(m, one)]
                sets = tied if tied or (finding.capped or finding.severity) < Severity.ERROR else sets
            units = again(m, sets)
        if units:
            yield some(m, units, finding.rule)

    def _free(self, m: Measured) -> bool:
        """Whether a layer has weights from unit to unit that may be drawn so that others part or wake."""
        layer = m.layer
        own = not layer.tied and layer.name not in self.fixed and {"i", "o"} <= {*layer.axes}
        return own and m.stats.count > 0 and not fixed(m)

    def _parts(self, m: Measured) -> bool:
        """Whether that may part tied units: not where zeros are meant, which part once they have moved."""
        return self._free(m) and not (zero(m) and m.layer.role in _MEANT)

    def _tied(self, finding: Finding, run: Sequence[Measured]) -> Iterator[Fault]:
        """Yield of each set of tied units all but one, where that parts them; where no sets are told, of copies."""
        if not exact(finding):
            for m in run:
                if operates(m) and (units := again(m, copies(m))):
                    yield some(m, units, finding.rule)
            return
        for m in run:
            if part := self._parted.get(m.layer.weight.identity):
                yield some(m, part, finding.rule)

    @cached_property
    def _plain(self) -> tuple[Fault, ...]:
        """What is drawn for findings on single weights: what parts or wakes the rest builds on it."""
        plain = (Cure.TENSOR, Cure.UNITS, Cure.CLONES)
        return tuple(x for f in grave(self.findings) if CURED.get(f.rule) in plain for x in self._of(f))

    @cached_property
    def _parted(self) -> dict[object, tuple[int, ...]]:
        """The units that are drawn so that no tied ones are left in what findings name, by identity of the weight."""
        found: dict[int, list[tuple[int, ...]]] = defaultdict(list)
        for f in self.findings:
            names = {m.layer.name for m in self.run(f)} if exact(f) and told(f) else ()
            for k, m in enumerate(self.measured):
                found[k] += sets_of(m, str(f.evidence.get("kind", ""))) if m.layer.name in names else ()
        own = {k: sets for k, sets in found.items() if sets}
        others = [Anew(x.m, x.tensor, x.units) for x in self._plain]
        made = parted(self.measured, self.model, own, self._parts, others) if own else {}
        return {self.measured[k].layer.weight.identity: units for k, units in made.items()}

    @cached_property
    def _woken(self) -> tuple[Fault, ...]:
        """What is drawn so that nothing is left of what never moves."""
        own = [f for f in self.findings if CURED.get(f.rule) is Cure.FACTOR and told(f)]
        if self.model is None or self.freedom is None or not own:
            return ()
        names = {str(name) for f in own for name in f.evidence.get("tensors", ())}  # may be cut short
        zeros = {str(name) for f in own for name in f.evidence.get("blocked_by", ())}
        some = [p for p in self.freedom.parameters if p.name in names or zeros.intersection(p.blocked_by)]
        dead = {p.name: str(p.cause) for p in some if p.dead}
        drawn = [Anew(x.m, x.tensor, x.units) for x in self._plain]
        drawn += [Anew(m, m.layer.weight, u) for m in self.measured if (u := self._parted.get(m.layer.weight.identity))]
        found = woken(self.measured, self.model, dead, self._free, drawn) if dead else ()
        return tuple(Fault(one.m, one.tensor, own[0].rule, one.units) for one in found)

    def rest(self) -> Iterator[Fault]:
        """Yield what parts or wakes the rest, of findings too that another one explains: mending that is not enough."""
        for m in self.measured:
            if not m.layer.tied and (units := self._parted.get(m.layer.weight.identity)):
                yield some(m, units, "INI512")
        yield from self._woken

    def run(self, finding: Finding) -> list[Measured]:
        """Return the layers that a finding names, in its order, each once."""
        names = dict.fromkeys(name for name in (finding.layer, *finding.also) if name)
        rows = [m for name in names for m in self._named.get(name, ())]
        if finding.tensor and not finding.also and len(rows) > 1:
            rows = [m for m in rows if any(t.name == finding.tensor for t, _ in m.tensors)] or rows
        return rows

    def all_of(self, finding: Finding) -> Iterator[Fault]:
        """Yield every weight of a run, healthy-looking ones too, and what in them is off beside the weights."""
        yield from self.of(finding)
        run = self.run(finding)
        yield from (whole(m, finding.rule, chain=True) for m in run if operates(m))
        yield from self._biases(finding.rule, run)
        yield from self._norms(finding.rule, run)

    def net(self, rule: str) -> Iterator[Fault]:
        """Yield every weight that carries the signal, with what is off beside the weights."""
        yield from (whole(m, rule, chain=True) for m in self.measured if operates(m))
        yield from self._biases(rule, self.measured)
        yield from self._tables(rule)
        yield from (whole(m, rule) for m in self.measured if m.layer.kind == "norm" and zero(m))

    def _drawn_alike(self, found: Sequence[Fault]) -> Iterator[Fault]:
        """Yield what the same hand drew: weights of the same std as those at fault, and as far off."""
        own = {id(fault.m) for fault in found}
        stds = [fault.m.stats.std for fault in found if fault.weight and off(fault.m, _FAR)]
        for m in self.measured:
            like = any(abs(m.stats.std - std) < _SAME * std for std in stds)
            if like and operates(m) and id(m) not in own and off(m, _FAR):
                yield whole(m, found[0].why, chain=True)

    def _copies(self, finding: Finding) -> bool:
        """Whether clones are whole models beside each other, told apart by a word: weights and their average, twins."""
        stems = [str(stem) for stem in finding.evidence.get("members", ())]
        if len({pattern(stem) for stem in stems}) < len(stems):
            return False
        inside = tuple(f"{stem}." for stem in stems)
        every = [m for m in self.measured if m.layer.kind in OPERATORS]
        there = [m for m in every if m.layer.name.startswith(inside)]
        drawn = [m for m in there if varied(m) and m.stats.count >= _LEAST]
        return len(there) >= _WHOLE * len(every) and len(self.run(finding)) >= _NEARLY * len(drawn)

    def _tensor(self, finding: Finding) -> Iterator[Fault]:
        for m in self.run(finding):
            if m.layer.role is Role.ADAPTER and zero(m) and not first_factor(m):
                continue  # of two factors the last one stays shut
            one = copies(m) if finding.rule == "INI203" else ()
            if len(one) == 1 and len(one[0]) == m.stats.rows.hash.size:  # of rank 1 because all units are one
                yield some(m, again(m, one), finding.rule)
                continue
            for tensor, _ in m.tensors:
                if tensor.name == (finding.tensor or m.layer.weight.name):
                    yield Fault(m, tensor, finding.rule)

    def _chain(self, finding: Finding, run: Sequence[Measured]) -> Iterator[Fault]:
        rule = finding.rule
        own = [m for m in run if operates(m)]
        asleep = list(self._asleep(finding, own))
        if asleep:
            yield from asleep
            return
        sides = [*self._biases(rule, self.measured if any(wide_bias(m) for m in own) else ()), *self._norms(rule, run)]
        sides += self._tables(rule)
        if sides:
            yield from sides
            return
        ends = any(m.layer.role is Role.BRANCH_END for m in own)
        tamed = ends and rule in ("INI502", "INI505")
        bad = [m for m in own if off(m, _FAR if tamed else _OFF)]
        if len(bad) >= _CHAIN and len(bad) > _MOST * len(own):
            yield from (whole(m, rule, chain=True) for m in self._extended(own))
        elif bad:
            yield from (whole(m, rule, chain=True) for m in bad)
        elif tamed:
            yield from self._branches(rule, run)
        else:
            yield from (whole(m, rule, chain=True) for m in own)

    def _extended(self, own: Sequence[Measured]) -> list[Measured]:
        """Add the neighbours of a run that are off the same way: a chain starts before what it does shows."""
        places = {id(m): k for k, m in enumerate(self.measured)}
        inside = {places[id(m)] for m in own}
        low = sum((m.variance_ratio or 1.0) < 1 for m in own) * 2 >= len(own)
        for step in (-1, 1):
            at = (min if step < 0 else max)(inside) + step
            while 0 <= at < len(self.measured):
                m = self.measured[at]
                if operates(m):
                    if not off(m) or m.layer.role is Role.HEAD or ((m.variance_ratio or 1.0) < 1) is not low:
                        break
                    inside.add(at)
                at += step
        return [self.measured[k] for k in sorted(inside)]

    def _biases(self, rule: str, run: Iterable[Measured]) -> Iterator[Fault]:
        for m in run:
            if m.layer.bias is not None and wide_bias(m) and m.layer.kind in OPERATORS:
                yield Fault(m, m.layer.bias, rule)

    def _tables(self, rule: str) -> list[Fault]:
        """Return the embeddings whose values are of a size that nobody draws; zero ones where nothing is added to them.

        A table that is added to another one may start at zero.
        """
        tables = [m for m in self.measured if m.layer.role is Role.EMBEDDING and m.stats.count and not m.layer.tied]
        sized = [m for m in tables if m.stats.variance > 0 and not _TINY < m.stats.std < _HUGE]
        shut = [m for m in tables if m.layer.kind == "embedding" and m.stats.constant and not _ADDED & {*m.layer.tags}]
        return [whole(m, rule) for m in (*sized, *shut)]

    def _norms(self, rule: str, run: Sequence[Measured]) -> Iterator[Fault]:
        """Yield the norms whose scales shut or open the way far too wide.

        Scales of zero count between the layer before a run and its end, where they are no closed branches; other
        constants far from 1 count everywhere, once one of them stands there.
        """
        places = sorted(k for k, m in enumerate(self.measured) if m in run)
        if not places:
            return
        start = next((k for k in range(places[0] - 1, -1, -1) if operates(self.measured[k])), -1)
        between = [m for m in self.measured[start + 1 : places[-1] + 1] if m.layer.kind == "norm"]
        shut = [m for m in between if zero(m)]
        norms = [m for m in self.measured if m.layer.kind == "norm"]
        if shut and all(zero(m) for m in norms):  # none is the closed end of a branch
            shut = norms
        yield from (whole(m, rule) for m in shut)
        if any(_far_from_one(m) for m in between):
            yield from (whole(m, rule) for m in norms if _far_from_one(m))

    def _asleep(self, finding: Finding, own: Sequence[Measured]) -> Iterator[Fault]:
        """Yield the zeros of which another one makes that nothing ever wakes them: of two in a row, one stays."""
        if finding.rule != "INI504" or finding.evidence.get("value") != 0:
            return
        wide = [Fault(m, m.layer.bias, finding.rule) for m in own if m.layer.bias is not None and wide_bias(m)]
        if wide:
            yield from wide
            return
        shut = [m for m in self.measured if zero(m) and not m.layer.tied]
        plain = [m for m in shut if operates(m) and m.layer.role not in _MEANT]
        norms = [m for m in shut if m.layer.kind == "norm"]
        roles = (Role.BRANCH_END, Role.GATE, Role.ADAPTER, Role.HEAD)
        meant = ([m for m in shut if operates(m) and m.layer.role is role] for role in roles)
        for some in (plain, norms, *meant):
            if some:
                yield from (whole(m, finding.rule) for m in some)
                return

    def _branches(self, rule: str, run: Sequence[Measured]) -> Iterator[Fault]:
        """Yield the ends of all branches, with what is too large on the way to them."""
        ends = [m for m in self.measured if m.layer.role is Role.BRANCH_END and operates(m)]
        yield from (whole(m, rule, ends=True) for m in ends if not zero(m))
        if run:
            inside = [m for m in self.measured if operates(m) and m.layer.role is not Role.BRANCH_END]
            yield from (whole(m, rule, chain=True) for m in inside if (m.variance_ratio or 0.0) > _OFF)

    def _grows(self) -> bool:
        grown = ("INI502", "INI511")
        return any(f.rule in grown for f in self.findings)


def _clones(run: Sequence[Measured], rule: str) -> Iterator[Fault]:
    groups: dict[tuple[int, int], list[Measured]] = defaultdict(list)
    for m in run:
        groups[m.stats.digest, m.stats.count].append(m)
    for group in groups.values():
        seen: dict[object, Measured] = {}
        for m in sorted(group, key=lambda m: natural(m.layer.name)):
            seen.setdefault(m.layer.weight.identity, m)
        yield from (whole(m, rule) for m in list(seen.values())[1:])


def faults_of(audit: Audit, findings: Sequence[Finding], fixed: Collection[str] = ()) -> Faults:
    """Return what is at fault in a net that was audited."""
    told_by = None if audit.model.graph is None or audit.model.other else audit.model
    return Faults(audit.measured, findings, told_by, audit.freedom, fixed)
