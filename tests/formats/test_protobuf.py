from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.errors import CorruptFileError
from initaudit.formats.onnx.protobuf import BYTES, FIXED32, FIXED64, MAX_DEPTH, VARINT, Message, signed, varint, varints


def encode(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, wire: int, payload: bytes) -> bytes:
    length = encode(len(payload)) if wire == BYTES else b""
    return encode(number << 3 | wire) + length + payload


def message(data: bytes) -> Message:
    return Message(memoryview(data), 0, len(data))


_PAYLOADS = {
    VARINT: st.integers(0, 2**64 - 1).map(encode),
    BYTES: st.binary(max_size=300),
    FIXED32: st.binary(min_size=4, max_size=4),
    FIXED64: st.binary(min_size=8, max_size=8),
}
_FIELDS = st.lists(
    st.sampled_from(sorted(_PAYLOADS)).flatmap(
        lambda wire: st.tuples(st.integers(1, 2**29 - 1), st.just(wire), _PAYLOADS[wire])
    ),
    max_size=8,
)


@given(st.integers(-(2**63), 2**63 - 1))
def test_varint_is_the_inverse_of_its_encoding(value: int) -> None:
    encoded = encode(value)
    read, after = varint(memoryview(encoded), 0, len(encoded))
    assert (signed(read), after) == (value, len(encoded))


@given(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50))
def test_packed_varints_are_the_inverse_of_their_encoding(values: list[int]) -> None:
    packed = b"".join(encode(v) for v in values)
    assert varints(memoryview(packed)).view(np.int64).tolist() == values


@given(_FIELDS)
def test_fields_come_back_with_their_place(fields: list[tuple[int, int, bytes]]) -> None:
    data = b"".join(field(*f) for f in fields)
    found = list(message(data))
    assert [(number, wire, data[start:stop]) for number, wire, _, start, stop in found] == fields
    assert [value for _, wire, value, _, _ in found if wire == VARINT] == [
        varint(memoryview(payload), 0, len(payload))[0] for _, wire, payload in fields if wire == VARINT
    ]


@given(_FIELDS, st.data())
def test_a_cut_message_is_refused_unless_cut_between_fields(
    fields: list[tuple[int, int, bytes]], data: st.DataObject
) -> None:
    parts = [field(*f) for f in fields]
    whole = b"".join(parts)
    cut = data.draw(st.integers(0, len(whole)))
    between = {sum(map(len, parts[:count])) for count in range(len(parts) + 1)}
    if cut in between:
        assert len(list(message(whole[:cut]))) == len([end for end in between if end <= cut]) - 1
    else:
        with pytest.raises(CorruptFileError):
            list(message(whole[:cut]))


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        for _, _, _, start, stop in message(data):
            assert 0 <= start <= stop <= len(data)
    except CorruptFileError:
        pass


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x00\x00", id="field number zero"),
        pytest.param(b"\x0b", id="group"),
        pytest.param(b"\x0f", id="wire type 7"),
        pytest.param(b"\x08" + b"\xff" * 10 + b"\x01", id="varint of eleven bytes"),
        pytest.param(b"\x08" + b"\xff" * 9 + b"\x7f", id="varint of more than 64 bits"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="length beyond the end"),
        pytest.param(encode(1 << 35) + b"\x00", id="field number beyond 29 bits"),
    ],
)
def test_what_no_writer_makes_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptFileError):
        list(message(data))


def test_a_known_field_must_have_its_wire_type() -> None:
    data = field(1, VARINT, encode(5)) + field(9, BYTES, b"unknown")
    assert [f[0] for f in message(data).fields({1: VARINT})] == [1]
    with pytest.raises(CorruptFileError, match="wire type"):
        list(message(data).fields({1: BYTES}))


def test_depth_is_limited() -> None:
    inner = message(b"")
    for _ in range(MAX_DEPTH):
        inner = inner.nested(0, 0)
    with pytest.raises(CorruptFileError, match="deep"):
        inner.nested(0, 0)


def test_text_that_is_no_utf8_is_shown_as_escapes() -> None:
    assert message(b"a\xff\xc3\xa9").text(0, 4) == "a\\xff\xe9"
