"""Why parameters never move: zeros that multiply each other, units that are off, or the architecture itself.

Each answer is another walk: with parameters that may be anything, what is dead even then is dead by design; without
bounds of what is not zero, what comes alive was off; and what comes alive when some zeros are taken away, these block.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.freedom import Cause
from initaudit.ops import family
from initaudit.symmetry.moving import Moving, Walk
from initaudit.types import Array, Node

_MOST_WALKS = 40  # in search of what blocks
_MOST_NEAR = 4
_NUMBER = re.compile(r"\d+")
_MOST_NAMED = 16
_SUMS = frozenset({"add", "sub", "sum", "concat", "where", "max", "min", "mean"})  # do not multiply their operands


@dataclass(frozen=True, slots=True)
class Why:
    """Why elements of a parameter are dead."""

    cause: Cause | None  # the gravest that holds for any of them
    blocked_by: tuple[str, ...] = ()  # names of the tensors that keep each other at zero


def explained(walk: Walk, found: Mapping[str, Moving]) -> dict[str, Why]:
    """Return, by the value that holds it, why elements of a parameter never move; of parameters that have such.

    Args:
        walk: that has come to its end.
        found: what is told of it.
    """
    never = {walk.key[name]: _dead(moving) for name, moving in found.items()}
    never = {key: dead for key, dead in never.items() if dead.any()}
    if not never:
        return {}
    trained = walk.like(freed=lambda _, tensor: not walk.frozen(tensor))
    trained.once()
    rest = {key: dead & _moves(trained, key) for key, dead in never.items()}
    apart = _again(walk, {}) if walk.alike is not None else walk
    untied = {key: dead & ~_moves(apart, key) for key, dead in rest.items()}
    loose = _again(apart, {}, loose=True)
    zeros = {key: dead & ~_moves(loose, key) for key, dead in untied.items()}
    zeros = {key: dead for key, dead in zeros.items() if dead.any()}
    blocks = _Blocks(apart, zeros).named() if zeros else {}
    out: dict[str, Why] = {}
    for name in found:
        key = walk.key[name]
        if key in zeros:
            out[name] = Why(Cause.ZEROS, blocks.get(key, ()))
        elif key in never:
            tied = bool((rest[key] & ~untied[key]).any())
            out[name] = Why(Cause.TIED if tied else Cause.OFF if untied[key].any() else Cause.DESIGN)
    return out


def _dead(moving: Moving) -> Array:
    found: Array = moving.reach & (moving.step == 0) & ~moving.cancelled
    return found


def _moves(walk: Walk, key: str) -> Array:
    known = walk.moving.get(key)
    return np.zeros((), bool) if known is None else known.step > 0


def _again(walk: Walk, freed: Mapping[str, Array], *, loose: bool = False) -> Walk:
    """Return a walk that goes on from where another ended, without ties, some elements of which may be anything."""
    found = walk.like(freed=(lambda key, _: freed.get(key, False)) if freed else None, loose=loose)
    found.moving = dict(walk.moving)
    found.run()
    return found


class _Blocks:
    """Which zero parameters keep which at zero.

    Tried is what wakes a parameter: zeros that multiply it or what comes into it, the nearest first, each by itself;
    where none does alone, the fewest of the nearest together. After so many trials, what is left is told from those
    whose names differ in numbers only.
    """

    def __init__(self, walk: Walk, dead: Mapping[str, Array]) -> None:
        self.walk = walk
        self.dead = dead
        self.names = {key: walk.view.graph.constants[key].name for key in dead}
        self.zero = {key: mask for key, mask in ((k, self._zeros(k, d)) for k, d in dead.items()) if mask.any()}
        self.known: dict[frozenset[str], frozenset[str]] = {}  # what wakes if some are not zero

    def _zeros(self, key: str, dead: Array) -> Array:
        tensor = self.walk.view.graph.constants[key]
        return np.asarray(np.broadcast_to(dead, tensor.shape) & (self.walk.numbers.of(key, tensor) == 0))

    def named(self) -> dict[str, tuple[str, ...]]:
        """Return, by parameter, the names of those that keep it at zero."""
        found: dict[str, tuple[str, ...]] = {}
        several: set[str] = set()
        for key in self.names:
            found[key] = self._alone(key)
            if not found[key]:
                found[key] = self._together(key)
                several.add(key)
        models = {_pattern(self.names[key]): key for key in reversed(found) if found[key]}
        for key, own in found.items():
            model = models.get(_pattern(self.names[key]))
            if not own and model is not None and len(self.known) >= _MOST_WALKS:
                found[key] = self._like(key, model, found[model])
        found = _joined(found, several)
        return {key: tuple(self.names[other] for other in others[:_MOST_NAMED]) for key, others in found.items()}

    def _wakes(self, key: str, chosen: Iterable[str]) -> bool:
        """Whether a parameter moves in the end if some are not zero. False where too much has been tried."""
        own = frozenset(chosen)
        if own not in self.known:
            if len(self.known) >= _MOST_WALKS:
                return False
            walk = _again(self.walk, {other: self.zero[other] for other in own})
            self.known[own] = frozenset(k for k, dead in self.dead.items() if (dead & _moves(walk, k)).any())
        return key in self.known[own]

    def _alone(self, key: str) -> tuple[str, ...]:
        found: list[str] = []
        for other in self._near(key):
            if self._wakes(key, [other]):
                found.append(other)
            elif len(found) > 1:
                break
        return tuple(found)

    def _together(self, key: str) -> tuple[str, ...]:
        near = self._near(key)
        for count in range(2, len(near) + 1):
            if self._wakes(key, near[:count]):
                chosen = near[:count]
                for other in list(chosen):
                    fewer = [one for one in chosen if one != other]
                    if len(fewer) > 1 and self._wakes(key, fewer):
                        chosen = fewer
                return tuple(chosen)
        return ()

    def _like(self, key: str, model: str, others: Sequence[str]) -> tuple[str, ...]:
        """Return what blocks a parameter, from what blocks one whose name differs in numbers only."""
        numbers = (_NUMBER.findall(self.names[one]) for one in (model, key))
        change = dict(zip(*numbers, strict=True))
        by_name = {name: one for one, name in self.names.items() if one in self.zero}
        wanted = [_NUMBER.sub(lambda m: change.get(m[0], m[0]), self.names[one]) for one in others]
        return tuple(by_name[name] for name in wanted) if all(name in by_name for name in wanted) else ()

    def _near(self, key: str) -> list[str]:
        """Return zero parameters that multiply this one or what comes into it, the nearest first, and what is added."""
        view = self.walk.view
        found: list[str] = [key] if key in self.zero else []
        factors = 0
        seen: set[tuple[str, bool]] = set()
        queue = deque((name, True) for name, own in self.walk.key.items() if own == key)  # whether to go on to readers
        while queue and factors < _MOST_NEAR:
            name, down = queue.popleft()
            if (name, down) in seen:
                continue
            seen.add((name, down))
            own = self.walk.key.get(name)
            if own is not None and own != key:
                if own in self.zero and own not in found:
                    factors += 1
                    found += [own, *self._beside(name, found)]
                continue
            if not down:
                at = view.producer.get(name)
                queue.extend((other, False) for other in ([] if at is None else _factors(view.nodes[at])))
                continue
            if own == key and key in self.zero:
                found += self._beside(name, found)
            for use in view.readers(name):
                node = view.nodes[use.node]
                if node.op not in _SUMS:
                    queue.extend((other, False) for other in _factors(node) if other != name)
                queue.extend((other, True) for other in node.outputs if other)
        return list(dict.fromkeys(found))

    def _beside(self, name: str, found: Sequence[str]) -> list[str]:
        """Return zero parameters that are added where one multiplies."""
        view = self.walk.view
        names = [other for use in view.readers(name) for other in view.nodes[use.node].inputs[2:]]
        keys = [self.walk.key[other] for other in names if other in self.walk.key]
        return [own for own in keys if own in self.zero and own not in found]


def _factors(node: Node) -> list[str]:
    """Return the operands of a node but for those that are only added."""
    added = family(node.op) in ("weighted", "norm") and node.op not in ("lstm", "gru", "rnn")
    return [name for place, name in enumerate(node.inputs) if name and not (added and place >= 2)]


def _joined(found: Mapping[str, tuple[str, ...]], several: set[str]) -> dict[str, tuple[str, ...]]:
    """Join sets of which each is only one of several that would do."""
    out = dict(found)
    for key in several:
        own = dict.fromkeys(out[key])
        for other in several:
            if own.keys() & set(out[other]):
                own |= dict.fromkeys(out[other])
        out[key] = tuple(sorted(own, key=list(found).index))
    return out


def _pattern(name: str) -> str:
    return _NUMBER.sub("#", name)
