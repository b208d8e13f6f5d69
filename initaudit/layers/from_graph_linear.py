"""Products with a weight: dense layers in every spelling, integers, stacked experts, whole attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from initaudit.graph.integers import scaled
from initaudit.graph.numbers import filling
from initaudit.graph.view import FAR, View
from initaudit.layers.from_graph_found import (
    THROUGH,
    Found,
    computed,
    learned,
    number,
    operand,
    operator,
    signal,
    stored,
    text,
    with_bias,
)
from initaudit.layers.from_graph_names import anonymous
from initaudit.layers.words import PARTS_QKV
from initaudit.types import Node, Role, Tensor

# ---- linear


def gemm(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read Gemm: either side, transposed or not."""
    a, b = node.inputs[0], node.inputs[1]
    right = weight_right(view, a, b)
    if right:
        got, axes, source = operand(view, b, 2), "oi" if node.attrs.get("transB") else "io", a
    elif right is not None:
        got, axes, source = operand(view, a, 2), "io" if node.attrs.get("transA") else "oi", b
    else:
        yield from _chosen(view, index, node)
        return
    if got is None or len(got[0].shape) != 2:
        return
    weight, extra, why = got
    weight, axes = stored(view, node, weight, axes)
    found = Found(index, "linear", weight, axes, source, node.outputs[0], extra=extra, reasons=why)
    side = "B" if source == a else "A"
    found.reasons.append(f"Gemm's {side}, stored ({'out, in' if axes == 'oi' else 'in, out'})")
    alpha = node.attrs.get("alpha", 1.0)
    if isinstance(alpha, (int, float)) and alpha != 1:
        found.reasons.append(f"scaled by alpha = {alpha:.4g}")
    if len(node.inputs) > 2:
        found.bias = learned(view, node.inputs[2])
    yield with_bias(view, found, weight.shape[axes.index("o")], 0 if side == "B" else 1)


def weight_right(view: View, a: str, b: str) -> bool | None:
    """Whether the right operand of a product is its weight, False where the left one is, None where neither is.

    Of two values that do not move with the data, as in the first round of a loop or of learned queries, the right one
    is, unless it is no parameter and the left one may be.
    """
    if b not in view.fixed or a not in view.fixed:
        return True if b in view.fixed else False if a in view.fixed else None
    return not _given(view, b) or _given(view, a)


def _given(view: View, name: str) -> bool:
    """Whether a fixed value is no weight: a buffer, as a table of positions is, or one number, as a first state."""
    if not computed(view, name):
        return True
    tensor = view.constant(name)
    return tensor is not None and (tensor.buffer or (anonymous(tensor.name) and filling(tensor) is not None))


def _matmul_of(
    view: View, index: int, sides: tuple[str, str], out: str, weight: Tensor | None = None, flip: bool = False
) -> Found | None:
    """Return the linear layer of a product with one constant side; `weight` replaces the constant."""
    a, b = sides
    right = weight_right(view, a, b)
    if right is None or (a in view.fixed and b in view.fixed and learned(view, b if right else a) is None):
        return None
    source = a if right else b
    if weight is None and view.constant(b if right else a) is None and signal(view, b if right else a):
        return None
    got = (weight, (), []) if weight is not None else operand(view, b if right else a, 2)
    if got is None or got[0] is None or len(got[0].shape) < 2:
        return None
    tensor, extra, why = got
    inner, outer = ("i", "o") if right != flip else ("o", "i")
    axes = "s" * (len(tensor.shape) - 2) + inner + outer
    tensor, axes = stored(view, view.nodes[index], tensor, axes)
    if not right and tensor.shape[axes.index("i")] == 1:
        return None  # an outer product with a table of frequencies
    found = Found(index, "linear", tensor, axes, source, out, extra=extra, reasons=[*why])
    form = "in, out" if axes.endswith("io") else "out, in"
    found.reasons.append(f"MatMul's {'right' if right else 'left'} side, stored ({form})")
    if "s" in axes:
        found.reasons.append("stacked operators, one per leading index")
    return found


def matmul(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read a product of which one side is a weight, or experts chosen by index."""
    flip = bool(node.attrs.get("transB")) if node.inputs[1] in view.fixed else bool(node.attrs.get("transA"))
    found = _matmul_of(view, index, (node.inputs[0], node.inputs[1]), node.outputs[0], flip=flip)
    if found is None:
        yield from _chosen(view, index, node)
    if found is not None:
        right = found.source == node.inputs[0]
        through = THROUGH | {"reshape"} if right and node.call is not None else THROUGH  # rows put back into batches
        yield with_bias(view, found, found.weight.shape[found.axes.index("o")], 0 if right else 1, through)


def _stack(view: View, name: str) -> tuple[Tensor, bool] | None:
    """Return the stack of operators that a value was chosen from by index, and whether it was transposed since."""
    turned = False
    for _ in range(FAR):
        if name not in view.producer:
            break
        node = view.nodes[view.producer[name]]
        if node.op in ("gather", "gather_nd"):
            tensor = learned(view, node.inputs[0])
            first = number(node, "batch_dims" if node.op == "gather_nd" else "axis", 0) == 0
            picked = first and tensor is not None and len(tensor.shape) >= 3
            return (tensor, turned) if picked and tensor is not None else None
        if node.op == "transpose":
            turned = not turned
        elif node.op not in THROUGH | {"squeeze", "unsqueeze", "reshape"}:
            return None
        name = node.inputs[0]
    return None


def _chosen(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read a product with experts that were looked up by the router's choice."""
    for place in (0, 1):
        stack = _stack(view, node.inputs[place])
        if stack is None or node.inputs[1 - place] in view.fixed:
            continue
        tensor, turned = stack
        turned ^= bool(node.attrs.get("transB" if place else "transA"))
        axes = "s" * (len(tensor.shape) - 2) + ("io" if (place == 1) != turned else "oi")
        found = Found(index, "linear", tensor, axes, node.inputs[1 - place], node.outputs[0])
        found.reasons.append("experts, one per leading index, looked up by the router's choice")
        yield found
        return


def linear(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read torch's linear: input, weight (out, in), bias."""
    got = operand(view, node.inputs[1], 2)
    if got is None or len(got[0].shape) != 2:
        return
    found = Found(index, "linear", got[0], "oi", node.inputs[0], node.outputs[0], extra=got[1], reasons=got[2])
    found.reasons.append("linear's weight, stored (out, in)")
    found.bias = operator(view, node.inputs[2]) if len(node.inputs) > 2 else None
    yield with_bias(view, found, got[0].shape[0], 0)


def grouped(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read torch's grouped_mm: rows of the input, in groups, each times its own of the stacked matrices."""
    tensor = operator(view, node.inputs[1])
    if tensor is None or len(tensor.shape) not in (2, 3) or node.inputs[0] in view.fixed:
        return
    axes = "sio" if len(tensor.shape) == 3 else "io"
    found = Found(index, "linear", tensor, axes, node.inputs[0], node.outputs[0])
    found.reasons.append(
        "experts, one per leading index, each for its own rows" if axes == "sio" else "grouped product"
    )
    found.bias = learned(view, node.inputs[3]) if len(node.inputs) > 3 else None
    yield found


def bilinear(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read torch's bilinear: two inputs, weight (out, in, in), bias."""
    tensor = operator(view, node.inputs[1])
    if tensor is None or len(tensor.shape) != 3:
        return
    found = Found(index, "bilinear", tensor, "oik", node.inputs[0], node.outputs[0])
    found.reasons.append("bilinear's weight, stored (out, in of one, in of the other)")
    found.bias = learned(view, node.inputs[3]) if len(node.inputs) > 3 else None
    yield found


def integers(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read a product of integers whose scale is not in the graph."""
    raw = view.constant(node.inputs[1])
    if raw is None or len(raw.shape) < 2:
        return
    found = _matmul_of(view, index, (node.inputs[0], node.inputs[1]), node.outputs[0], replace(raw, dtype="qint8"))
    if found is not None:
        found.reasons.append("integers, their scale is not in the graph")
        yield found


def einsum(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read an einsum with one constant operand: its labels say which axes are in, out and stacked."""
    equation = text(node.attrs.get("equation")).replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        return
    fixed = [k for k, name in enumerate(node.inputs) if operator(view, name) is not None]
    moving = view.moving(node)
    if len(fixed) != 1 or not moving or "." in terms[fixed[0]]:
        return
    tensor = operator(view, node.inputs[fixed[0]])
    others = "".join(terms[k] for k in moving)
    labels = terms[fixed[0]]
    if tensor is None or len(labels) != len(tensor.shape):
        return
    if not right:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    axes = "".join("i" if c not in right else "o" if c not in others else "s" for c in labels)
    source = node.inputs[moving[-1] if len(moving) > 1 and moving[0] > fixed[0] else moving[0]]
    if len(labels) == 3 and axes in ("iio", "ioi") and any(terms[k] and labels[0] in terms[k] for k in moving[1:]):
        axes = "s" + axes[1:]  # experts, summed with the weights of a router
    elif len(labels) == 3 and axes in ("oio", "ooi") and _stack_ahead(view, node.outputs[0], tensor.shape[0]):
        axes = "s" + axes[1:]
    if "o" not in axes or "i" not in axes:
        return
    found = Found(index, "linear", tensor, axes, source, node.outputs[0])
    found.reasons.append(f"einsum {equation}: axes {axes}")
    yield with_bias(view, found, int(np.prod([n for n, c in zip(tensor.shape, axes, strict=True) if c == "o"])), 0)


def _stack_ahead(view: View, name: str, extent: int) -> bool:
    """Whether the next weight stacks as many operators as the leading axis of this one."""
    todo, seen = [name], {name}
    while todo and len(seen) < 30:
        for use in view.readers(todo.pop()):
            node = view.nodes[use.node]
            if node.op in ("einsum", "matmul"):
                tensors = [learned(view, i) for i in node.inputs]
                return any(t is not None and len(t.shape) == 3 and t.shape[0] == extent for t in tensors)
            for out in node.outputs:
                if out not in seen:
                    seen.add(out)
                    todo.append(out)
    return False


# ---- whole attention with its projections inside


def attention(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read attention with its packed projections inside (input, weight, bias)."""
    weight = learned(view, node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or len(weight.shape) != 2:
        return
    found = Found(index, "linear", weight, "io", node.inputs[0], node.outputs[0], parts=PARTS_QKV)
    found.reasons.append("query, key and value projections of a fused attention")
    found.bias = learned(view, node.inputs[2]) if len(node.inputs) > 2 else None
    found.role = Role.OTHER
    yield found


def qattention(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read the same in integers."""
    if len(node.inputs) < 5:
        return
    raw, scale = view.constant(node.inputs[1]), view.constant(node.inputs[4])
    if raw is None or scale is None or len(raw.shape) != 2:
        return
    zero = view.constant(node.inputs[7]) if len(node.inputs) > 7 else None
    found = Found(index, "linear", scaled(raw, scale, zero, -1), "io", node.inputs[0], node.outputs[0])
    found.parts = PARTS_QKV
    found.bias = learned(view, node.inputs[2])
    found.role = Role.OTHER
    found.reasons.append("query, key and value projections of a fused attention, integers times their scale")
    yield found
