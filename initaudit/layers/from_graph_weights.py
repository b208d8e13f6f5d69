"""Which node uses which constant as a weight: one row per weighted op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from initaudit.graph.view import FAR, View
from initaudit.layers import from_graph_linear as linear
from initaudit.layers import from_graph_norms as norms
from initaudit.layers import from_graph_ops as ops
from initaudit.layers.from_graph_found import Found, signal
from initaudit.layers.words import PARTS_QKV
from initaudit.types import Node

Reader = Callable[[View, int, Node], Iterator[Found]]

READERS: Mapping[str, tuple[Reader, ...]] = {
    "gemm": (linear.gemm,),
    "matmul": (linear.matmul,),
    "linear": (linear.linear,),
    "einsum": (linear.einsum,),
    "grouped_mm": (linear.grouped,),
    "bilinear": (linear.bilinear,),
    "matmul_integer": (linear.integers,),
    "matmul_integer_to_float": (linear.integers,),
    "dynamic_quantize_matmul": (linear.integers,),
    "conv": (ops.conv((0, 1, 2)),),
    "conv_transpose": (ops.conv((0, 1, 2), transposed=True),),
    "deform_conv": (ops.conv((0, 1, 3)),),
    "conv_integer": (ops.integer_conv,),
    "gather": (ops.gather,),
    "embedding": (ops.embedding,),
    "embedding_bag": (ops.embedding,),
    "embed_layer_norm": (ops.embed_layer_norm, norms.norm_at(5, 6)),
    "lstm": (ops.recurrent,),
    "gru": (ops.recurrent,),
    "rnn": (ops.recurrent,),
    "batch_norm": (norms.norm_at(1, 2, 3, 4),),
    "layer_norm": (norms.norm_at(1, 2),),
    "instance_norm": (norms.norm_at(1, 2),),
    "group_norm": (norms.norm_at(1, 2),),
    "rms_norm": (norms.norm_at(1, 2),),
    "l2_norm": (norms.norm_at(1, 2),),
    "mean_variance_norm": (norms.norm_at(1, 2),),
    "skip_layer_norm": (norms.norm_at(2, 3),),
    "skip_rms_norm": (norms.norm_at(2, 3),),
    "skip_group_norm": (norms.norm_at(1, 2),),
    "prelu": (norms.prelu,),
    "attention": (linear.attention,),
    "qattention": (linear.qattention,),
}


_UNARY = frozenset({"layer_norm", "rms_norm", "l2_norm", "mean_variance_norm"})  # what fusing makes has no constants


def weights(view: View) -> Iterator[Found]:
    """Yield every weight of a weighted op, norm or learned slope, in execution order."""
    founds = list(_each(view))
    _joined(view, founds)
    yield from founds


def _each(view: View) -> Iterator[Found]:
    inside = _weight_space(view)
    for index, node in enumerate(view.nodes):
        if index in inside or not node.inputs or not node.outputs or (len(node.inputs) < 2 and node.op not in _UNARY):
            continue
        for reader in READERS.get(node.op, ()):
            yield from reader(view, index, node)


def _joined(view: View, founds: list[Found]) -> None:
    """Read query, key and value as parts of one weight, where they were cut from it for each a product of its own."""
    pieces: dict[str, list[Found]] = {}
    for found in founds:
        whole = view.graph.constants.get(found.weight.name)
        if whole is None or found.kind != "linear" or found.axes != "oi" or len(whole.shape) != 2:
            continue
        if found.weight.size < whole.size and found.weight.shape[1] == whole.shape[1]:
            pieces.setdefault(whole.name, []).append(found)
    for name, own in pieces.items():
        whole = view.graph.constants[name]
        rows = whole.shape[0] // len(PARTS_QKV)
        spans = sorted({((f.weight.offset - whole.offset) // whole.shape[1], f.weight.shape[0]) for f in own})
        fit = all(start == sum(n for _, n in spans[:k]) and n in (rows, 2 * rows) for k, (start, n) in enumerate(spans))
        if not fit or sum(n for _, n in spans) != whole.shape[0] or not all(_attends(view, f.out) for f in own):
            continue
        for found in own:
            bias = view.graph.constants.get(found.bias.name) if found.bias is not None else None
            found.weight, found.parts = whole, PARTS_QKV
            found.bias = bias if bias is not None and bias.size == whole.shape[0] else None
            found.reasons.append("cut from one weight, each part used by itself")


def _attends(view: View, name: str) -> bool:
    """Whether a value goes into a product of two signals, or into attention, through moves and scales."""
    todo, seen = [name], {name}
    while todo and len(seen) < FAR:
        for use in view.readers(todo.pop()):
            node = view.nodes[use.node]
            if view.family(node) == "attention" or (
                node.op in ("matmul", "einsum", "gemm") and len(view.moving(node)) > 1
            ):
                return True
            if view.family(node) in ("move", "norm") or (
                node.op in ("mul", "div", "add") and len(view.moving(node)) == 1
            ):
                todo += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
    return False


def _weight_space(view: View) -> set[int]:
    """Return the nodes that make weights out of constants: weight standardisation, spectral norm and the like."""
    inside: set[int] = set()
    for node in view.nodes:
        if node.op not in ("conv", "conv_transpose", "gemm", "linear", "matmul") or not view.moving(node):
            continue
        todo = [name for name in node.inputs if name in view.fixed and name in view.producer]
        if node.op == "matmul":
            todo = [name for name in todo if not signal(view, name)]
        while todo:
            index = view.producer[todo.pop()]
            if index not in inside:
                inside.add(index)
                todo += [name for name in view.nodes[index].inputs if name in view.producer]
    return inside
