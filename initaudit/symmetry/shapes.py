"""Shapes that a graph does not say, worked out from those of its inputs and constants.

Some exporters write none, and compute shapes in the graph itself: whole numbers are followed too, where they are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from initaudit.ops import family
from initaudit.types import Array, Graph, Node, Tensor

_FEW = 4096
_OPEN = {0: 2}  # extents that a graph leaves open: inputs of a batch; the rest are lengths
_LENGTH = 8
_SAME = frozenset({
    "identity", "dropout", "cast", "cast_like", "cumsum", "cumprod", "trilu", "roll", "contiguous", "rotary_embedding",
})  # fmt: skip
Shape = tuple[int, ...]


def shaped(graph: Graph) -> Graph:
    """Return the graph with the shapes of all values that can be told, and whole numbers worked out."""
    told = {name: _whole(shape) for name, shape in graph.shapes.items()}
    if all(told.get(name) is not None for node in graph.nodes for name in node.outputs if name):
        return graph
    inputs = {
        name: None
        if shape is None
        else tuple(n if n is not None else _OPEN.get(k, _LENGTH) for k, n in enumerate(shape))
        for name, shape in graph.inputs.items()
    }
    found = _Finder(graph, {name: shape for name, shape in (*told.items(), *inputs.items()) if shape is not None})
    for node in graph.nodes:
        found.visit(node)
    known = {
        name: Tensor(name, value.shape, "int64", partial(np.asarray, value), buffer=True)
        for name, value in found.values.items()
        if name not in graph.constants and name not in graph.outputs and value.dtype.kind in "iub"
    }
    nodes = tuple(node for node in graph.nodes if not all(name in known for name in node.outputs))
    shapes = {**graph.shapes, **found.shapes}
    return replace(graph, nodes=nodes, inputs=inputs, shapes=shapes, constants={**graph.constants, **known})


def _whole(shape: Sequence[int | None] | None) -> Shape | None:
    return None if shape is None or any(n is None for n in shape) else tuple(int(n or 0) for n in shape)


class _Finder:
    def __init__(self, graph: Graph, shapes: dict[str, Shape]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.values: dict[str, Array] = {}

    def shape(self, name: str) -> Shape:
        """Return a known shape. Raises KeyError."""
        tensor = self.graph.constants.get(name)
        return tensor.shape if tensor is not None else self.shapes[name]

    def value(self, name: str) -> Array:
        """Return known small values. Raises KeyError."""
        if name not in self.values:
            tensor = self.graph.constants[name]
            if tensor.size > _FEW:
                raise KeyError
            self.values[name] = np.asarray(tensor.load()).reshape(tensor.shape)
        return self.values[name]

    def visit(self, node: Node) -> None:
        """Work out the outputs of a node."""
        try:
            made = _value(node, self)
            if made is not None and made.size <= _FEW:
                self.values[node.outputs[0]] = made
                self.shapes.setdefault(node.outputs[0], made.shape)
        except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError):
            pass
        if all(not name or name in self.shapes for name in node.outputs):
            return
        try:
            shapes = _shapes(node, self)
        except (KeyError, ValueError, TypeError, IndexError, ZeroDivisionError):
            return
        for name, shape in zip(node.outputs, shapes, strict=False):
            if name and name not in self.shapes:
                self.shapes[name] = tuple(int(n) for n in shape)


# ---- whole numbers


def _value(node: Node, f: _Finder) -> Array | None:
    """Return the values of a node's first output, where they are few and known; None where this op is not followed."""
    op, a = node.op, node.attrs
    if op == "shape":
        return np.asarray(f.shape(node.inputs[0])[a.get("start", 0) : a.get("end")], np.int64)
    rule = _ARITHMETIC.get(op)
    if rule is not None:
        return np.asarray(rule(*(f.value(name) for name in node.inputs)))
    if op in ("identity", "cast", "cast_like", "dropout"):
        return f.value(node.inputs[0])
    if op == "concat" and "new_axis" not in a:
        return np.concatenate([f.value(name) for name in node.inputs], a.get("axis", 0))
    if op == "gather":
        return np.take(f.value(node.inputs[0]), f.value(node.inputs[1]), a.get("axis", 0))
    if op == "constant_of_shape":
        fill = a.get("value", 0)
        return np.full(f.value(node.inputs[0]).tolist(), fill if isinstance(fill, (int, float)) else 0)
    if op == "range":
        return np.arange(*(f.value(name).item() for name in node.inputs))
    if op in ("unsqueeze", "squeeze", "reshape", "slice", "expand", "reduce_prod"):
        values = f.value(node.inputs[0])
        if op == "reduce_prod":
            return np.asarray(values.prod())
        if op == "slice":
            return np.asarray(values[_cuts(node, f, values.shape)])
        return np.broadcast_to(values, _moved(node, f)) if op == "expand" else values.reshape(_moved(node, f))
    return None


def _over(a: Array, b: Array) -> Array:
    return np.asarray(a // b if a.dtype.kind in "iu" and b.dtype.kind in "iu" else a / b)


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": _over, "equal": np.equal, "where": np.where,
    "neg": np.negative, "mod": np.mod, "min": np.minimum, "max": np.maximum, "floor": np.floor,
    "ceil": np.ceil, "sqrt": np.sqrt,
}  # fmt: skip


# ---- shapes


def _ints(node: Node, f: _Finder, place: int, *names: str) -> list[int] | None:
    for name in names:
        given = node.attrs.get(name)
        if isinstance(given, int):
            return [given]
        if isinstance(given, (tuple, list)) and all(isinstance(n, int) for n in given):
            return list(given)
    if 0 <= place < len(node.inputs) and node.inputs[place]:
        return [int(n) for n in f.value(node.inputs[place]).ravel()]
    return None


def _cuts(node: Node, f: _Finder, shape: Shape) -> tuple[slice, ...]:
    starts, ends = _ints(node, f, 1, "starts"), _ints(node, f, 2, "ends")
    if starts is None or ends is None:
        raise KeyError
    axes = _ints(node, f, 3, "axes") or list(range(len(starts)))
    steps = _ints(node, f, 4, "steps") or [1] * len(starts)
    out = [slice(None)] * len(shape)
    for a, start, end, step in zip(axes, starts, ends, steps, strict=True):
        out[a % len(shape)] = slice(start, None if step < 0 and end < -shape[a % len(shape)] else end, step)
    return tuple(out)


def _moved(node: Node, f: _Finder) -> Shape:
    """Return the shape after a reshape, squeeze, unsqueeze, flatten or expand."""
    before = f.shape(node.inputs[0])
    rank = len(before)
    if node.op == "flatten":
        axis = node.attrs.get("axis", 1)
        return math.prod(before[:axis]), math.prod(before[axis:])
    if node.op == "squeeze":
        axes = _ints(node, f, 1, "axes")
        gone = {a % rank for a in axes} if axes else set(range(rank))
        return tuple(n for a, n in enumerate(before) if n != 1 or a not in gone)
    if node.op == "unsqueeze":
        given = _ints(node, f, 1, "axes") or []
        new = {a % (rank + len(given)) for a in given}
        rest = iter(before)
        return tuple(1 if a in new else next(rest) for a in range(rank + len(given)))
    wanted = _ints(node, f, 1, "shape")
    if wanted is None:
        raise KeyError
    if node.op == "expand":
        return tuple(np.broadcast_shapes(before, tuple(wanted)))
    out = [before[k] if n == 0 and k < rank else n for k, n in enumerate(wanted)]
    if -1 in out:
        out[out.index(-1)] = math.prod(before) // math.prod(n for n in out if n != -1)
    return tuple(out)


def _windows(node: Node, ins: Shape, kernel: Sequence[int], turned: bool) -> list[int]:
    def each(name: str, usual: int) -> list[int]:
        given = node.attrs.get(name, usual)
        return [given] * len(ins) if isinstance(given, int) else list(given)

    strides, dilations, pads = each("strides", 1), each("dilations", 1), each("pads", 0)
    if node.attrs.get("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET", ""):
        raise KeyError
    if len(pads) == len(ins):
        pads = [*pads, *pads]
    extra = each("output_padding", 0)
    out = []
    for k, n in enumerate(ins):
        wide = dilations[k] * (kernel[k] - 1) + 1
        pad = pads[k] + pads[k + len(ins)]
        if turned:
            out.append((n - 1) * strides[k] - pad + wide + extra[k])
        else:
            whole = (n + pad - wide) / strides[k]
            out.append((math.ceil(whole) if node.attrs.get("ceil_mode") else math.floor(whole)) + 1)
    return out


def _shapes(node: Node, f: _Finder) -> list[Shape]:  # noqa: PLR0915  a list of operations
    op, a = node.op, node.attrs
    shape = f.shape(node.inputs[0]) if node.inputs and node.inputs[0] else ()
    kind = family(op)
    if op in ("linear", "gemm", "matmul"):
        return [_product(node, shape, f.shape(node.inputs[1]))]
    if op == "attention" and "num_heads" not in a:
        value = f.shape(node.inputs[2])
        wide = value[-1] if len(shape) == 4 else value[-1] // int(a["kv_num_heads"]) * int(a["q_num_heads"])
        return [(*shape[:-1], wide)]
    if op == "einsum":
        return [_einsum(str(a.get("equation", "")), [f.shape(name) for name in node.inputs])]
    if op in ("conv", "conv_transpose"):
        weight = f.shape(node.inputs[1])
        turned = op == "conv_transpose"
        units = weight[1] * int(a.get("group", 1)) if turned else weight[0]
        return [(shape[0], units, *_windows(node, shape[2:], weight[2:], turned))]
    if op in ("max_pool", "average_pool"):
        kernel = _ints(node, f, -1, "kernel_shape") or []
        return [(*shape[:2], *_windows(node, shape[2:], kernel, turned=False))]
    if op in ("global_average_pool", "global_max_pool"):
        return [(*shape[:2], *[1] * (len(shape) - 2))]
    if op in ("reshape", "flatten", "squeeze", "unsqueeze", "expand"):
        return [_moved(node, f)]
    if op == "pad":
        return [_padded(node, f, shape)]
    if op in ("resize", "upsample"):
        return [_resized(node, f, shape)]
    if op == "tile":
        return [tuple(n * k for n, k in zip(shape, _ints(node, f, 1, "repeats") or [], strict=True))]
    if op in ("depth_to_space", "space_to_depth"):
        (n, ch, h, w), k = shape, int(a["blocksize"])
        return [(n, ch // k**2, h * k, w * k) if op == "depth_to_space" else (n, ch * k**2, h // k, w // k)]
    if op == "transpose":
        return [tuple(shape[k] for k in a.get("perm", range(len(shape))[::-1]))]
    if op == "concat":
        axis = a.get("axis", 0) % len(shape)
        return [(*shape[:axis], sum(f.shape(name)[axis] for name in node.inputs), *shape[axis + 1 :])]
    if op == "split":
        axis, count = a.get("axis", 0) % len(shape), len(node.outputs)
        sizes = _ints(node, f, 1, "split") or [-(-shape[axis] // count)] * count
        return [(*shape[:axis], n, *shape[axis + 1 :]) for n in sizes]
    if op == "slice" and "index" not in a:
        return [tuple(len(range(*cut.indices(n))) for cut, n in zip(_cuts(node, f, shape), shape, strict=True))]
    if op == "gather":
        axis = a.get("axis", 0) % len(shape)
        return [(*shape[:axis], *f.shape(node.inputs[1]), *shape[axis + 1 :])]
    if op == "gather_elements":
        return [f.shape(node.inputs[1])]
    if op in ("scatter_elements", "scatter_nd", "scatter"):
        return [shape]
    if op == "gather_nd" and "index" not in a:
        ids, deep = f.shape(node.inputs[1]), int(a.get("batch_dims", 0))
        return [(*ids[:-1], *shape[deep + ids[-1] :])]
    if op == "one_hot":
        axis, depth = int(a.get("axis", -1)), int(f.value(node.inputs[1]).ravel()[0])
        axis %= len(shape) + 1
        return [(*shape[:axis], depth, *shape[axis:])]
    if op == "top_k":
        axis, counts = int(a.get("axis", -1)) % len(shape), _ints(node, f, 1, "k") or []
        return [(*shape[:axis], *counts, *shape[axis + 1 :])] * len(node.outputs)
    if op in ("arg_max", "arg_min"):
        axis = int(a.get("axis", 0)) % len(shape)
        return [(*shape[:axis], *[1] * bool(a.get("keepdims", 1)), *shape[axis + 1 :])]
    if op == "embedding":
        return [(*f.shape(node.inputs[1]), shape[1])]
    if op in ("lstm", "gru", "rnn") and a.get("layout") != "torch":
        ways, hidden = f.shape(node.inputs[2])[0], f.shape(node.inputs[2])[2]
        return [(shape[0], ways, shape[1], hidden), *[(ways, shape[1], hidden)] * 2]
    if kind == "reduce" and op not in _SAME:
        axes = _ints(node, f, 1, "axes", "dim") or list(range(len(shape)))
        over = {k % len(shape) for k in axes}
        keep = bool(a.get("keepdims", 1))
        return [tuple(1 if k in over else n for k, n in enumerate(shape) if keep or k not in over)]
    if op == "shape":
        return [(len(shape),)]
    if op in ("prelu", "leaky_relu", *_SAME) or kind in ("activation", "norm", "softmax"):
        return [shape] * (1 if kind == "norm" else len(node.outputs))
    if kind == "elementwise":
        return [tuple(np.broadcast_shapes(*(f.shape(name) for name in node.inputs if name)))]
    raise KeyError


def _product(node: Node, a: Shape, b: Shape) -> Shape:
    if node.op == "linear":
        return (*a[:-1], b[0])
    if node.op == "gemm":
        return (a[1] if node.attrs.get("transA") else a[0], b[0] if node.attrs.get("transB") else b[1])
    lead = np.broadcast_shapes(a[:-2], b[:-2])
    return (*lead, *(a[-2:-1] if len(a) > 1 else ()), *(b[-1:] if len(b) > 1 else ()))


def _padded(node: Node, f: _Finder, shape: Shape) -> Shape:
    pads = _ints(node, f, 1, "pads")
    if pads is None:
        raise KeyError
    axes = [k % len(shape) for k in _ints(node, f, 3) or range(len(shape))]
    out = list(shape)
    for k, axis in enumerate(axes):
        out[axis] += pads[k] + pads[k + len(axes)]
    return tuple(out)


def _resized(node: Node, f: _Finder, shape: Shape) -> Shape:
    if len(node.inputs) > 3 and node.inputs[3]:
        sizes = _ints(node, f, 3) or []
        return tuple(sizes) if len(sizes) == len(shape) else (*shape[: len(shape) - len(sizes)], *sizes)
    place = 2 if len(node.inputs) > 2 else 1
    scales = node.attrs.get("scales")
    given = scales if scales is not None else f.value(node.inputs[place]).ravel()
    return tuple(math.floor(n * float(k) + 1e-6) for n, k in zip(shape, given, strict=True))


def _einsum(equation: str, shapes: Sequence[Shape]) -> Shape:
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow or "." in equation:
        raise KeyError
    sizes: dict[str, int] = {}
    for letters, shape in zip(terms, shapes, strict=True):
        for letter, n in zip(letters, shape, strict=True):
            sizes[letter] = max(n, sizes.get(letter, 1))
    return tuple(sizes[letter] for letter in right)
