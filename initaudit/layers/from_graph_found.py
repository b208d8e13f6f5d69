"""A weight in use, and what reading one has in common for all ops."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from initaudit.graph.moved import turned
from initaudit.graph.view import FAR, View
from initaudit.strides import strides_of
from initaudit.types import Node, Role, Tensor

THROUGH = frozenset({"cast", "identity", "dropout", "cast_like"})
RESHAPES = THROUGH | {"reshape", "flatten", "transpose", "squeeze", "unsqueeze", "view", "contiguous"}


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
    read: bool = True  # kind and fans are what the graph says, not a guess
    reasons: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)  # names of further tensors it accounts for
    padding: int | None = None  # row of an embedding that stays zero


def learned(view: View, name: str) -> Tensor | None:
    """Return the float constant behind a value, if it is more than one number."""
    tensor = view.constant(name)
    return tensor if tensor is not None and tensor.is_float and tensor.size > 0 else None


def stored(view: View, node: Node, tensor: Tensor, axes: str) -> tuple[Tensor, str]:
    """Return a matrix and its axes as it is stored, where torch calls turned it round for a product."""
    whole = view.graph.constants.get(tensor.name) if node.call is not None and len(tensor.shape) == 2 else None
    if whole is None or tensor.strides is None or whole.shape != tensor.shape[::-1] or whole.offset != tensor.offset:
        return tensor, axes
    turned = strides_of(whole) == strides_of(tensor)[::-1] and whole.dtype == tensor.dtype
    return (whole, axes[::-1]) if turned else (tensor, axes)


def operator(view: View, name: str) -> Tensor | None:
    """Return the float constant behind a value in the orientation that a product with it finds."""
    tensor = view.oriented(name) if name else None
    return tensor if tensor is not None and tensor.is_float and tensor.size > 0 else None


def computed(view: View, name: str) -> list[Tensor]:
    """Return the float constants a fixed value is computed from, largest first, each name once."""
    if name not in view.fixed:
        return []
    found: dict[str, Tensor] = {}
    seen, todo = {name}, [name]
    while todo and len(seen) < 200:
        at = todo.pop()
        tensor = view.graph.constants.get(at)
        if tensor is not None:
            known = found.get(tensor.name)
            if tensor.is_float and tensor.size > 1 and (known is None or len(known.shape) < len(tensor.shape)):
                found[tensor.name] = tensor
            continue
        if at not in view.producer or view.nodes[view.producer[at]].op in ("shape", "size"):
            continue
        for i in view.nodes[view.producer[at]].inputs:
            if i and i not in seen:
                seen.add(i)
                todo.append(i)
    return sorted(found.values(), key=lambda t: (-t.size, -len(t.shape)))


def signal(view: View, name: str) -> bool:
    """Whether a value that does not move with the data is a signal all the same, as what becomes of learned queries.

    What makes a weight out of constants scales, multiplies and adds; only signals are normalised by a learned scale,
    put through a softmax, looked up, or split into heads after a product.
    """
    seen: set[str] = set()
    todo = [name]
    ops: set[str] = set()
    while todo and len(seen) < 400:
        at = todo.pop()
        if at in seen or at not in view.producer or at in view.graph.constants:
            continue
        seen.add(at)
        node = view.nodes[view.producer[at]]
        kind = view.family(node)
        if kind in ("softmax", "attention") or (kind == "norm" and len(node.inputs) > 1) or node.op == "embedding":
            return True
        if kind == "activation" and node.op != "composite" and not node.attrs.get("fused"):
            return True
        ops.add(node.op)
        todo += node.inputs[:1] if kind == "move" and node.op not in ("concat", "where", "phi") else node.inputs
    return bool(ops & {"matmul", "gemm", "linear"}) and bool(ops & {"reshape", "tile", "expand", "view"})


def operand(
    view: View, name: str, rank: int, kernel: tuple[int, ...] = ()
) -> tuple[Tensor, tuple[Tensor, ...], list[str]] | None:
    """Return a weight of at least `rank` axes, what it is computed from besides, and why."""
    tensor = operator(view, name)
    if tensor is not None:
        return (tensor, (), []) if len(tensor.shape) >= rank else None
    made = computed(view, name)
    if not made:
        return None
    first, *rest = made
    long = tuple(n for n in first.shape if n > 1)
    if kernel and len(first.shape) != rank and len(long) == 2 and long[1] % math.prod(kernel) == 0:
        shape = (long[0], long[1] // math.prod(kernel), *kernel)
        first = _reshaped(first, shape)
    if len(first.shape) < rank:
        return None
    if len(first.shape) == 2 and _changed_over(view, name, first):
        first = turned(first)
    return first, tuple(rest), ["the operator's weight is computed from this tensor"]


def _changed_over(view: View, name: str, matrix: Tensor) -> bool:
    """Whether a computed weight has the axes of a matrix that it is made of the other way round."""
    over = False
    for _ in range(FAR):
        if name not in view.producer or view.graph.constants.get(name) is not None:
            break
        node = view.nodes[view.producer[name]]
        if node.call is None:
            return False
        if node.op == "transpose":
            perm, swap = node.attrs.get("perm"), node.attrs.get("swap")
            over ^= perm == (1, 0) or bool(node.attrs.get("reverse")) or (swap is not None and swap[0] != swap[1])
        name = next((i for i in node.inputs if any(t.name == matrix.name for t in computed(view, i))), "")
    return over


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    made = replace(tensor, shape=shape, strides=None, load=lambda: tensor.load().reshape(shape))
    if tensor.strides is None:
        return made
    return replace(made, storage=f"{tensor.storage or tensor.name}:{tensor.strides}")  # lies there in another order


def number(node: Node, name: str, default: int) -> int:
    """Return a whole-number attribute, the default where it is absent or no number."""
    value = node.attrs.get(name)
    return value if isinstance(value, int) else default


def numbers(node: Node, *names: str) -> tuple[int, ...]:
    """Return the first of these attributes that holds positive whole numbers."""
    for name in names:
        value = node.attrs.get(name)
        value = (value,) if isinstance(value, int) else value
        if isinstance(value, (tuple, list)) and value and all(isinstance(n, int) and n > 0 for n in value):
            return tuple(value)
    return ()


def text(value: object) -> str:
    """Return an attribute that is text, "" for any other."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""


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
    for _ in range(FAR):
        readers = view.readers(name)
        if (
            name in view.outputs
            or len(readers) != 1
            or readers[0].position != 0
            or view.nodes[readers[0].node].op not in ops
        ):
            break
        name = view.nodes[readers[0].node].outputs[0]
    return name


def with_bias(view: View, found: Found, size: int, from_right: int, through: frozenset[str] = THROUGH) -> Found:
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
