"""Attention written out as products and a softmax, folded into one node, so that it can be understood as a whole.

Between the two products only what keeps queries and keys apart is allowed: factors, masks and biases, tanh caps, casts,
and reshapes that leave the last two axes alone. The node `attend` takes queries, keys, values, then what is added to
the logits; its attributes say which axes are which, and by what the logits are multiplied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from initaudit.graph.view import View
from initaudit.types import Node

NAME = "attend"
_FAR = 12
_GONE = Node("gone", (), ())
_PASSES = frozenset({
    "identity", "cast", "dropout", "contiguous", "clip", "max", "min", "where", "masked_fill", "reshape", "view",
    "unsqueeze", "squeeze", "tanh",
})  # fmt: skip


@dataclass(slots=True)
class _Logits:
    """What leads to a softmax: the product of two signals, and what is done to it."""

    product: Node
    factors: list[tuple[str, int]]  # operand, and 1 to multiply, -1 to divide
    added: list[str]
    masks: list[tuple[str, bool]]  # conditions, and what they are where a key is seen


def folded(view: View) -> View:
    """Return the view with attention as one node each; the same where there is none."""
    made: dict[int, Node] = {}
    for at, node in enumerate(view.nodes):
        if node.op == "softmax" and view.moving(node):
            found = _attention(view, at)
            if found is not None:
                made[found[0]] = found[1]
    if not made:
        return view
    nodes = [made.get(at, node) for at, node in enumerate(view.nodes)]
    wanted = _read(nodes, view.graph.outputs)
    return View(replace(view.graph, nodes=tuple(n if k in wanted else _GONE for k, n in enumerate(nodes))))


def _read(nodes: Sequence[Node], outputs: Sequence[str]) -> set[int]:
    """Return the places of the nodes that something reads; the others keep their place, empty."""
    wanted = set(outputs)
    kept: set[int] = set()
    for at in range(len(nodes) - 1, -1, -1):
        node = nodes[at]
        if not wanted.isdisjoint(node.outputs):
            kept.add(at)
            wanted.update(name for name in node.inputs if name)
            condition = node.attrs.get("condition")
            if isinstance(condition, str):
                wanted.add(condition)
    return kept


def _attention(view: View, at: int) -> tuple[int, Node] | None:
    """Return the node that an attention ends with, and the one that stands for all of it."""
    softmax = view.nodes[at]
    logits = _before(view, softmax.inputs[0])
    if logits is None:
        return None
    sides = _sides(logits.product)
    rank = _rank(view, softmax.inputs[0])
    axis = softmax.attrs.get("axis", -1)
    if sides is None or not isinstance(axis, int) or axis not in (-1, (rank or 0) - 1):
        return None
    after = _after(view, softmax.outputs[0])
    if after is None:
        return None
    end, place, turned = after
    mixing = view.nodes[end]
    if mixing.op == "matmul" and place == (1 if turned else 0):
        values = mixing.inputs[1 - place]
        axes = {"value_axes": (-1, -2) if turned else (-2, -1), "turned": turned}
    elif mixing.op == "einsum" and not turned:
        told = _mixed(str(mixing.attrs.get("equation", "")), place)
        if told is None:
            return None
        values = mixing.inputs[1 - place]
        axes = {"value_axes": told, "turned": False}
        if not str(mixing.attrs.get("equation", "")).replace(" ", "").endswith(told_end(mixing, place)):
            return None
    else:
        return None
    queries, keys, query_axes, key_axes = sides
    names = (
        queries, keys, values, *logits.added, *(name for name, _ in logits.factors), *(name for name, _ in logits.masks)
    )  # fmt: skip
    attrs = {
        **axes, "query_axes": query_axes, "key_axes": key_axes, "added": len(logits.added),
        "powers": tuple(power for _, power in logits.factors), "@scope": softmax.attrs.get("@scope", ""),
        "seen": tuple(seen for _, seen in logits.masks),
    }  # fmt: skip
    return end, Node(NAME, names, mixing.outputs, attrs, softmax.name or softmax.outputs[0])


def _before(view: View, name: str) -> _Logits | None:
    out = _Logits(Node("", (), ()), [], [], [])
    for _ in range(_FAR):
        at = view.producer.get(name)
        if at is None:
            return None
        node = view.nodes[at]
        moving = view.moving(node)
        if node.op in ("matmul", "einsum") and len(moving) > 1:
            out.product = node
            return out
        if not moving:
            return None
        main = moving[0]
        if node.op in ("add", "sub", "sum"):
            main = _main(view, node, moving)
            out.added += [n for k, n in enumerate(node.inputs) if n and k != main]
        elif node.op in ("mul", "div"):
            if len(moving) > 1 or (node.op == "div" and main):
                return None
            out.factors.append((node.inputs[1 - main], 1 if node.op == "mul" else -1))
        elif node.op in ("where", "masked_fill"):
            main = next((k for k in moving if _leads(view, node.inputs[k])), moving[-1])
            place = 0 if node.op == "where" else 1
            if main == place:
                return None
            out.masks.append((node.inputs[place], node.op == "where" and main == 1))
        elif node.op not in _PASSES or (len(moving) > 1 and node.op not in ("reshape", "view", "max", "min")):
            return None
        name = node.inputs[main]
    return None


def _main(view: View, node: Node, moving: Sequence[int]) -> int:
    """Return which operand of a sum the logits are; the others are masks and biases."""
    if len(moving) == 1:
        return moving[0]
    return next((k for k in moving if _leads(view, node.inputs[k])), moving[0])


def _leads(view: View, name: str) -> bool:
    """Whether a value comes from a product of two signals."""
    for _ in range(_FAR):
        at = view.producer.get(name)
        if at is None:
            return False
        node = view.nodes[at]
        moving = view.moving(node)
        if node.op in ("matmul", "einsum"):
            return len(moving) > 1
        if not moving or node.op not in (*_PASSES, "add", "sub", "mul", "div"):
            return False
        name = node.inputs[moving[0]]
    return False


def _sides(product: Node) -> tuple[str, str, tuple[int, int], tuple[int, int]] | None:
    """Return queries and keys, and of both the axis of positions and the one that is summed over."""
    if product.op == "matmul":
        return product.inputs[0], product.inputs[1], (-2, -1), (-1, -2)
    equation = str(product.attrs.get("equation", "")).replace(" ", "")
    sides, _, out = equation.partition("->")
    terms = sides.split(",")
    if len(terms) != 2 or not out or "." in equation or len(out) < 2:
        return None
    gone = [label for label in terms[0] if label in terms[1] and label not in out]
    if len(gone) != 1:
        return None
    query, key = out[-2], out[-1]
    names = product.inputs
    if query not in terms[0]:
        terms, names = terms[::-1], names[::-1]
    if query not in terms[0] or key not in terms[1] or query in terms[1] or key in terms[0]:
        return None
    one, other = terms
    return (
        names[0], names[1],
        (one.index(query) - len(one), one.index(gone[0]) - len(one)),
        (other.index(key) - len(other), other.index(gone[0]) - len(other)),
    )  # fmt: skip


def _after(view: View, name: str) -> tuple[int, int, bool] | None:
    """Return the product that a softmax's weights go into, at which place, and whether they were turned before."""
    turned = False
    for _ in range(_FAR):
        uses = view.readers(name)
        if len(uses) != 1 or name in view.outputs:
            ends = [use for use in uses if view.nodes[use.node].op in ("matmul", "einsum")]
            if len(ends) != 1:
                return None
            uses = ends
        use = uses[0]
        node = view.nodes[use.node]
        if node.op in ("matmul", "einsum"):
            return (use.node, use.position, turned) if len(view.moving(node)) > 1 and use.position < 2 else None
        if node.op == "transpose":
            perm, swap = node.attrs.get("perm"), node.attrs.get("swap")
            last = perm is not None and list(perm[-2:]) == [len(perm) - 1, len(perm) - 2]
            if not last and (swap is None or {int(a) for a in swap} != {-1, -2}):
                return None
            turned = not turned
        elif node.op not in _PASSES or use.position:
            return None
        name = node.outputs[0]
    return None


def _mixed(equation: str, place: int) -> tuple[int, int] | None:
    """Return the axes of keys and of units of the values, of an equation that mixes them by weights."""
    sides, _, out = equation.replace(" ", "").partition("->")
    terms = sides.split(",")
    if len(terms) != 2 or "." in equation:
        return None
    weights, values = terms[place], terms[1 - place]
    key = weights[-1]
    units = [label for label in values if label not in weights]
    if key in out or key not in values or len(units) != 1 or weights[-2] not in out:
        return None
    return values.index(key) - len(values), values.index(units[0]) - len(values)


def told_end(node: Node, place: int) -> str:
    """Return the labels of queries and units, as the result should end with them."""
    sides, _, _ = str(node.attrs.get("equation", "")).replace(" ", "").partition("->")
    terms = sides.split(",")
    weights, values = terms[place], terms[1 - place]
    return weights[-2] + next(label for label in values if label not in weights)


def _rank(view: View, name: str) -> int | None:
    shape = view.graph.shapes.get(name)
    return None if shape is None else len(shape)
