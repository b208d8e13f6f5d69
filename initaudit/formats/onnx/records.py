"""What an ONNX file says, message by message: names, numbers and byte ranges, no values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

Shape = tuple[int | None, ...]

# the types of an attribute
FLOAT, INT, STRING, TENSOR, GRAPH, FLOATS, INTS, STRINGS, TENSORS, GRAPHS, SPARSE, SPARSES = range(1, 13)


class Span(NamedTuple):
    """Where some numbers of a repeated field lie: one packed field, or a run of single ones with one-byte tags."""

    wire: int
    start: int
    stop: int
    numbers: int  # in a run; a packed field is counted when needed


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """A TensorProto: what it says, and where its numbers are."""

    at: int  # byte of the file at which the message starts
    name: str
    dims: tuple[int, ...]
    kind: int  # TensorProto.DataType
    raw: tuple[int, int] | None
    typed: Mapping[int, tuple[Span, ...]]  # by field number: 4 float, 5 int32, 7 int64, 10 double, 11 uint64
    external: Mapping[str, str] | None
    segmented: bool = False


@dataclass(frozen=True, slots=True)
class SparseRecord:
    """A SparseTensorProto."""

    values: TensorRecord
    indices: TensorRecord
    dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AttributeRecord:
    """An AttributeProto; graphs and tensors as records, everything else as plain values."""

    name: str
    kind: int
    value: object
    ref: str = ""  # name of the function attribute that it stands for
    at: int = -1  # byte of the file at which the message starts


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """A NodeProto."""

    op: str
    domain: str
    overload: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[AttributeRecord, ...]
    metadata: Mapping[str, str]
    at: int = -1  # byte of the file at which the message starts


@dataclass(frozen=True, slots=True)
class GraphRecord:
    """A GraphProto, or the body of a function."""

    nodes: tuple[NodeRecord, ...]
    initializers: tuple[TensorRecord, ...] = ()
    sparse: tuple[SparseRecord, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    shapes: Mapping[str, Shape] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FunctionRecord:
    """A FunctionProto."""

    key: tuple[str, str, str]  # domain, name, overload
    body: GraphRecord
    defaults: tuple[AttributeRecord, ...]


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """A ModelProto."""

    ir_version: int
    producer: str
    opsets: Mapping[str, int]
    graph: GraphRecord
    functions: Mapping[tuple[str, str, str], FunctionRecord]
