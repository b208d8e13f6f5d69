"""Which node uses which constant as a weight: one row per weighted op."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from initaudit.graph.view import View
from initaudit.types import Array, Node, Role, Tensor

_THROUGH = frozenset({"cast", "identity", "dropout", "cast_like"})
_RESHAPES = _THROUGH | {"reshape", "flatten", "transpose", "squeeze", "unsqueeze", "view", "contiguous"}


@dataclass(slots=True)
class Found:
    """A weight in use, while it is being read."""

    node: int
    kind: str
    weight: Tensor
    axes: str
    source: str  # the activation that goes in
    out: str  # the value that comes out, bias included
    bias: Tensor | None = None
    extra: tuple[Tensor, ...] = ()
    groups: int = 1
    parts: tuple[str, ...] = ()
    stride: tuple[int, ...] = ()
    role: Role | None = None
    activation: str | None = None  # where the op itself applies one
    suffix: str = ""  # tells several weights of one node apart
    sure: bool = True
    reasons: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)  # names of constants it accounts for


def weights(view: View) -> Iterator[Found]:
    """Yield every weight of a weighted op, norm or learned slope, in execution order."""
    for index, node in enumerate(view.nodes):
        reader = READERS.get(node.op)
        if reader is not None:
            yield from reader(view, index, node)


# ---- what several ops share


def learned(view: View, name: str) -> Tensor | None:
    """Return the float constant behind a value, if it is more than one number."""
    tensor = view.constant(name)
    return tensor if tensor is not None and tensor.is_float and tensor.size > 0 else None


def computed(view: View, name: str) -> tuple[Tensor, tuple[Tensor, ...]] | None:
    """Return the largest float constant a fixed value is computed from, and the others."""
    if name not in view.fixed:
        return None
    found: dict[str, Tensor] = {}
    seen, todo = {name}, [name]
    while todo and len(seen) < 200:
        at = todo.pop()
        tensor = view.graph.constants.get(at)
        if tensor is not None:
            if tensor.is_float and tensor.size > 1:
                found[at] = tensor
            continue
        if at not in view.producer or view.nodes[view.producer[at]].op in ("shape", "size"):
            continue
        for i in view.nodes[view.producer[at]].inputs:
            if i and i not in seen:
                seen.add(i)
                todo.append(i)
    if not found:
        return None
    first, *rest = sorted(found.values(), key=lambda t: -t.size)
    return first, tuple(rest)


def _weight(view: View, name: str, rank: int) -> tuple[Tensor, tuple[Tensor, ...], list[str]] | None:
    """Return a weight of at least `rank` axes, what it is computed from besides, and why."""
    tensor = learned(view, name)
    if tensor is not None:
        return (tensor, (), []) if len(tensor.shape) >= rank else None
    made = computed(view, name)
    if made is None or len(made[0].shape) < rank:
        return None
    return made[0], made[1], ["the operator's weight is computed from this tensor"]


def vector(tensor: Tensor | None, size: int, shape_from_right: int = 0) -> bool:
    """Whether a constant holds `size` numbers along one axis, `shape_from_right` axes from the last."""
    if tensor is None or not tensor.is_float or tensor.size != size:
        return False
    if len(tensor.shape) <= 1:
        return shape_from_right == 0 or size == 1
    place = len(tensor.shape) - 1 - shape_from_right
    return place >= 0 and tensor.shape[place] == size


def follow(view: View, name: str, ops: frozenset[str]) -> str:
    """Return the value at the end of a chain of single readers of these ops."""
    while name not in view.outputs:
        readers = view.readers(name)
        if len(readers) != 1 or readers[0].position != 0 or view.nodes[readers[0].node].op not in ops:
            break
        name = view.nodes[readers[0].node].outputs[0]
    return name


def _with_bias(view: View, found: Found, size: int, from_right: int, through: frozenset[str] = _THROUGH) -> Found:
    """Add the vector that the only reader of the output adds, if it is one."""
    if found.bias is not None:
        return found
    end = follow(view, found.out, through)
    for at in dict.fromkeys((found.out, end)):
        readers = view.readers(at)
        if len(readers) != 1 or at in view.outputs:
            continue
        node = view.nodes[readers[0].node]
        if node.op in ("add", "bias_gelu", "bias_split_gelu", "fast_gelu") and len(node.inputs) == 2:
            bias = view.constant(node.inputs[1 - readers[0].position])
            if vector(bias, size, from_right):
                assert bias is not None
                found.bias = bias
                if node.op == "add":
                    found.out = node.outputs[0]
                return found
    return found


def scaled(weight: Tensor, scale: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Return a quantised tensor as the real numbers it stands for."""

    def spread(values: Array, rank: int) -> Array:
        if values.size == 1:
            return values.reshape(())
        shape = [1] * rank
        shape[axis if axis >= 0 else axis + rank] = values.size
        return values.reshape(shape)

    def load() -> Array:
        values = np.asarray(weight.load()).astype(np.float32)
        if zero is not None:
            values = values - spread(np.asarray(zero.load()).astype(np.float32), values.ndim)
        out: Array = values * spread(np.asarray(scale.load()).astype(np.float32), values.ndim)
        return out

    return replace(weight, dtype="float32", load=load)


# ---- linear


def _gemm(view: View, index: int, node: Node) -> Iterator[Found]:
    a, b = node.inputs[0], node.inputs[1]
    if b in view.fixed and a not in view.fixed:
        got, axes, source = _weight(view, b, 2), "oi" if node.attrs.get("transB") else "io", a
    elif a in view.fixed:
        got, axes, source = _weight(view, a, 2), "io" if node.attrs.get("transA") else "oi", b
    else:
        return
    if got is None or len(got[0].shape) != 2:
        return
    weight, extra, why = got
    found = Found(index, "linear", weight, axes, source, node.outputs[0], extra=extra, reasons=why)
    side = "B" if source == a else "A"
    found.reasons.append(f"Gemm's {side}, stored ({'out, in' if axes == 'oi' else 'in, out'})")
    if float(node.attrs.get("alpha", 1.0)) != 1.0:
        found.reasons.append(f"scaled by alpha = {node.attrs['alpha']:.4g}")
    if len(node.inputs) > 2:
        found.bias = learned(view, node.inputs[2])
    yield _with_bias(view, found, weight.shape[axes.index("o")], 0 if side == "B" else 1)


def _matmul_of(
    view: View, index: int, sides: tuple[str, str], out: str, weight: Tensor | None = None, flip: bool = False
) -> Found | None:
    """Return the linear layer of a product with one constant side; `weight` replaces the constant."""
    a, b = sides
    if b in view.fixed and a not in view.fixed:
        right, source = True, a
    elif a in view.fixed and b not in view.fixed:
        right, source = False, b
    elif b in view.fixed and learned(view, b) is not None and learned(view, a) is not None:
        right, source = True, a  # a learned input, as the queries of a decoder
    else:
        return None
    got = (weight, (), []) if weight is not None else _weight(view, b if right else a, 2)
    if got is None or got[0] is None or len(got[0].shape) < 2:
        return None
    tensor, extra, why = got
    inner, outer = ("i", "o") if right != flip else ("o", "i")
    axes = "s" * (len(tensor.shape) - 2) + inner + outer
    if not right and tensor.shape[axes.index("i")] == 1:
        return None  # an outer product with a table of frequencies
    found = Found(index, "linear", tensor, axes, source, out, extra=extra, reasons=[*why])
    form = "in, out" if axes.endswith("io") else "out, in"
    found.reasons.append(f"MatMul's {'right' if right else 'left'} side, stored ({form})")
    if "s" in axes:
        found.reasons.append("stacked operators, one per leading index")
    return found


def _matmul(view: View, index: int, node: Node) -> Iterator[Found]:
    flip = bool(node.attrs.get("transB")) if node.inputs[1] in view.fixed else bool(node.attrs.get("transA"))
    found = _matmul_of(view, index, (node.inputs[0], node.inputs[1]), node.outputs[0], flip=flip)
    if found is not None:
        right = found.source == node.inputs[0]
        yield _with_bias(view, found, found.weight.shape[found.axes.index("o")], 0 if right else 1)


def _linear(view: View, index: int, node: Node) -> Iterator[Found]:
    got = _weight(view, node.inputs[1], 2)
    if got is None or len(got[0].shape) != 2:
        return
    found = Found(index, "linear", got[0], "oi", node.inputs[0], node.outputs[0], extra=got[1], reasons=got[2])
    found.reasons.append("linear's weight, stored (out, in)")
    found.bias = learned(view, node.inputs[2]) if len(node.inputs) > 2 else None
    yield _with_bias(view, found, got[0].shape[0], 0)


def _quantised_matmul(places: tuple[int, ...]) -> Callable[[View, int, Node], Iterator[Found]]:
    """Read a product of integers; places: a, b, scale of b, zero of b, bias (-1: none)."""

    def read(view: View, index: int, node: Node) -> Iterator[Found]:
        def at(place: int) -> Tensor | None:
            return view.constant(node.inputs[place]) if 0 <= place < len(node.inputs) else None

        a, b, scale_at, zero_at, bias_at = places
        raw, zero, scale = at(b), at(zero_at), at(scale_at)
        out = node.outputs[0]
        if raw is None or len(raw.shape) < 2:
            return
        why = "integers times their scale"
        if scale is None and scale_at < 0:
            scale, out = _later_scale(view, out)
        if scale is None:
            why = "integers, their scale is not in the graph"
        weight = scaled(raw, scale, zero, -1) if scale is not None else replace(raw, dtype="qint8")
        flip = bool(node.attrs.get("transB"))
        found = _matmul_of(view, index, (node.inputs[a], node.inputs[b]), out, weight, flip)
        if found is None:
            return
        found.reasons.append(why)
        bias = at(bias_at)
        found.bias = bias if bias is not None and bias.is_float else None
        yield _with_bias(view, found, weight.shape[found.axes.index("o")], 0)

    return read


def _later_scale(view: View, out: str) -> tuple[Tensor | None, str]:
    """Return the constant scale that an integer product is multiplied by, and the value after it."""
    at = follow(view, out, _THROUGH)
    for use in view.readers(at):
        node = view.nodes[use.node]
        if node.op != "mul":
            continue
        other = node.inputs[1 - use.position]
        if (scale := view.constant(other)) is not None:
            return scale, node.outputs[0]
        if other in view.producer:
            inner = view.nodes[view.producer[other]]
            for name in inner.inputs if inner.op == "mul" else ():
                if (scale := view.constant(name)) is not None:
                    return scale, node.outputs[0]
    return None, out


def _einsum(view: View, index: int, node: Node) -> Iterator[Found]:
    equation = node.attrs.get("equation", "")
    equation = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, _, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(node.inputs):
        return
    fixed = [k for k, name in enumerate(node.inputs) if learned(view, name) is not None]
    moving = view.moving(node)
    if len(fixed) != 1 or not moving or "." in terms[fixed[0]]:
        return
    tensor = view.constant(node.inputs[fixed[0]])
    others = "".join(terms[k] for k in moving)
    labels = terms[fixed[0]]
    if tensor is None or len(labels) != len(tensor.shape):
        return
    if not right:
        right = "".join(sorted(c for c in set(left) - {","} if left.count(c) == 1))
    axes = "".join("i" if c not in right else "o" if c not in others else "s" for c in labels)
    if "o" not in axes or "i" not in axes:
        return
    found = Found(index, "linear", tensor, axes, node.inputs[moving[0]], node.outputs[0])
    found.reasons.append(f"einsum {equation}: axes {axes}")
    yield _with_bias(view, found, int(np.prod([n for n, c in zip(tensor.shape, axes, strict=True) if c == "o"])), 0)


# ---- convolution


def _conv(places: tuple[int, int, int], transposed: bool = False) -> Callable[[View, int, Node], Iterator[Found]]:
    def read(view: View, index: int, node: Node) -> Iterator[Found]:
        source, at, bias = places
        if len(node.inputs) <= at:
            return
        got = _weight(view, node.inputs[at], 3)
        if got is None:
            return
        weight, extra, why = got
        axes = ("io" if transposed else "oi") + "k" * (len(weight.shape) - 2)
        kind = "conv_transpose" if transposed else "conv"
        found = Found(index, kind, weight, axes, node.inputs[source], node.outputs[0], extra=extra, reasons=why)
        found.groups = int(node.attrs.get("group", node.attrs.get("groups", 1)) or 1)
        stride = node.attrs.get("strides", node.attrs.get("stride")) or ()
        found.stride = tuple(int(s) for s in (stride if isinstance(stride, (tuple, list)) else (stride,)))
        out = weight.shape[1] * found.groups if transposed else weight.shape[0]
        found.reasons.append(f"{kind} of {found.groups} group{'s' if found.groups > 1 else ''}")
        if len(node.inputs) > bias and node.inputs[bias]:
            found.bias = learned(view, node.inputs[bias])
        activation = node.attrs.get("activation")
        if activation:
            found.activation = activation.decode() if isinstance(activation, bytes) else str(activation)
        yield _with_bias(view, found, out, len(weight.shape) - 2)

    return read


def _integer_conv(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read qlinear_conv (x, sx, zx, w, sw, zw, ...) and conv_integer (x, w, zx, zw)."""
    full = node.op == "qlinear_conv"
    place = 3 if full else 1
    raw = view.constant(node.inputs[place]) if len(node.inputs) > place else None
    if raw is None or len(raw.shape) < 3:
        return
    zero_at = 5 if full else 3
    zero = view.constant(node.inputs[zero_at]) if len(node.inputs) > zero_at else None
    scale, out = (view.constant(node.inputs[4]), node.outputs[0]) if full else _later_scale(view, node.outputs[0])
    weight = scaled(raw, scale, zero, 0) if scale is not None else replace(raw, dtype="qint8")
    found = Found(index, "conv", weight, "oi" + "k" * (len(raw.shape) - 2), node.inputs[0], out)
    found.groups = int(node.attrs.get("group", 1))
    found.stride = tuple(int(s) for s in node.attrs.get("strides") or ())
    found.reasons.append("integers times their scale" if scale is not None else "integers without a scale")
    found.claimed += [node.inputs[8]] if full and len(node.inputs) > 8 else []
    yield _with_bias(view, found, raw.shape[0], len(raw.shape) - 2)


# ---- look-ups


def _gather(view: View, index: int, node: Node) -> Iterator[Found]:
    table, ids = node.inputs[0], node.inputs[1]
    tensor = learned(view, table)
    if tensor is None or len(tensor.shape) < 2 or int(node.attrs.get("axis", 0) or 0) != 0:
        return
    picked = view.constant(ids)
    if picked is not None and (picked.size <= 1 or not tensor.name.endswith("weight")):
        return  # a fixed choice of rows, not a look-up
    found = Found(index, "embedding", tensor, "i" + "o" * (len(tensor.shape) - 1), ids, node.outputs[0])
    found.role = Role.EMBEDDING
    found.reasons.append("rows looked up by index")
    yield found


def _embedding(view: View, index: int, node: Node) -> Iterator[Found]:
    for place, name in enumerate(node.inputs[:2]):
        tensor = learned(view, name)
        if tensor is not None and len(tensor.shape) >= 2:
            ids = node.inputs[1 - place] if len(node.inputs) > 1 else ""
            axes = "i" + "o" * (len(tensor.shape) - 1)
            found = Found(index, "embedding", tensor, axes, ids, node.outputs[0], role=Role.EMBEDDING)
            found.reasons.append("rows looked up by index")
            yield found
            return


def _embed_layer_norm(view: View, index: int, node: Node) -> Iterator[Found]:
    for place, suffix in ((2, "word"), (3, "position"), (4, "segment")):
        tensor = learned(view, node.inputs[place]) if len(node.inputs) > place else None
        if tensor is not None and len(tensor.shape) == 2:
            found = Found(index, "embedding", tensor, "io", node.inputs[0], node.outputs[0], role=Role.EMBEDDING)
            found.suffix = suffix
            found.reasons.append("rows looked up by index, then normalised")
            yield found
    yield from _norm_at(5, 6)(view, index, node)


# ---- recurrent


_GATES: Mapping[str, tuple[str, ...]] = {"lstm": ("i", "o", "f", "c"), "gru": ("z", "r", "h"), "rnn": ("h",)}


def _part(tensor: Tensor, where: tuple[int | slice, ...], shape: tuple[int, ...], offset: int) -> Tensor:
    return replace(
        tensor, shape=shape, load=lambda: tensor.load()[where], offset=tensor.offset + offset, strides=None,
        storage=tensor.storage or tensor.name,
    )  # fmt: skip


def _recurrent(view: View, index: int, node: Node) -> Iterator[Found]:
    gates = _GATES[node.op]
    bias = learned(view, node.inputs[3]) if len(node.inputs) > 3 else None
    for place, which in ((1, "ih"), (2, "hh")):
        whole = learned(view, node.inputs[place]) if len(node.inputs) > place else None
        if whole is None or len(whole.shape) != 3 or whole.shape[1] % len(gates):
            continue
        directions, rows, columns = whole.shape
        for d in range(directions):
            weight, axes = whole, "soi"
            if directions > 1:
                weight = _part(whole, (d,), (rows, columns), d * rows * columns)
                axes = "oi"
            found = Found(index, node.op, weight, axes, node.inputs[0], node.outputs[0])
            found.parts = gates if len(gates) > 1 else ()
            found.suffix = f"weight_{which}" + ("_reverse" if d else "")
            found.reasons.append(f"{node.op} {'input' if which == 'ih' else 'recurrent'} weights, gates {''.join(gates)}")
            if bias is not None and bias.shape == (directions, 2 * rows):
                start = 0 if which == "ih" else rows
                found.bias = _part(bias, (d, slice(start, start + rows)), (rows,), d * 2 * rows + start)
            found.role = Role.OTHER
            yield found


# ---- norms and slopes


def _norm_at(scale: int, shift: int, *extra: int) -> Callable[[View, int, Node], Iterator[Found]]:
    def read(view: View, index: int, node: Node) -> Iterator[Found]:
        def at(place: int) -> Tensor | None:
            return learned(view, node.inputs[place]) if 0 <= place < len(node.inputs) else None

        weight = at(scale)
        out = node.outputs[0]
        if weight is not None and not _all_ones(weight):
            found = _norm(node, index, weight, out)
            found.bias = at(shift)
            found.extra = tuple(t for t in map(at, extra) if t is not None)
            yield found
            return
        plain = weight
        after = _affine_after(view, out)
        if after is not None:
            factor, bias, end = after
            found = _norm(node, index, factor, end)
            found.bias = bias
            if plain is not None:
                found.claimed += [n for n in node.inputs[1:3] if n]
            if any(u for u in _one_plus(view, factor)):
                found.reasons.append("applied as 1 + weight")
            yield found
        elif plain is not None:
            found = _norm(node, index, plain, out)
            found.bias = at(shift)
            found.extra = tuple(t for t in map(at, extra) if t is not None)
            yield found

    return read


def _norm(node: Node, index: int, weight: Tensor, out: str) -> Found:
    axes = "o" * len(weight.shape)
    found = Found(index, "norm", weight, axes, node.inputs[0], out, role=Role.NORM)
    found.reasons.append(f"scale of {node.op}")
    return found


def _all_ones(tensor: Tensor) -> bool:
    return tensor.size <= 65536 and bool(np.all(np.asarray(tensor.load()).astype(np.float64) == 1.0))


def _affine_after(view: View, name: str) -> tuple[Tensor, Tensor | None, str] | None:
    """Return the vectors that the normalised value is multiplied by and shifted by, and the value after that."""
    at = follow(view, name, _RESHAPES)
    for start in dict.fromkeys((name, at)):
        readers = view.readers(start)
        if len(readers) != 1 or view.nodes[readers[0].node].op != "mul":
            continue
        node = view.nodes[readers[0].node]
        other = node.inputs[1 - readers[0].position]
        weight = learned(view, other)
        if weight is None and other in view.fixed:
            made = computed(view, other)
            weight = made[0] if made is not None else None
        if weight is None or weight.size < 2:
            continue
        end = node.outputs[0]
        bias = None
        further = follow(view, end, _THROUGH)
        uses = view.readers(further)
        if len(uses) == 1 and view.nodes[uses[0].node].op == "add":
            add = view.nodes[uses[0].node]
            bias = learned(view, add.inputs[1 - uses[0].position])
            if bias is not None and bias.size == weight.size:
                end = add.outputs[0]
            else:
                bias = None
        return weight, bias, end
    return None


def _one_plus(view: View, weight: Tensor) -> Iterator[bool]:
    """Yield True where the weight is used as 1 + weight."""
    for name, tensor in view.graph.constants.items():
        if tensor is weight:
            for use in view.readers(name):
                node = view.nodes[use.node]
                other = view.constant(node.inputs[1 - use.position]) if node.op == "add" else None
                if other is not None and other.size == 1 and float(np.asarray(other.load()).ravel()[0]) == 1.0:
                    yield True


def _prelu(view: View, index: int, node: Node) -> Iterator[Found]:
    slope = learned(view, node.inputs[1]) if len(node.inputs) > 1 else None
    if slope is not None:
        found = Found(index, "prelu", slope, "o" * len(slope.shape), node.inputs[0], node.outputs[0])
        found.role = Role.OTHER
        found.reasons.append("slope of a PReLU")
        yield found


# ---- whole attention with its projections inside


def _attention(view: View, index: int, node: Node) -> Iterator[Found]:
    weight = learned(view, node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or len(weight.shape) != 2:
        return
    found = Found(index, "linear", weight, "io", node.inputs[0], node.outputs[0], parts=("q", "k", "v"))
    found.reasons.append("query, key and value projections of a fused attention")
    found.bias = learned(view, node.inputs[2]) if len(node.inputs) > 2 else None
    found.role = Role.OTHER
    yield found


def _qattention(view: View, index: int, node: Node) -> Iterator[Found]:
    raw, scale = view.constant(node.inputs[1]), view.constant(node.inputs[4])
    if raw is None or scale is None or len(raw.shape) != 2:
        return
    zero = view.constant(node.inputs[7]) if len(node.inputs) > 7 else None
    found = Found(index, "linear", scaled(raw, scale, zero, -1), "io", node.inputs[0], node.outputs[0])
    found.parts = ("q", "k", "v")
    found.bias = learned(view, node.inputs[2])
    found.role = Role.OTHER
    found.reasons.append("query, key and value projections of a fused attention, integers times their scale")
    yield found


READERS: Mapping[str, Callable[[View, int, Node], Iterator[Found]]] = {
    "gemm": _gemm,
    "matmul": _matmul,
    "linear": _linear,
    "einsum": _einsum,
    "matmul_integer": _quantised_matmul((0, 1, -1, 3, -1)),
    "matmul_integer_to_float": _quantised_matmul((0, 1, 3, 5, 6)),
    "dynamic_quantize_matmul": _quantised_matmul((0, 1, 2, 3, 4)),
    "qlinear_matmul": _quantised_matmul((0, 3, 4, 5, -1)),
    "qgemm": _quantised_matmul((0, 3, 4, 5, 6)),
    "conv": _conv((0, 1, 2)),
    "conv_transpose": _conv((0, 1, 2), transposed=True),
    "deform_conv": _conv((0, 1, 3)),
    "qlinear_conv": _integer_conv,
    "conv_integer": _integer_conv,
    "gather": _gather,
    "embedding": _embedding,
    "embed_layer_norm": _embed_layer_norm,
    "lstm": _recurrent,
    "gru": _recurrent,
    "rnn": _recurrent,
    "batch_norm": _norm_at(1, 2, 3, 4),
    "layer_norm": _norm_at(1, 2),
    "instance_norm": _norm_at(1, 2),
    "group_norm": _norm_at(1, 2),
    "rms_norm": _norm_at(1, 2),
    "l2_norm": _norm_at(1, 2),
    "mean_variance_norm": _norm_at(1, 2),
    "skip_layer_norm": _norm_at(2, 3),
    "skip_rms_norm": _norm_at(2, 3),
    "skip_group_norm": _norm_at(1, 2),
    "prelu": _prelu,
    "attention": _attention,
    "qattention": _qattention,
}
