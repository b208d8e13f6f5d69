"""The bytes of an ONNX file, parsed to records.

Field numbers: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

from initaudit.errors import CorruptFileError
from initaudit.formats.onnx.protobuf import BYTES, FIXED32, PACKABLE, VARINT, Message, signed, varints
from initaudit.formats.onnx.records import (
    FLOAT,
    FLOATS,
    GRAPH,
    GRAPHS,
    INT,
    INTS,
    SPARSE,
    SPARSES,
    STRING,
    STRINGS,
    TENSOR,
    TENSORS,
    AttributeRecord,
    FunctionRecord,
    GraphRecord,
    ModelRecord,
    NodeRecord,
    Shape,
    Span,
    SparseRecord,
    TensorRecord,
)

_ATTRIBUTE_FIELDS = {2: FLOAT, 3: INT, 4: STRING, 5: TENSOR, 6: GRAPH, 7: FLOATS, 8: INTS, 9: STRINGS,
                     10: TENSORS, 11: GRAPHS, 22: SPARSE, 23: SPARSES}  # fmt: skip
_EMPTY: dict[int, object] = {FLOAT: 0.0, INT: 0, STRING: "", FLOATS: (), INTS: (), STRINGS: (), TENSORS: (), GRAPHS: ()}
_LONG_STRING = 1 << 16  # compiled engines and tokenizers ride in string attributes; nobody reads those

MODEL_SCHEMA = {1: VARINT, 2: BYTES, 3: BYTES, 4: BYTES, 5: VARINT, 6: BYTES, 7: BYTES, 8: BYTES, 14: BYTES,
                20: BYTES, 25: BYTES, 26: BYTES}  # fmt: skip
GRAPH_SCHEMA = {1: BYTES, 2: BYTES, 5: BYTES, 10: BYTES, 11: BYTES, 12: BYTES, 13: BYTES, 14: BYTES, 15: BYTES,
                16: BYTES}  # fmt: skip
_NODE = {1: BYTES, 2: BYTES, 3: BYTES, 4: BYTES, 5: BYTES, 7: BYTES, 8: BYTES, 9: BYTES}
_TENSOR = {1: PACKABLE, 2: VARINT, 3: BYTES, 4: PACKABLE, 5: PACKABLE, 7: PACKABLE, 8: BYTES, 9: BYTES,
           10: PACKABLE, 11: PACKABLE, 13: BYTES, 14: VARINT}  # fmt: skip
_ELEMENT_WIRE = {4: FIXED32, 5: VARINT, 7: VARINT, 10: 1, 11: VARINT}
_ATTRIBUTE = {1: BYTES, 2: FIXED32, 3: VARINT, 4: BYTES, 5: BYTES, 6: BYTES, 7: PACKABLE, 8: PACKABLE, 9: BYTES,
              10: BYTES, 11: BYTES, 20: VARINT, 21: BYTES, 22: BYTES, 23: BYTES}  # fmt: skip
_FUNCTION = {1: BYTES, 4: BYTES, 5: BYTES, 7: BYTES, 9: BYTES, 10: BYTES, 11: BYTES, 12: BYTES, 13: BYTES}
_PAIR = {1: BYTES, 2: BYTES}


def parse_model(message: Message) -> ModelRecord:
    """Return the records of a whole ModelProto.

    Raises:
        CorruptFileError: the bytes are no whole model.
    """
    ir_version = 0
    producer = version = ""
    opsets: dict[str, int] = {}
    graphs: list[GraphRecord] = []
    functions: dict[tuple[str, str, str], FunctionRecord] = {}
    for number, _, value, start, stop in message.fields(MODEL_SCHEMA):
        if number == 1:
            ir_version = signed(value)
        elif number == 2:
            producer = message.text(start, stop)
        elif number == 3:
            version = message.text(start, stop)
        elif number == 7:
            graphs.append(_graph(message.nested(start, stop)))
        elif number == 8:
            domain, opset = _opset(message.nested(start, stop))
            opsets[domain] = opset
        elif number == 25:
            function = _function(message.nested(start, stop))
            functions[function.key] = function
    if len(graphs) != 1:
        raise CorruptFileError("the model has no graph" if not graphs else "the model has more than one graph")
    if not opsets and ir_version >= 3:
        raise CorruptFileError(f"the model names no operator set, and ends at byte {message.stop}: cut off?")
    return ModelRecord(ir_version, f"{producer} {version}".strip(), opsets, graphs[0], functions)


def _opset(message: Message) -> tuple[str, int]:
    domain, version = "", 0
    for number, _, value, start, stop in message.fields({1: BYTES, 2: VARINT}):
        if number == 1:
            domain = message.text(start, stop)
        else:
            version = signed(value)
    return default_domain(domain), version


def default_domain(domain: str) -> str:
    """Return the domain with both spellings of the default one as ""."""
    return "" if domain == "ai.onnx" else domain


def _graph(message: Message) -> GraphRecord:
    nodes: list[NodeRecord] = []
    initializers: list[TensorRecord] = []
    sparse: list[SparseRecord] = []
    inputs: list[str] = []
    outputs: list[str] = []
    shapes: dict[str, Shape] = {}
    metadata: dict[str, str] = {}
    for number, _, _, start, stop in message.fields(GRAPH_SCHEMA):
        if number == 1:
            nodes.append(_node(message.nested(start, stop)))
        elif number == 5:
            initializers.append(_tensor(message.nested(start, stop)))
        elif number == 15:
            sparse.append(_sparse(message.nested(start, stop)))
        elif number in (11, 12, 13):
            name, shape = _value_info(message.nested(start, stop))
            if shape is not None:
                shapes[name] = shape
            if number == 11:
                inputs.append(name)
            elif number == 12:
                outputs.append(name)
        elif number == 16:
            key, text = _pair(message.nested(start, stop))
            metadata[key] = text
    return GraphRecord(
        tuple(nodes), tuple(initializers), tuple(sparse), tuple(inputs), tuple(outputs), shapes, metadata
    )


def _function(message: Message) -> FunctionRecord:
    texts = {1: "", 10: "", 13: ""}
    names: dict[int, list[str]] = {4: [], 5: []}
    nodes: list[NodeRecord] = []
    defaults: list[AttributeRecord] = []
    shapes: dict[str, Shape] = {}
    for number, _, _, start, stop in message.fields(_FUNCTION):
        if number in texts:
            texts[number] = message.text(start, stop)
        elif number in names:
            names[number].append(message.text(start, stop))
        elif number == 7:
            nodes.append(_node(message.nested(start, stop)))
        elif number == 11:
            defaults.append(_attribute(message.nested(start, stop)))
        elif number == 12:
            name, shape = _value_info(message.nested(start, stop))
            if shape is not None:
                shapes[name] = shape
    body = GraphRecord(tuple(nodes), inputs=tuple(names[4]), outputs=tuple(names[5]), shapes=shapes)
    return FunctionRecord((default_domain(texts[10]), texts[1], texts[13]), body, tuple(defaults))


def _node(message: Message) -> NodeRecord:
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: list[AttributeRecord] = []
    metadata: dict[str, str] = {}
    name = op = domain = overload = ""
    for number, _, _, start, stop in message.fields(_NODE):
        if number == 5:
            attributes.append(_attribute(message.nested(start, stop)))
            continue
        if number == 9:
            key, text = _pair(message.nested(start, stop))
            metadata[key] = text
            continue
        text = message.text(start, stop)
        if number == 1:
            inputs.append(text)
        elif number == 2:
            outputs.append(text)
        elif number == 3:
            name = text
        elif number == 4:
            op = text
        elif number == 7:
            domain = default_domain(text)
        else:
            overload = text
    if not op:
        raise CorruptFileError(f"the node at byte {message.start} has no operator")
    return NodeRecord(
        op, domain, overload, name, tuple(inputs), tuple(outputs), tuple(attributes), metadata, message.start
    )


def _pair(message: Message) -> tuple[str, str]:
    parts = {1: "", 2: ""}
    for number, _, _, start, stop in message.fields(_PAIR):
        parts[number] = message.text(start, stop)
    return parts[1], parts[2]


def _attribute(message: Message) -> AttributeRecord:
    name = ref = ""
    declared = 0
    found: dict[int, object] = {}
    floats: list[float] = []
    ints: list[int] = []
    many: dict[int, list[object]] = {STRINGS: [], TENSORS: [], GRAPHS: [], SPARSES: []}
    for number, wire, value, start, stop in message.fields(_ATTRIBUTE):
        kind = _ATTRIBUTE_FIELDS.get(number, 0)
        if number == 1:
            name = message.text(start, stop)
        elif number == 20:
            declared = value
        elif number == 21:
            ref = message.text(start, stop)
        elif kind == FLOAT:
            found[FLOAT] = struct.unpack_from("<f", message.buffer, start)[0]
        elif kind == INT:
            found[INT] = signed(value)
        elif kind == FLOATS:
            if wire not in (FIXED32, BYTES) or (stop - start) % 4:
                raise CorruptFileError(f"the numbers at byte {start} are no 32-bit floats")
            floats.extend(struct.unpack_from(f"<{(stop - start) // 4}f", message.buffer, start))
        elif kind == INTS:
            if wire == VARINT:
                ints.append(signed(value))
            elif wire == BYTES:
                ints.extend(varints(message.buffer[start:stop]).view("i8").tolist())
            else:
                raise CorruptFileError(f"the numbers at byte {start} are no integers")
        elif kind in many:
            many[kind].append(_attribute_item(message, kind, start, stop))
        else:
            found[kind] = _attribute_item(message, kind, start, stop)
    repeated: dict[int, Sequence[object]] = {FLOATS: floats, INTS: ints, **many}
    found.update((kind, tuple(items)) for kind, items in repeated.items() if items)
    kind = declared or next(iter(found), 0)  # writers before IR version 3 leave the type out
    if kind in found:
        return AttributeRecord(name, kind, found[kind], ref, message.start)
    return AttributeRecord(name, kind, _EMPTY.get(kind), ref, message.start)


def _attribute_item(message: Message, kind: int, start: int, stop: int) -> object:
    if kind in (STRING, STRINGS):
        if stop - start > _LONG_STRING:
            return f"<{stop - start} bytes>"
        return message.text(start, stop)
    inner = message.nested(start, stop)
    if kind in (TENSOR, TENSORS):
        return _tensor(inner)
    if kind in (GRAPH, GRAPHS):
        return _graph(inner)
    return _sparse(inner)


def _tensor(message: Message) -> TensorRecord:
    name = ""
    kind = location = 0
    dims: list[int] = []
    raw: tuple[int, int] | None = None
    typed: dict[int, list[Span]] = {}
    external: dict[str, str] = {}
    segmented = False
    for number, wire, value, start, stop in message.fields(_TENSOR):
        if number == 1:
            dims.extend(_ints(message, wire, value, start, stop))
        elif number == 2:
            kind = value
        elif number == 3:
            segmented = True
        elif number == 8:
            name = message.text(start, stop)
        elif number == 9:
            raw = (start, stop)
        elif number == 13:
            key, text = _pair(message.nested(start, stop))
            external[key] = text
        elif number == 14:
            location = value
        else:
            if wire not in (BYTES, _ELEMENT_WIRE[number]):
                raise CorruptFileError(f"field {number} of the tensor at byte {message.start} has wire type {wire}")
            _extend(typed.setdefault(number, []), wire, start, stop)
    if any(extent < 0 for extent in dims):
        raise CorruptFileError(f"tensor {name!r} has a negative extent: {tuple(dims)}")
    spans = {number: tuple(found) for number, found in typed.items()}
    return TensorRecord(
        message.start, name, tuple(dims), kind, raw, spans, external if location == 1 else None, segmented
    )


def _extend(spans: list[Span], wire: int, start: int, stop: int) -> None:
    """Add a field; a single number right behind another one (a tag of one byte between) makes them one run."""
    if wire != BYTES and spans and spans[-1].wire == wire and spans[-1].stop + 1 == start:
        last = spans[-1]
        spans[-1] = Span(wire, last.start, stop, last.numbers + 1)
    else:
        spans.append(Span(wire, start, stop, 1))


def _sparse(message: Message) -> SparseRecord:
    parts: dict[int, TensorRecord] = {}
    dims: list[int] = []
    for number, wire, value, start, stop in message.fields({1: BYTES, 2: BYTES, 3: PACKABLE}):
        if number == 3:
            dims.extend(_ints(message, wire, value, start, stop))
        else:
            parts[number] = _tensor(message.nested(start, stop))
    if len(parts) != 2 or any(extent < 0 for extent in dims):
        raise CorruptFileError(f"the sparse tensor at byte {message.start} has no values, no indices or no shape")
    return SparseRecord(parts[1], parts[2], tuple(dims))


def _ints(message: Message, wire: int, value: int, start: int, stop: int) -> list[int]:
    if wire == VARINT:
        return [signed(value)]
    if wire == BYTES:
        numbers: list[int] = varints(message.buffer[start:stop]).view("i8").tolist()
        return numbers
    raise CorruptFileError(f"the numbers at byte {start} are no integers")


def _value_info(message: Message) -> tuple[str, Shape | None]:
    name = ""
    shape: Shape | None = None
    for number, _, _, start, stop in message.fields(_PAIR):
        if number == 1:
            name = message.text(start, stop)
            continue
        kind = message.nested(start, stop)
        for _, _, _, start1, stop1 in kind.fields({1: BYTES}):
            tensor = kind.nested(start1, stop1)
            for _, _, _, start2, stop2 in tensor.fields({2: BYTES}):
                shape = _shape(tensor.nested(start2, stop2))
    return name, shape


def _shape(message: Message) -> Shape:
    dims: list[int | None] = []
    for _, _, _, start, stop in message.fields({1: BYTES}):
        extent: int | None = None
        for _, _, value, _, _ in message.nested(start, stop).fields({1: VARINT}):
            extent = signed(value)
        dims.append(extent if extent is not None and extent >= 0 else None)
    return tuple(dims)
