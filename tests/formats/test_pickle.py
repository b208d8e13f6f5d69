from __future__ import annotations

import argparse
import collections
import decimal
import enum
import fractions
import functools
import pickle
import pickletools
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.errors import CorruptFileError, ReadError, UnsafeFileError
from initaudit.formats.torch import pickle as static
from initaudit.formats.torch.pickle import Unpickler
from initaudit.formats.torch.pickle_values import Record
from initaudit.types import Global

PROTOCOLS = range(6)


def load(data: bytes) -> Any:
    return Unpickler(data).load()


class Point:
    def __init__(self, x: int) -> None:
        self.x = x


class Slotted:
    __slots__ = ("a",)


class Table(dict):  # type: ignore[type-arg]
    pass


class Numbers(list):  # type: ignore[type-arg]
    pass


class Level(enum.Enum):
    LOW = "low"


class Keyworded:
    def __getnewargs_ex__(self) -> tuple[tuple[int], dict[str, int]]:
        return (1,), {"k": 2}

    def __new__(cls, a: int = 0, k: int = 0) -> Keyworded:
        return super().__new__(cls)


keys = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(), st.binary())
values = st.recursive(
    st.one_of(keys, st.integers(-(2**300), 2**300), st.floats(allow_nan=False)),
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.dictionaries(keys, inner), st.sets(keys), st.frozensets(keys)
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(values, st.sampled_from(PROTOCOLS))
def test_plain_values_come_back_as_pickle_gives_them(value: object, protocol: int) -> None:
    assert load(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_containers_of_the_library_become_plain_ones(protocol: int) -> None:
    value = [
        collections.OrderedDict(a=1), collections.defaultdict(list, {1: [2]}), collections.Counter("aab"),
        collections.deque([1, 2]), bytearray(b"abc"), complex(1, -2), b"x" * 5000,
    ]  # fmt: skip
    got = load(pickle.dumps(value, protocol))
    assert got[:3] == [{"a": 1}, {1: [2]}, {"a": 2, "b": 1}]
    assert list(got[3]) == [1, 2]
    assert [bytes(got[4]), got[5], bytes(got[6])] == [b"abc", complex(1, -2), b"x" * 5000]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_objects_become_records_that_keep_everything(protocol: int) -> None:
    table = Table(a=1)
    table.note = "n"  # type: ignore[attr-defined]
    slotted = Slotted()
    slotted.a = 5  # type: ignore[attr-defined]
    point, spaced, table_, numbers, level, partial, fraction = load(
        pickle.dumps(
            [Point(3), argparse.Namespace(lr=0.1), table, Numbers([1, 2]), Level.LOW,
             functools.partial(print, 1, end=""), fractions.Fraction(1, 3)], protocol,
        )
    )  # fmt: skip
    assert isinstance(point, Record)
    assert (point.name.rpartition(".")[2], point.state) == ("Point", {"x": 3})
    assert (spaced.name, spaced.state) == ("argparse.Namespace", {"lr": 0.1})
    assert table_.items == {"a": 1} or table_.args[0] == {"a": 1}
    assert table_.state == {"note": "n"}
    assert numbers.appended == [1, 2] or numbers.args[0] == [1, 2]
    assert level.args == ("low",) or isinstance(level, Global)
    assert partial.state == (Global("builtins.print"), (1,), {"end": ""}, None)
    assert fraction.args in ((1, 3), ("1/3",))
    if protocol >= 2:
        assert load(pickle.dumps(slotted, protocol)).state == (None, {"a": 5})
        assert load(pickle.dumps(Keyworded(), protocol)).args in ((1,), ())


def test_functions_and_classes_are_names() -> None:
    assert load(pickle.dumps(decimal.Decimal, 2)) == Global("decimal.Decimal")
    assert load(b"c__builtin__\nlen\n.") == Global("builtins.len")


def test_cycles_are_kept() -> None:
    loop: list[object] = []
    loop.append(loop)
    got = load(pickle.dumps(loop))
    assert got[0] is got


def test_shared_values_stay_shared() -> None:
    point = Point(1)
    first, second = load(pickle.dumps([point, point]))
    assert first is second


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"I01\n.", True), (b"I7\n.", 7), (b"L12L\n.", 12), (b"F1.5\n.", 1.5), (b"S'a\\x41'\n.", "aA"),
        (b"V\\u20ac\n.", "€"), (b"T\x02\x00\x00\x00hi.", "hi"), (b"U\x02\xff\xfe.", b"\xff\xfe"),
        (b"(I1\nI2\nd.", {1: 2}),
        (b"(I1\n(I2\n1.", None), (b"I1\n2\x86.", (1, 1)), (b"(lp7\nI4\na.", [4]), (b"(I1\nI2\nlp2\n0g2\n.", [1, 2]),
        (b"\x8b\x02\x00\x00\x00\xff\xff.", -1), (b"I1\nI2\n0.", 1), (b"\x80\x05\x96\x02\0\0\0\0\0\0\0ab\x98.", b"ab"),
    ],
)  # fmt: skip
def test_instructions_that_new_pickles_lack(data: bytes, value: object) -> None:
    if value is None:
        with pytest.raises(CorruptFileError):
            load(data)
    else:
        assert load(data) == value


def test_old_style_instances_and_extensions() -> None:
    instance = load(b"(I1\nicollections\nThing\n(dS'a'\nI2\nsb.")
    assert (instance.name, instance.args, instance.state) == ("collections.Thing", (1,), {"a": 2})
    assert load(b"(cos\nThing\nI1\no.").args == (1,)
    assert load(b"\x82\x07.") == Global("copyreg.extension_7")
    assert load(b"\x80\x05\x97.").name == "out-of-band buffer"


def test_persistent_ids_go_to_our_function() -> None:
    assert Unpickler(b"Pabc\n.", persistent=lambda pid: ("seen", pid)).load() == ("seen", "abc")
    assert Unpickler(b"K\x01Q.", persistent=lambda pid: ("seen", pid)).load() == ("seen", 1)


def test_every_instruction_of_the_standard_library_is_known() -> None:
    unknown = [op.name for op in pickletools.opcodes if static.Unpickler.table[ord(op.code)] is static._unknown]
    assert unknown == []


def test_nothing_is_called_and_nothing_imported(tmp_path: Path) -> None:
    target = tmp_path / "appeared"
    for data in (
        b"cos\nsystem\n(S'touch %s'\ntR." % str(target).encode(),
        b"(S'touch %s'\nios\nsystem\n." % str(target).encode(),
        b'cbuiltins\nexec\n(S\'open("%s", "w")\'\ntR.' % str(target).encode(),
        b"cantigravity\nfly\n.",
        b"\x80\x02cos\nsystem\nU\x04true\x85\x81.",
    ):
        load(data)
    assert not target.exists()
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_short_anywhere_is_one_line(protocol: int) -> None:
    data = pickle.dumps({"a": [1, 2.5, ("x", b"y" * 300)], "p": Point(2), "big": 2**80}, protocol)
    for end in range(len(data)):
        with pytest.raises(CorruptFileError) as caught:
            load(data[:end])
        assert "\n" not in caught.value.reason


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(PROTOCOLS), st.data())
def test_damage_never_escapes(noise: bytes, protocol: int, data: st.DataObject) -> None:
    good = bytearray(pickle.dumps({"a": [1, 2.5, {"x"}], "p": Point(2), "n": Level.LOW}, protocol))
    for _ in range(data.draw(st.integers(1, 4))):
        good[data.draw(st.integers(0, len(good) - 1))] = data.draw(st.integers(0, 255))
    for content in (noise, bytes(good)):
        try:
            load(content)
        except ReadError as error:
            assert "\n" not in error.reason


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x02\x8d" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x02\x8e" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"}.",
        b"\x80\x02\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".",
        b"I" + b"9" * 10**6 + b"\n.",
        b"\x80\x02})" + b"q\x00h\x00\x86" * 100 + b"Ns.",
        b"\x80\x02})" + b"\x85" * 100_000 + b"Ns.",
        b"\x80\x09}.",
        b"\x80\x02}\x8a\x10" + b"\x7f" * 16 + b"Ns.",
        b"(" * 20_000,
        b"\x80\x02" + b"]" * 2_000_001 + b".",
        b"..", b"", b"}}.", b"}a.", b"h\x00.", b"\x93.", b"c\n\n.", b"cos\nsys tem\n.",
    ],
)  # fmt: skip
def test_bombs_and_nonsense_are_refused(data: bytes) -> None:
    with pytest.raises(ReadError):
        load(data)


def test_endless_pickles_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "MAX_OPCODES", 1000)
    with pytest.raises(UnsafeFileError, match="goes on after 1000"):
        load(b"\x80\x02" + b"N0" * 1000)


def test_a_million_nested_tuples_are_no_problem() -> None:
    got = load(b")" + b"\x85" * 1_000_000 + b".")
    assert isinstance(got, tuple)


def test_memory_asked_for_by_arguments_is_not_given() -> None:
    huge = b"\x8a\x08" + struct.pack("<q", 2**40)
    for name in (b"bytearray", b"bytes", b"range", b"complex"):
        assert isinstance(load(b"\x80\x02cbuiltins\n" + name + b"\n" + huge + b"\x85R."), (Record, complex))
