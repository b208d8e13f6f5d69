"""A short name for a layer: the weight's own, or where an exporter renamed it, what else the file tells."""

from __future__ import annotations

import re

from initaudit.graph.view import View
from initaudit.layers.from_graph_found import Found
from initaudit.types import Node

_RECURRENT = frozenset({"lstm", "gru", "rnn"})

# torch's exporters (both), numbers, tf2onnx folds, ONNX optimizers
_ANONYMOUS = re.compile(
    r"^(onnx::.*|\d+|(_v|val|zeros|ones|full|zeros_like|ones_like|const|constant|clone|expand|view|slice|select|unsqueeze|permute|transpose|add|sub|mul|div|"
    r"scalar_tensor\w*|_to_copy|to|lift_fresh_copy|lifted_tensor|_tensor_constant|tensor|t|graph_input_cast|"
    r"ortshared|tmp|row_result|var|initializer|param|p2o)?[._]*\d*(_\d+)*|_?(const|tensor)\w*\d+|.*_output_\d+|const_fold_opt__\d+|"
    r"ortshared_.*|.*::.*)$",
    re.IGNORECASE,
)
_ENDINGS = re.compile(r"\.(weight|kernel|weight_v|original1|parametrizations\.weight\.original1?|weight_orig)$")


def anonymous(name: str) -> bool:
    """Whether a tensor's name was made up by an exporter.

    >>> [anonymous(n) for n in ("onnx::MatMul_57", "val_12", "/enc/Transpose_output_0", "enc.0.weight", "gamma")]
    [True, True, True, False, False]
    """
    return bool(_ANONYMOUS.match(name))


def stem(name: str) -> str:
    """Return a tensor's name without what only says that it is a weight.

    >>> stem("encoder.0.weight"), stem("cls_token"), stem("model/dense/MatMul/ReadVariableOp:0")
    ('encoder.0', 'cls_token', 'model/dense')
    """
    short = _ENDINGS.sub("", name)
    return re.sub(r"(/(MatMul|Conv\w*|BiasAdd|Tensordot))?/(ReadVariableOp|Cast\w*)(/resource)?(:\d+)?$", "", short)


def named(view: View, found: Found) -> tuple[str, str]:
    """Return a name for a layer and where it is from."""
    name = found.weight.name.removesuffix("_quantized")
    if not anonymous(name):
        base = stem(name)
        if found.suffix.removesuffix("_reverse") in base:
            return base, ""
        return (base, "") if not found.suffix or found.kind == "parameter" else (f"{base}.{found.suffix}", "")
    own, where = _own(view, found)
    return (own, f"{where}; stored as {name}") if own else (name, "")


def _own(view: View, found: Found) -> tuple[str, str]:
    """Return the name of a weight that an exporter renamed, and what tells it; "" where nothing does."""
    node = view.nodes[found.node]
    if node.op in _RECURRENT:
        return _recurrent(view, found)
    path = _path(node)
    weights, biases = _said(node)
    if len(weights) == 1:
        return stem(weights[0]), "named after the parameter of the exported call"
    bias = found.bias.name if found.bias is not None else ""
    if len(biases) == 1 and _within(biases[0], path):
        return _unbiased(biases[0]), f"named after {biases[0]}, a parameter of the exported call"
    if _unbiased(bias) and not anonymous(bias) and _within(bias, path) and _one_reader(view, bias):
        return _unbiased(bias), f"named after {bias}"
    if found.kind == "parameter":
        return (f"{path}.{found.weight.name}", "named after the node") if path else ("", "")
    return (f"{path}.{found.suffix}" if path and found.suffix else path), "named after the node"


def _said(node: Node) -> tuple[list[str], list[str]]:
    """Return the renamed weights and biases that the call behind a node takes, as the exporter's notes have it."""
    taken = node.attrs.get("@parameters")
    names = [name for name in taken if isinstance(name, str)] if isinstance(taken, tuple) else []
    return [n for n in names if not _unbiased(n)], [n for n in names if _unbiased(n)]


def _unbiased(name: str) -> str:
    """Return what a bias's name says of its weight, "" for any other name.

    >>> _unbiased("attn.qkv.bias"), _unbiased("attn.in_proj_bias"), _unbiased("attn.relative_bias_table")
    ('attn.qkv', 'attn.in_proj', '')
    """
    return name[:-5] if name.endswith((".bias", "_bias")) else ""


def _within(name: str, path: str) -> bool:
    """Whether a name may be that of what a node in a module uses: exporters merge equal biases under the first's."""
    return not path or name.startswith(f"{path}.")


def _one_reader(view: View, name: str) -> bool:
    """Whether one node alone reads a bias in the module that it is named after: that is the one whose bias it is."""
    readers = [
        use for value, tensor in view.graph.constants.items() if tensor.name == name for use in view.readers(value)
    ]
    return sum(_within(name, _path(view.nodes[use.node])) for use in readers) == 1


def _path(node: Node) -> str:
    scope = node.attrs.get("@scope")
    return str(scope) if scope else module_path(node.name)


def _recurrent(view: View, found: Found) -> tuple[str, str]:
    """Return torch's name of a recurrent matrix: an exporter writes one op for each layer of a module, in order."""
    node = view.nodes[found.node]
    path = _path(node)
    if not path or not found.suffix:
        return path, "named after the node"
    before = sum(other.op == node.op and _path(other) == path for other in view.nodes[: found.node])
    stem_, _, reverse = found.suffix.partition("_reverse")
    torch = bool(node.attrs.get("@scope")) or node.name.startswith("/")
    layer = f"_l{before}" if torch and not stem_.endswith(f"_l{before}") else ""
    return (
        f"{path}.{stem_}{layer}{'_reverse' if reverse or found.suffix.endswith('_reverse') else ''}",
        "named after the node",
    )


def module_path(node: str) -> str:
    """Return the module path that a node's name holds, "" for none.

    >>> module_path("/encoder/layer.0/attention/self/query/MatMul")
    'encoder.layer.0.attention.self.query'
    >>> module_path("/model/layers.0/layers.0.1/Gemm"), module_path("node_MatMul_57")
    ('model.layers.0.1', '')
    >>> module_path("/fc/MatMul/MatMulAddFusion/"), module_path("model/conv1d/Conv1D__12")
    ('fc', 'model/conv1d')
    """
    pieces = [piece for piece in node.split("/") if piece]
    while pieces and pieces[-1].endswith("Fusion"):  # what ONNX Runtime's optimizer adds to the name of a node
        pieces.pop()
    pieces = pieces[:-1]
    if not node.startswith("/"):
        return "/".join(pieces)  # TensorFlow's scopes, written as its weights' names are
    path = ""
    for piece in pieces:
        head = _common(path, piece)
        path = f"{path}.{piece[head:]}" if path and piece[head:] else path or piece
    return path


def _common(path: str, piece: str) -> int:
    """Return how much of `piece` repeats the end of the path: "layers.0" + "layers.0.1" is "layers.0.1"."""
    parts = piece.split(".")
    have = path.split(".")
    for n in range(len(parts) - 1, 0, -1):
        if n >= 1 and have[-n:] == parts[:n] and len(parts) > n:
            return len(".".join(parts[:n])) + 1
    return 0
