"""What a sweep holds at once, and what it multiplies, from the rules of shapes alone: before anything is run."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from initaudit.errors import InitauditError
from initaudit.live.probe.guard import Guard
from initaudit.live.probe.shapes import _Empty
from initaudit.types import Graph

_SCRATCH = 4  # products of one weight that are held side by side: as it is, without it, told apart, scaled


def frontier(graph: Graph, fed: Mapping[str, torch.Tensor], wanted: Iterable[str]) -> tuple[float, float] | None:
    """Return the multiplications of one run, and the bytes of the values that it holds at once.

    Args:
        graph: from whatever source.
        fed: its inputs.
        wanted: values that are made.

    Returns:
        None where values decide what is run.
    """
    names = tuple(wanted)
    empty = {name: x.to("meta") if x.is_floating_point() else x for name, x in fed.items()}
    sizes: dict[str, float] = {}

    def note(name: str, value: torch.Tensor) -> None:
        sizes[name] = float(value.numel() * value.element_size())

    runner = _Empty(graph)
    try:
        with torch.no_grad(), Guard(math.inf, math.inf) as guard:
            runner.run(empty, names, watch=note)
    except InitauditError:
        return None
    plan = runner._needed(names)
    last = {name: at for at in plan for name in (*graph.nodes[at].outputs, *runner._uses[at])}
    ending: dict[int, list[str]] = {}
    for name, at in last.items():
        ending.setdefault(at, []).append(name)
    held = most = sum(float(x.numel() * x.element_size()) for x in fed.values())
    for at in plan:
        held += sum(sizes.get(name, 0.0) for name in graph.nodes[at].outputs)
        most = max(most, held)
        held -= sum(sizes.get(name, 0.0) for name in ending.get(at, ()))
    return guard.macs, most + _SCRATCH * max(sizes.values(), default=0.0)
