"""A short name for a layer: the weight's own, or where an exporter renamed it, what else the file tells."""

from __future__ import annotations

import re

from initaudit.graph.view import View
from initaudit.layers.from_graph_found import Found

# torch's exporters (both), numbers, tf2onnx folds, ONNX optimizers
_ANONYMOUS = re.compile(
    r"^(onnx::.*|\d+|(_v|val|const|constant|clone|expand|view|slice|select|unsqueeze|permute|transpose|add|sub|mul|div|"
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
    own = not anonymous(name)
    if own:
        base = stem(name)
        if found.suffix.removesuffix("_reverse") in base:
            return base, ""
        return (base, "") if not found.suffix or found.kind == "parameter" else (f"{base}.{found.suffix}", "")
    node = view.nodes[found.node]
    scope = node.attrs.get("@scope")
    path = str(scope) if scope else module_path(node.name)
    bias = found.bias.name if found.bias is not None else ""
    if path:
        base, where = path, "named after the node"
    elif bias.endswith((".bias", "_bias")) and not anonymous(bias):
        base, where = bias[:-5], f"named after {bias}"
    else:
        base, where = name, ""
    if found.suffix:
        base = f"{base}.{found.suffix}"
    return base, where


def module_path(node: str) -> str:
    """Return the module path that a node's name holds, "" for none.

    >>> module_path("/encoder/layer.0/attention/self/query/MatMul")
    'encoder.layer.0.attention.self.query'
    >>> module_path("/model/layers.0/layers.0.1/Gemm"), module_path("node_MatMul_57")
    ('model.layers.0.1', '')
    """
    if "/" not in node:
        return ""
    pieces = [piece for piece in node.split("/") if piece][:-1]
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
