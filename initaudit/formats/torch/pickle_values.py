"""The inert values that a pickle turns into: records of what was asked for, and the containers that need no code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from initaudit.types import Global

MAX_KEY_DEPTH = 8  # tuples as keys: hashing recurses in C, where Python does not guard the stack


class Record:
    """Something a pickle wanted to have called or built: which function or class, with what, and its later state."""

    __slots__ = ("appended", "args", "func", "items", "kwargs", "state")

    def __init__(self, func: object, args: tuple[object, ...] = (), kwargs: dict[object, object] | None = None) -> None:
        self.func = func
        self.args = args
        self.kwargs = kwargs
        self.state: object = None
        self.items: dict[object, object] | None = None  # of a dict subclass
        self.appended: list[object] | None = None  # of a list or set subclass

    @property
    def name(self) -> str:
        """Dotted name of the class or function; "?" where it is itself computed."""
        func = self.func
        if type(func) is Global:
            return func.name
        if type(func) is Record and any(word in func.name for word in ("_make_skeleton_class", "_create_type")):
            return next((arg for arg in func.args if isinstance(arg, str)), "?")  # cloudpickle, dill: name of a class
        return "?"

    def __repr__(self) -> str:
        return f"Record({self.name})"


def attributes(state: object) -> dict[object, object]:
    """Return the attributes in the state of an object, whether it has a __dict__, __slots__ or both."""
    if type(state) is dict:
        return state
    if type(state) is tuple and len(state) == 2 and all(part is None or type(part) is dict for part in state):
        return {**(state[0] or {}), **(state[1] or {})}
    return {}


def _plain_dict(args: tuple[Any, ...]) -> object:
    if not args:
        return {}
    if type(args[0]) is dict:
        return dict(args[0])
    if type(args[0]) in (list, tuple):
        return {as_key(key): value for key, value in args[0]}
    return None


def _plain_sequence(kind: Callable[[Iterable[Any]], object]) -> Callable[[tuple[Any, ...]], object]:
    def build(args: tuple[Any, ...]) -> object:
        if not args:
            return kind(())
        if type(args[0]) in (list, tuple, set, frozenset):
            return kind([as_key(item) for item in args[0]] if kind in (set, frozenset) else args[0])
        return None

    return build


def _plain_bytes(args: tuple[Any, ...]) -> object:
    match args:
        case ():
            return b""
        case (bytes() | bytearray() | memoryview() as data,):
            return data
        case (str() as text, "latin-1" | "latin1" | "iso-8859-1"):
            return text.encode("latin-1")
        case (str() as text, "utf-8" | "utf8"):
            return text.encode()
    return None


def _plain_complex(args: tuple[Any, ...]) -> object:
    return complex(*args) if all(type(arg) in (int, float) for arg in args) and len(args) <= 2 else None


def _plain_attribute(args: tuple[Any, ...]) -> object:
    # members of an Enum and nested classes are pickled as getattr(class, name)
    match args:
        case (Global(owner), str(attribute)):
            return Global(f"{owner}.{attribute}")
    return None


# What these make is a plain value whatever the arguments are, so it is made; None: not of that form, keep a record.
PLAIN: dict[str, Callable[[tuple[Any, ...]], object]] = {
    "collections.OrderedDict": _plain_dict,
    "collections.Counter": _plain_dict,
    "collections.defaultdict": lambda args: _plain_dict(args[1:]),
    "builtins.dict": _plain_dict,
    "builtins.list": _plain_sequence(list),
    "builtins.tuple": _plain_sequence(tuple),
    "builtins.set": _plain_sequence(set),
    "builtins.frozenset": _plain_sequence(frozenset),
    "collections.deque": _plain_sequence(list),
    "torch.Size": _plain_sequence(tuple),
    "builtins.bytes": _plain_bytes,
    "builtins.bytearray": _plain_bytes,
    "_codecs.encode": _plain_bytes,
    "builtins.complex": _plain_complex,
    "builtins.getattr": _plain_attribute,
}


def as_key(value: object) -> object:
    """Return `value` where it may be hashed safely.

    Raises:
        ValueError: it cannot be hashed, or hashing it could be made slow or deep.
    """
    level: list[object] = [value]
    for _ in range(MAX_KEY_DEPTH):
        nested: list[object] = []
        for item in level:
            if type(item) is tuple:
                nested += item
            elif type(item) is int and not -(2**63) <= item < 2**64:
                raise ValueError("an integer key of more than 64 bits")
            elif isinstance(item, (list, dict, set, bytearray)):
                raise ValueError(f"a {type(item).__name__} as a key")
        if not nested:
            return value
        if len(nested) > 4096:
            break
        level = nested
    raise ValueError("a key nested too deep")
