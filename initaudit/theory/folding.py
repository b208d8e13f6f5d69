"""Whether an exporter merged batch norms into the weights of a graph."""

from __future__ import annotations

from initaudit.graph.view import View
from initaudit.types import Tensor

_FEWEST = 4  # convolutions from which a graph is told
_PAIRS = (("weight", "bias"), ("kernel", "bias"), ("w", "b"), ("W", "B"), ("gamma", "beta"))


def folded_norms(view: View) -> bool:
    """Return whether batch norms look merged into convolutions, so that the file's signal is not that of training.

    A batch norm in evaluation mode is a scale and a shift, and exporters put both into the convolution before it. Of a
    fresh model, whose running mean is 0 and variance 1, nothing is left to see in the values: a weight as it was drawn
    and a bias of zeros, which some exporters drop. What tells is how the graph is written, at least four times:

    * the bias of a convolution is a tensor of the exporter's, not the partner of the weight by its name
      (`conv1.weight` with `onnx::Conv_194`), whatever else there is in the graph;
    * or no convolution has a bias, and nothing in the whole graph normalises: nobody builds such a net. (One exporter
      drops biases of zeros, so that a net without norms whose biases start at zero is told as merged, too.)

    A graph that torch recorded from a live module is as it will be trained, so it is never told.
    """
    convolutions = [node for node in view.nodes if node.op == "conv" and len(node.inputs) > 1 and view.moving(node)]
    if len(convolutions) < _FEWEST or any(node.call is not None for node in convolutions):
        return False
    strange = bare = 0
    for node in convolutions:
        weight = view.constant(node.inputs[1])
        bias = view.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
        if bias is None:
            bare += 1
        elif weight is None or not paired(weight, bias):
            strange += 1
    if strange >= _FEWEST:
        return True
    return bare == len(convolutions) and not any(view.family(node) == "norm" for node in view.nodes)


def paired(weight: Tensor, bias: Tensor) -> bool:
    """Whether two tensors are called like the weight and the bias of one module."""
    for one, other in _PAIRS:
        if weight.name.endswith(one) and bias.name.endswith(other):
            stem = weight.name[: len(weight.name) - len(one)]
            if stem == bias.name[: len(bias.name) - len(other)]:
                return True
    return False
