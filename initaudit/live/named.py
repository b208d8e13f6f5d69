"""First guesses for the arguments of a forward pass: from their names, and from the first layers of the module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from initaudit.live.signature import Argument
from initaudit.live.spec import Spec
from initaudit.live.wishes import BATCH, LENGTH, WIDE

NODES = 6  # of a graph that a graph network is fed with
EDGES = 12

Guess = tuple[Any, str]  # a value, and what it was guessed from


def _whole(*shape: int, below: int = 2) -> Callable[[nn.Module], list[Any]]:
    return lambda module: [Spec(shape, "int64", below)]


def _ids(module: nn.Module) -> list[Any]:
    return [Spec((BATCH, LENGTH), "int64", rows(module))]


# By the usual names: in every library they mean the same.
_BY_NAME: tuple[tuple[str, Callable[[nn.Module], list[Any]]], ...] = (
    (r"(\w+_)?(input_)?(ids|tokens?|token_ids|idx|indices)|(src|tgt)_ids", _ids),
    (r"edge_index", _whole(2, EDGES, below=NODES)),
    (r"edge_(weight|weights)", lambda module: [Spec((EDGES,))]),
    (r"edge_attr", lambda module: [Spec((EDGES, 4))]),
    (r"adj(acency)?(_matrix)?", lambda module: [Spec((NODES, NODES)), Spec((BATCH, LENGTH, LENGTH))]),
    (r"batch_(index|idx)", _whole(NODES)),
    (r"(key_)?(padding_)?mask|(\w+_)?attention_mask|attn_mask|(src|tgt)_mask", lambda module: [
        None, Spec((BATCH, LENGTH), "bool"), Spec((LENGTH, LENGTH), "bool"), Spec((BATCH, LENGTH))]),
    (r"(\w+_)?(time_?)?steps?|t|time|times|noise_levels?|sigmas?|log_snr|timestep", lambda module: [
        Spec((BATCH,), "int64", 10), Spec((BATCH,)), Spec((BATCH, 1))]),
    (r"(\w+_)?lengths?|(\w+_)?lens", lambda module: [torch.full((BATCH,), LENGTH)]),
    (r"(class_)?labels?|classes|y|targets?|cls|cond_labels?", lambda module: [None, Spec((BATCH,), "int64", 2)]),
    (r"hx?|h_?0|c_?0|hidden(_state)?|state|states|memory_state|cache|past(_key_values)?|carry", lambda module: [None]),
)  # fmt: skip


def rows(module: nn.Module) -> int:
    """Return how many rows the smallest embedding has that could be one of tokens: ids stay below it."""
    sizes = [m.num_embeddings for m in module.modules() if isinstance(m, nn.Embedding)]
    return min((n for n in sizes if n > 1), default=2)


def by_name(module: nn.Module, argument: Argument) -> list[Guess]:
    """Return guesses for an argument whose name or annotation says what it is; none for any other."""
    note = argument.annotation
    for word, value in (("bool", False), ("int", 1), ("float", 1.0), ("str", "")):
        if re.fullmatch(rf"(builtins\.)?{word}", note):
            return [(value, "its annotation")]
    for pattern, make in _BY_NAME:
        if re.fullmatch(pattern, argument.name, re.IGNORECASE):
            return [(value, "its name") for value in make(module)]
    return []


def by_layers(module: nn.Module, name: str) -> list[Guess]:
    """Return guesses for an argument from the layers that may be the first to see it, in the order of registration."""
    found: list[Guess] = []
    for path, child in _towards(module, name):
        for spec in wanted(child):
            if all(spec != known for known, _ in found):
                found.append((spec, path))
    if re.search(r"im(g|age)s?$|pixel|frame|photo|picture", name, re.IGNORECASE):
        found.sort(key=lambda guess: len(guess[0].shape) < 4)
    elif re.search(r"(^|_)(text|tokens?|words?|sentences?|prompts?)$", name, re.IGNORECASE):
        found.sort(key=lambda guess: guess[0].dtype != "int64")
    if not found:
        found = [(spec, "") for spec in (Spec((BATCH, 3, 64, 64)), Spec((BATCH, LENGTH, 16)), Spec((BATCH, 16)))]
    return found[:8]


def _towards(module: nn.Module, name: str) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules, those under a child that is called as the argument first."""
    stem = re.sub(r"(_?(ids?|input|inputs|x|tokens?|seq|values?))+$", "", name)
    every = [(path, child) for path, child in module.named_modules() if not next(child.children(), None)]
    yield from ((path, child) for path, child in every if len(stem) > 1 and stem in path)
    yield from every


def wanted(module: nn.Module) -> list[Spec]:
    """Return what a layer of torch's own takes; none for any other module."""
    match module:
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return [Spec((BATCH, module.in_channels, *WIDE[len(module.kernel_size)]))]
        case nn.BatchNorm2d() | nn.InstanceNorm2d():
            return [Spec((BATCH, module.num_features, *WIDE[2]))]
        case nn.BatchNorm3d() | nn.InstanceNorm3d():
            return [Spec((BATCH, module.num_features, *WIDE[3]))]
        case nn.Embedding() | nn.EmbeddingBag():
            return [Spec((BATCH, LENGTH), "int64", module.num_embeddings)]
        case nn.ConvTranspose1d():
            return [Spec((BATCH, module.in_channels, LENGTH))]
        case nn.ConvTranspose2d():
            return [Spec((BATCH, module.in_channels, n, n)) for n in (1, 8)]
        case nn.ConvTranspose3d():
            return [Spec((BATCH, module.in_channels, 4, 4, 4))]
        case nn.Linear():
            return [Spec((BATCH, module.in_features)), Spec((BATCH, LENGTH, module.in_features))]
        case nn.Bilinear():
            return [Spec((BATCH, module.in1_features))]
        case nn.RNNBase():
            return [Spec((BATCH, LENGTH, module.input_size))]
        case nn.RNNCellBase():
            return [Spec((BATCH, module.input_size)), Spec((BATCH, LENGTH, module.input_size))]
        case nn.MultiheadAttention():
            return [Spec((BATCH, LENGTH, module.embed_dim))]
        case nn.LayerNorm() | nn.RMSNorm():
            lead = (BATCH, LENGTH) if len(module.normalized_shape) == 1 else (BATCH,)
            return [Spec((*lead, *module.normalized_shape))]
        case nn.BatchNorm1d():
            return [Spec((BATCH, module.num_features)), Spec((BATCH, module.num_features, 64))]
        case nn.GroupNorm():
            return [Spec((BATCH, module.num_channels, 64, 64))]
    return []
