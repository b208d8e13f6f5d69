"""A pickle read as text is read: every opcode of protocols 0 to 5, and nothing imported, called or built.

A class or function becomes a `Global` (its dotted name), a call or an object becomes a `Record` of what was asked for.
Only containers of plain values are made for real (a dict is a dict), because that needs no code but ours.
"""

from __future__ import annotations

import codecs
import re
import struct
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from initaudit.errors import CorruptFileError, ReadError, UnsafeFileError
from initaudit.formats.torch.pickle_values import PLAIN, Record, as_key
from initaudit.types import Global

Buffer = bytes | memoryview

MAX_OPCODES = 8_000_000  # a pickled model of a thousand layers needs a fiftieth of it; some seconds at the worst
MAX_OBJECTS = 2_000_000  # containers and records: one instruction makes one, and each takes a hundred bytes
MAX_OPEN_MARKS = 10_000  # how deep containers may be under construction
MAX_INTEGER_BYTES = 1024  # no number in a model is larger; printing one takes time quadratic in it
_UINT32 = struct.Struct("<I").unpack_from
KEPT_AS_VIEW = 4096  # byte strings from this size on are views of the file, not copies
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "exceptions": "builtins"}
_NAME = re.compile(r"[A-Za-z_][\w.<>-]*")


class CutShortError(CorruptFileError):
    """The pickle goes on where the data ends."""


class Unpickler:
    """Reads one pickle from `data` at `start`.

    `persistent` says what a persistent id stands for; it is our function, never one of the file. After `load`, `end` is
    the position behind the pickle and `globals` holds every name that it mentions.
    """

    table: ClassVar[Sequence[Callable[[Any], object] | None]]  # by instruction; None: the last one

    def __init__(
        self, data: Buffer, start: int = 0, persistent: Callable[[object], object] | None = None, origin: object = None
    ) -> None:
        self.data = data
        self.origin = origin  # where the data lie; only those who write ask for it
        self.pos = start
        self.size = len(data)
        self.persistent = persistent or (lambda pid: Record(Global("persistent id"), (pid,)))
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.globals: dict[str, Global] = {}
        self.objects = 0

    @property
    def end(self) -> int:
        """The position behind what was read."""
        return self.pos

    def load(self) -> object:
        """Return the value.

        Raises:
            CorruptFileError: the bytes are no pickle, or one that ends early.
        """
        data, table = self.data, self.table
        try:
            for _ in range(MAX_OPCODES):
                operation = table[data[self.pos]]
                self.pos += 1
                if operation is None:
                    break
                operation(self)
            else:
                raise UnsafeFileError(f"the pickle goes on after {MAX_OPCODES} instructions")
            if self.marks or len(self.stack) != 1:
                raise CorruptFileError(f"the pickle ends at byte {self.pos} with {len(self.stack)} values, not one")
            return self.stack.pop()
        except ReadError:
            raise
        except KeyError as error:
            raise CorruptFileError(
                f"the pickle is damaged at byte {self.pos}: nothing is remembered as {error}"
            ) from None
        except IndexError:
            if self.pos >= self.size:
                raise CutShortError(f"the pickle is cut short at byte {self.size}") from None
            raise CorruptFileError(f"the pickle is damaged at byte {self.pos}: a value is missing") from None
        except struct.error:
            raise CutShortError(f"the pickle is cut short at byte {self.size}") from None
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            raise CorruptFileError(f"the pickle is damaged at byte {self.pos}: {str(error)[:120]}") from None

    # -- reading the stream

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        end = self.pos + count
        if end > self.size:
            raise CutShortError(f"the pickle is cut short at byte {self.pos}: {count} bytes needed of {self.size}")
        piece = bytes(self.data[self.pos : end])
        self.pos = end
        return piece

    def take_large(self, count: int) -> bytes | memoryview:
        """Return the next `count` bytes, as a view where they are many."""
        if count < KEPT_AS_VIEW or self.pos + count > self.size:
            return self.take(count)
        self.pos += count
        return memoryview(self.data)[self.pos - count : self.pos]

    def number(self, width: int) -> int:
        """Return the next unsigned integer."""
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        """Return the bytes up to the next newline."""
        start, step = self.pos, 256
        while True:
            piece = bytes(self.data[start : start + step])
            at = piece.find(b"\n")
            if at >= 0:
                self.pos = start + at + 1
                return piece[:at]
            if start + step >= self.size:
                raise CutShortError(f"the pickle is cut short in the line at byte {start}")
            step *= 4

    def name(self, module: str, name: str) -> Global:
        """Return the class or function of that name, as a name."""
        full = f"{_PYTHON_2.get(module, module)}.{name}"
        known = self.globals.get(full)
        if known is None:
            if not _NAME.fullmatch(module) or not _NAME.fullmatch(name):
                raise ValueError(f"{full[:60]!r} is no name")
            known = self.globals[full] = Global(full)
        return known

    def name_lines(self) -> Global:
        """Return the class or function named by the next two lines."""
        module = self.line().decode()
        if not _NAME.fullmatch(module):
            raise ValueError(f"{module[:60]!r} is no module")
        return self.name(module, self.line().decode())

    # -- what several opcodes share

    def pop_mark(self) -> list[Any]:
        """Return the values since the last mark."""
        values = self.stack
        self.stack = self.marks.pop()
        return values

    def call(self, func: object, args: object, kwargs: dict[object, object] | None = None) -> object:
        """Return the plain value or the record that stands for func(*args)."""
        if type(args) is not tuple:
            if type(func) is not Global or not func.name.startswith("__torch__."):
                raise TypeError("arguments that are no tuple")
            args = (args,)  # how TorchScript writes a member of an Enum
        if type(func) is Global and not kwargs:
            if func.name == "copyreg._reconstructor" and args:
                func, args = args[0], args[2:] if len(args) > 2 and args[2] is not None else ()
            elif func.name in ("copyreg.__newobj__", "copyreg.__newobj_ex__") and args:
                func, args = args[0], args[1:]
            make = PLAIN.get(func.name) if type(func) is Global else None
            value = make(args) if make is not None else None
            if value is not None:
                self.objects += _copied(value)
                return self.counted(value)
        return self.counted(Record(func, args, kwargs))

    def counted(self, value: object) -> object:
        """Return a new container or record, if there may be one more."""
        self.objects += 1
        if self.objects > MAX_OBJECTS:
            raise UnsafeFileError(f"the pickle makes more than {MAX_OBJECTS} objects")
        return value

    def set_items(self, pairs: list[Any]) -> None:
        """Store key, value, key, value, ... in the container on top of the stack."""
        target = self.stack[-1]
        if type(target) is Record:
            if target.items is None:
                target.items = {}
            target = target.items
        if type(target) is not dict:
            raise TypeError(f"items for a {type(target).__name__}")
        for index in range(0, len(pairs), 2):
            key = pairs[index]
            target[key if type(key) is str else as_key(key)] = pairs[index + 1]

    def append(self, values: list[Any]) -> None:
        """Append to the list, or record of one, on top of the stack."""
        target = self.stack[-1]
        if type(target) is Record:
            if target.appended is None:
                target.appended = []
            target = target.appended
        if type(target) is set:
            target.update(as_key(value) for value in values)
        elif type(target) is list:
            target += values
        else:
            raise TypeError(f"elements for a {type(target).__name__}")

    def text(self, raw: bytes) -> str | bytes:
        """Return a Python 2 string: text where it is valid UTF-8, else bytes (of an array, say)."""
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return raw

    def wide(self, raw: bytes) -> int:
        """Return the signed integer of a LONG."""
        if len(raw) > MAX_INTEGER_BYTES:
            raise ValueError(f"an integer of {len(raw)} bytes")
        return int.from_bytes(raw, "little", signed=True)

    def remember_next(self) -> None:
        """Remember the value on top of the stack under the next number."""
        self.memo[len(self.memo)] = self.stack[-1]

    def set_state(self) -> None:
        """Give the object below the top its state; a plain container needs none."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is Record:
            target.state = state

    def check_protocol(self) -> None:
        """Refuse what is newer than we know."""
        version = self.number(1)
        if version > 5:
            raise CorruptFileError(f"pickle protocol {version} at byte {self.pos - 1}; known are 0 to 5")

    def check_frame(self) -> None:
        """Refuse a frame that reaches beyond the data."""
        length = self.number(8)
        if self.pos + length > self.size:
            raise CutShortError(f"the pickle is cut short: a frame of {length} bytes at {self.pos} of {self.size}")

    def instance(self) -> None:
        """Handle INST: class name in the stream, arguments since the mark."""
        cls = self.name_lines()
        self.stack, args = self.marks.pop(), tuple(self.stack)
        self.stack.append(self.call(cls, args))

    def stack_global(self) -> None:
        """Handle STACK_GLOBAL: module and name are values."""
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("a name that is no text")
        self.stack.append(self.name(module, name))

    def new_object(self, with_keywords: bool) -> None:
        """Handle NEWOBJ and NEWOBJ_EX."""
        kwargs = self.stack.pop() if with_keywords else None
        args, cls = self.stack.pop(), self.stack.pop()
        if kwargs is not None and type(kwargs) is not dict:
            raise TypeError("keyword arguments that are no dict")
        self.stack.append(self.call(cls, args, kwargs))


def _unquoted(raw: bytes) -> bytes:
    raw = raw.strip()
    if len(raw) < 2 or raw[:1] != raw[-1:] or raw[:1] not in (b"'", b'"'):
        raise ValueError("a string without quotes")
    return codecs.escape_decode(raw[1:-1])[0]


def _decimal(raw: bytes) -> int | bool:
    if raw in (b"00", b"01"):
        return raw == b"01"
    if len(raw) > MAX_INTEGER_BYTES:
        raise ValueError(f"a number of {len(raw)} digits")
    return int(raw.rstrip(b"L"))


def _push(make: Callable[[Unpickler], object]) -> Callable[[Unpickler], None]:
    def run(u: Unpickler) -> None:
        u.stack.append(make(u))

    return run


def _push_struct(form: str) -> Callable[[Unpickler], None]:
    unpack, width = struct.Struct(form).unpack_from, struct.calcsize(form)

    def run(u: Unpickler) -> None:
        if u.pos + width > u.size:
            raise CutShortError(f"the pickle is cut short at byte {u.pos} of {u.size}")
        u.stack.append(unpack(u.data, u.pos)[0])
        u.pos += width

    return run


def _copied(value: object) -> int:
    """Return how many objects' worth of memory a call copied: `list(memo)` is one instruction however long the memo."""
    if isinstance(value, list | tuple | dict | set | frozenset):
        return len(value)
    return len(value) >> 6 if isinstance(value, bytes | bytearray | str) else 0


def _push_last(count: int) -> Callable[[Unpickler], None]:
    def run(u: Unpickler) -> None:
        if len(u.stack) < count:
            raise IndexError
        u.stack[-count:] = [tuple(u.stack[-count:])]

    return run


def _mark(u: Unpickler) -> None:
    u.marks.append(u.stack)
    u.stack = []
    if len(u.marks) > MAX_OPEN_MARKS:
        raise UnsafeFileError(f"the pickle opens more than {MAX_OPEN_MARKS} containers in one another")


def _since_mark(make: Callable[[list[Any]], object]) -> Callable[[Unpickler], None]:
    def run(u: Unpickler) -> None:
        values = u.pop_mark()
        u.stack.append(u.counted(make(values)))

    return run


def _obj(u: Unpickler) -> None:
    values = u.pop_mark()
    u.stack.append(u.call(values[0], tuple(values[1:])))


def _reduce(u: Unpickler) -> None:
    args = u.stack.pop()
    u.stack[-1] = u.call(u.stack[-1], args)


def _pop(u: Unpickler) -> None:
    if u.stack:
        u.stack.pop()
    else:
        u.pop_mark()


def _pairs(values: list[Any]) -> dict[object, object]:
    if len(values) % 2:
        raise ValueError("a key without a value")
    return {as_key(values[i]): values[i + 1] for i in range(0, len(values), 2)}


def _set_item(u: Unpickler) -> None:
    pair = [u.stack.pop(-2), u.stack.pop()]
    u.set_items(pair)


def _set_items(u: Unpickler) -> None:
    pairs = u.pop_mark()
    if len(pairs) % 2:
        raise ValueError("a key without a value")
    u.set_items(pairs)


def _extension(width: int) -> Callable[[Unpickler], None]:
    return _push(lambda u: u.name("copyreg", f"extension_{u.number(width)}"))


# The next few are most of every model's pickle, so they are written out rather than put together.


def _get(u: Unpickler) -> None:
    u.stack.append(u.memo[u.data[u.pos]])
    u.pos += 1


def _put(u: Unpickler) -> None:
    u.memo[u.data[u.pos]] = u.stack[-1]
    u.pos += 1


def _long_get(u: Unpickler) -> None:
    pos = u.pos
    u.pos = pos + 4
    u.stack.append(u.memo[_UINT32(u.data, pos)[0]])


def _long_put(u: Unpickler) -> None:
    pos = u.pos
    u.pos = pos + 4
    u.memo[_UINT32(u.data, pos)[0]] = u.stack[-1]


def _unicode(u: Unpickler) -> None:
    start = u.pos + 4
    u.pos = end = start + _UINT32(u.data, start - 4)[0]
    if end > u.size:
        raise CutShortError(f"the pickle is cut short: text of {end - start} bytes at {start} of {u.size}")
    u.stack.append(str(u.data[start:end], "utf-8", "surrogatepass"))


def _tuple(u: Unpickler) -> None:
    values = tuple(u.stack)
    u.stack = u.marks.pop()
    u.stack.append(values)


def _persistent_id(u: Unpickler) -> None:
    u.stack[-1] = u.persistent(u.stack[-1])


def _unknown(u: Unpickler) -> None:
    raise CorruptFileError(f"no pickle at byte {u.pos - 1}: unknown instruction {u.data[u.pos - 1]:#04x}")


_OPERATIONS: dict[bytes, Callable[[Unpickler], object] | None] = {
    b".": None,  # STOP
    b"\x80": Unpickler.check_protocol,
    b"\x95": Unpickler.check_frame,
    b"N": _push(lambda u: None),
    b"\x88": _push(lambda u: True),
    b"\x89": _push(lambda u: False),
    b"I": _push(lambda u: _decimal(u.line())),
    b"L": _push(lambda u: _decimal(u.line())),
    b"J": _push_struct("<i"),
    b"K": _push_struct("<B"),
    b"M": _push_struct("<H"),
    b"\x8a": _push(lambda u: u.wide(u.take(u.number(1)))),
    b"\x8b": _push(lambda u: u.wide(u.take(u.number(4)))),
    b"F": _push(lambda u: float(u.line())),
    b"G": _push_struct(">d"),
    b"S": _push(lambda u: u.text(_unquoted(u.line()))),
    b"T": _push(lambda u: u.text(u.take(u.number(4)))),
    b"U": _push(lambda u: u.text(u.take(u.number(1)))),
    b"V": _push(lambda u: u.line().decode("raw-unicode-escape")),
    b"X": _unicode,
    b"\x8c": _push(lambda u: u.take(u.number(1)).decode("utf-8", "surrogatepass")),
    b"\x8d": _push(lambda u: u.take(u.number(8)).decode("utf-8", "surrogatepass")),
    b"B": _push(lambda u: u.take_large(u.number(4))),
    b"C": _push(lambda u: u.take(u.number(1))),
    b"\x8e": _push(lambda u: u.take_large(u.number(8))),
    b"\x96": _push(lambda u: u.take_large(u.number(8))),
    b"\x97": _push(lambda u: Record(Global("out-of-band buffer"))),
    b"\x98": lambda u: None,  # READONLY_BUFFER
    b"]": _push(lambda u: u.counted([])),
    b"}": _push(lambda u: u.counted({})),
    b")": _push(lambda u: ()),
    b"\x8f": _push(lambda u: u.counted(set())),
    b"\x85": _push_last(1),
    b"\x86": _push_last(2),
    b"\x87": _push_last(3),
    b"(": _mark,
    b"t": _tuple,
    b"l": _since_mark(list),
    b"d": _since_mark(_pairs),
    b"\x91": _since_mark(lambda values: frozenset(as_key(value) for value in values)),
    b"0": _pop,
    b"1": Unpickler.pop_mark,
    b"2": lambda u: u.stack.append(u.stack[-1]),
    b"a": lambda u: u.append([u.stack.pop()]),
    b"e": lambda u: u.append(u.pop_mark()),
    b"\x90": lambda u: u.append(u.pop_mark()),
    b"s": _set_item,
    b"u": _set_items,
    b"p": lambda u: u.memo.__setitem__(_decimal(u.line()), u.stack[-1]),
    b"q": _put,
    b"r": _long_put,
    b"\x94": Unpickler.remember_next,
    b"g": _push(lambda u: u.memo[_decimal(u.line())]),
    b"h": _get,
    b"j": _long_get,
    b"c": _push(lambda u: u.name_lines()),
    b"\x93": Unpickler.stack_global,
    b"\x82": _extension(1),
    b"\x83": _extension(2),
    b"\x84": _extension(4),
    b"i": Unpickler.instance,
    b"o": _obj,
    b"R": _reduce,
    b"\x81": lambda u: u.new_object(False),
    b"\x92": lambda u: u.new_object(True),
    b"b": Unpickler.set_state,
    b"P": _push(lambda u: u.persistent(u.line().decode())),
    b"Q": _persistent_id,
}
Unpickler.table = [_OPERATIONS.get(bytes([code]), _unknown) for code in range(256)]
MakeUnpickler = Callable[[Buffer, int, Callable[[object], object] | None, object], Unpickler]
