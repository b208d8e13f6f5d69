"""What a variable of TorchScript may hold while its code is followed: plain Python values, and these."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from initaudit.formats.torch.script_code import ClassCode, Function, NoGraphError

Shape = tuple[int | None, ...]


@dataclass(slots=True, eq=False)
class Sym:
    """A tensor, or a number that only a run could tell; `name` is the value of the graph that it is at the moment.

    Operations that change a tensor in place give the Sym a new name, so that whoever holds it sees the change.
    """

    name: str
    shape: Shape | None = None  # None: not even the number of axes is known
    dtype: str = ""
    number: bool = False  # a Python number, truth value or text
    view: tuple[Sym, str, tuple[Any, ...]] | None = None  # made by this call on that tensor, whose memory it shares
    numbers: tuple[int, ...] | None = None  # of a short row of integers in the file
    ranked: bool = False  # would be known if the number of axes of an input were


@dataclass(slots=True, eq=False)
class Sizes:
    """The result of torch.size(tensor) while its number of axes is not known."""

    of: Sym


@dataclass(slots=True, eq=False)
class Many:
    """A list of tensors of unknown length that one operation gave: its outputs grow as they are asked for."""

    outputs: list[str]
    items: list[Sym] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Obj:
    """An instance of a class of the archive."""

    code: ClassCode
    path: str
    attrs: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class Packed:
    """A packed parameter of a quantised or mobile operator: the parts that it was made of."""

    cls: str
    parts: tuple[Any, ...]


class Named(tuple[Any, ...]):
    """A NamedTuple of the archive."""

    fields: tuple[str, ...]

    def __new__(cls, values: tuple[Any, ...], fields: tuple[str, ...]) -> Named:
        """Return the tuple with its fields' names."""
        made = super().__new__(cls, values)
        made.fields = fields
        return made


@dataclass(frozen=True, slots=True)
class Path:
    """A dotted name that stands for a function, class or module: __torch__.a.f, torch.conv2d, ops.prim.dtype."""

    name: str


@dataclass(frozen=True, slots=True, eq=False)
class Method:
    """A method of an object."""

    owner: Obj
    function: Function


@dataclass(frozen=True, slots=True)
class Device:
    """A device; which one makes no difference to a graph."""

    kind: str = "cpu"


class _Unset:
    """What `uninitialized(T)` gives: never used by a program that runs."""


UNSET = _Unset()
PLAIN = (bool, int, float, str, complex, type(None))


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


MAX_VALUES = 100_000  # in one container and those inside it, each counted as often as it is reached


def leaves(value: Any) -> Iterator[Any]:
    """Yield what a value holds, containers opened, in order.

    Raises:
        NoGraphError: there is no end to it: a list may hold itself, a tuple of one tuple twice doubles.
    """
    todo = [value]
    for _ in range(MAX_VALUES):
        if not todo:
            return
        item = todo.pop()
        match item:
            case list() | tuple():
                todo += reversed(item)
            case dict():
                todo += reversed(item.values())
            case Many():
                todo += reversed(item.items)
            case Packed():
                todo += reversed(item.parts)
            case _:
                yield item
    raise NoGraphError(f"a value of more than {MAX_VALUES} parts")


def known(value: Any) -> bool:
    """Whether a value holds nothing that only a run could tell."""
    if isinstance(value, PLAIN):
        return True
    return not isinstance(value, Many) and all(isinstance(item, (*PLAIN, Device)) for item in leaves(value))


def syms(value: Any) -> list[Sym]:
    """Return the Syms in a value, in order."""
    found = [item.of if isinstance(item, Sizes) else item for item in leaves(value)]
    return [item for item in found if isinstance(item, Sym)]


def truth(value: Any) -> bool | None:
    """Return whether a condition holds, None if only a run could tell."""
    if isinstance(value, (Sym, Sizes, Many)):
        return None
    if isinstance(value, (*PLAIN, list, tuple, dict)):
        return bool(value)
    return True
