"""Layers from a graph: each weight where it is used, with the activation that really follows and its role."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from initaudit.errors import UnsupportedError
from initaudit.graph.fuse import fuse
from initaudit.graph.integers import plain
from initaudit.graph.view import FAR, View, sound
from initaudit.layers.fans import fans
from initaudit.layers.from_graph_adapters import adapters, extent
from initaudit.layers.from_graph_ends import twin
from initaudit.layers.from_graph_fate import Decision, Fate
from initaudit.layers.from_graph_flow import Flow
from initaudit.layers.from_graph_found import Found, text
from initaudit.layers.from_graph_names import named
from initaudit.layers.from_graph_parameters import parameters
from initaudit.layers.from_graph_roles import role_of
from initaudit.layers.from_graph_tagging import Tagging
from initaudit.layers.from_graph_tags import Tag, ordered, whole
from initaudit.layers.from_graph_weights import weights
from initaudit.layers.words import OWN_GATES, PARTS_QKV
from initaudit.types import Evidence, Layer, Model, Node, Role, Skip, Tensor

_PACKED = frozenset({"matmul_nbits", "matmul_bnb4", "moe", "qmoe", "dynamic_quantize_lstm"})
_SPLITS = frozenset({"split", "slice", "gather", "chunk"})
_OWN = frozenset({"lstm", "gru", "rnn", "norm", "parameter", "prelu"})  # none follows, or the op's own
_MOVES = frozenset({"reshape", "transpose", "squeeze", "unsqueeze", "cast", "cast_like", "identity", "flatten"})


def infer(model: Model) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """Return the layers of a model that has a graph, in execution order, and what was left out with the reason."""
    if model.graph is None:
        raise UnsupportedError("there is no graph in this file to trace layers in")
    view = View(fuse(plain(sound(model.graph))))
    founds = _in_use(view, list(weights(view)))
    low_rank = adapters(view, founds)
    flow = Flow(view, founds, low_rank)
    _reverse_names(model, founds)
    claimed = {t.name for f in founds for t in (f.weight, f.bias, *f.extra) if t is not None}
    claimed |= {name for f in founds for name in f.claimed}
    claimed |= {name for f in founds for t in (f.weight, f.bias, *f.extra) if t is not None for name in t.parts}
    skips: list[Skip] = []
    for one in parameters(view, flow, claimed):
        if isinstance(one, Skip):
            skips.append(one)
        else:
            founds.append(one)
            claimed.add(one.weight.name)
    founds.sort(key=lambda f: f.node)
    layers = _rows(view, flow, founds, Tagging(flow, founds, low_rank), low_rank)
    skips += _left_out(model, view, claimed, {s.name for s in skips})
    return tuple(layers), tuple(skips)


def _in_use(view: View, founds: list[Found]) -> list[Found]:
    """Drop readings of a weight on values that never change, where it is also used on the data."""

    def which(found: Found) -> tuple[object, ...]:
        node = view.nodes[found.node]  # the rows for queries are another weight than those for keys and values
        rows = [name for name in node.inputs if name in view.fixed and name != found.source and _cut(view, name)]
        return (found.weight.identity, found.kind, *rows)

    used = {which(f) for f in founds if f.source not in view.fixed}
    return [f for f in founds if f.source not in view.fixed or which(f) not in used]


def _cut(view: View, name: str) -> bool:
    return name in view.producer and view.nodes[view.producer[name]].op in _SPLITS


def _reverse_names(model: Model, founds: list[Found]) -> None:
    """Give the second direction of a recurrent op its own tensor's name, where the file has both side by side."""
    names = {tensor.name for tensor in model.tensors}
    for found in founds:
        if found.suffix.endswith("_reverse") and f"{found.weight.name}_reverse" in names:
            found.weight = replace(found.weight, name=f"{found.weight.name}_reverse")
            if found.bias is not None and f"{found.bias.name}_reverse" in names:
                found.bias = replace(found.bias, name=f"{found.bias.name}_reverse")


def _left_out(model: Model, view: View, claimed: set[str], told: set[str]) -> list[Skip]:
    """Return the float tensors of the file that nothing above accounts for."""
    read = [tensor for value, tensor in view.graph.constants.items() if view.readers(value)]
    used = {name for tensor in read for name in (tensor.name, *tensor.parts)}
    packed = {
        view.graph.constants[name].name: node.op
        for node in view.nodes
        if node.op in _PACKED
        for name in node.inputs
        if name in view.graph.constants
    }
    out = []
    for tensor in model.tensors:
        if tensor.name in claimed or tensor.name in told or tensor.size < 2:
            continue
        if tensor.name in packed:
            out.append(Skip(tensor.name, f"the packed weights of {packed[tensor.name]} are not read yet"))
        elif tensor.is_float and not tensor.buffer and tensor.name not in used:
            out.append(Skip(tensor.name, "no node reads it"))
    return out


# ---- rows


def _rows(view: View, flow: Flow, founds: list[Found], tagging: Tagging, low_rank: Mapping[int, str]) -> list[Layer]:
    layers: list[Layer] = []
    tags: list[set[Tag]] = []
    owners: dict[object, int] = {}
    twins: dict[str, list[int]] = {}
    taken: dict[str, int] = {}
    uses: dict[int, int] = {}
    for found in founds:
        place = owners.get(found.weight.identity)
        if place is not None:
            uses[place] = uses.get(place, 1) + 1
            if found.kind == layers[place].kind and found.role is None:
                layers[place] = _plainer(layers[place], *role_of(flow, found, id(found) in low_rank))
                layers[place] = _torn(layers[place], flow.fate(found.out).decision)
            tags[place] |= tagging.of(found)
            if Tag.OUTPUT_HEAD in tagging.of(found) and layers[place].kind == "embedding":
                tags[place].add(Tag.TIED_HEAD)
            continue
        layer = replace(_layer(view, flow, found, taken, id(found) in low_rank), depth=tagging.depth(found))
        for other in twins.get(found.weight.storage or found.weight.name, ()):
            if sorted(layers[other].weight.shape) == sorted(layer.weight.shape) and _same_place(
                layers[other].weight, layer.weight
            ):
                layer = replace(
                    layer, tied=layers[other].name, reasons=(*layer.reasons, f"the same values as {layers[other].name}")
                )
                break
        owners[found.weight.identity] = len(layers)
        twins.setdefault(found.weight.storage or found.weight.name, []).append(len(layers))
        layers.append(layer)
        tags.append(set(tagging.of(found)))
        if Tag.OUTPUT_HEAD in tags[-1] and _shares_embedding(layer, layers):
            tags[-1].add(Tag.TIED_HEAD)
    for place, count in uses.items():
        note = f"used {count} times; read at its first use"
        layers[place] = replace(layers[place], reasons=(*layers[place].reasons, note))
    return [_ended(replace(layer, tags=ordered(whole(own)))) for layer, own in zip(layers, tags, strict=True)]


def _ended(layer: Layer) -> Layer:
    """Return a weight as a head that makes an output together with others, no stream among them."""
    if layer.role is not Role.BRANCH_END or Tag.OUTPUT_HEAD not in layer.tags:
        return layer
    why = "the sum it goes into is an output, and nothing weighted comes after it"
    return replace(layer, role=Role.HEAD, reasons=(*layer.reasons, why))


def _shares_embedding(head: Layer, layers: list[Layer]) -> bool:
    """Whether a head's weight is that of an embedding, or a copy of it that an exporter turned round."""
    tables = [one for one in layers if one.kind == "embedding"]
    return any(head.tied == one.name or twin(head.weight, one.weight) for one in tables)


def _plainer(layer: Layer, role: Role, sure: Evidence, why: str) -> Layer:
    """Return the layer as a trunk weight if any of its uses is one: what is a fault there is a fault."""
    if role is not Role.TRUNK or layer.role is Role.TRUNK:
        return layer
    return replace(layer, role=role, role_evidence=sure, reasons=(*layer.reasons, f"in another use, {why}"))


def _torn(layer: Layer, later: Decision) -> Layer:
    """Return the layer with less certainty about its activation if another one follows a later use."""
    if not later.firm or (later.known and later.agreed and later.name == layer.activation):
        return layer
    if layer.activation_evidence is not Evidence.TRACED or layer.kind in _OWN:
        return layer
    why = f"in another use, {later.why}"
    return replace(layer, activation_evidence=Evidence.NAMED, reasons=(*layer.reasons, why))


def _same_place(a: Tensor, b: Tensor) -> bool:
    return a.offset == b.offset and a.size == b.size


def _layer(view: View, flow: Flow, found: Found, taken: dict[str, int], adapter: bool) -> Layer:
    name, where = named(view, found)
    count = taken.get(name, 0)
    taken[name] = count + 1
    if count:
        name = f"{name}_{count}"
        taken[name] = taken.get(name, 0) + 1
    reasons = [*found.reasons, *([where] if where else [])]
    found.parts = found.parts or (() if adapter else _projections(view, found))
    fan_in, fan_out = fans(
        found.kind, found.axes, found.weight.shape, found.groups, found.stride, max(1, len(found.parts))
    )
    layer = Layer(
        name, found.kind, found.weight, found.axes, found.bias, found.extra, found.groups, found.parts,
        found.stride if found.kind == "conv_transpose" else (), fan_in, fan_out,
        fan_evidence=Evidence.TRACED if found.read else Evidence.ASSUMED,
        padding=found.padding,
    )  # fmt: skip
    fate = flow.fate(found.out)
    folded = found.node not in flow.layers  # rows looked up in advance, of which only the sum with others is known
    activation, sure, why = _activation(view, found, fate)
    role, role_sure, because = role_of(flow, found, adapter)
    if found.kind in ("parameter", "prelu"):
        activation, sure, why = None, Evidence.TRACED, "no operator, so no activation of its own"
    return replace(
        layer,
        activation=activation,
        activation_evidence=sure,
        role=role,
        role_evidence=role_sure,
        normed=fate.normed and not folded if found.kind not in ("norm", "parameter", "prelu") else None,
        reasons=(*reasons, why, because),
    )


def _activation(view: View, found: Found, fate: Fate) -> tuple[str | None, Evidence, str]:
    if found.activation is not None:
        return found.activation.lower(), Evidence.TRACED, "the op applies it itself"
    node = view.nodes[found.node]
    if found.kind == "rnn":
        given = node.attrs.get("activations")
        name = text(given[0]) if isinstance(given, (tuple, list)) and given else "tanh"
        return name.lower() or None, Evidence.TRACED, "the recurrent op applies it itself"
    if found.kind in ("lstm", "gru"):
        return None, Evidence.TRACED, OWN_GATES
    decision = fate.decision
    if not decision.known:
        return None, Evidence.ASSUMED, decision.why
    return decision.name, Evidence.TRACED if decision.agreed else Evidence.NAMED, decision.why


def _projections(view: View, found: Found) -> tuple[str, ...]:
    """Return (q, k, v), or (k, v), for one linear layer whose output is split for attention."""
    if found.kind != "linear" or "s" in found.axes:
        return ()
    at = found.out
    for _ in range(FAR):
        if len(view.readers(at)) != 1:
            break
        node = view.nodes[view.readers(at)[0].node]
        if node.op not in _MOVES and node.op != "add":  # an adapter's output may be added on the way
            break
        at = node.outputs[0]
    readers = [u for u in view.readers(at) if u.position == 0]
    if not readers or any(view.nodes[u.node].op not in _SPLITS for u in readers):
        return ()
    pieces = [o for u in readers for o in view.nodes[u.node].outputs if o and view.readers(o)]
    names = {3: PARTS_QKV, 2: PARTS_QKV[1:]}.get(len(pieces), ())
    if not names or extent(found, "o") % len(names) or not all(_equal(view, view.nodes[u.node]) for u in readers):
        return ()
    widths = {shape for shape in map(view.graph.shapes.get, pieces) if shape and None not in shape}
    if len(widths) > 1:  # fewer heads for keys and values than for queries
        return ()
    plain = len(pieces) == 2  # two halves may be those of a rotary embedding, which are joined again
    return names if all(_meeting(view, piece, plain) for piece in pieces) else ()


def _equal(view: View, node: Node) -> bool:
    """Whether a split or slice cuts equal pieces, as far as the graph says."""
    sizes = node.attrs.get("split")
    if sizes is None and node.op == "split" and len(node.inputs) > 1:
        tensor = view.constant(node.inputs[1])
        sizes = None if tensor is None else np.asarray(tensor.load()).ravel().tolist()
    return not isinstance(sizes, (list, tuple)) or len(set(sizes)) == 1


def _meeting(view: View, name: str, plain: bool) -> bool:
    """Whether a value goes into a product of two signals or an attention op, through moves, scales and norms."""
    todo, seen = [name], {name}
    while todo and len(seen) < 40:
        for use in view.readers(todo.pop()):
            node = view.nodes[use.node]
            if node.op.endswith("attention"):
                return True
            if node.op in ("matmul", "einsum") and len(view.moving(node)) == 2:
                return True
            if plain and node.op in ("concat", "mul", "add", "neg") and len(view.moving(node)) > 1:
                return False
            if plain and node.op == "neg":
                return False
            if node.op in _MOVES | _SPLITS | {"mul", "div", "add", "neg", "concat", "softmax", "expand"} or (
                node.op.endswith("norm")
            ):
                for out in node.outputs:
                    if out not in seen:
                        seen.add(out)
                        todo.append(out)
    return False
