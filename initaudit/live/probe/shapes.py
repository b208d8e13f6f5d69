"""What one way forward takes, from the rules of shapes alone: nothing is read from the weights and nothing computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from initaudit.errors import InitauditError, UnsupportedError
from initaudit.live.execute import Executor
from initaudit.live.execute.elements import named
from initaudit.live.execute.functions import FAILURES
from initaudit.live.probe.guard import Guard
from initaudit.types import Graph, Node

Run = Callable[[Node, Mapping[str, Any]], Sequence[Any]]
_SMALL = 16  # elements of a float that may say a size, as those of Resize do


class _Empty(Executor):
    """An executor whose weights have shapes and no values."""

    def _leaf(self, name: str) -> torch.Tensor:
        tensor = self.graph.constants[name]
        dtype = named(tensor.dtype, torch.float32)
        if not tensor.is_float or (tensor.size <= _SMALL and len(tensor.shape) < 2) or dtype is None:
            return super()._leaf(name)
        return torch.empty(tensor.shape, dtype=dtype, device="meta")

    def _called(self, node: Node, own: Mapping[str, Any]) -> Sequence[Any]:
        return self._alike(super()._called, node, own)

    def _operated(self, node: Node, own: Mapping[str, Any]) -> Sequence[Any]:
        return self._alike(super()._operated, node, own)

    def _alike(self, run: Run, node: Node, own: Mapping[str, Any]) -> Sequence[Any]:
        """Run a node on operands all with values or all without; integers keep theirs where they say a shape."""
        if not any(isinstance(value, torch.Tensor) and value.is_meta for value in own.values()):
            return run(node, own)
        last: Exception = UnsupportedError(node.op)
        for bare in (_none, _long, _float, _any):
            try:
                return run(node, {name: value.to("meta") if bare(value) else value for name, value in own.items()})
            except (InitauditError, *FAILURES) as error:
                last = error
        raise last


def _none(_: Any) -> bool:
    return False


def _long(value: Any) -> bool:
    return _float(value) and value.numel() > 1


def _float(value: Any) -> bool:
    return _any(value) and (value.is_floating_point() or value.dtype == torch.bool) and value.dim() > 0


def _any(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def counted(graph: Graph, fed: Mapping[str, torch.Tensor], targets: Iterable[str]) -> tuple[float, float] | None:
    """Return multiplications and bytes of one run; None where values decide what is run.

    Args:
        graph: from whatever source.
        fed: its inputs.
        targets: values that are wanted.
    """
    empty = {name: x.to("meta") if x.is_floating_point() else x for name, x in fed.items()}
    try:
        with torch.no_grad(), Guard(math.inf, math.inf) as guard:
            _Empty(graph, training_norms=True).run(empty, targets)
    except InitauditError:
        return None
    return guard.macs, guard.made
