"""The graph of a model that comes without one, where what the file holds proves it: torch's own modules, or a chain.

A state_dict proves a chain if all that it holds are matrices with biases, numbered one after the other, each taking as
many inputs as the one before has outputs; and if the activation between them is known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch

from initaudit import layers
from initaudit.errors import InitauditError, UnsupportedError, UsageError
from initaudit.live import model as reading
from initaudit.live.rebuilt import rebuilt
from initaudit.torch_ops import Builder
from initaudit.types import Evidence, Graph, Layer, Model, Ref

_NEEDS = "lsuv has to run the net, and this file does not say how it is run"
_HELP = "name its code with --model module:callable or --arch, or repair an ONNX export"
_LEAST = 2  # layers of a chain
_ROWS = 2  # inputs that a graph is recorded with


def graph_of(model: Model, given: Mapping[str, torch.Tensor], told: Sequence[Layer]) -> Graph:
    """Return the graph of a model, from its file or from what that proves.

    Args:
        model: as it was read.
        given: data, which say what shape the inputs have.
        told: layers of it, with the activation that the user named.

    Raises:
        UsageError: nothing is proven; the line says which option would make it work.
    """
    guessed = model.source == "inferred"  # from the same records, for inputs of a size that was guessed
    if model.graph is not None and not model.open and not (guessed and given):
        return model.graph
    try:
        if not model.modules:
            return _chain(model, told)
        module = rebuilt(model)
    except UnsupportedError as error:
        if model.graph is not None and not model.open:
            return model.graph
        raise UsageError(f"{_NEEDS}: {error.reason}; {_HELP}") from None
    example: Any = {name: value[:_ROWS] for name, value in given.items()} or None
    if example is not None and len(example) == 1:
        example = next(iter(example.values()))
    try:
        made = reading.read(module, example)
    except InitauditError as error:
        raise UsageError(f"{_NEEDS} on these data: {error.reason}") from None
    if made.graph is None:
        why = next((skip.why for skip in made.skipped if skip.name == "graph"), "it cannot be traced")
        raise UsageError(f"{_NEEDS}: {why[:300]}; give --data, or {_HELP}")
    own = {tensor.name: tensor for tensor in model.tensors}
    constants = {name: own.get(tensor.name, tensor) for name, tensor in made.graph.constants.items()}
    return replace(made.graph, constants=constants)


def _chain(model: Model, told: Sequence[Layer]) -> Graph:
    """Return the graph of dense layers one after the other.

    Raises:
        UnsupportedError: the file proves no such chain.
    """
    found = layers.infer(model)[0]
    weights = sorted((a for a in found if a.kind == "linear"), key=lambda a: _number(a.weight.name))
    claimed = {t.name for a in weights for t in (a.weight, a.bias) if t is not None}
    other = next((t.name for t in model.tensors if t.name not in claimed), "")
    if other or len(weights) < _LEAST:
        raise UnsupportedError(f"{other[:80] or 'it'} is no part of a chain of dense layers")
    for before, after in pairwise(weights):
        fits = before.axes == after.axes == "oi" and not before.extra and not after.extra
        if not fits or before.weight.shape[0] != after.weight.shape[1] or not _numbered(before, after):
            raise UnsupportedError(f"nothing proves that {after.name[:80]} follows {before.name[:80]}")
    activation = _activation(told, weights[:-1])
    builder = Builder("function")
    builder.input("input", (None, weights[0].weight.shape[1]))
    value = "input"
    for at, layer in enumerate(weights):
        own = [t for t in (layer.weight, layer.bias) if t is not None]
        for tensor in own:
            builder.tensor(tensor.name, tensor)
        builder.call("linear", (Ref(value), *(Ref(t.name) for t in own)), {}, [f"%{at}"], scope=layer.name)
        value = f"%{at}"
        if at + 1 < len(weights) and activation:
            builder.call(activation, (Ref(value),), {}, [f"%a{at}"])
            value = f"%a{at}"
    return builder.graph([value])


def _activation(told: Sequence[Layer], inner: Sequence[Layer]) -> str:
    """Return the activation that the user named for the layers within a chain."""
    names = {a.weight.name for a in inner}
    said = {a.activation for a in told if a.weight.name in names and a.activation_evidence >= Evidence.NAMED}
    if len(said) != 1 or None in said:
        raise UnsupportedError("which activation is between its layers is not known: say it with --activation")
    return str(said.pop())


def _numbered(before: Layer, after: Layer) -> bool:
    """Whether the names of two layers are the same but for one number, which is larger in the second."""
    a, b = _number(before.weight.name), _number(after.weight.name)
    different = [(one[1], other[1]) for one, other in zip(a, b, strict=False) if one != other]
    return (
        [text for text, _ in a] == [text for text, _ in b] and len(different) == 1 and different[0][0] < different[0][1]
    )


def _number(name: str) -> tuple[tuple[str, int], ...]:
    """Return a name in parts, numbers as numbers."""
    return tuple((text, int(digits or 0)) for text, digits in re.findall(r"(\D+|^)(\d*)", name))
