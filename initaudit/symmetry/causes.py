"""Why parameters never move: zeros that multiply each other, units that are off, or the architecture itself.

Each answer is another walk: with parameters that may be anything, what is dead even then is dead by design; without
bounds of what is not zero, what comes alive was off; and what comes alive when some zeros are taken away, these block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from initaudit.freedom import Cause
from initaudit.symmetry.moving import Moving, Walk
from initaudit.types import Array

_MOST_WALKS = 4  # in search of what blocks
_MOST_NAMED = 16
_SUMS = frozenset({"add", "sub", "sum", "concat", "where", "max", "min", "mean"})  # do not multiply their operands


@dataclass(frozen=True, slots=True)
class Why:
    """Why elements of a parameter are dead."""

    cause: Cause  # the gravest that holds for any of them
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
    trained = Walk(walk.view, walk.frozen, freed=lambda _, tensor: not walk.frozen(tensor))
    trained.once()
    rest = {key: dead & _moves(trained, key) for key, dead in never.items()}
    loose = _again(walk, {}, loose=True)
    zeros = {key: dead & ~_moves(loose, key) for key, dead in rest.items()}
    zeros = {key: dead for key, dead in zeros.items() if dead.any()}
    blocks = _Blocks(walk, zeros).named() if zeros else {}
    out: dict[str, Why] = {}
    for name in found:
        key = walk.key[name]
        if key in zeros:
            out[name] = Why(Cause.ZEROS, blocks.get(key, ()))
        elif key in never:
            out[name] = Why(Cause.OFF if rest[key].any() else Cause.DESIGN)
    return out


def _dead(moving: Moving) -> Array:
    found: Array = moving.reach & (moving.step == 0) & ~moving.cancelled
    return found


def _moves(walk: Walk, key: str) -> Array:
    known = walk.moving.get(key)
    return np.zeros((), bool) if known is None else known.step > 0


def _again(walk: Walk, freed: Mapping[str, Array], *, loose: bool = False) -> Walk:
    """Return a walk that goes on from where another ended, with some elements that may be anything."""
    found = Walk(walk.view, walk.frozen, freed=lambda key, _: freed.get(key, False), loose=loose)
    found.moving = {key: moving for key, moving in walk.moving.items()}
    found.run()
    return found


class _Blocks:
    """Which zero parameters keep which at zero.

    The nearest zero that multiplies a parameter, or what comes into it, is tried first. Those that block each other
    are one set.
    """

    def __init__(self, walk: Walk, dead: Mapping[str, Array]) -> None:
        self.walk = walk
        self.dead = dead
        self.zero = {key: mask for key, mask in ((k, self._zeros(k, d)) for k, d in dead.items())
                     if mask.any()}  # fmt: skip
        self.partners: dict[str, list[str]] = {key: [] for key in dead}

    def _zeros(self, key: str, dead: Array) -> Array:
        tensor = self.walk.view.graph.constants[key]
        numbers = self.walk.load(key, tensor)
        return np.asarray(np.broadcast_to(dead, tensor.shape) & (numbers == 0))

    def named(self) -> dict[str, tuple[str, ...]]:
        """Return, by parameter, the names of those that block each other and it."""
        near = {key: self._near(key) for key in self.dead}
        waiting = list(self.dead)
        for count in range(1, _MOST_WALKS + 1):
            chosen = {key: near[key][:count] for key in waiting}
            freed = {other: self.zero[other] for others in chosen.values() for other in others}
            if not freed:
                break
            woken = _again(self.walk, freed)
            now = [key for key in waiting if chosen[key] and (self.dead[key] & _moves(woken, key)).any()]
            for key in now:
                self.partners[key] = chosen[key]
            waiting = [key for key in waiting if key not in now]
            if not waiting:
                break
        return self._sets()

    def _sets(self) -> dict[str, tuple[str, ...]]:
        """Join what blocks each other."""
        root = {key: key for key in self.zero}

        def top(key: str) -> str:
            while root[key] != key:
                key = root[key]
            return key

        for key, others in self.partners.items():
            own = [key, *others] if key in root else others
            for other in own[1:]:
                root[top(other)] = top(own[0])
        members: dict[str, list[str]] = {}
        for key in self.zero:
            members.setdefault(top(key), []).append(self.walk.view.graph.constants[key].name)
        return {key: tuple(members[top(key if key in root else others[0])][:_MOST_NAMED])
                for key, others in self.partners.items() if others}  # fmt: skip

    def _near(self, key: str) -> list[str]:
        """Return other zero parameters that multiply this one or what comes into it, the nearest first."""
        view = self.walk.view
        found: list[str] = []
        seen: set[tuple[str, bool]] = set()
        names = [name for name, own in self.walk.key.items() if own == key]
        queue = deque((name, True) for name in names)  # a value, and whether to go on to who reads it
        while queue and len(found) < _MOST_WALKS:
            name, down = queue.popleft()
            if (name, down) in seen:
                continue
            seen.add((name, down))
            own = self.walk.key.get(name)
            if own is not None and own != key:
                if own in self.zero and own not in found:
                    found.append(own)
                continue
            if not down:
                at = view.producer.get(name)
                queue.extend((other, False) for other in ([] if at is None else view.nodes[at].inputs) if other)
                continue
            for use in view.readers(name):
                node = view.nodes[use.node]
                if node.op not in _SUMS:
                    queue.extend((other, False) for other in _others(node.inputs, name))
                queue.extend((other, True) for other in node.outputs if other)
        return found


def _others(inputs: Iterable[str], name: str) -> list[str]:
    return [other for other in inputs if other and other != name]
