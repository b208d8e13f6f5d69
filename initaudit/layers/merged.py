"""Whether batch norms that training has were merged into the weights of convolutions before the graph was written.

Exporters and optimisers do so: y = scale * (W x - mean) / std + shift is a convolution again. What the file shows then
is no longer the signal of training, which is normalised layer by layer. Two traces are left:

* the node runs in the place of the norm, not of its weight (torch's exporter: scope `bn1`, weight `conv1.weight`);
* the node still has its place, but the weight lost its own name, since it is a product (`onnx::Conv_193`).

A convolution that runs in another module's place was put there: some such convolutions prove it, whatever else the
graph holds (norms that no convolution precedes are left as they are, squeeze-and-excite convolutions never had one).
A lost name proves less, since other products lose it too: there most convolutions must have lost theirs, and where a
norm is left nobody merged them.
"""

from __future__ import annotations

import re

from initaudit.graph.fuse import fuse
from initaudit.graph.integers import plain
from initaudit.graph.view import sound
from initaudit.types import Graph, Node

_LEAST = 3  # convolutions
_SHARE = 2 / 3  # of them with a trace
_OPS = ("conv", "conv_transpose")
_KEPT = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")
_OWN = re.compile(r"^(?P<module>.+)\.weight$")
_MADE = re.compile(r"::|^\d+$|^(val|view|const|onnx)_?\d*$")  # numbered by an exporter


def merged(graph: Graph) -> bool:
    """Return whether a graph looks as if its batch norms were merged into its convolutions."""
    convolutions = [node for node in graph.nodes if node.op in _OPS and len(node.inputs) > 1]
    if sum(_displaced(node, graph) for node in convolutions) >= _LEAST:
        return True
    nameless = sum(_nameless(node, graph) for node in convolutions)
    if nameless < max(_LEAST, _SHARE * len(convolutions)):
        return False
    return not any(node.op in _KEPT for node in (*graph.nodes, *fuse(plain(sound(graph))).nodes))


def _displaced(node: Node, graph: Graph) -> bool:
    """Whether a node runs in the place of a module that its weight does not belong to."""
    weight, scope = graph.constants.get(node.inputs[1]), node.attrs.get("@scope")
    own = None if weight is None else _OWN.match(weight.name)
    if own is None or not isinstance(scope, str) or not scope:
        return False
    return not (own["module"] + ".").startswith(scope + ".") and not scope.endswith(own["module"])


def _nameless(node: Node, graph: Graph) -> bool:
    """Whether a node's weight lost its name, and its bias, which a norm would have changed, did too."""
    weight = graph.constants.get(node.inputs[1])
    if weight is None or not _MADE.search(weight.name):
        return False
    bias = graph.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    module = node.name.split("/")[-2] if node.name.count("/") > 1 else node.name
    return bias is None or not f".{bias.name}".endswith(f".{module}.bias")
