"""Which numbers of a graph are parameters of its model, and which are numbers of a formula."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from initaudit.freedom import Freedom
from initaudit.graph.numbers import filling
from initaudit.layers.from_graph_names import anonymous
from initaudit.types import Layer, Model, Skip, Tensor

_VECTORS = ("norm", "parameter", "bias")  # kinds whose weight may stand for a formula's ones and zeros


def owned(found: Freedom, model: Model, layers: Iterable[Layer], skipped: Sequence[Skip]) -> Freedom:
    """Return what is told of parameters only.

    Where tensors have the names that the code gave them, all are but those known to be none. ONNX does not tell a
    parameter from a number of a formula: there it must be part of a layer, and under a name that an exporter made up
    not be one number throughout, as the scale of a norm without parameters is.

    Args:
        found: what is told of all numbers of the graph.
        model: whose graph it is.
        layers: of the model.
        skipped: some of which are known to be no parameters.
    """
    none = {skip.name for skip in skipped if not skip.parameter}
    parts = {tensor.name: (tensor, plain) for layer in layers for tensor, plain in _parts(layer)}
    if model.graph_source != "onnx":
        return _only(found, lambda name: name in parts or name not in none)
    return _only(found, lambda name: name in parts and _surely(*parts[name]))


def _parts(layer: Layer) -> Iterator[tuple[Tensor, bool]]:
    """Yield the tensors of a layer, and whether each is a matrix that no formula needs."""
    yield layer.weight, layer.kind not in _VECTORS
    for tensor in (layer.bias, *layer.extra):
        if tensor is not None:
            yield tensor, False


def _surely(tensor: Tensor, plain: bool) -> bool:
    return plain or not anonymous(tensor.name) or filling(tensor) is None


def _only(found: Freedom, kept: Callable[[str], bool]) -> Freedom:
    return replace(found, parameters=tuple(p for p in found.parameters if kept(p.name)))
