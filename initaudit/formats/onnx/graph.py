"""One flat list of nodes from an ONNX graph: subgraphs and functions inlined, constants folded, names unique.

Control flow leaves these nodes behind; everything else keeps the operator of the file:

    phi             (then, else) of an If, (initial, from the body) of a Loop or Scan, or (initial,) for what a body
                    gets in its first round
    loop_index      the number of the round, from the trip count
    scan_slice      one element of a Scan's input along attribute `axis`
    scan_stack      what a body makes in every round, stacked along attribute `axis`
    subgraph_input  what any other operator hands to the graph that it carries
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from initaudit.errors import CorruptFileError
from initaudit.formats.onnx.calls import check_call, check_calls, check_inlined, function_key, weigh
from initaudit.formats.onnx.fold import fold
from initaudit.formats.onnx.lazy import UnfoldableError
from initaudit.formats.onnx.order import ordered, subgraphs
from initaudit.formats.onnx.own_names import lost_names, mentioned
from initaudit.formats.onnx.packed import unpacked
from initaudit.formats.onnx.records import (
    FLOAT,
    FLOATS,
    INT,
    INTS,
    AttributeRecord,
    GraphRecord,
    ModelRecord,
    NodeRecord,
    SparseRecord,
    TensorRecord,
)
from initaudit.formats.onnx.scope import Flat, Scope
from initaudit.formats.onnx.tensors import Source, made
from initaudit.formats.onnx.unfused import unfuse
from initaudit.ops import from_onnx
from initaudit.types import Graph, Skip, Tensor

_CONTRIB = "com.microsoft"
_SCOPES = "pkg.torch.onnx.name_scopes"
_CHANGED = frozenset({"Softmax", "LogSoftmax", "Hardmax", "DFT"})  # whose meaning depends on the operator set alone


def flatten(model: ModelRecord, source: Source) -> tuple[Graph, tuple[Tensor, ...], tuple[Skip, ...]]:
    """Return the flat graph of a model, the tensors that its file holds, and what was not read.

    Raises:
        CorruptFileError: a value that nothing makes, a circle, a function that calls itself, ...
        UnsupportedError: inlined, it has too many nodes.
    """
    flat = Flat(model, source)
    graph = collect(flat)
    return graph, tuple(flat.tensors.values()), tuple(flat.skipped.values())


def collect(flat: Flat) -> Graph:
    """Return the flat graph of a model; `flat` then knows where everything in it comes from. Raises as `flatten`."""
    model = flat.model
    check_calls(model)
    scope = Scope()
    record = model.graph
    stored = {t.name for t in record.initializers} | {s.values.name for s in record.sparse}
    flat.lost = lost_names(record.metadata, stored)
    inputs = [name for name in dict.fromkeys(record.inputs) if name not in stored]  # below IR 4 weights are inputs too
    for name in inputs:
        flat.new(scope, name)
    outputs = _body(flat, record, scope)
    shapes = {name: shape for name, shape in flat.shapes.items() if name not in flat.constants}
    return Graph(tuple(flat.nodes), {name: record.shapes.get(name) for name in inputs}, outputs, flat.constants, shapes)


def _body(flat: Flat, record: GraphRecord, scope: Scope) -> tuple[str, ...]:
    """Inline a graph whose inputs are in scope; return the flat names of its outputs."""
    for tensor in record.initializers:
        _store(flat, flat.new(scope, tensor.name), tensor)
    for sparse in record.sparse:
        _store(flat, flat.new(scope, sparse.values.name), sparse)
    for node in ordered(record.nodes):
        if scope.calls:
            flat.inlined += weigh(node)
            check_inlined(flat.inlined)  # again: a graph may come as an attribute of the call
        _node(flat, node, scope)
    for name, shape in record.shapes.items():
        if name in scope.names:
            flat.shapes[scope.names[name]] = shape
    return tuple(scope.find(name) for name in record.outputs)


def _store(flat: Flat, name: str, record: TensorRecord | SparseRecord, *, listed: bool = True) -> None:
    """Make a tensor of the file known under a flat name."""
    place = record.values.at if isinstance(record, SparseRecord) else record.at
    read = flat.source.sparse(record, name) if isinstance(record, SparseRecord) else flat.source.tensor(record, name)
    if isinstance(read, Skip):
        flat.skipped.setdefault(read.name, read)
        return
    flat.constants[name] = read
    if listed or read.size > 1 or read.is_float:
        flat.tensors.setdefault(place, read)


def _node(flat: Flat, node: NodeRecord, scope: Scope) -> None:
    attributes = _bound(node, scope)
    if function_key(node) in flat.model.functions:
        _call(flat, node, attributes, scope)
    elif node.op == "Constant" and not node.domain:
        _constant(flat, node, attributes, scope)
    elif any(True for _ in subgraphs(attributes)):
        _control(flat, node, attributes, scope)
    else:
        _plain(flat, node, attributes, scope)


def _bound(node: NodeRecord, scope: Scope) -> tuple[AttributeRecord, ...]:
    """Return the node's attributes, with those of the function call that they refer to in their place."""
    if not any(attribute.ref for attribute in node.attributes):
        return node.attributes
    bound = []
    for attribute in node.attributes:
        if not attribute.ref:
            bound.append(attribute)
        elif attribute.ref in scope.arguments:
            bound.append(replace(scope.arguments[attribute.ref], name=attribute.name))
    return tuple(bound)


def _values(flat: Flat, node: NodeRecord, attributes: Sequence[AttributeRecord]) -> dict[str, object]:
    """Return attributes as plain Python values; tensors that are not read and types are left out."""
    values: dict[str, object] = {}
    for attribute in attributes:
        value = attribute.value
        if isinstance(value, TensorRecord):
            value = flat.source.tensor(value)
        elif isinstance(value, SparseRecord):
            value = flat.source.sparse(value)
        if value is None or isinstance(value, Skip | GraphRecord):
            continue
        if isinstance(value, tuple) and any(isinstance(v, TensorRecord | SparseRecord | GraphRecord) for v in value):
            continue
        values[attribute.name] = value
    if node.op in _CHANGED and not node.domain and "" in flat.model.opsets:
        values["@opset"] = flat.model.opsets[""]
    scopes = re.findall(r"'([^']*)'", node.metadata.get(_SCOPES, ""))
    if len(scopes) > 1:
        values["@scope"] = scopes[-2]  # the path of the module that was running; the last one names the operation
    takes = mentioned(node.metadata, flat.lost)
    if takes:
        values["@parameters"] = takes
    return values


def _constant(flat: Flat, node: NodeRecord, attributes: Sequence[AttributeRecord], scope: Scope) -> None:
    if len(node.outputs) != 1 or not node.outputs[0]:
        raise CorruptFileError(f"the Constant node {node.name[:80]!r} has {len(node.outputs)} outputs")
    name = flat.new(scope, node.outputs[0])
    for attribute in attributes:
        value = attribute.value
        if isinstance(value, TensorRecord | SparseRecord):
            _store(flat, name, value, listed=False)
        elif attribute.kind in (FLOAT, FLOATS, INT, INTS):
            tensor = made(name, value, "float32" if attribute.kind in (FLOAT, FLOATS) else "int64")
            flat.constants[name] = tensor
            flat.numbers[name] = attribute.at
            if tensor.size > 1 or tensor.is_float:
                flat.tensors.setdefault(name, tensor)


def _plain(flat: Flat, node: NodeRecord, attributes: Sequence[AttributeRecord], scope: Scope) -> None:
    inputs = tuple(scope.find(name) for name in node.inputs)
    values = _values(flat, node, attributes)
    outputs = tuple(flat.new(scope, name) for name in node.outputs)
    op = _op(node)
    if not node.domain and _folded(flat, node, inputs, outputs, values):
        return
    if node.domain == _CONTRIB:

        def emit(plain: str, given: tuple[str, ...], made: tuple[str, ...], attrs: Mapping[str, object]) -> None:
            flat.emit(plain, given, made, attrs, scope.prefix + node.name)

        if unfuse(node.op, inputs, outputs, values, flat.unique, emit):
            return
        op, inputs = _unpacked(flat, node, inputs, values)
    flat.emit(op, inputs, outputs, values, scope.prefix + node.name)


def _unpacked(
    flat: Flat, node: NodeRecord, inputs: tuple[str, ...], values: Mapping[str, object]
) -> tuple[str, tuple[str, ...]]:
    """Return the canonical operator and inputs of a node of ONNX Runtime, its packed weights replaced by real ones."""
    try:
        op, operands = unpacked(node.op, inputs, [flat.constants.get(name) for name in inputs], values)
    except UnfoldableError:
        return _op(node), inputs
    names = []
    for place, operand in enumerate(operands):
        name = operand
        if isinstance(operand, Tensor):
            name = flat.unique(f"{inputs[place]}#real")
            flat.constants[name] = operand
        names.append(str(name or ""))
    return from_onnx(op), tuple(names)


def _op(node: NodeRecord) -> str:
    op = from_onnx(node.op)
    return op if node.domain in ("", _CONTRIB) else f"{node.domain}::{op}"


def _folded(
    flat: Flat, node: NodeRecord, inputs: tuple[str, ...], outputs: tuple[str, ...], values: Mapping[str, object]
) -> bool:
    """Replace a node of constants by what it makes, if that is understood."""
    if not inputs or not all(name in flat.constants for name in inputs if name):
        return False
    try:
        results = fold(node.op, [flat.constants.get(name) for name in inputs], values, len(outputs))
    except UnfoldableError:
        return False
    for name, result in zip(outputs, results, strict=False):
        if not name:
            continue
        tensor = result if result.name else replace(result, name=name)
        flat.constants[name] = tensor
        flat.folded[name] = node
        if node.op == "ConstantOfShape" and tensor.size > 1 and tensor.is_float:
            flat.tensors.setdefault(name, tensor)
    return True


def _call(flat: Flat, node: NodeRecord, attributes: Sequence[AttributeRecord], scope: Scope) -> None:
    """Inline a call of one of the model's own functions."""
    key = function_key(node)
    check_call(key, scope.calls)  # again, as the nodes are
    function = flat.model.functions[key]
    body = function.body
    if len(node.inputs) > len(body.inputs) or len(node.outputs) > len(body.outputs):
        raise CorruptFileError(f"the call of function {node.op[:80]!r} does not fit its inputs and outputs")
    arguments = {a.name: a for a in function.defaults} | {a.name: a for a in attributes}
    inner = scope.function(node.name or node.op, key, arguments)
    for position, name in enumerate(body.inputs):
        inner.names[name] = scope.find(node.inputs[position]) if position < len(node.inputs) else ""
    results = _body(flat, body, inner)
    for name, result in zip(node.outputs, results, strict=False):
        scope.alias(name, result)


def _control(flat: Flat, node: NodeRecord, attributes: Sequence[AttributeRecord], scope: Scope) -> None:
    graphs = {a.name: a.value for a in attributes if isinstance(a.value, GraphRecord)}
    inputs = tuple(scope.find(name) for name in node.inputs)
    if not node.domain and node.op == "If" and graphs.keys() == {"then_branch", "else_branch"}:
        _if(flat, node, graphs, inputs, scope)
    elif not node.domain and node.op in ("Loop", "Scan") and graphs.keys() == {"body"}:
        _round(flat, node, graphs["body"], inputs, scope, _values(flat, node, attributes))
    else:
        _other(flat, node, attributes, inputs, scope)


def _if(flat: Flat, node: NodeRecord, graphs: Mapping[str, GraphRecord], inputs: tuple[str, ...], scope: Scope) -> None:
    then = _body(flat, graphs["then_branch"], scope.inner())
    other = _body(flat, graphs["else_branch"], scope.inner())
    if not len(then) == len(other) >= len(node.outputs):
        raise CorruptFileError(f"the branches of If {node.name[:80]!r} have different outputs")
    for name, *pair in zip(node.outputs, then, other, strict=False):
        if name:
            attrs = {"condition": inputs[0]} if inputs else {}
            flat.emit("phi", tuple(pair), (flat.new(scope, name),), attrs, scope.prefix + node.name)


def _round(
    flat: Flat,
    node: NodeRecord,
    body: GraphRecord,
    inputs: tuple[str, ...],
    scope: Scope,
    attrs: Mapping[str, object],
) -> None:
    """Inline the body of a Loop or Scan once, as its first round."""
    inner = scope.inner()
    name = scope.prefix + node.name
    scan = node.op == "Scan"
    lead = 0  # body inputs, and then body outputs, before the state that goes round
    if scan:
        sliced = attrs.get("num_scan_inputs")
        if not isinstance(sliced, int) or not 0 <= sliced <= len(body.inputs):
            raise CorruptFileError(f"Scan {node.name[:80]!r} has no number of scan inputs")
        state = len(body.inputs) - sliced
        initial = inputs[len(inputs) - len(body.inputs) :] if len(inputs) >= len(body.inputs) else ()  # below opset 9
    else:
        if len(body.inputs) < 2 or len(inputs) < 2:
            raise CorruptFileError(f"Loop {node.name[:80]!r} has no trip count and condition")
        flat.emit("loop_index", inputs[:1], (flat.new(inner, body.inputs[0]),), {}, name)
        flat.emit("phi", inputs[1:2], (flat.new(inner, body.inputs[1]),), {}, name)
        lead, state = 1, len(body.inputs) - 2
        initial = inputs[2:]
    carried = body.inputs[2 * lead :]
    if len(initial) != len(carried) or len(body.outputs) < lead + state:
        raise CorruptFileError(f"{node.op} {node.name[:80]!r} and its body do not fit")
    if len(node.outputs) > len(body.outputs) - lead:
        raise CorruptFileError(f"{node.op} {node.name[:80]!r} has more outputs than its body makes")
    for place, (local, value) in enumerate(zip(carried, initial, strict=True)):
        if place < state and body.outputs[lead + place] == local:
            inner.alias(local, value)  # never changes
        elif place < state:
            flat.emit("phi", (value,), (flat.new(inner, local),), {}, name)
        else:
            axis = _element(attrs.get("scan_input_axes"), place - state)
            flat.emit("scan_slice", (value,), (flat.new(inner, local),), {"axis": axis}, name)
    made_inside = _body(flat, body, inner)[lead:]
    for place, (output, value) in enumerate(zip(node.outputs, made_inside, strict=False)):
        if not output:
            continue
        if place < state:
            flat.emit("phi", (initial[place], value), (flat.new(scope, output),), {}, name)
        else:
            axis = _element(attrs.get("scan_output_axes"), place - state)
            flat.emit("scan_stack", (value,), (flat.new(scope, output),), {"axis": axis}, name)


def _element(axes: object, place: int) -> int:
    return axes[place] if isinstance(axes, tuple) and place < len(axes) else 0


def _other(
    flat: Flat, node: NodeRecord, attributes: Sequence[AttributeRecord], inputs: tuple[str, ...], scope: Scope
) -> None:
    """Inline the graphs of an operator whose control flow is not known (SequenceMap, BeamSearch, ...)."""
    name = scope.prefix + node.name
    results: list[str] = []
    for graph in subgraphs(attributes):
        inner = scope.inner()
        stored = {t.name for t in graph.initializers} | {s.values.name for s in graph.sparse}
        for local in dict.fromkeys(graph.inputs):
            if local and local not in stored:
                flat.emit("subgraph_input", inputs, (flat.new(inner, local),), {}, name)
        results.extend(_body(flat, graph, inner))
    outputs = tuple(flat.new(scope, output) for output in node.outputs)
    flat.emit(_op(node), (*inputs, *results), outputs, _values(flat, node, attributes), name)
