"""The ways back: which unit vectors start on the outputs, and how large the gradients are that they bring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from initaudit.live.probe.sums import norm

Ends = Mapping[str, Sequence[torch.Tensor]]  # values of the outputs, one per run or one for all
Seen = Callable[[torch.Tensor, torch.Tensor], None]  # told a weight and its gradient


class Back:
    """Goes back from the outputs of one forward pass as often as asked.

    An input is a row of a run where every output has the batch as its first axis, else a whole run.

    Args:
        ends: the outputs.
        leaves: the weights.
        batch: inputs in a run.
        runs: number of runs.
        random: draws the unit vectors.
    """

    def __init__(
        self, ends: Ends, leaves: Sequence[torch.Tensor], batch: int, runs: int, random: torch.Generator
    ) -> None:
        self._ends = ends
        self._leaves = list({id(leaf): leaf for leaf in leaves}.values())
        apart = all(value.dim() and value.shape[0] == batch for values in ends.values() for value in values)
        self._rows = batch if apart else 1
        self._runs = runs
        self._random = random

    @property
    def inputs(self) -> int:
        """Number of inputs that can be told apart on the outputs."""
        return self._rows * self._runs

    def alone(self, seen: Seen | None = None, *, last: bool = False) -> dict[int, float]:
        """Return |sum over inputs of d<u_a, f(x_a)>/dW|^2 / n with a unit vector for each input, by id of the weight.

        That is the mean square of the gradient of one input: products of different inputs average out.
        """
        starts = [
            [self._unit(value, rows) / math.sqrt(rows * len(values)) for value in values]
            for values in self._ends.values()
            for rows in (self._rows if len(values) == self._runs else 1,)
        ]
        return self._squares(starts, seen, last)

    def shared(self, seen: Seen | None = None, *, last: bool = False) -> tuple[dict[int, float], dict[int, float]]:
        """Return the squared gradients of what inputs have in common, and of what tells them apart.

        One unit vector per output is shared by all inputs. The first is |mean over inputs of g_a|^2; the second is
        |sum of s_a g_a|^2 / n for weights s_a of square 1 on average and sum 0, whose expectation is that of
        |g_a|^2 - <g_a, g_b>: the two parts of the tangent kernel (Xiao, Pennington and Schoenholz 2020).
        """
        one = {
            name: self._unit(values[0][:1] if self._rows > 1 else values[0], 1) for name, values in self._ends.items()
        }
        signs = self._signs()
        count = self.inputs
        common = [[one[name].expand_as(value) / self._share(values) for value in values]
                  for name, values in self._ends.items()]  # fmt: skip
        found = self._squares(common, seen, last and count < 2)
        if count < 2:
            return found, {}
        apart = []
        for name, values in self._ends.items():
            if len(values) < self._runs:  # no input moves it
                apart.append([torch.zeros_like(value) for value in values])
                continue
            weights = (signs / math.sqrt(float(signs.square().sum()))).to(values[0].dtype).reshape(self._runs, -1)
            apart.append(
                [
                    one[name] * (own.reshape(-1, *(1,) * (value.dim() - 1)) if self._rows > 1 else own[0])
                    for value, own in zip(values, weights, strict=True)
                ]
            )
        return found, self._squares(apart, None, last)

    def _share(self, values: Sequence[torch.Tensor]) -> int:
        return self.inputs if len(values) == self._runs else self._rows * len(values)

    def _unit(self, like: torch.Tensor, rows: int) -> torch.Tensor:
        """Return random vectors of norm 1, one for each row."""
        if not like.dim():
            return torch.ones_like(like)
        drawn = torch.randn(like.shape, generator=self._random, dtype=torch.float64)
        flat = drawn.reshape(rows, -1)
        size = torch.linalg.vector_norm(flat, dim=1, keepdim=True).clamp(min=1e-30)
        made: torch.Tensor = (flat / size).reshape(like.shape).to(like.dtype)
        return made

    def _signs(self) -> torch.Tensor:
        """Return as many 1 as -1 in random order; an odd one gets 0."""
        half = self.inputs // 2
        signs = torch.cat([torch.ones(half), -torch.ones(half), torch.zeros(self.inputs % 2)]).double()
        return signs[torch.randperm(self.inputs, generator=self._random)]

    def _squares(self, starts: Sequence[Sequence[torch.Tensor]], seen: Seen | None, last: bool) -> dict[int, float]:
        """Go back once; each gradient is measured as soon as it is there, and dropped."""
        out = dict.fromkeys(map(id, self._leaves), 0.0)
        values = [value for own in self._ends.values() for value in own]
        if not values or not self._leaves:
            return out

        def take(leaf: torch.Tensor) -> None:
            if leaf.grad is not None:
                size = norm(leaf.grad)
                out[id(leaf)] = size * size
                if seen is not None:
                    seen(leaf, leaf.grad)
            leaf.grad = None

        with _told(self._leaves, take):
            directions = [direction for own in starts for direction in own]
            torch.autograd.backward(values, directions, retain_graph=not last, inputs=self._leaves)
        return out


@contextmanager
def _told(leaves: Sequence[torch.Tensor], take: Callable[[torch.Tensor], None]) -> Iterator[None]:
    with ExitStack() as stack:
        for leaf in leaves:
            hook: Any = leaf.register_post_accumulate_grad_hook(take)  # type: ignore[no-untyped-call]
            stack.callback(hook.remove)
        yield
