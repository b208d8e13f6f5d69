"""What a graph is fed with: the user's data, else numbers of the kind that each input takes.

The kind is told by what reads an input: ids stay below the rows of the tables they look up, masks let everything pass,
all else is N(0, 1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import MappingProxyType

import torch

from initaudit.errors import UsageError
from initaudit.graph.view import View
from initaudit.layers.from_graph_found import Found
from initaudit.live.probe.examples import Law
from initaudit.types import Node

BATCH = 2  # inputs per run where the graph leaves it open
SIZES = ((16, 64), (32, 224), (4000, 224))  # unknown extents of sequences and of images, tried in this order
_LOGIC = frozenset({"not", "and", "or", "where", "masked_fill", "bool"})
_STEPS = frozenset({"reshape", "expand", "unsqueeze", "squeeze", "cast", "slice", "identity", "transpose", "tile",
                    "flatten", "contiguous", "view", "cast_like", "split", "pad", "concat"})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """What an input takes."""

    shape: tuple[int, ...]
    word: str  # numbers, ids, mask
    below: int = 2


def kinds(view: View, sizes: tuple[int, int], founds: Sequence[Found] = ()) -> dict[str, Kind]:
    """Return what each input of a graph takes; unknown extents become `sizes`.

    Args:
        view: of the graph.
        sizes: of sequences, and of images.
        founds: the weights in it.
    """
    out = {}
    for name, declared in view.graph.inputs.items():
        shape = declared
        word, below = _word(view, name)
        if shape is None or (shape and all(extent is None for extent in shape)):
            shape = _guessed(view, name, word, None if shape is None else len(shape), founds)
        filled = [
            extent if extent is not None else BATCH if k == 0 else sizes[len(shape) == 4 and k > 1]
            for k, extent in enumerate(shape)
        ]
        out[name] = Kind(tuple(filled), word, below)
    return out


def as_rows(kind: Kind) -> Kind:
    """Return what has no axis of places, where one with it did not do; a mask keeps one place per token."""
    if kind.word == "mask":
        return Kind(kind.shape[:2], kind.word)
    return Kind((kind.shape[0], kind.shape[-1]), kind.word) if len(kind.shape) == 3 else kind


def numbers(kinds: Mapping[str, Kind]) -> int:
    """Return how many numbers one run is fed with."""
    return sum(prod(kind.shape) for kind in kinds.values())


def as_integers(kind: Kind) -> Kind:
    """Return a kind of input for which real numbers did not do."""
    return Kind(kind.shape, "ids", 2) if kind.word == "numbers" else kind


def made(
    kinds: Mapping[str, Kind],
    given: Mapping[str, torch.Tensor],
    calls: int,
    seed: int,
    like: Mapping[str, Law] = MappingProxyType({}),
) -> list[dict[str, torch.Tensor]]:
    """Return the feeds of several runs.

    Given data is cut along its first axis; where there is too little of it, runs share inputs at different places.

    Args:
        kinds: what each input takes.
        given: the user's data, by input.
        calls: number of runs.
        seed: of what is drawn.
        like: how to draw inputs that the caller gave examples of.

    Raises:
        UsageError: given data has another shape than the input.
    """
    random = torch.Generator().manual_seed(seed)
    feeds: list[dict[str, torch.Tensor]] = [{} for _ in range(calls)]
    for name, kind in kinds.items():
        for k in range(calls):
            if name in given:
                feeds[k][name] = _cut(name, given[name], kind, k, calls)
            else:
                feeds[k][name] = like[name].run(k, calls, random) if name in like else _drawn(kind, random)
    return feeds


def _drawn(kind: Kind, random: torch.Generator) -> torch.Tensor:
    if kind.word == "mask":
        return torch.ones(kind.shape, dtype=torch.int64)
    if kind.word == "ids":
        return torch.randint(0, max(1, kind.below), kind.shape, generator=random)
    return torch.randn(kind.shape, generator=random)


def _cut(name: str, data: torch.Tensor, kind: Kind, call: int, calls: int) -> torch.Tensor:
    if not kind.shape:
        return data.reshape(())
    if data.dim() != len(kind.shape) or not len(data):
        raise UsageError(f"data for the input {name[:80]} has shape {tuple(data.shape)}, the graph takes {kind.shape}")
    batch, count = kind.shape[0], len(data)
    step = batch if count >= calls * batch else max(1, count // calls)
    return data[(torch.arange(batch) + call * step) % count]


def shaped(kinds: Mapping[str, Kind], given: Mapping[str, torch.Tensor], view: View) -> dict[str, Kind]:
    """Return the kinds with the extents of given data where the graph leaves them open.

    Raises:
        UsageError: data is given for no input, or has extents that the graph does not take.
    """
    unknown = [name for name in given if name not in kinds]
    if unknown:
        raise UsageError(f"the graph has no input {unknown[0][:80]!r}; it has {', '.join(kinds)[:300] or 'none'}")
    out = dict(kinds)
    for name, data in given.items():
        declared = view.graph.inputs[name]
        if declared is None or all(extent is None for extent in declared):
            out[name] = Kind((min(BATCH, len(data)) if data.dim() else 0, *data.shape[1:])[: data.dim()], "given")
            continue
        rest = zip(declared[1:], data.shape[1:], strict=False)
        if len(declared) != data.dim() or any(extent not in (None, n) for extent, n in rest):
            raise UsageError(
                f"data for the input {name[:80]} has shape {tuple(data.shape)}, the graph takes {declared}"
            )
        first = kinds[name].shape[:1]
        out[name] = Kind((*first, *data.shape[1:]), "given")
    return out


def _word(view: View, name: str) -> tuple[str, int]:
    """Return ids, mask or numbers, and what ids stay below."""
    todo, seen = [name], {name}
    bounds: list[int] = []
    logic = "mask" in name.lower()
    while todo and len(seen) < 60:
        value = todo.pop(0)
        for use in view.readers(value):
            node = view.nodes[use.node]
            bound = _bound(view, node, use.position)
            if bound:
                bounds.append(bound)
            elif node.op in _LOGIC and use.position == 0:
                logic = True
            elif node.op in _STEPS:
                logic = logic or node.attrs.get("dtype") in ("bool", 9)
                todo += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
    if bounds:
        return "ids", min(bounds)
    return ("mask", 2) if logic else ("numbers", 2)


def _bound(view: View, node: Node, position: int) -> int:
    """Return the number of rows that ids choose from; 0 where the input is no index."""
    if node.op in ("embedding", "gather", "embedding_bag") and position == 1:
        table = view.constant(node.inputs[0])
        axis = node.attrs.get("axis", 0) if node.op == "gather" else 0
        shape = table.shape if table is not None else _shape(view, node.inputs[0])
        if shape and isinstance(axis, int) and -len(shape) <= axis < len(shape):
            return int(shape[axis] or 0) or BATCH
        return BATCH
    if node.op == "one_hot" and position == 0:
        depth = node.attrs.get("num_classes", node.attrs.get("depth"))
        return depth if isinstance(depth, int) and depth > 0 else BATCH
    return 0


def _shape(view: View, name: str) -> tuple[int | None, ...] | None:
    return view.graph.inputs.get(name) or view.graph.shapes.get(name)


def _guessed(view: View, name: str, word: str, rank: int | None, founds: Sequence[Found]) -> tuple[int | None, ...]:
    """Return a shape for an input of which none is known, as its first weight takes it."""
    if word == "numbers":
        for use in view.readers(name):
            node = view.nodes[use.node]
            own = next((f for f in founds if f.node == use.node and f.source == name), None)
            weight = view.oriented(node.inputs[1]) if len(node.inputs) > 1 and use.position == 0 else None
            if own is not None and "k" in own.axes and "i" in own.axes:
                channels = own.weight.shape[own.axes.index("i")] * (own.groups if node.op == "conv" else 1)
                return (None, channels, *(None,) * own.axes.count("k"))
            if weight is None or len(weight.shape) < 2:
                continue
            if node.op == "conv":
                group = node.attrs.get("group", 1)
                channels = weight.shape[1] * (group if isinstance(group, int) else 1)
                return (None, channels, *(None,) * (len(weight.shape) - 2))
            width = weight.shape[1] if node.op == "linear" or node.attrs.get("transB") else weight.shape[0]
            return (*(None,) * ((rank or 2) - 1), width)
    return (None,) * (rank or 2)


def batch(kinds: Mapping[str, Kind]) -> int:
    """Return how many inputs one run takes."""
    return max((kind.shape[0] for kind in kinds.values() if kind.shape), default=1)


def different(fed: Sequence[Mapping[str, torch.Tensor]], rows: int) -> int:
    """Return how many inputs differ from all others, where each run takes `rows` of them."""
    seen = set()
    for feed in fed:
        for k in range(rows):
            own = (v[k] if v.dim() and len(v) == rows > 1 else v for v in feed.values())
            seen.add(hash(tuple(v.contiguous().numpy().tobytes() for v in own)))
    return len(seen)


def rows(fed: Sequence[Mapping[str, torch.Tensor]]) -> int:
    """Return how many inputs one run of these feeds takes."""
    return max((value.shape[0] for value in fed[0].values() if value.dim()), default=1)
