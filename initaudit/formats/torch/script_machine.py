"""The memory of a run over TorchScript: the calls made so far, and how to take back what one side of an if did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from initaudit.formats.torch.script_code import NoGraphError
from initaudit.formats.torch.script_values import (
    PLAIN,
    UNSET,
    Device,
    Many,
    Named,
    Obj,
    Packed,
    Path,
    Shape,
    Sizes,
    Sym,
    leaves,
)
from initaudit.types import Ref

MAX_CALLS = 200_000
MAX_STEPS = 2_000_000  # statements and expressions; a traced model of a thousand layers takes a tenth of it


@dataclass(slots=True)
class Made:
    """One call on the tape."""

    target: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[str]
    scope: str


@dataclass(slots=True)
class Mark:
    """A moment to go back to."""

    calls: int
    changes: int


@dataclass(slots=True)
class Machine:
    """The tape of calls, the journal of changes, and the budget."""

    tape: list[Made] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)  # by value, where known
    scope: str = ""
    undecided: int = 0  # conditions that only a run could tell
    misfits: int = 0  # calls with shapes that the operator would refuse
    asked_rank: bool = False  # one of them could be told if the number of axes of the inputs were known
    _journal: list[tuple[Any, Any]] = field(default_factory=list)
    steps: int = 0  # of the budget that were spent
    _count: int = 0

    def step(self, cost: int = 1) -> None:
        """Spend some of the budget."""
        self.steps += cost
        if self.steps > MAX_STEPS:
            raise NoGraphError(f"its code takes more than {MAX_STEPS} steps")

    # -- calls

    def fresh(self) -> str:
        """Return a new value name."""
        self._count += 1
        return f"%{self._count}"

    def emit(self, target: str, args: Any = (), kwargs: dict[str, Any] | None = None, count: int = 1) -> list[Sym]:
        """Add a call with `count` results."""
        made = self.record(target, args, kwargs or {}, [self.fresh() for _ in range(count)])
        return [Sym(name) for name in made.outputs]

    def record(self, target: str, args: Any, kwargs: dict[str, Any], outputs: list[str]) -> Made:
        """Add a call whose results have names already."""
        if len(self.tape) >= MAX_CALLS:
            raise NoGraphError(f"more than {MAX_CALLS} operations")
        plain_args = tuple(self.plain(arg) for arg in args)
        plain_kwargs = {key: self.plain(value) for key, value in kwargs.items()}
        made = Made(target, plain_args, plain_kwargs, outputs, self.scope)
        self.tape.append(made)
        return made

    def shaped(self, sym: Sym, shape: Shape | None) -> Sym:
        """Return the Sym, and remember what is known of its shape."""
        if shape is not None:
            sym.shape = shape
            self.shapes[sym.name] = shape
        return sym

    def plain(self, value: Any) -> Any:
        """Return a value as a Call takes it."""
        match value:
            case Sym():
                return Ref(value.name)
            case Sizes():
                return Ref(self.emit("size", (value.of,))[0].name)
            case Many():
                return tuple(Ref(name) for name in value.outputs)
            case list() | tuple():
                self.step(len(value))
                return tuple(self.plain(item) for item in value)
            case dict():
                self.step(len(value))
                return tuple(self.plain(item) for item in value.values())
            case Packed(parts=parts):
                return self.plain(parts)
        return value if isinstance(value, PLAIN) else None

    def number(self, target: str, args: Any) -> Sym:
        """Add a call whose result is a number."""
        sym = self.emit(target, args)[0]
        sym.number, sym.shape = True, ()
        sym.ranked = any(isinstance(item, Sym) and item.ranked for item in leaves(list(args)))
        return sym

    # -- changes of lists, dicts, objects and tensors

    def touch(self, target: Any) -> None:
        """Remember how something was; to be called before each change of it."""
        self._journal.append((target, _state(target)))
        self.step(1 + (len(target) if isinstance(target, (list, dict)) else 0))

    def mark(self) -> Mark:
        """Return this moment."""
        return Mark(len(self.tape), len(self._journal))

    def back(self, mark: Mark, *, forget_calls: bool) -> dict[int, tuple[Any, Any]]:
        """Undo the changes since `mark`, and return what they had led to, by id."""
        led: dict[int, tuple[Any, Any]] = {}
        for target, _ in self._journal[mark.changes :]:
            if id(target) not in led:
                led[id(target)] = target, _state(target)
        for target, state in reversed(self._journal[mark.changes :]):
            _restore(target, state)
        del self._journal[mark.changes :]
        if forget_calls:
            del self.tape[mark.calls :]
        return led

    def redo(self, led: dict[int, tuple[Any, Any]]) -> None:
        """Make changes again that were undone."""
        for target, state in led.values():
            self.touch(target)
            _restore(target, state)

    def merge(self, first: dict[int, tuple[Any, Any]], second: dict[int, tuple[Any, Any]]) -> None:
        """Make the changes of two sides of which either may have run."""
        for key, (target, _) in {**first, **second}.items():
            before = _state(target)
            one = first[key][1] if key in first else before
            other = second[key][1] if key in second else before
            self.touch(target)
            _restore(target, self._join_states(target, one, other))

    def _join_states(self, target: Any, one: Any, other: Any) -> Any:
        if isinstance(target, Sym):
            if one == other:
                return one
            joined = self.join(Sym(one[0], one[1]), Sym(other[0], other[1]))
            return joined.name, joined.shape
        if isinstance(target, list):
            return self._join_lists(one, other)
        keys = dict.fromkeys([*one, *other])
        return {key: self.join(one.get(key, UNSET), other.get(key, UNSET)) for key in keys}

    # -- joins

    def join(self, one: Any, other: Any) -> Any:
        """Return what a variable holds that was set to either of two values."""
        self.step()
        if one is other or one is UNSET or other is UNSET:
            return other if one is UNSET else one
        match one, other:
            case (Sym(), Sym()) if one.name == other.name:
                return one
            case (None, Sym() | Many()):
                return other
            case (Sym() | Many(), None):
                return one
            case (Named(), Named()) if one.fields == other.fields:
                return Named(tuple(self._join_lists(list(one), list(other))), one.fields)
            case (tuple(), tuple()) if len(one) == len(other):
                return tuple(self._join_lists(list(one), list(other)))
            case (list(), list()):
                return self._join_lists(one, other)
            case (dict(), dict()):
                return {key: self.join(one.get(key, UNSET), other.get(key, UNSET)) for key in {**one, **other}}
            case (Path(), _) | (_, Path()) | (Obj(), _) | (_, Obj()) | (Device(), _) | (_, Device()):
                return one
        if (
            isinstance(one, PLAIN)
            and isinstance(other, PLAIN)
            and type(one) is type(other)
            and repr(one) == repr(other)
        ):
            return one
        made = self.emit("phi", (_one(one), _one(other)))[0]
        both = [value for value in (one, other) if isinstance(value, Sym)]
        made.number = all(value.number for value in both)
        made.ranked = any(value.ranked for value in both)
        if len(both) == 2 and both[0].shape is not None and both[1].shape is not None:
            made.shape = _common(both[0].shape, both[1].shape)
        return made

    def _join_lists(self, one: list[Any], other: list[Any]) -> list[Any]:
        longer = one if len(one) >= len(other) else other
        shared = [self.join(a, b) for a, b in zip(one, other, strict=False)]
        return shared + longer[len(shared) :]


def _one(value: Any) -> Any:
    """Return the first tensor of a container, where a container is joined with something else."""
    if isinstance(value, (list, tuple, dict, Packed)):
        return next((item for item in leaves(value) if isinstance(item, Sym)), None)
    return value


def _common(one: Shape, other: Shape) -> Shape | None:
    if len(one) != len(other):
        return None
    return tuple(a if a == b else None for a, b in zip(one, other, strict=True))


def _state(target: Any) -> Any:
    match target:
        case Sym():
            return target.name, target.shape
        case list():
            return list(target)
        case Obj():
            return dict(target.attrs)
    return dict(target)


def _restore(target: Any, state: Any) -> None:
    match target:
        case Sym():
            target.name, target.shape = state
        case list():
            target[:] = state
        case Obj():
            target.attrs = dict(state)
        case dict():
            target.clear()
            target.update(state)
