"""Repeated blocks of lines, told by one number in their names, as loops."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from initaudit.repair.calls import Line

_PERIOD = 64  # blocks of a repeated sequence at most
_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Block:
    """The lines of one layer, and what is said above them."""

    layer: str
    lines: tuple[Line, ...]
    why: str
    was: tuple[str, float]  # what the tensor held: a word, and the number that it is about
    now: str


@dataclass(frozen=True, slots=True)
class Run:
    """A sequence of blocks that is repeated with other numbers in one place of its names; one number: not repeated."""

    blocks: tuple[tuple[Block, ...], ...]  # one sequence for each number
    numbers: tuple[int, ...] = ()
    places: tuple[int, ...] = ()  # which number of a name changes, for each name in turn; -1: none

    def pattern(self, name: str) -> str:
        """Return a name of the first sequence with {n} for the number that changes, other braces doubled."""
        pieces = _NUMBER.split(name)
        place = self._place(name)
        return "".join(
            "{n}" if n == place else piece.replace("{", "{{").replace("}", "}}") for n, piece in enumerate(pieces)
        )

    def _place(self, name: str) -> int:
        names = _names(self.blocks[0])
        return self.places[names.index(name)]


def folded(blocks: Sequence[Block]) -> Iterator[Run]:
    """Yield blocks in order, repeated sequences of them as one."""
    at = 0
    while at < len(blocks):
        best = Run((tuple(blocks[at : at + 1]),))
        for period in range(1, min(_PERIOD, (len(blocks) - at) // 2) + 1):
            run = _repeated(blocks, at, period)
            if len(run.numbers) * period > max(1, len(best.blocks) * len(best.blocks[0])):
                best = run
        yield best
        at += sum(len(sequence) for sequence in best.blocks)


def _repeated(blocks: Sequence[Block], at: int, period: int) -> Run:
    """Return how often the next `period` blocks follow each other with another number."""
    first = tuple(blocks[at : at + period])
    run = Run((first,))
    while at + (len(run.blocks) + 1) * period <= len(blocks):
        start = at + len(run.blocks) * period
        following = tuple(blocks[start : start + period])
        told = _change(first, following)
        if told is None or (run.places and told[1] != run.places) or told[2] in run.numbers:
            break
        old, places, new = told
        run = Run((*run.blocks, following), (*(run.numbers or (old,)), new), places)
    return run


def _names(sequence: Sequence[Block]) -> list[str]:
    return [name for block in sequence for name in (block.layer, *(line.name for line in block.lines))]


def _change(a: Sequence[Block], b: Sequence[Block]) -> tuple[int, tuple[int, ...], int] | None:
    """Return the number of a, where it stands in each name, and the number of b in its place; None if more differs."""
    numbers: set[tuple[str, str]] = set()
    places: list[int] = []
    for one, other in zip(a, b, strict=True):
        if (one.why, one.now, len(one.lines)) != (other.why, other.now, len(other.lines)):
            return None
        for mine, theirs in zip(one.lines, other.lines, strict=True):
            if (mine.before, mine.after, mine.buffer) != (theirs.before, theirs.after, theirs.buffer):
                return None
    for name, next_name in zip(_names(a), _names(b), strict=True):
        pieces, others = _NUMBER.split(name), _NUMBER.split(next_name)
        if len(pieces) != len(others):
            return None
        differ = [n for n, (x, y) in enumerate(zip(pieces, others, strict=True)) if x != y]
        if len(differ) > 1 or any(n % 2 == 0 for n in differ):
            return None
        places.append(differ[0] if differ else -1)
        numbers.update((pieces[n], others[n]) for n in differ)
    plain = len(numbers) == 1 and all(str(int(text)) == text for pair in numbers for text in pair)
    if not plain or any(place < 0 and name for place, name in zip(places, _names(a), strict=True)):
        return None
    ((old, new),) = numbers
    return int(old), tuple(places), int(new)
