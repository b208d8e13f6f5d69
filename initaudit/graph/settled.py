"""Spectral norm as it is in training: the vectors that it estimates the norm with, turned towards the right ones.

Every forward pass of training turns them once. Before the first they may be random, and what is divided by their
estimate is then many times too large: that is not the signal of training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np

from initaudit.graph.view import View
from initaudit.types import Array, Graph, Tensor

_TURNS = 15  # what torch.nn.utils.parametrizations.spectral_norm does when it is put on


def settled(graph: Graph) -> Graph:
    """Return the graph with settled vectors in every product u' W v of constants; the same graph where it has none."""
    view = View(graph)
    made: dict[str, Tensor] = {}
    for node in graph.nodes:
        if node.op != "matmul" or len(node.inputs) != 2:
            continue
        u, inner = (graph.constants.get(node.inputs[0]), view.producer.get(node.inputs[1]))
        if u is None or inner is None or graph.nodes[inner].op != "matmul":
            continue
        held, right = graph.nodes[inner].inputs[:2]
        w, v = view.oriented(held), graph.constants.get(right)
        if held not in view.fixed or w is None or v is None or w.shape != (u.size, v.size):
            continue
        if (len(u.shape), len(v.shape)) == (1, 1) and all(t.is_float for t in (u, v, w)):
            pair = _pair(w, u)
            made[node.inputs[0]] = replace(u, load=_part(pair, 0, u), storage="", offset=0)
            made[right] = replace(v, load=_part(pair, 1, v), storage="", offset=0)
    return replace(graph, constants={**graph.constants, **made}) if made else graph


def _pair(w: Tensor, u: Tensor) -> Callable[[], tuple[Array, Array]]:
    @cache
    def turned() -> tuple[Array, Array]:
        matrix, left = w.load().astype(np.float64), u.load().astype(np.float64)
        for _ in range(_TURNS):
            right = _unit(matrix.T @ left)
            left = _unit(matrix @ right)
        return left, right

    return turned


def _part(pair: Callable[[], tuple[Array, Array]], at: int, like: Tensor) -> Callable[[], Array]:
    return lambda: np.asarray(pair()[at].astype(like.load().dtype))


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))
