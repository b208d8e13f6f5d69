"""Learned tensors that no weighted op owns: embeddings of positions, class tokens, scales, gates, biases."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from initaudit.errors import InitauditError
from initaudit.graph.view import Use, View
from initaudit.layers.from_graph_adapters import extent
from initaudit.layers.from_graph_fate import Ends
from initaudit.layers.from_graph_flow import Flow
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_names import anonymous
from initaudit.ops import family
from initaudit.types import Array, Node, Role, Skip, Tensor

_ARGUMENT = Skip("", "an argument of the op, no weight", parameter=False)
_FOLDED = re.compile(r"(.*[./])?embedding(_\d+)?$")  # what torch's exporter calls the rows it looked up in advance
_MOST_READ = 1 << 22
_HUGE = 99  # beyond it, a constant is a mask or the logarithm of nothing
_UNARY = frozenset(
    {"exp", "neg", "softplus", "sigmoid", "tanh", "clip", "abs", "sqrt", "reciprocal", "log", "min", "max"}
)


def parameters(view: View, flow: Flow, claimed: set[str]) -> Iterator[Found | Skip]:
    """Yield what every float constant outside `claimed` is: a parameter, or why it is none."""
    by_tensor: dict[str, list[str]] = {}
    for value, tensor in view.graph.constants.items():
        if tensor.is_float and tensor.name not in claimed and tensor.size > 0 and view.readers(value):
            by_tensor.setdefault(tensor.name, []).append(value)
    for name, values in by_tensor.items():
        tensor = view.graph.constants[values[0]]
        scalar = tensor.size == 1
        if scalar and anonymous(name):
            continue
        verdict: Found | Skip = _unsure("is read by nothing")
        for value in values:
            verdict = _read(view, flow, view.graph.constants[value], value)
            if isinstance(verdict, Found):
                break
        if isinstance(verdict, Found):
            yield verdict
        elif not scalar and verdict is not _ARGUMENT:
            yield replace(verdict, name=name)


def _none(why: str) -> Skip:
    """Return the reason why a constant is certainly no parameter."""
    return Skip("", why, parameter=False)


def _unsure(why: str) -> Skip:
    """Return the reason why a constant that may be a parameter is not judged."""
    return Skip("", why)


def _read(view: View, flow: Flow, tensor: Tensor, value: str) -> Found | Skip:
    for use, through in _meetings(view, flow, value):
        node = view.nodes[use.node]
        verdict = _meets(view, flow, tensor, use, node, through)
        if verdict is not None:
            return verdict
    first = view.nodes[view.readers(value)[0].node]
    if first.op in ("resize", "upsample", "pad", "clip", "one_hot", "range", "scatter_nd"):
        return _ARGUMENT
    return _unsure(f"a constant that {first.op} reads; not known to be a parameter")


def _meetings(view: View, flow: Flow, value: str) -> Iterator[tuple[Use, tuple[str, ...]]]:
    """Yield where a constant, perhaps moved or changed alone, meets a signal, first first, and what changed it."""
    found: list[tuple[Use, tuple[str, ...]]] = []
    todo: list[tuple[str, tuple[str, ...]]] = [(value, ())]
    seen = {value}
    while todo and len(seen) < 100:
        name, through = todo.pop(0)
        for use in view.readers(name):
            node = view.nodes[use.node]
            into = (use.node, name) in flow.into  # of learned queries, nothing moves with the data
            if into or view.moving(node) or any(out in view.outputs for out in node.outputs):
                found.append((use, through))
            elif len(view.moving(node)) == 0:
                for out in node.outputs:
                    if out not in seen:
                        seen.add(out)
                        changed = (node.op,) if family(node.op) not in ("move", "quant") else ()
                        todo.append((out, through + changed))
    yield from sorted(found, key=lambda meeting: meeting[0].node)


def _meets(
    view: View, flow: Flow, tensor: Tensor, use: Use, node: Node, through: tuple[str, ...]
) -> Found | Skip | None:
    out = node.outputs[0] if node.outputs else ""
    long = [n for n in tensor.shape if n > 1]
    own = not anonymous(tensor.name)
    kind = family(node.op)
    if tensor.buffer:
        return _none("a buffer, no parameter")
    only = None if own or tensor.size == 1 else _filling(tensor)
    affine = len(long) == 1 and node.op in ("mul", "add") and not through  # what is left of a norm that was folded
    if only is not None and not (affine and (only or node.op == "add") and abs(only) < _HUGE):
        return _none(f"{only:g} throughout, under a name that an exporter made up: a first state, a mask or filling")
    if out not in flow.live and kind == "elementwise" and not _signal(view, node):
        return _none(f"a table that {node.op} reads with positions or masks")
    if node.op in ("where", "greater", "less", "equal", "greater_or_equal", "less_or_equal"):
        return _none("a mask or its fill value") if not own else None
    if through and not set(through) <= _UNARY | {"add", "sub", "mul", "div", "pow", "reduce_sum", "sqrt", "clip"}:
        return _unsure(f"a table computed by {', '.join(dict.fromkeys(through))}")
    if node.op in ("add", "sub", "sum"):
        if len(long) > 1 and _is_mask(tensor):
            return _none("a mask")
        if _feeds_softmax(view, out):
            return _parameter(view, tensor, use, Role.OTHER, "added to attention logits: a relative position bias")
        if _from_input(view, node, use):
            return _none("shifts an input of the graph: preprocessing") if not own else _shift(view, tensor, use)
        if len(long) > 1:
            if not own and tensor.size > 1 and _periodic(tensor):
                return _none("a table of sines")
            if flow.fate(out).ends & Ends.GATES:
                return _parameter(view, tensor, use, Role.GATE, "added to what scales another signal")
            if _for_each_unit(flow, tensor, use, node):
                return _shift(view, tensor, use)
            return _parameter(view, tensor, use, Role.EMBEDDING, "added to the signal as a position or class embedding")
        return _shift(view, tensor, use)
    if node.op in ("mul", "div"):
        if _from_input(view, node, use) and not own:
            return _none("scales an input of the graph: preprocessing")
        if len(long) > 1 and not own:
            return _unsure(f"a table that {node.op} applies elementwise")
        if len(long) <= 2 and _dotted(view, out):
            return _parameter(view, tensor, use, Role.OTHER, "its product with the signal is an attention's logit")
        why = "multiplies the signal: a learned scale" if len(long) <= 1 else "multiplies the signal elementwise"
        return _parameter(view, tensor, use, Role.GATE, why)
    if node.op == "concat":
        return _parameter(view, tensor, use, Role.EMBEDDING, "joined to the signal as a token")
    if node.op in ("lstm", "gru", "rnn") and not own:
        return _none(f"the first state of {node.op}")
    if kind == "norm" and not own:
        return _ARGUMENT
    if own and len(long) == 1 and use.position == 2 and kind == "weighted" and node.op not in ("lstm", "gru", "rnn"):
        return _parameter(view, tensor, use, Role.OTHER, f"part of the bias of {node.op}")
    if kind in ("weighted", "norm", "attention") or node.op in ("scatter_elements", "scatter_nd"):
        table = len(long) > 1 and use.node in flow.layers and set(through) <= {"add"} and not _periodic(tensor)
        if (own or table) and len(long) >= 1:
            return _parameter(view, tensor, use, Role.EMBEDDING, f"a learned input of {node.op}")
        return _none(f"an input of {node.op} that is no weight of it")
    if kind == "move" and use.position == 0 and own:
        return _parameter(view, tensor, use, Role.EMBEDDING, f"chosen from by {node.op}")
    if own and any(out in view.outputs for out in node.outputs):
        return _parameter(view, tensor, use, Role.OTHER, "goes to the output as it is")
    return None


def _parameter(view: View, tensor: Tensor, use: Use, role: Role, why: str) -> Found:
    long = [k for k, n in enumerate(tensor.shape) if n > 1]
    node = view.nodes[use.node]
    found = Found(use.node, "parameter", tensor, "o" * len(tensor.shape), "", node.outputs[0], role=role)
    if role is Role.EMBEDDING and _FOLDED.match(tensor.name) and len(tensor.shape) >= 2:
        found.kind, found.axes = "embedding", "s" * (len(tensor.shape) - 2) + "io"
        why += ", looked up by the exporter in advance"
    found.sure = bool(long)
    found.reasons.append(why)
    return found


def _shift(view: View, tensor: Tensor, use: Use) -> Found:
    return _parameter(view, tensor, use, Role.OTHER, "added to the signal: a bias of no weighted op")


def _for_each_unit(flow: Flow, tensor: Tensor, use: Use, node: Node) -> bool:
    """Whether a table has one number for each unit of the weight whose output it is added to: a bias, reshaped."""
    maker = flow.only(node.inputs[1 - use.position]) if len(node.inputs) == 2 else None
    return maker is not None and extent(maker, "o") == tensor.size


def _signal(view: View, node: Node) -> bool:
    """Whether an input of the graph takes part directly."""
    return any(name in view.graph.inputs for name in node.inputs)


def _from_input(view: View, node: Node, use: Use) -> bool:
    return any(node.inputs[k] in view.graph.inputs for k in range(len(node.inputs)) if k != use.position)


def _feeds_softmax(view: View, name: str) -> bool:
    for _ in range(12):
        readers = view.readers(name)
        if len(readers) != 1:
            return False
        node = view.nodes[readers[0].node]
        if family(node.op) == "softmax":
            return True
        if family(node.op) not in ("move", "elementwise"):
            return False
        name = node.outputs[0]
    return False


def _dotted(view: View, name: str) -> bool:
    """Whether a product is summed up, and a softmax over places, or what one is made of, takes the sums."""
    readers = view.readers(name)
    if len(readers) != 1 or view.nodes[readers[0].node].op != "reduce_sum":
        return False
    todo, seen = [view.nodes[readers[0].node].outputs[0]], set[str]()
    while todo and len(seen) < 12:
        at = todo.pop()
        seen.add(at)
        for use in view.readers(at):
            node = view.nodes[use.node]
            if family(node.op) == "softmax" or node.op == "exp":
                return True
            if family(node.op) in ("move", "elementwise", "activation"):
                todo += [out for out in node.outputs if out not in seen]
    return False


def read(tensor: Tensor) -> Array | None:
    """Return the values of a tensor, None where they cannot be had: the rules will say so, in one place."""
    try:
        return np.asarray(tensor.load())
    except InitauditError:
        return None


def values(tensor: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None:
    """Return the values of a tensor as numbers to calculate with, None of a long one."""
    array = read(tensor) if tensor.size <= _MOST_READ else None
    return None if array is None else array.astype(np.float64)


def _filling(tensor: Tensor) -> float | None:
    """Return the one number that all values are."""
    array = values(tensor)
    return float(array.flat[0]) if array is not None and bool(np.all(array == array.flat[0])) else None


def _is_mask(tensor: Tensor) -> bool:
    """Whether all values are zero or one huge negative number."""
    array = values(tensor)
    if array is None:
        return False
    other = array[array != 0]
    return bool(other.size == 0 or (np.all(other == other.flat[0]) and other.flat[0] < -_HUGE))


def _periodic(tensor: Tensor) -> bool:
    """Whether all values lie in [-1, 1] and reach both ends, as sines and cosines do."""
    array = values(tensor)
    return array is not None and bool(np.isfinite(array).all() and 0.99 < array.max() <= 1.0)
