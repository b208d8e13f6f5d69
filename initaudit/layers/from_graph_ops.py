"""Convolutions, look-ups in tables, and recurrent ops."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from initaudit.graph.moved import cut
from initaudit.graph.view import View
from initaudit.layers.from_graph_found import (
    THROUGH,
    Found,
    follow,
    learned,
    number,
    numbers,
    operand,
    operator,
    text,
    with_bias,
)
from initaudit.types import Node, Role, Tensor

# ---- convolution


def conv(places: tuple[int, int, int], transposed: bool = False) -> Callable[[View, int, Node], Iterator[Found]]:
    """Read a convolution whose input, weight and bias are at these places."""

    def read(view: View, index: int, node: Node) -> Iterator[Found]:
        source, at, bias = places
        if len(node.inputs) <= at:
            return
        kernel = numbers(node, "kernel_shape")
        got = operand(view, node.inputs[at], 2 + max(1, len(kernel)), kernel)
        if got is None:
            return
        weight, extra, why = got
        axes = ("io" if transposed else "oi") + "k" * (len(weight.shape) - 2)
        kind = "conv_transpose" if transposed else "conv"
        found = Found(index, kind, weight, axes, node.inputs[source], node.outputs[0], extra=extra, reasons=why)
        found.groups = max(1, number(node, "group", number(node, "groups", 1)))
        found.stride = numbers(node, "strides", "stride")
        out = weight.shape[1] * found.groups if transposed else weight.shape[0]
        found.reasons.append(f"{kind} of {found.groups} group{'s' if found.groups > 1 else ''}")
        if len(node.inputs) > bias and node.inputs[bias]:
            found.bias = learned(view, node.inputs[bias])
        found.activation = text(node.attrs.get("activation")) or None
        yield with_bias(view, found, out, len(weight.shape) - 2)

    return read


def integer_conv(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read a convolution of integers whose scale is not in the graph."""
    raw = view.constant(node.inputs[1])
    if raw is None or len(raw.shape) < 3:
        return
    axes = "oi" + "k" * (len(raw.shape) - 2)
    found = Found(index, "conv", replace(raw, dtype="qint8"), axes, node.inputs[0], node.outputs[0])
    found.groups = max(1, number(node, "group", 1))
    found.stride = numbers(node, "strides")
    found.reasons.append("integers, their scale is not in the graph")
    yield found


# ---- look-ups


def gather(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read rows looked up by index: an embedding, unless the choice is fixed."""
    table, ids = node.inputs[0], node.inputs[1]
    tensor = learned(view, table)
    if tensor is None or len(tensor.shape) < 2 or number(node, "axis", 0) != 0:
        return
    picked = view.constant(ids)
    if picked is not None and (picked.size <= 1 or not tensor.name.endswith("weight")):
        return  # a fixed choice of rows, not a look-up
    end = follow(view, node.outputs[0], THROUGH | {"transpose", "squeeze", "unsqueeze", "reshape"})
    products = [view.nodes[use.node] for use in view.readers(end) if view.nodes[use.node].op in ("matmul", "gemm")]
    if len(tensor.shape) > 2 and any(len(view.moving(product)) > 1 for product in products):
        return  # a stack of experts
    found = Found(index, "embedding", tensor, "i" + "o" * (len(tensor.shape) - 1), ids, node.outputs[0])
    found.role = Role.EMBEDDING
    found.reasons.append("rows looked up by index")
    yield found


def embedding(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read torch's embedding: table and indices in either order."""
    for place, name in enumerate(node.inputs[:2]):
        tensor = learned(view, name)
        if tensor is not None and len(tensor.shape) >= 2:
            ids = node.inputs[1 - place] if len(node.inputs) > 1 else ""
            axes = "i" + "o" * (len(tensor.shape) - 1)
            found = Found(index, "embedding", tensor, axes, ids, node.outputs[0], role=Role.EMBEDDING)
            found.reasons.append("rows looked up by index")
            rows, zero = tensor.shape[0], node.attrs.get("padding_idx")
            if isinstance(zero, int) and rows and (0 <= zero < rows or (node.call is not None and -rows <= zero < -1)):
                found.padding = zero % rows
            yield found
            return


def embed_layer_norm(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read three embeddings that are added and normalised in one op."""
    for place, suffix in ((2, "word"), (3, "position"), (4, "segment")):
        tensor = learned(view, node.inputs[place]) if len(node.inputs) > place else None
        if tensor is not None and len(tensor.shape) == 2:
            found = Found(index, "embedding", tensor, "io", node.inputs[0], node.outputs[0], role=Role.EMBEDDING)
            found.suffix = suffix
            found.reasons.append("rows looked up by index, then normalised")
            yield found


# ---- recurrent


_GATES: Mapping[str, tuple[str, ...]] = {  # in the order of ONNX
    "lstm": ("input", "output", "forget", "cell"),
    "gru": ("update", "reset", "new"),
    "rnn": ("new",),
}


def _directions(
    view: View, node: Node, place: int, whole: Tensor | None, rows: int
) -> Iterator[tuple[int, Tensor, str]]:
    """Yield number, weight and axes of each direction; of unequal ones, those of as many rows as the gates have."""
    if whole is not None:
        if len(whole.shape) == 3:
            one = whole.shape[0] == 1
            for d in range(whole.shape[0]):
                part = whole if one else cut(whole, (d,))
                if part is not None:
                    yield d, part, "soi" if one else "oi"
        return
    maker = view.producer.get(node.inputs[place], -1) if len(node.inputs) > place else -1
    if maker >= 0 and view.nodes[maker].op == "concat":
        for d, name in enumerate(view.nodes[maker].inputs):
            tensor = learned(view, name)
            if tensor is not None and len(tensor.shape) == 3 and tensor.shape[:2] == (1, rows):
                yield d, tensor, "soi"


def recurrent(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read the input and recurrent weights of each direction, gates as parts."""
    if node.attrs.get("layout") == "torch":
        yield from _as_torch_keeps_them(view, index, node)
        return
    gates = _GATES[node.op]
    bias = learned(view, node.inputs[3]) if len(node.inputs) > 3 else None
    hidden = number(node, "hidden_size", 0)
    read = [name for name in node.outputs if name and (view.readers(name) or name in view.outputs)]
    for place, which in ((1, "ih"), (2, "hh")):
        whole = learned(view, node.inputs[place]) if len(node.inputs) > place else None
        for d, weight, axes in _directions(view, node, place, whole, len(gates) * hidden):
            rows = weight.shape[-2]
            if rows % len(gates):
                continue
            directions = whole.shape[0] if whole is not None else 0
            found = Found(index, node.op, weight, axes, node.inputs[0], (*read, node.outputs[0])[0])
            found.parts = gates if len(gates) > 1 else ()
            found.suffix = f"weight_{which}" + ("_reverse" if d else "")
            found.reasons.append(
                f"{node.op} {'input' if which == 'ih' else 'recurrent'} weights, gates {''.join(gates)}"
            )
            if whole is None:
                found.read = False
                found.reasons.append("its directions differ in shape, which no recurrent op allows: read one by one")
            if bias is not None and bias.shape == (directions, 2 * rows):
                start = 0 if which == "ih" else rows
                found.bias = cut(bias, (d, slice(start, start + rows)))
            if which == "hh" or len(read) != 1:
                found.role = Role.OTHER  # what goes round has no place in the order of things
            yield found


def _as_torch_keeps_them(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read the flat list of one layer's weights, matrices before vectors, one direction after the other."""
    gates = node.attrs.get("gates")
    parts = gates if isinstance(gates, tuple) and len(gates) > 1 else ()
    biases, projections = bool(node.attrs.get("biases")), bool(node.attrs.get("projections"))
    count = 2 + 2 * biases + projections
    out = next((name for name in node.outputs if name and (view.readers(name) or name in view.outputs)), "")
    for direction in range(max(1, number(node, "directions", 1))):
        own = node.inputs[1 + direction * count : 1 + (direction + 1) * count]
        if len(own) < count:
            return
        for place, which in ((0, "ih"), (1, "hh"), *(((count - 1, "hr"),) if projections else ())):
            weight = operator(view, own[place])
            if weight is None or len(weight.shape) != 2:
                continue
            found = Found(index, node.op, weight, "oi", node.inputs[0], out or node.outputs[0])
            found.suffix = f"weight_{which}" + ("_reverse" if direction else "")
            found.parts = parts if which != "hr" else ()
            what = {"ih": "input weights", "hh": "recurrent weights", "hr": "projection of the state"}[which]
            found.reasons.append(f"{node.op} {what}" + (f", gates {' '.join(found.parts)}" if found.parts else ""))
            found.activation = text(node.attrs.get("activation")) or None
            if biases and which != "hr":
                found.bias = learned(view, own[2 + place])
            if which != "ih":
                found.role = Role.OTHER  # what goes round has no place in the order of things
            yield found
