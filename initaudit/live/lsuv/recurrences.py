"""LSTM, GRU and RNN: each matrix is scaled gate by gate, by its own product; biases play no part.

A product of the input is linear in its weight: one step is exact. The states depend on the recurrent weights, so these
are scaled again until their products are as they should.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch

from initaudit.live.lsuv.mixing import Mixing
from initaudit.live.lsuv.moments import Moments
from initaudit.live.lsuv.owners import owners
from initaudit.live.lsuv.stored import Stored
from initaudit.live.lsuv.sweep import Sweep
from initaudit.live.lsuv.targets import CLOSE, CONSTANT, DEAD, Part, Settings, Target, nothing
from initaudit.live.lsuv.unrolled import Matrix, matrices, products

Key = tuple[int, int]  # place among the targets, part


class Recurrence:
    """Scales the weights of one recurrent node.

    Args:
        sweep: that has just run the node.
        stored: the weights.
        targets: those of this node.
        stop: the node.
        settings: what to reach.
    """

    def __init__(self, sweep: Sweep, stored: Stored, targets: Sequence[Target], stop: int, settings: Settings) -> None:
        self.sweep = sweep
        self.stored = stored
        self.targets = targets
        self.stop = stop
        self.settings = settings
        self.node = sweep.graph.nodes[stop]
        self.matrices = matrices(self.node)
        self._rows: dict[Matrix, list[tuple[Key, torch.Tensor]]] = {}

    def scale(self) -> None:
        """Scale what no earlier use has decided."""
        if not any(one.open for one in self.targets):
            return
        self._find()
        self._settle([m for m in self.matrices if m.which == "ih"])
        self._settle([m for m in self.matrices if m.which != "ih"])
        self._place()
        self.sweep.again(self.stop)

    def sums(self) -> Mapping[Key, Moments]:
        """Return the moments of the products of each part, as the weights are scaled now."""
        self._find()
        return self._sums(self.matrices)

    def _find(self) -> None:
        """Find the rows of each matrix that the parts of the targets make."""
        for at, one in enumerate(self.targets):
            self._rows_of(at, one)

    def _rows_of(self, at: int, one: Target) -> None:
        """Find the rows of each matrix that the parts of a target make."""
        for matrix in self.matrices:

            def made(scales: Sequence[float], matrix: Matrix = matrix) -> list[torch.Tensor]:
                self.stored.place(self.sweep.replace, [one.at], {one.at: one.scaled(list(scales))})
                self.sweep.again(self.stop, fixed=True)
                return [matrix.of(self.sweep.by_run(matrix.operand)[0])]

            base = made([1.0] * len(one.states))
            labels = owners(made, base, len(one.states))
            if labels is None:
                continue
            rows = labels[0].expand(base[0].shape).amax(1)
            for part in range(len(one.states)):
                own = torch.nonzero(rows == part).reshape(-1)
                if own.numel():
                    self._rows.setdefault(matrix, []).append(((at, part), own))
        self._place([one])

    def _settle(self, which: Sequence[Matrix]) -> None:
        """Scale the parts of some matrices until their products are as they should be, or cannot be."""
        direction = {key: m.direction for m in which for key, _ in self._rows.get(m, ())}
        mixing: dict[int, Mixing] = {d: Mixing() for d in direction.values()}
        decided = {key for key in direction if self._state(key).done}
        for tries in range(max(1, self.settings.tmax) + 1):
            self._place()
            wishes = {
                key: wish
                for key, sums in self._sums(which).items()
                if key not in decided and (wish := self._wish(key, sums, tries)) is not None
            }
            close = all(abs(2 * wish) < CLOSE * self.settings.tol for wish in wishes.values())
            if close or tries == self.settings.tmax:
                return
            for d, steps in mixing.items():
                keys = sorted(key for key in wishes if direction[key] == d)
                if keys:
                    at = np.array([math.log(self._state(key).scale) for key in keys])
                    to = steps.step(at, np.array([wishes[key] for key in keys]))
                    for key, value in zip(keys, to, strict=True):
                        self._state(key).scale = math.exp(value)

    def _state(self, key: Key) -> Part:
        return self.targets[key[0]].states[key[1]]

    def _wish(self, key: Key, sums: Moments, tries: int) -> float | None:
        """Note the variance of a part, and return the logarithm of the scale that is missing; None where none helps."""
        state, target = self._state(key), self.settings.target
        if not math.isfinite(sums.aa):
            state.why = "its product is not finite"
            return None
        if not sums.count or nothing(sums):
            state.why = CONSTANT if sums.aa else DEAD
            return None
        # With the steps from a state of zero and without them, the variance is within the tolerance.
        aim = target * math.sqrt(1 - sums.idle / sums.count)
        aim = aim if target - aim < 0.7 * self.settings.tol else target
        state.variance, state.tries, state.done, state.why = sums.product, tries, True, ""
        return math.log(aim / sums.product) / 2

    def _place(self, targets: Sequence[Target] | None = None) -> None:
        for one in targets or self.targets:
            self.stored.values[one.at] = one.values()
        self.stored.place(self.sweep.replace, [one.at for one in targets or self.targets])
        self.sweep.again(self.stop, fixed=True)

    def _sums(self, which: Sequence[Matrix]) -> Mapping[Key, Moments]:
        """Return the sums over the products of each part, of all runs."""
        out: dict[Key, Moments] = {}
        inner = any(m.which != "ih" for m in which)
        made = self.sweep.made_by(self.stop) if inner else [[] for _ in range(self.sweep.runs)]
        for run, own in enumerate(made):
            for matrix in which:
                if matrix not in self._rows:
                    continue
                values = products(self.node, matrix, partial(self.sweep.of_run, run), own).double()
                flat = values.reshape(-1, values.shape[-1])
                total, square = flat.sum(0), flat.square().sum(0)
                idle = float((flat == 0).all(1).sum()) if matrix.which == "hh" else 0.0
                for key, rows in self._rows[matrix]:
                    sums = out.setdefault(key, Moments())
                    sums.count += len(flat) * len(rows)
                    sums.idle += idle * len(rows)
                    sums.a += float(total[rows].sum())
                    sums.aa += float(square[rows].sum())
        return out
