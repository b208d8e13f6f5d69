"""What to feed a module with when nobody says: guessed, tried on stand-ins that cost nothing, and told.

The configuration comes first, then the names of the arguments and the first layers. Where a pass fails, the call at
which it failed usually says what it wants (repair.py); else common sizes are tried.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.errors import UsageError
from initaudit.live.configs import argument as by_config
from initaudit.live.configs import from_config
from initaudit.live.given import from_examples, from_options
from initaudit.live.named import by_layers, by_name
from initaudit.live.repair import distance, hinted, put, repairs, resized, specs
from initaudit.live.signature import Argument, arguments, feed
from initaudit.live.spec import Feed, Spec
from initaudit.live.watch import Failure

MOST_TRIES = 80
MOST_CALLS = 100_000  # of torch functions in all tries together; a clock would make reports differ
_MOST_REPAIRS = 16  # in a row
_MOST_HINTS = 2
_MOST_MIXED = 24  # combinations of what the arguments may be


@dataclass(frozen=True, slots=True)
class _Guess:
    values: Mapping[str, Any]
    why: str
    start: float = 0.0  # rank of the guess that it grew out of
    repaired: int = 0
    hinted: int = 0
    resized: bool = False
    late: bool = False


class Guesses:
    """Feeds to try, one after the other; `failed` says why the last did not do, and may bring better ones.

    for feed in guesses:
        try: ...
        except ...: guesses.failed(failure)
    """

    def __init__(self, module: nn.Module, options: Mapping[str, Spec] | None = None) -> None:
        self._module = module
        self._options = dict(options or {})
        self._floating = _floating(module)
        self._queue: list[tuple[float, int, _Guess]] = []
        self._tried: set[str] = set()
        self._count = itertools.count()
        self._current: _Guess | None = None
        self._calls = 0
        self._from: Counter[float] = Counter()  # tries that grew out of each first guess
        self._same: Counter[float] = Counter()  # times in a row that the same failure came of each first guess
        self._last: dict[float, str] = {}
        self.tried = 0
        for rank, (values, why) in enumerate(itertools.islice(_first(module, self._options), _MOST_MIXED)):
            start = float(10 * rank)
            self._add(start, _Guess(self._fixed(_typed(values, self._floating)), why, start))

    def __iter__(self) -> Iterator[Feed]:
        while self._queue and self.tried < MOST_TRIES and self._calls < MOST_CALLS:
            _, _, guess = heapq.heappop(self._queue)
            if _key(guess) in self._tried:
                continue
            if guess.resized and self._same[guess.start] > 1 and not guess.late:  # sizes do not matter there
                self._add(guess.start + 15, replace(guess, late=True))
                continue
            self._tried.add(_key(guess))
            self._current = guess
            self._from[guess.start] += 1
            self.tried += 1
            yield feed(self._module, guess.values, _told(guess, self._options))

    def failed(self, failure: Failure) -> None:
        """Take into account why the last feed did not do."""
        last = self._current
        if last is None:
            return
        self._calls += failure.calls
        where = f"{failure.call}: {failure.text}"
        self._same[last.start] = self._same[last.start] + 1 if self._last.get(last.start) == where else 1
        self._last[last.start] = where
        base = last.start + 0.4 * self._from[last.start]  # the next first guess gets its turn as well
        better = repairs(failure, last.values, self._floating, self._called) if last.repaired < _MOST_REPAIRS else []
        better += self._mentioned(failure, last)
        for k, values in enumerate(better[:16]):
            # What a weight fixes comes before all else; of the sizes that may do, the nearest.
            step = distance(last.values, values)
            rank = base + (1 + 0.2 * step if step else -1) + 0.02 * k
            self._add(rank, replace(last, values=self._fixed(values), repaired=last.repaired + 1))
        if last.hinted < _MOST_HINTS:
            for k, values in enumerate(hinted(failure, last.values)):
                more = replace(last, values=self._fixed(values), repaired=last.repaired + 1, hinted=last.hinted + 1)
                self._add(base + 2 + 0.2 * k, more)
        if not last.resized:
            for k, values in enumerate(resized(last.values)):
                self._add(base + 3 + 0.3 * k, replace(last, values=self._fixed(values), resized=True))

    def _mentioned(self, failure: Failure, last: _Guess) -> list[Mapping[str, Any]]:
        """An optional argument that the error speaks of is one that is needed after all."""
        found: list[Mapping[str, Any]] = []
        words = set(failure.text.replace("`", " ").replace("'", " ").replace(".", " ").replace(",", " ").split())
        for argument in arguments(self._module):
            name = argument.name
            if name in words and name not in last.values and len(name) > 1:
                values = [value for value, _ in _for(self._module, argument) if value is not None]
                found += [{**last.values, name: value} for value in values]
        return [_typed(values, self._floating) for values in found[:3]]

    def _called(self, name: str) -> list[Any]:
        return [value for value, _ in _for(self._module, Argument(name, True, "", None)) if value is not None]

    def _add(self, rank: float, guess: _Guess) -> None:
        if _key(guess) not in self._tried:
            heapq.heappush(self._queue, (rank, next(self._count), guess))

    def _fixed(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep the shapes that the user gave, and the dtypes where they gave one."""
        fixed = dict(values)
        for name, spec in self._options.items():
            now = fixed.get(name)
            guessed = now.dtype if isinstance(now, Spec) else self._floating
            below = now.below if isinstance(now, Spec) else spec.below
            fixed[name] = Spec(spec.shape, spec.dtype or guessed, below)
        return fixed


def given(module: nn.Module, examples: Any = None, options: tuple[str, ...] = ()) -> tuple[Feed | None, Guesses]:
    """Return what the user feeds the module with, if that is all it takes, and guesses for the rest.

    Raises:
        UsageError: what was given fits no argument.
    """
    if examples is not None and options:
        raise UsageError("give example inputs or --input, not both")
    if examples is not None:
        return from_examples(module, examples), Guesses(module)
    return None, Guesses(module, from_options(module, options))


def described(fed: Feed, module: nn.Module) -> str:
    """Return "input_ids (2, 8) int64" and the like for everything that is fed."""
    names = {a.position: a.name for a in arguments(module)}
    values = {names.get(k, f"input {k}"): value for k, value in enumerate(fed.args)} | dict(fed.kwargs)
    return _described(values)


def _described(value: Any, name: str = "") -> str:
    shape: tuple[int, ...] | None = None
    if isinstance(value, Spec):
        shape, dtype = value.shape, value.dtype
    elif isinstance(value, torch.Tensor):
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
    if shape is not None:
        return f"{name} {_text(shape)} {dtype}".strip()
    if isinstance(value, Mapping):
        return ", ".join(filter(None, (_described(v, f"{name}.{k}" if name else str(k)) for k, v in value.items())))
    if isinstance(value, list | tuple):
        return _described(dict(enumerate(value)), name)
    return ""


def _text(shape: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, shape))})" if len(shape) != 1 else f"({shape[0]},)"


def _key(guess: _Guess) -> str:
    return repr(sorted(guess.values.items(), key=lambda item: item[0]))


def _told(guess: _Guess, options: Mapping[str, Any]) -> str:
    own = {name: value for name, value in guess.values.items() if name not in options}
    if not own:
        return ""
    source = f" from {guess.why}" if guess.why else ""
    return f"guessed{source}{' and from what fits the weights' if guess.repaired or guess.resized else ''}"


def _first(module: nn.Module, options: Mapping[str, Spec]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield what to start from."""
    wanted = [a for a in arguments(module) if a.required]
    for values, why in from_config(module):
        rest = [a for a in wanted if a.name not in values]
        if not rest:
            yield values, why
        else:
            for more, _ in _mixed(module, rest):
                yield {**values, **more}, why
    rest = [a for a in wanted if a.name not in options]
    if not wanted and not options:
        rest = list(arguments(module)[:1]) or [Argument("input", True, "", 0)]
    if rest:
        yield from _mixed(module, rest)
    else:
        yield {}, ""


def _mixed(module: nn.Module, wanted: list[Argument]) -> Iterator[tuple[dict[str, Any], str]]:
    """Yield values for several arguments: the likeliest of each, then with one after the other of the others."""
    choices = [_for(module, argument) for argument in wanted]
    ranked = itertools.product(*(range(len(choice)) for choice in choices))
    most = itertools.islice(ranked, 512)
    for picks in sorted(most, key=lambda picks: (sum(picks), picks)):
        chosen = [choice[k] for choice, k in zip(choices, picks, strict=True)]
        why = ", ".join(dict.fromkeys(source for _, source in chosen if source))
        yield {a.name: value for a, (value, _) in zip(wanted, chosen, strict=True)}, why


def _for(module: nn.Module, argument: Argument) -> list[tuple[Any, str]]:
    known = by_name(module, argument)
    if (told := by_config(module, argument.name)) is not None:
        known = [(told, "the config"), *known]
    if known and not argument.required:
        return known
    layers = by_layers(module, argument.name)
    listed = argument.annotation.lower().replace("typing.", "").replace("optional[", "")
    if listed.startswith(("list[", "tuple[", "sequence[")) and "tensor" in listed:
        layers = [([Spec(spec.shape[1:], spec.dtype, spec.below)] * 2, source) for spec, source in layers] + [
            ([spec, spec], source) for spec, source in layers
        ]
    return (known + layers)[:8]


def _typed(values: Mapping[str, Any], floating: str) -> dict[str, Any]:
    """Give floating inputs the dtype of the module's weights."""
    made: Any = dict(values)
    for path, spec in specs(values):
        if spec.dtype == "float32" != floating:
            made = put(made, path, replace(spec, dtype=floating))
    return dict(made)


def _floating(module: nn.Module) -> str:
    for parameter in module.parameters():
        if not is_lazy(parameter) and parameter.is_floating_point() and parameter.element_size() > 1:
            return str(parameter.dtype).removeprefix("torch.")
    return "float32"
