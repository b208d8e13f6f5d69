"""Activations and norms written out in small operations, found by what they do to numbers.

Every elementwise or reducing operation whose only moving input is one value (the root) is evaluated once, on samples of
that root. Where such a region hands its result on, the samples are compared with the table of activations and with the
norms; a match becomes one node. What is no known function of the root is taken apart at the values all paths pass
through, then at sums, and what is left is one node "composite": a nonlinearity without a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from initaudit.activations import identify
from initaudit.graph.evaluate import POINTWISE, REDUCING
from initaudit.graph.gated import gate
from initaudit.graph.masks import choose
from initaudit.graph.numbers import PICKS, Numbers
from initaudit.ops import family
from initaudit.types import Array, Graph, Node

_LONGEST = 160  # operations in a region; no written-out activation or norm is near it
_WHOLE = frozenset({"layer_norm", "rms_norm", "l2_norm", "softmax", "log_softmax"})
_VANISH = PICKS | {"exp", "sigmoid", "relu"}
_KEEPS = frozenset({"identity", "dropout", "cast", "cast_like"})


def _samples() -> Array:
    rng = np.random.default_rng(0)
    cases = [np.linspace(-9.5, 9.7, 64)]
    cases += [rng.standard_normal(64) * scale + shift for scale, shift in ((0.5, 0), (1, 0.3), (2, -1), (4, 2))]
    out: Array = np.stack(cases)
    return out


X = _samples()  # (cases, features)
_Named = tuple[str, Mapping[str, Any]] | None
_CENTRED = X - X.mean(1, keepdims=True)


@dataclass(frozen=True, slots=True)
class _Known:
    """A value as a function of a root, on samples."""

    root: str
    samples: Array
    axes: tuple[int, ...] | None  # the axes reduced on the way
    depth: int


def fuse(graph: Graph) -> Graph:
    """Return the graph with written-out activations and norms as single nodes; nothing else changes."""
    with np.errstate(all="ignore"):
        return gate(_Fuser(choose(graph)).run())


class _Fuser:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.numbers = Numbers(graph)
        self.known: dict[str, _Known] = {}
        self.producer: dict[str, int] = {}
        self.made: dict[int, Node] = {}
        self.settled: set[str] = set()
        self.handed_on: frozenset[str] = frozenset()
        self.names: dict[bytes, _Named] = {}

    def run(self) -> Graph:
        nodes = self.graph.nodes
        for index, node in enumerate(nodes):
            for name in node.outputs:
                self.producer[name] = index
            self._evaluate(node)
        if not self.known:
            return self.graph
        order = self._handed_on()
        self.handed_on = frozenset(order)
        for name in order:
            self._explain(name)
        return self._rebuilt()

    # ---- evaluation

    def _evaluate(self, node: Node) -> None:
        reduces = node.op in REDUCING
        if self.numbers.learn(node) or (not reduces and node.op not in POINTWISE):
            return
        if len(node.outputs) != 1 and node.op != "dropout":
            return
        if node.op in ("cast", "cast_like") and not _to_float(node) and not self._truth(node.inputs[0]):
            return
        names = node.inputs[:1] if node.op in _KEEPS else node.inputs
        axes: tuple[int, ...] | None = None
        if reduces:
            names = node.inputs[:1]
            axes = self._axes(node)
            if axes is None:
                return
        root, moving, depth = "", False, 0
        values: list[Array] = []
        for name in names:
            if not name:
                values.append(np.zeros(0))
                continue
            constant = self.numbers.operand(node, name)
            if constant is not None:
                values.append(constant)
                continue
            if name in self.graph.constants:
                return
            known = self.known.get(name)
            if known is None or known.depth >= _LONGEST or (known.axes and axes and known.axes != axes):
                known = _Known(name, X, None, 0)
            if reduces and known.samples.shape[1] == 1:
                known = _Known(name, X, None, 0)
            if root and known.root != root:
                return
            if known.axes is not None:
                if axes is not None and axes != known.axes:
                    return
                axes = known.axes
            root, moving, depth = known.root, True, max(depth, known.depth)
            values.append(known.samples)
        if not moving and (reduces or not values or any(v.size != 1 for v in values)):
            return
        try:
            out = REDUCING[node.op](values[0]) if reduces else POINTWISE[node.op](values, node.attrs)
        except (IndexError, TypeError, ValueError):  # constants of a kind the operation does not take
            return
        if not moving:
            self.numbers[node.outputs[0]] = np.asarray(out)
        elif out.ndim == 2:
            self.known[node.outputs[0]] = _Known(root, np.asarray(out, np.float64), axes, depth + 1)

    def _truth(self, name: str) -> bool:
        """Whether a value is zero or one, as the result of a comparison is, which no cast changes."""
        known = self.known.get(name)
        return known is not None and bool(np.isin(known.samples, (0, 1)).all())

    def _axes(self, node: Node) -> tuple[int, ...] | None:
        if not node.attrs.get("keepdims", 1):
            return None
        axes = node.attrs.get("axes", node.attrs.get("dim"))
        if axes is None and len(node.inputs) > 1 and node.inputs[1]:
            tensor = self.graph.constants.get(node.inputs[1])
            axes = None if tensor is None or tensor.size > 8 else np.asarray(tensor.load()).ravel().astype(int).tolist()
        if isinstance(axes, int):
            axes = (axes,)
        if not axes:
            return None
        rank = len(self.graph.shapes.get(node.inputs[0]) or ())
        if not isinstance(axes, (tuple, list)) or not all(isinstance(a, int) for a in axes):
            return None
        return tuple(sorted(a - rank if rank and a >= 0 else a for a in axes))

    # ---- naming

    def _handed_on(self) -> list[str]:
        """Return the values of regions that something outside their region reads, in execution order."""
        out: dict[str, None] = {name: None for name in self.graph.outputs if name in self.known}
        for node in self.graph.nodes:
            result = self.known.get(node.outputs[0]) if node.outputs else None
            for name in node.inputs:
                known = self.known.get(name)
                if known is not None and (result is None or result.root != known.root):
                    out[name] = None
        return sorted(out, key=lambda name: self.producer[name])

    def _explain(self, name: str) -> None:
        """Replace what makes `name` by named nodes as far as it goes."""
        todo = [name]
        while todo:
            name = todo.pop()
            if name in self.settled or name not in self.known:
                continue
            self.settled.add(name)
            root = self.known[name].root
            samples = self.known[name].samples
            node = self.graph.nodes[self.producer[name]]
            if node.op in _KEEPS and node.inputs[0] in self.handed_on:  # a copy of what is named itself
                todo.append(node.inputs[0])
                continue
            if samples.shape[1] == 1:  # a reduction: its argument may hold something
                if node.op in REDUCING or node.op in _KEEPS:
                    todo.append(node.inputs[0])
                else:
                    todo += [i for i in node.inputs if i in self.known and self.known[i].root == root]
                continue
            if _affine(samples) or (node.inputs[0] == root and family(node.op) == "activation"):
                self._name(name, root, samples)
                continue
            if self._name(name, root, samples):
                continue
            if self._through_a_waist(name, root, todo):
                continue
            inner = [i for i in node.inputs if i in self.known and self.known[i].root == root]
            reduced = any(self.known[i].samples.shape[1] == 1 for i in inner)
            if node.op in ("add", "sub", "sum", *_KEEPS) or (node.op in ("mul", "div") and reduced):
                todo += inner
            else:
                self.made[self.producer[name]] = Node("composite", (root,), (name,), name=node.name)

    def _name(self, name: str, root: str, samples: Array) -> bool:
        if _affine(samples):
            return True
        found = self._identified(samples, [root, *(v for v in self._cone(name, root) if v != root)])
        node = self.graph.nodes[self.producer[name]]
        if found is not None and "scale" in found[1] and node.op in ("add", "sub") and root in node.inputs:
            return False  # x + relu(x) is twice a leaky_relu, and yet a residual
        if found is not None:
            self._replace(name, root, found)
        return found is not None

    def _replace(self, name: str, root: str, found: tuple[str, Mapping[str, Any]]) -> None:
        """Make `name` the output of one node that reads `root`."""
        index = self.producer[name]
        node = self.graph.nodes[index]
        if node.op == found[0] and node.inputs[0] == root and family(node.op) != "elementwise":
            return
        axes = self.known[name].axes
        attrs = {**node.attrs, "fused": True, **found[1], **({"axes": axes} if axes else {})}
        self.made[index] = Node(found[0], (root,), (name,), attrs, node.name)

    def _identified(self, samples: Array, cone: list[str]) -> _Named:
        """Return the known function that leads from the first value of a cone to the last, with its parameters."""
        key = np.round(samples, 5).tobytes()
        if key not in self.names:
            found: _Named = None
            if samples.shape == X.shape and np.isfinite(samples).all():
                norm = _norm(samples)
                if norm is not None:
                    found = (norm, {})
                elif self.known[cone[-1]].axes is None:
                    found = identify(lambda x: self._along(cone, x))
            self.names[key] = found
        return self.names[key]

    def _along(self, cone: list[str], x: Array) -> Array:
        out = self._replay(cone, x)
        return np.full_like(x, np.nan) if out is None else np.broadcast_to(out, x.shape)

    def _waists(self, cone: list[str]) -> list[int]:
        """Return the places in a cone that all paths from its root pass through, first to last."""
        place = {value: k for k, value in enumerate(cone)}
        earliest = len(cone)
        waists: list[int] = []
        for k in range(len(cone) - 1, 0, -1):
            for i in self.graph.nodes[self.producer[cone[k]]].inputs:
                if i in place:
                    earliest = min(earliest, place[i])
            if earliest >= k - 1 and k > 1:
                waists.append(k - 1)
            if earliest == 0:
                break
        return [k for k in reversed(waists) if self.known[cone[k]].samples.shape[1] > 1]

    def _through_a_waist(self, name: str, root: str, todo: list[str]) -> bool:
        """Find a value all paths from the root pass through, after or before which all is a known function of it."""
        cone = [root, *(v for v in self._cone(name, root) if v != root)]
        waists = self._waists(cone)
        if self._scaled(cone, waists):
            return True
        for k in waists:
            samples = self._replay(cone[k:], X)
            if samples is None or samples.shape != X.shape:
                continue
            if not _affine(samples):
                found = self._identified(samples, cone[k:])
                if found is None:
                    continue
                self._replace(name, cone[k], found)
            todo.append(cone[k])
            return True
        return False

    def _scaled(self, cone: list[str], waists: list[int]) -> bool:
        """Name a function whose argument or result is scaled and shifted by single numbers, learned ones perhaps."""
        ends = [k for k in waists if self._rest_is_affine(cone[k:])] + [len(cone) - 1]
        starts = [0] + [k for k in waists if _affine(self.known[cone[k]].samples)]
        second: tuple[int, int, tuple[str, Mapping[str, Any]]] | None = None
        for start, end in [(s, e) for s in starts for e in ends if s < e and (s, e) != (0, len(cone) - 1)]:
            part = cone[start : end + 1]
            samples = self._replay(part, X)
            if samples is None or samples.shape != X.shape or _affine(samples):
                continue
            found = self._identified(samples, part)
            if found is None or (found[0] in _WHOLE and start):
                continue
            node = self.graph.nodes[self.producer[cone[end]]]
            if "scale" not in found[1]:
                self._replace(cone[end], cone[start], found)
                self.settled.add(cone[end])
                return True
            if not (node.op in ("add", "sub") and cone[start] in node.inputs):
                second = second or (start, end, found)
        if second is None:
            return False
        start, end, found = second
        self._replace(cone[end], cone[start], found)
        self.settled.add(cone[end])
        return True

    def _rest_is_affine(self, cone: list[str]) -> bool:
        samples = self._replay(cone, X)
        return samples is not None and samples.shape == X.shape and _affine(samples)

    def _cone(self, name: str, root: str) -> list[str]:
        """Return the values between root and `name`, in execution order, the last being `name`."""
        seen = {name}
        todo = [name]
        while todo:
            for i in self.graph.nodes[self.producer[todo.pop()]].inputs:
                known = self.known.get(i)
                if i not in seen and known is not None and known.root == root:
                    seen.add(i)
                    todo.append(i)
        return sorted(seen, key=lambda value: self.producer[value])

    def _replay(self, cone: list[str], x: Array) -> Array | None:
        """Return the last value of the cone as a function of the first, at `x`."""
        values: dict[str, Array] = {cone[0]: x}
        for name in cone[1:]:
            node = self.graph.nodes[self.producer[name]]
            names = node.inputs[:1] if node.op in _KEEPS or node.op in REDUCING else node.inputs
            arguments: list[Array] = []
            for i in names:
                constant = values[i] if i in values else (self.numbers.operand(node, i) if i else np.zeros(0))
                if constant is None:
                    return None
                arguments.append(constant)
            if node.op in REDUCING and arguments[0].shape[1:] in ((), (1,)):
                return None
            out = REDUCING[node.op](arguments[0]) if node.op in REDUCING else POINTWISE[node.op](arguments, node.attrs)
            values[name] = np.asarray(out, np.float64)
        return values[cone[-1]]

    def _same(self, node: Node) -> str:
        """Return the input that a node hands on as it is, as a bound beyond all values does, "" where it does not."""
        known = self.known.get(node.outputs[0])
        for name in node.inputs if known is not None else ():
            before = self.known.get(name)
            samples = X if known is not None and name == known.root else before.samples if before is not None else None
            if known is not None and samples is not None and np.array_equal(samples, known.samples):
                return name
        return ""

    # ---- the result

    def _rebuilt(self) -> Graph:
        nodes = list(self.graph.nodes)
        for index, node in enumerate(nodes):
            if index in self.made or not node.outputs or node.outputs[0] not in self.known:
                continue
            samples = self.known[node.outputs[0]].samples
            if node.op in PICKS and (same := self._same(node)):
                self.made[index] = Node("identity", (same,), node.outputs, {}, node.name)
            elif node.op in _VANISH and np.ptp(samples) == 0:  # exp(x - 1e38): nothing of x is left
                self.made[index] = replace(node, attrs={**node.attrs, "constant": True})
        if not self.made:
            return self.graph
        for index, node in self.made.items():
            nodes[index] = node
        needed = set(self.graph.outputs)
        kept: list[Node] = []
        for node in reversed(nodes):
            if any(o in needed for o in node.outputs) or not any(o in self.known for o in node.outputs):
                kept.append(node)
                needed.update(node.inputs)
        return replace(self.graph, nodes=tuple(reversed(kept)))


def _to_float(node: Node) -> bool:
    """Whether a cast keeps real numbers as they are (an unknown target does)."""
    target = node.attrs.get("to", node.attrs.get("dtype"))
    if isinstance(target, int):
        return target in (1, 10, 11, 16, 17, 18, 19, 20)  # TensorProto: float, float16, double, bfloat16, float8
    return not isinstance(target, str) or "float" in target.lower()


def _affine(y: Array) -> bool:
    """Whether y = a x + b with one a and b for all samples."""
    x = X.ravel()
    flat = np.broadcast_to(y, X.shape).ravel().astype(np.float64)
    slope = (flat[63] - flat[0]) / (x[63] - x[0])
    rest = flat - slope * x
    return bool(np.ptp(rest) <= 1e-5 * (1 + np.abs(flat).max())) if np.isfinite(rest).all() else False


def _norm(y: Array) -> str | None:
    """Return which normalisation over the features `y` is of the samples, if any.

    A norm does not see the scale of a case: its output is the (centred) case times a factor, and factor times spread is
    the same number for all cases, whatever epsilon is.
    """
    for name, basis in (("layer_norm", _CENTRED), ("rms_norm", X)):
        factor = (y * basis).sum(1) / np.square(basis).sum(1)
        spread = np.sqrt(np.square(basis).mean(1))
        total = factor * spread
        if abs(total[0]) > 1e-6 and np.ptp(total) <= 1e-2 * abs(total.mean()):
            rest = y - factor[:, None] * basis
            if np.abs(rest).max() <= 1e-3 * np.abs(y).max():
                return name if name == "layer_norm" or abs(total.mean() - 1) < 0.05 else "l2_norm"
    shifted = np.exp(X - X.max(1, keepdims=True))
    softmax = shifted / shifted.sum(1, keepdims=True)
    if np.allclose(y, softmax, rtol=1e-4, atol=1e-7):
        return "softmax"
    if np.allclose(y, np.log(softmax), rtol=1e-4, atol=1e-5):
        return "log_softmax"
    return None
