"""What the inputs of a graph are taken to be: the same as the probe draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from initaudit.graph.view import View
from initaudit.theory.engine import BATCH, noise
from initaudit.theory.kernel import Kernel
from initaudit.types import Array, Node, Tensor

_LENGTHS = (16, 224)  # of sequences, of images, where the graph leaves them open
_LARGE = 1 << 22  # elements of an example that is looked at
_SIGMAS = 5.0
_STEPS = frozenset({"reshape", "expand", "unsqueeze", "squeeze", "cast", "slice", "identity", "transpose", "tile",
                    "flatten", "contiguous", "view", "cast_like", "split", "pad", "concat", "dropout"})  # fmt: skip
_IMAGES = frozenset({"conv", "conv_transpose", "max_pool", "average_pool", "resize", "upsample", "batch_norm"})


def feeds(view: View, examples: Sequence[Tensor] = ()) -> dict[str, Kernel | None]:
    """Return the kernel of each input of a graph: N(0, 1), None for ids and masks, which are no signal.

    Args:
        view: of the graph.
        examples: of some inputs, by name. What is not N(0, 1) tells mean and variance, between inputs and within.
    """
    made = {name: _feed(view, name, shape) for name, shape in view.graph.inputs.items()}
    for example in examples:
        kernel = made.get(example.name)
        if kernel is not None and example.is_float and 1 < example.size <= _LARGE and example.shape == kernel.shape:
            made[example.name] = _like(kernel, np.asarray(example.load(), np.float64))
    return made


def _like(kernel: Kernel, values: Array) -> Kernel:
    """Return a kernel with the mean and variance of an example; as it is where these are those of N(0, 1)."""
    if not np.all(np.isfinite(values)) or np.all(values == values.flat[0]):  # masks, and placeholders
        return kernel
    mean, variance = float(values.mean()), float(values.var())
    error = _SIGMAS / math.sqrt(values.size)
    if abs(mean) < error and abs(variance - 1) < 2 * error:
        return kernel
    own = float(values.var(0, ddof=1).mean()) if len(values) > 1 and kernel.inputs > 1 else variance
    grid = kernel.grid
    return replace(kernel, own=grid.peak(own), shared=grid.peak(max(0.0, variance - own)), mean=mean)


def _feed(view: View, name: str, declared: tuple[int | None, ...] | None) -> Kernel | None:
    shape = declared or view.graph.shapes.get(name)
    readers = _readers(view, name)
    if _ids(view, readers) or "mask" in name.lower():
        return None
    if shape is None or (shape and all(n is None for n in shape)):
        shape = _guessed(view, readers, None if shape is None else len(shape))
    if shape is None:
        return None
    rank = len(shape)
    extents = [n if n is not None else BATCH if k == 0 else _LENGTHS[rank == 4 and k > 1] for k, n in enumerate(shape)]
    spatial = any(node.op in _IMAGES for node, _ in readers)
    if rank < 3:
        kinds = "bu"[:rank]
    elif spatial or rank > 3:
        last = rank == 4 and not spatial and _channels_last(view, name)
        kinds = "b" + ("p" * (rank - 2) + "u" if last else "u" + "p" * (rank - 2))
    else:
        kinds = "bpu"
    return noise(extents, kinds)


def _channels_last(view: View, name: str) -> bool:
    return any(node.op in ("linear", "layer_norm") for node, _ in _readers(view, name))


def _readers(view: View, name: str) -> list[tuple[Node, int]]:
    """Return the nodes that read a value, through those that only move it, with the places they read it at."""
    found, todo, seen = [], [name], {name}
    while todo and len(seen) < 60:
        for use in view.readers(todo.pop(0)):
            node = view.nodes[use.node]
            if node.op in _STEPS and not _to_truth(node):
                todo += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
            else:
                found.append((node, use.position))
    return found


def indexes(view: View, name: str) -> bool:
    """Whether an input is looked up somewhere."""
    return any(
        node.op in ("embedding", "gather", "embedding_bag", "gather_elements", "gather_nd") and place == 1
        for node, place in _readers(view, name)
    )


def _to_truth(node: Node) -> bool:
    """Whether a node makes truth values of numbers."""
    return node.op in ("cast", "bool") and (
        node.attrs.get("dtype") in ("bool", 9) or node.attrs.get("to") in (9, "bool")
    )


def _ids(view: View, readers: list[tuple[Node, int]]) -> bool:
    """Whether what reads a value takes it for indices or conditions."""
    return any(
        (node.op in ("embedding", "gather", "embedding_bag", "gather_elements", "gather_nd") and place == 1)
        or (_to_truth(node) and place == 0)
        or (node.op in ("one_hot", "not", "and", "or", "where", "masked_fill", "non_zero") and place == 0)
        for node, place in readers
    )


def _guessed(view: View, readers: list[tuple[Node, int]], rank: int | None) -> tuple[int | None, ...] | None:
    """Return a shape for an input of which none is known, as its first weight takes it."""
    for node, place in readers:
        weight = view.oriented(node.inputs[1]) if len(node.inputs) > 1 and place == 0 else None
        if weight is None or len(weight.shape) < 2:
            continue
        if node.op == "conv":
            group = node.attrs.get("group", 1)
            channels = weight.shape[1] * (group if isinstance(group, int) else 1)
            return (None, channels, *(None,) * (len(weight.shape) - 2))
        width = weight.shape[1] if node.op == "linear" or node.attrs.get("transB") else weight.shape[0]
        return (*(None,) * ((rank or 2) - 1), width)
    return (None,) * rank if rank else None


def ids(view: View) -> Mapping[str, bool]:
    """Return which inputs are taken for indices or conditions."""
    return {name: _ids(view, _readers(view, name)) for name in view.graph.inputs}
