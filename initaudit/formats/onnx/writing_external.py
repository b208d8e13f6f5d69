"""Files of external data that a model names: which there are, and the model once some are called otherwise."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path

from initaudit.errors import ReadError
from initaudit.formats.onnx.protobuf import BYTES, Message
from initaudit.formats.onnx.records import AttributeRecord, GraphRecord, ModelRecord, SparseRecord, TensorRecord
from initaudit.formats.onnx.tensors import Source
from initaudit.formats.onnx.writing_splices import Splice, frame, frames, pieces, tagged

_ENTRY, _KEY, _VALUE = 13, 1, 2  # external_data of a TensorProto, fields of its entries


def data_files(model: ModelRecord, source: Source) -> dict[str, Path]:
    """Return the external files that a model names and that are there, by their location."""
    found: dict[str, Path] = {}
    for record in _tensors(model):
        location = _location(record)
        if location and location not in found:
            try:
                found[location] = source.open(record.name, location).path
            except ReadError:  # of a tensor that nothing uses: reading said nothing of it either
                continue
    return found


def retold(model: ModelRecord, message: Message, names: Mapping[str, str], stale: Collection[str]) -> list[Splice]:
    """Return the splices that give external files other names, and take out checksums of those that change.

    Args:
        model: the records of the file.
        message: the whole file.
        names: new location by old one.
        stale: locations of files that change.
    """
    records = {record.at: record for record in _tensors(model) if _location(record) in {*names, *stale}}
    out = []
    for at, around in frames(message, records).items():
        own = message.nested(at, around[-1].stop)
        location = _location(records[at])
        for piece in pieces(own):
            if piece.number != _ENTRY or piece.wire != BYTES:
                continue
            fields = {inner.number: inner for inner in pieces(own.nested(piece.start, piece.stop))}
            said = own.text(*fields[_KEY][3:]) if _KEY in fields else ""
            if said == "checksum" and location in stale:
                out.append(Splice(piece.begin, piece.stop, 0, bytes, around))
            elif said == "location" and location in names and _VALUE in fields:
                new, old = tagged(_VALUE, names[location].encode()), fields[_VALUE]
                out.append(Splice(old.begin, old.stop, len(new), _giving(new), (*around, frame(own, piece))))
    return out


def _giving(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def _location(record: TensorRecord) -> str:
    return (record.external or {}).get("location", "")


def _tensors(model: ModelRecord) -> Iterator[TensorRecord]:
    """Yield every tensor of a model, those of subgraphs and functions included."""
    yield from _in_graph(model.graph)
    for function in model.functions.values():
        yield from _in_graph(function.body)
        yield from _in_attributes(function.defaults)


def _in_graph(graph: GraphRecord) -> Iterator[TensorRecord]:
    yield from graph.initializers
    for sparse in graph.sparse:
        yield from (sparse.values, sparse.indices)
    for node in graph.nodes:
        yield from _in_attributes(node.attributes)


def _in_attributes(attributes: Iterable[AttributeRecord]) -> Iterator[TensorRecord]:
    for attribute in attributes:
        for value in attribute.value if isinstance(attribute.value, tuple) else (attribute.value,):
            if isinstance(value, TensorRecord):
                yield value
            elif isinstance(value, SparseRecord):
                yield from (value.values, value.indices)
            elif isinstance(value, GraphRecord):
                yield from _in_graph(value)
