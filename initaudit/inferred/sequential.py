"""The graph of a pickled module that is made of torch's own classes alone: its records prove the forward pass.

`torch.nn.Sequential` runs its children in the order in which they were registered, and what each of torch.nn's leaf
modules does is known (steps.py). A class of the user's own, a hook, a parametrization or a forward pass of the object's
own may do anything, so that there is no graph then.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence

from initaudit.errors import UnsupportedError
from initaudit.inferred.leaves import Leaf, MisfitError, Shape
from initaudit.inferred.steps import known, steps
from initaudit.torch_ops import Builder
from initaudit.torch_ops.bind import refs
from initaudit.types import Graph, Model, Module, Ref

_OWN = "torch.nn.modules."
_SEQUENTIAL = "torch.nn.modules.container.Sequential"
_MOST_MODULES = 20_000
_MOST_STEPS = 200_000  # modules that are gone through in search of an input that fits
_BATCH, _LENGTH = 2, 8
_SIZES = (64, 32, 224, 28, 256, 299, 512, 16, 128, 96, 384, 8)  # that images commonly have
_WIDE: Mapping[int, Shape] = {1: (64,), 2: (64, 64), 3: (16, 32, 32)}
_MOST_SIDE = 1024
_MOST_RESIZED = 8


def proven(model: Model) -> Graph | None:
    """Return the graph of a pickled module, None where its records do not prove it.

    The shape of its input is one that fits all its layers, as for a module that is traced.
    """
    try:
        leaves = list(_leaves(model))
        return _graph(leaves, _fed(leaves))
    except (UnsupportedError, ArithmeticError, LookupError, TypeError, ValueError):
        return None  # the others: attributes that no constructor would have set


def _leaves(model: Model) -> Iterator[Leaf]:
    """Yield the modules in the order in which they run.

    Raises:
        UnsupportedError: the records do not prove it.
    """
    records = {record.path: record for record in model.modules}
    tensors = {tensor.name: tensor for tensor in model.tensors}
    if "" not in records or len(records) != len(model.modules) or len(records) > _MOST_MODULES:
        raise UnsupportedError("there are no records of its modules")
    claimed = {key for record in model.modules for key in record.tensors.values()}
    foreign = next((t.name for t in model.tensors if t.name not in claimed), "")
    if foreign:
        raise UnsupportedError(f"{foreign[:80]} is in no module")
    todo = [""]
    while todo:
        record = records.pop(todo.pop(), None)
        if record is None:
            raise UnsupportedError("a module has no record, or two places")
        if _changed(record):
            raise UnsupportedError(f"{record.path[:80]} was changed: hooks, or a forward pass of its own")
        if record.cls == _SEQUENTIAL:
            if record.tensors:
                raise UnsupportedError(f"{record.path[:80]} has tensors of its own, which nobody uses")
            todo += reversed(record.children)
        elif record.cls.startswith(_OWN) and known(record.kind) and not record.children:
            if any(key not in tensors for key in record.tensors.values()):
                raise UnsupportedError(f"{record.path[:80]} lacks a tensor")
            yield Leaf(record, {name: tensors[key] for name, key in record.tensors.items()})
        else:
            raise UnsupportedError(f"{record.path[:80]} is of the class {record.cls[:80]}")


def _changed(record: Module) -> bool:
    """Whether the object holds what makes it run otherwise than its class does."""
    return any("hook" in key or key.partition(".")[0].endswith(("forward", "_call_impl")) for key in record.attrs)


def _graph(leaves: Sequence[Leaf], shape: Shape) -> Graph:
    builder = Builder("function")
    builder.input("input", shape)
    value, made = "input", 0
    for leaf in leaves:
        own = {key: leaf.tensors[name] for name, key in leaf.record.tensors.items()}
        for step in steps(leaf, shape):
            made += 1
            out = f"%{made}"
            for ref in refs((*step.args, *step.kwargs.values())):
                builder.tensor(ref.name, own[ref.name])
            args = (Ref(value), *step.args)
            builder.call(step.target, args, step.kwargs, [out], {out: step.shape}, scope=leaf.record.path)
            value, shape = out, step.shape
    if not made:
        raise UnsupportedError("it does nothing")
    return builder.graph([value])


# ---- what it takes


def _fed(leaves: Sequence[Leaf]) -> Shape:
    """Return the shape of an input that goes through.

    Raises:
        UnsupportedError: none of those that are likely does.
    """
    left = max(_MOST_STEPS, 16 * len(leaves))
    seen: set[Shape] = set()
    for first in _likely(leaves):
        queue = deque([first])
        resized = 0
        while queue and left > 0:
            shape = queue.popleft()
            if shape in seen:
                continue
            seen.add(shape)
            left -= len(leaves)
            try:
                _through(leaves, shape)
            except MisfitError as error:
                if resized < _MOST_RESIZED:
                    resized += 1
                    queue.extend(_resized(shape, error))
            else:
                return shape
    raise UnsupportedError("no input was found that goes through")


def _through(leaves: Sequence[Leaf], shape: Shape) -> None:
    for leaf in leaves:
        made = steps(leaf, shape)
        shape = made[-1].shape if made else shape


def _likely(leaves: Sequence[Leaf]) -> Iterator[Shape]:
    """Yield what the layers take that may be the first to see the input, in order."""
    for leaf in leaves:
        kind, rank, own = leaf.kind, leaf.rank, [t.shape for name, t in leaf.tensors.items() if name == "weight"]
        if kind.startswith("Conv") and own and len(own[0]) == rank + 2:
            if "Transpose" in kind:
                yield from ((_BATCH, own[0][0], *(n,) * rank) for n in ((_LENGTH,), (1, 8), (4,))[rank - 1])
            else:
                yield (_BATCH, own[0][1] * leaf.whole("groups", 1), *_WIDE[rank])
        elif kind == "BatchNorm1d":
            yield from ((_BATCH, leaf.whole("num_features"), *more) for more in ((), (64,)))
        elif kind.startswith(("BatchNorm", "InstanceNorm")):
            yield (_BATCH, leaf.whole("num_features"), *_WIDE[rank])
        elif kind.startswith("Embedding"):
            yield (_BATCH, _LENGTH)
        elif kind == "Linear" and own and len(own[0]) == 2:
            yield from ((_BATCH, own[0][1]), (_BATCH, _LENGTH, own[0][1]))
        elif kind in ("LayerNorm", "RMSNorm"):
            axes = leaf.get("normalized_shape")
            if isinstance(axes, tuple) and all(isinstance(n, int) for n in axes):
                yield (_BATCH, _LENGTH, *axes) if len(axes) == 1 else (_BATCH, *axes)
        elif kind == "GroupNorm":
            yield (_BATCH, leaf.whole("num_channels"), 64, 64)


def _resized(shape: Shape, error: MisfitError) -> list[Shape]:
    """Return the shape with other extents behind the channels: about as many as are wanted, common ones first."""
    if not error.want or len(shape) < 2:
        return []
    if len(shape) == 2:  # a row of ids, looked up and flattened
        length = shape[1] * error.want
        return [(shape[0], length // error.have)] if error.have and length % error.have == 0 else []
    old = shape[2:]
    times = (error.want / max(1, error.have)) ** (1 / len(old))
    middle = math.prod(old) ** (1 / len(old))
    if not 0 < times * max(old) < _MOST_SIDE:
        return []
    sides = [(n,) * len(old) for n in _near(times * middle)]  # a square or cube first
    return [(*shape[:2], *one) for one in sides] + [
        (*shape[:2], *(max(1, round(n * k / old[-1])) for k in old)) for n in _near(times * old[-1])
    ]


def _near(side: float) -> list[int]:
    """Return extents around one: those that are common first."""
    common = sorted((n for n in _SIZES if 0.75 < n / side < 1.6), key=lambda n: abs(n / side - 1))[:4]
    near = sorted(range(max(1, round(side / 2)), round(2 * side) + 2), key=lambda n: abs(n - side))
    return list(dict.fromkeys([*common, *near]))
