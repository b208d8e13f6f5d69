"""How each encoding of numbers in an ONNX file takes new ones: in place where it has room, else stored anew.

raw_data, packed float_data and double_data, external data    the same bytes, changed where they lie
float_data in several fields, floats of an attribute          one stretch, tags and all else in it as they were
float16 and the like in int32_data                            varints have no room: raw_data instead
sparse                                                        a dense tensor of the same name instead
a node that fills or repeats one value                        a Constant node with the same output instead
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit, Patch
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.onnx.protobuf import BYTES, FIXED32, Message
from initaudit.formats.onnx.records import TENSOR, Span, TensorRecord
from initaudit.formats.onnx.tensors import DTYPES, TYPED_FIELD
from initaudit.formats.onnx.writing_sources import Remade
from initaudit.formats.onnx.writing_splices import Frame, Splice, changed, encoded, pieces, tagged
from initaudit.formats.patching import element_patches, rewritten
from initaudit.types import Tensor

_KINDS = {name: number for number, name in DTYPES.items()}
_WIDTHS = {4: 4, 10: 8}  # bytes of a number, by the field of TensorProto
_FLOATS_FIELD = 7
_DATA_FIELDS = (4, 5, 7, 9, 10, 11)
_DIMS, _TYPE, _NAME, _RAW = 1, 2, 8, 9  # fields of TensorProto

Made = tuple[int, Callable[[], bytes]]  # size and bytes of one whole field


def plain(source: MappedFile, start: int, tensor: Tensor, edits: Sequence[Edit]) -> tuple[Patch, ...]:
    """Return the patches of numbers that lie one after the other from byte `start`."""
    return element_patches(source, start, tensor.size * numpy_dtype(tensor.dtype).itemsize, edits)


def typed(
    message: Message, record: TensorRecord, tensor: Tensor, edits: Sequence[Edit], around: tuple[Frame, ...]
) -> tuple[list[Patch], list[Splice]]:
    """Return what changes where numbers lie in a typed field, but not as one plain run of bytes."""
    number = TYPED_FIELD.get(record.kind, 5)
    if number in _WIDTHS:
        held = tensor.load
        return [stretch(message, record.typed[number], _WIDTHS[number], lambda: held().tobytes(), edits)], []
    new: dict[int, Made | None] = dict.fromkeys(_DATA_FIELDS)
    new[number] = _raw(tensor, edits)
    own = Message(message.buffer, around[-1].start, around[-1].stop)
    return [], changed(own, around, new, _TYPE)


def stretch(
    message: Message, spans: Sequence[Span], width: int, old: Callable[[], bytes], edits: Sequence[Edit]
) -> Patch:
    """Return the patch of numbers of `width` bytes that lie in several fields: from the first to the last of them."""
    start, stop = spans[0].start, spans[-1].stop

    def data() -> bytearray:
        out = bytearray(message.buffer[start:stop])
        left = memoryview(rewritten(old(), edits))
        for span in spans:
            count = (span.stop - span.start) // width if span.wire == BYTES else span.numbers
            step = width if span.wire == BYTES else width + 1  # single numbers have a tag of one byte between them
            to = np.ndarray((count, width), np.uint8, out, span.start - start, (step, 1))
            to[...] = np.frombuffer(left[: count * width], np.uint8).reshape(count, width)
            left = left[count * width :]
        return out

    return Patch(start, stop, data)


def floats(
    message: Message, at: int, around: tuple[Frame, ...], edits: Sequence[Edit]
) -> tuple[list[Patch], list[Splice]]:
    """Return what changes where an attribute lists its numbers: value_float and value_floats of a Constant."""
    own = Message(message.buffer, at, around[-1].stop)
    spans = [Span(p.wire, p.start, p.stop, 1) for p in pieces(own) if p.number == _FLOATS_FIELD]
    single = [p for p in pieces(own) if p.number == 2 and p.wire == FIXED32]
    if spans:
        old = b"".join(bytes(message.buffer[s.start : s.stop]) for s in spans)
        return [stretch(message, spans, 4, lambda: old, edits)], []
    if single:
        last = Span(FIXED32, single[-1].start, single[-1].stop, 1)
        return [stretch(message, [last], 4, lambda: bytes(message.buffer[last.start : last.stop]), edits)], []
    # no number is there: it is the default, zero
    data = partial(_joined, b"\x15", partial(rewritten, bytes(4), edits))
    return [], [Splice(own.stop, own.stop, 5, data, around)]


def densified(
    message: Message, record: TensorRecord, tensor: Tensor, edits: Sequence[Edit], around: tuple[Frame, ...]
) -> list[Splice]:
    """Return what puts a dense tensor in the place of a sparse one, whose message is the last but one of the frames.

    Raises:
        UnsupportedError: it is one of a list of sparse tensors.
    """
    holder = Message(message.buffer, around[-3].start, around[-3].stop)
    number = next(p.number for p in pieces(holder) if p.start == around[-2].start)
    if number == 15:  # sparse_initializer of a graph: initializer
        made = _tensor_field(5, tensor, edits, record.name)
        piece = next(p for p in pieces(holder) if p.start == around[-2].start)
        return [Splice(piece.begin, piece.stop, made[0], made[1], around[:-2])]
    named = [p for p in pieces(holder) if p.number == 1]
    if number != 22 or not named or holder.text(named[-1].start, named[-1].stop) != "sparse_value":
        raise UnsupportedError(f"{tensor.name}: is a sparse tensor in a list, which is not stored anew")
    name, kind = tagged(1, b"value"), encoded(20 << 3) + encoded(TENSOR)
    new: dict[int, Made | None] = {
        1: (len(name), lambda: name),
        20: (len(kind), lambda: kind),
        22: _tensor_field(5, tensor, edits),
    }
    return changed(holder, around[:-2], new, 1)


def constant(message: Message, remade: Remade, around: tuple[Frame, ...]) -> list[Splice]:
    """Return what makes a Constant of a node: its name, output, documentation and whatever else it has stay."""
    own = Message(message.buffer, around[-1].start, around[-1].stop)
    op = tagged(4, b"Constant")
    head = tagged(1, b"value")
    tail = encoded(20 << 3) + encoded(TENSOR)
    size, data = _tensor_field(5, remade.tensor, remade.edits)
    inside = len(head) + size + len(tail)
    lead = encoded(5 << 3 | BYTES) + encoded(inside) + head
    attribute = (len(lead) + size + len(tail), lambda: lead + data() + tail)
    return changed(own, around, {1: None, 4: (len(op), lambda: op), 5: attribute}, 4)


def _raw(tensor: Tensor, edits: Sequence[Edit]) -> Made:
    """Return a raw_data field with the values of a tensor and its edits."""
    kind = numpy_dtype(tensor.dtype)
    length = tensor.size * kind.itemsize
    head = encoded(_RAW << 3 | BYTES) + encoded(length)

    def old() -> bytes:
        return np.ascontiguousarray(tensor.load(), kind).tobytes()

    def data() -> bytes:
        new = rewritten(bytes(length) if _covered(tensor, edits) else old(), edits)
        if len(new) != length:
            raise CorruptFileError(f"{tensor.name} has {len(new)} bytes instead of {length}")
        return _joined(head, lambda: new)

    return len(head) + length, data


def _covered(tensor: Tensor, edits: Sequence[Edit]) -> bool:
    """Whether one edit alone gives all values anew."""
    return any(edit.tensor.size == tensor.size for edit in edits)


def _tensor_field(number: int, tensor: Tensor, edits: Sequence[Edit], name: str = "") -> Made:
    """Return a field that holds a TensorProto with the values of a tensor and its edits."""
    head = b"".join(encoded(_DIMS << 3) + encoded(extent) for extent in tensor.shape)
    head += encoded(_TYPE << 3) + encoded(_KINDS[tensor.dtype])
    if name:
        head += tagged(_NAME, name.encode())
    size, data = _raw(tensor, edits)
    head = encoded(number << 3 | BYTES) + encoded(len(head) + size) + head
    return len(head) + size, lambda: head + data()


def _joined(head: bytes, rest: Callable[[], bytes | bytearray]) -> bytes:
    return b"".join((head, rest()))
