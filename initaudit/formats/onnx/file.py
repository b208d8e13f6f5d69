"""ONNX files: ModelProto, with its weights inside or in files beside it.

Model(format="onnx", detail="opset 17, producer 'pytorch 2.6.0'", tensors=(...), graph=Graph(...))
"""

from __future__ import annotations

from pathlib import Path

from initaudit.errors import CorruptFileError, ReadError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.onnx.graph import flatten
from initaudit.formats.onnx.proto import GRAPH_SCHEMA, MODEL_SCHEMA, parse_model
from initaudit.formats.onnx.protobuf import Message
from initaudit.formats.onnx.records import ModelRecord
from initaudit.formats.onnx.tensors import Source
from initaudit.types import Model

_HOPS = 1 << 14  # top-level fields to look at before giving up: files of many functions put them before the graph
_FIRST = frozenset(number << 3 | wire for number, wire in MODEL_SCHEMA.items() if number < 16)
_RESERVED = 1000  # no version and no field number of ONNX is anywhere near
_LOOK = 8  # fields of a graph to look at
_FAR = 1 << 62
_PRODUCER = 60  # characters


def sniff(path: Path, head: bytes) -> bool:
    """Tell whether this is a ModelProto: a version or operator set, and a graph, whether or not it is all there."""
    if len(head) < 4 or head[0] not in _FIRST:
        return False
    try:
        file = MappedFile(path)
    except (OSError, ReadError):
        return False
    message = Message(file.view(0, file.size), 0, _FAR)  # a file that was cut off in its graph is still ONNX
    named = graph = False
    try:
        for hops, (number, wire, value, start, stop) in enumerate(message):
            if hops > _HOPS or number >= _RESERVED or MODEL_SCHEMA.get(number, wire) != wire:
                return False
            if number == 1 and not 0 < value < _RESERVED:
                return False
            if number == 7 and not _is_graph(Message(message.buffer, start, min(stop, file.size))):
                return False
            named = named or number in (1, 8)
            graph = graph or number == 7
            if named and graph:
                return True
    except (CorruptFileError, IndexError):  # the end of the bytes
        return False
    return False


def _is_graph(message: Message) -> bool:
    """Tell whether the first fields can be those of a GraphProto."""
    try:
        for count, (number, wire, _, _, _) in enumerate(message):
            if GRAPH_SCHEMA.get(number, -1 if count == 0 else wire) != wire or number >= _RESERVED:
                return False
            if count == _LOOK:
                break
    except CorruptFileError:  # fields so far were right, and one is longer than the file
        return True
    return True


def read(path: Path) -> Model:
    """Read a ModelProto."""
    file = MappedFile(path)
    source = Source(file)
    record = parse_model(source.message)
    graph, tensors, skipped = flatten(record, source)
    return Model(str(path), "onnx", _detail(record), tensors, graph, skipped=skipped)


def _detail(record: ModelRecord) -> str:
    if "" in record.opsets or not record.opsets:
        detail = f"opset {record.opsets.get('', 1)}"
    else:
        domain, version = next(iter(record.opsets.items()))
        detail = f"opset {domain} {version}"
    producer = "".join(c for c in record.producer if c.isprintable())[:_PRODUCER]
    return f"{detail}, producer '{producer}'" if producer else detail
