"""A fixed point of several scales that hang together, found in few steps: Anderson's mixing.

Source: D. G. Anderson, "Iterative procedures for nonlinear integral equations", J. ACM 12 (1965), section 4.
"""

from __future__ import annotations

import numpy as np

from initaudit.types import Array

_DEPTH = 4  # earlier steps that are looked at
_LONGEST = 1.5  # of a step, in the logarithm of a scale
_RIDGE = 1e-6


class Mixing:
    """Steps towards where no further step is wanted."""

    def __init__(self) -> None:
        self._at: list[Array] = []
        self._wish: list[Array] = []

    def step(self, at: Array, wish: Array) -> Array:
        """Return where to go.

        Args:
            at: where we are: logarithms of scales.
            wish: the step that each of them would take by itself.
        """
        if self._wish and np.abs(wish).max() > 2 * np.abs(self._wish[-1]).max():
            self._at, self._wish = [], []
        self._at, self._wish = [*self._at[-_DEPTH:], at], [*self._wish[-_DEPTH:], wish]
        moves = np.diff(np.array(self._at), axis=0).T
        turns = np.diff(np.array(self._wish), axis=0).T
        step = wish
        if turns.shape[1]:
            square = turns.T @ turns
            square += _RIDGE * max(float(np.trace(square)), 1e-300) * np.eye(len(square))
            step = wish - (moves + turns) @ np.linalg.solve(square, turns.T @ wish)
        return np.asarray(at + np.clip(step, -_LONGEST, _LONGEST))
