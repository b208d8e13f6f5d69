"""What a call wants of its operands: for the call at which a forward pass failed, better shapes for the arguments.

A wish is the path of an argument and a function from what is fed there now to what may do, the likeliest first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from torch import nn

from initaudit.live.spec import Spec
from initaudit.live.watch import Failure, Operand, Path, source

BATCH = 2
LENGTH = 8  # of sequences
SIZES = (64, 32, 224, 28, 256, 299, 512, 16, 128, 96, 384, 8)
LENGTHS = (64, 1024, 4096, 16000, 16)  # of signals
WIDE = {1: (64,), 2: (64, 64), 3: (16, 32, 32)}  # the first guess of what lies behind the channels

Change = Callable[[Spec], list[Spec]]
Wishes = Iterator[tuple[Path, Change]]


def wishes(failure: Failure) -> Wishes:
    """Yield what the failing call wants, then what the innermost module does."""
    name = failure.call.strip("_")
    rule = _RULES.get(name) or _RULES.get(name.removeprefix("r"))
    if rule is not None:
        yield from rule(failure)
    yield from _by_module(failure)


def _argument(failure: Failure, place: int, name: str) -> Any:
    if place < len(failure.args):
        return failure.args[place]
    return (failure.kwargs or {}).get(name)


def _linear(failure: Failure) -> Wishes:
    x, w = _argument(failure, 0, "input"), _argument(failure, 1, "weight")
    yield from _last(x, w.shape[-1] if isinstance(w, Operand) and w.shape else 0)


def _last(x: Any, wanted: int) -> Wishes:
    """The last axis of x has to be `wanted` long."""
    path = source(x)
    if isinstance(x, Operand) and len(x.origins) > 1 and wanted and x.shape:
        yield from _last_of_several(x, wanted - x.shape[-1])
    if path is None or not wanted:
        return

    def change(spec: Spec) -> list[Spec]:
        floats = replace(spec, dtype="float32") if not x.floating else spec
        shape = spec.shape
        if not x.shape or x.shape[-1] == wanted:
            return [floats] if not x.floating else []
        if not shape:
            return [replace(floats, shape=(BATCH, wanted))]
        whole = math.prod(shape[1:])
        if len(x.shape) == 2 and len(shape) > 2 and x.shape[-1] == whole:  # flattened as it came
            return [*_sized(floats, wanted / whole, exact=True), replace(floats, shape=(BATCH, wanted))]
        if x.shape == shape and len(shape) > 3:
            return [
                replace(floats, shape=(BATCH, wanted)), replace(floats, shape=(BATCH, LENGTH, wanted)),
                replace(floats, shape=(*shape[:-1], wanted)),
            ]  # fmt: skip
        if x.shape[-1] == shape[-1] or x.shape == shape:
            return [replace(floats, shape=(*shape[:-1], wanted))]
        if x.shape[-1] in shape[1:] and len(x.shape) == len(shape):  # transposed on the way
            axis = 1 + shape[1:].index(x.shape[-1])
            return [replace(floats, shape=(*shape[:axis], wanted, *shape[axis + 1 :]))]
        if len(shape) > 2:
            return _sized(floats, wanted / x.shape[-1])
        if x.shape[-1] % shape[-1] == 0 and wanted % (x.shape[-1] // shape[-1]) == 0:
            return [replace(floats, shape=(*shape[:-1], wanted // (x.shape[-1] // shape[-1])))]
        more = wanted - x.shape[-1] + shape[-1]  # joined with something of its own
        return [replace(floats, shape=(*shape[:-1], more))] if more > 0 else []

    yield path, change


def _last_of_several(x: Operand, more: int) -> Wishes:
    """What several arguments were joined to has to be `more` longer: one of them is, each in its turn."""

    def change(spec: Spec) -> list[Spec]:
        if not more or len(spec.shape) < 2 or spec.shape[-1] + more < 1 or not x.floating:
            return []
        return [replace(spec, shape=(*spec.shape[:-1], spec.shape[-1] + more))]

    yield from ((path, change) for path in sorted(x.origins, key=str))


def _sized(spec: Spec, area: float, *, exact: bool = False) -> list[Spec]:
    """Return the spec with other extents behind the channels, about `area` times as much: common ones first."""
    spatial = len(spec.shape) - 2
    if spatial < 1:
        return []
    old = spec.shape[2:]
    side = old[-1] * area ** (1 / spatial)
    common = sorted((n for n in SIZES if 0.75 < n / side < 1.6), key=lambda n: abs(n / side - 1))[:4]
    near = [
        n for n in (*(step * round(side / step) for step in (32, 8, 4, 2)), round(side) - 1, round(side) + 1) if n > 0
    ]
    sizes = dict.fromkeys([*([round(side)] if exact else []), *common, round(side), *near])
    return [replace(spec, shape=(*spec.shape[:2], *(max(1, round(n * k / old[-1])) for k in old))) for n in sizes]


def _embedding(failure: Failure) -> Wishes:
    x, w = _argument(failure, 0, "input"), _argument(failure, 1, "weight")
    path = source(x)
    if path is None or not isinstance(w, Operand) or x.floating is False:
        return

    def change(spec: Spec) -> list[Spec]:
        rows = w.shape[0] if w.shape else 2
        whole = Spec(spec.shape, "int64", rows)
        direct = x.shape == spec.shape and len(spec.shape) > 1
        return [Spec((BATCH, LENGTH), "int64", rows), whole] if direct else [whole]

    yield path, change


def _indexed(failure: Failure) -> Wishes:
    """Whatever is used as an index has to be whole numbers."""
    x = failure.args[0] if failure.args else None
    rows = x.shape[0] if isinstance(x, Operand) and x.shape else 2
    for index in (*failure.args[1:], *(failure.kwargs or {}).values()):
        for one in index if isinstance(index, tuple) else (index,):
            path = source(one)
            if path is not None and one.floating:
                yield path, lambda spec: [Spec(spec.shape, "int64", rows), Spec((BATCH,), "int64", rows)]


def _conv(failure: Failure) -> Wishes:
    x, w = _argument(failure, 0, "input"), _argument(failure, 1, "weight")
    path = source(x)
    if path is None or not isinstance(w, Operand) or len(w.shape) < 3:
        return
    groups = _argument(failure, 6, "groups")
    groups = groups if isinstance(groups, int) else 1
    turned = "transpose" in failure.call
    yield path, lambda spec: _channels(spec, x, w.shape[0] if turned else w.shape[1] * groups, len(w.shape) - 2)


def _channels(spec: Spec, x: Operand, wanted: int, spatial: int) -> list[Spec]:
    """The second axis of x has to be `wanted` long, with `spatial` axes behind it."""
    floats = replace(spec, dtype="float32")
    fresh = replace(floats, shape=(BATCH, wanted, *WIDE[spatial]))
    shape = spec.shape
    if len(x.shape) != spatial + 2:
        if len(shape) == spatial + 2 or len(x.shape) != len(shape):
            return [fresh]
        swapped = replace(floats, shape=(BATCH, *WIDE[spatial], wanted))
        return [fresh, *([] if len(shape) == 1 else [swapped])]
    if x.shape[1] == wanted:
        if not x.floating:
            return [floats]
        return _sized(floats, 4.0**spatial)  # the kernel is larger than what is left
    if x.shape == shape:
        return [replace(floats, shape=(shape[0], wanted, *shape[2:]))]
    if len(shape) == len(x.shape) and x.shape[1] == shape[-1] and x.shape[1] != shape[1]:
        return [replace(floats, shape=(*shape[:-1], wanted))]  # channels last
    if len(shape) < 2:
        return [fresh]
    if len(shape) == spatial + 1:  # a channel axis was put in
        return [fresh, replace(floats, shape=(BATCH, wanted, *shape[2:]))]
    times, more = x.shape[1] / shape[1], wanted - x.shape[1] + shape[1]
    found = [round(wanted / times)] if wanted % times == 0 else []
    found += [more] if more > 0 else []
    return [replace(floats, shape=(shape[0], n, *shape[2:])) for n in dict.fromkeys(found)]


def _normed(failure: Failure) -> Wishes:
    x = _argument(failure, 0, "input")
    path = source(x)
    if path is None:
        return
    if failure.call in ("layer_norm", "rms_norm"):
        wanted = _argument(failure, 1, "normalized_shape")
        if isinstance(wanted, tuple) and wanted:
            yield path, lambda spec: [replace(spec, dtype="float32", shape=(*_lead(spec, len(wanted)), *wanted))]
        return
    weights = [one for one in (*failure.args[1:], *(failure.kwargs or {}).values()) if isinstance(one, Operand)]
    if weights and len(weights[0].shape) == 1 and len(x.shape) >= 2:
        yield path, lambda spec: _second(spec, x, weights[0].shape[0])


def _lead(spec: Spec, count: int) -> tuple[int, ...]:
    lead = spec.shape[:-count] if len(spec.shape) > count else ()
    return lead or ((BATCH, LENGTH) if count == 1 else (BATCH,))


def _second(spec: Spec, x: Operand, wanted: int) -> list[Spec]:
    if x.shape == spec.shape:
        return [replace(spec, dtype="float32", shape=(spec.shape[0], wanted, *spec.shape[2:]))]
    return []


def _product(failure: Failure) -> Wishes:
    """Matrix products: the axes that are summed over have to agree."""
    pair = [one for one in (*failure.args, *(failure.kwargs or {}).values()) if isinstance(one, Operand)]
    pair = pair[1:3] if failure.call in ("addmm", "baddbmm", "addmv") else pair[:2]
    if len(pair) != 2 or not all(one.shape for one in pair):
        return
    a, b = pair
    if a.origins and not b.origins:
        yield from _last(a, b.shape[-2] if len(b.shape) > 1 else b.shape[-1])
    elif b.origins and not a.origins:
        path = source(b)
        if path is not None and len(b.shape) > 1:
            axis = len(b.shape) - 2
            yield (
                path,
                lambda spec: (
                    [replace(spec, dtype="float32", shape=(*spec.shape[:axis], a.shape[-1], *spec.shape[axis + 1 :]))]
                    if spec.shape == b.shape
                    else []
                ),
            )


def _summed(failure: Failure) -> Wishes:
    """einsum: every letter has one extent."""
    equation = failure.args[0] if failure.args else ""
    rest = failure.args[1:] if len(failure.args) != 2 or not isinstance(failure.args[1], tuple) else failure.args[1]
    operands = [one for one in rest if isinstance(one, Operand)]
    if not isinstance(equation, str) or "..." in equation:
        return
    letters = equation.replace(" ", "").partition("->")[0].split(",")
    fixed = {
        letter: n
        for term, one in zip(letters, operands, strict=False)
        if not one.origins and len(term) == len(one.shape)
        for letter, n in zip(term, one.shape, strict=True)
    }
    for term, one in zip(letters, operands, strict=False):
        path = source(one)
        if path is None:
            continue
        wanted = tuple(fixed.get(letter, n) for letter, n in zip(term, one.shape, strict=False))
        if len(term) == len(one.shape):
            yield (
                path,
                lambda spec, one=one, wanted=wanted: (  # type: ignore[misc]
                    [replace(spec, dtype="float32", shape=wanted)] if spec.shape == one.shape else []
                ),
            )
        else:
            full = tuple(fixed.get(letter, LENGTH if k else BATCH) for k, letter in enumerate(term))
            yield path, lambda spec, full=full: [replace(spec, dtype="float32", shape=full)]  # type: ignore[misc]


def _elementwise(failure: Failure) -> Wishes:
    """Shapes that are added or multiplied have to agree; a weight's says what an argument's should be."""
    pair = [one for one in (*failure.args, *(failure.kwargs or {}).values()) if isinstance(one, Operand)][:2]
    if len(pair) != 2:
        return
    for x, other in (pair, pair[::-1]):
        path = source(x)
        if path is None or (other.origins and other.origins == x.origins):
            continue
        yield path, lambda spec, x=x, other=other: _alike(spec, x, other.shape)  # type: ignore[misc]


def _joined(failure: Failure) -> Wishes:
    """What is joined has to agree but along one axis: the later ones follow the first."""
    parts = failure.args[0] if failure.args and isinstance(failure.args[0], tuple) else ()
    operands = [one for one in parts if isinstance(one, Operand)]
    for x in operands[1:]:
        path, first = source(x), operands[0]
        if path is not None and path != source(first) and len(x.shape) == len(first.shape):
            yield (
                path,
                lambda spec, x=x, first=first: (  # type: ignore[misc]
                    [replace(spec, shape=first.shape)] if x.shape == spec.shape else _alike(spec, x, first.shape)
                ),
            )


def _reshaped(failure: Failure) -> Wishes:
    """As many elements as the shape says: a model that is made for one size of images."""
    x: Any = failure.args[0] if failure.args else None
    path = source(x)
    sizes = [n for one in failure.args[1:] for n in (one if isinstance(one, tuple) else (one,))]
    if path is None or not sizes or not all(isinstance(n, int) and n > 0 for n in sizes):
        return
    area = math.prod(sizes) / max(1, math.prod(x.shape))

    def change(spec: Spec) -> list[Spec]:
        if len(spec.shape) < 5:
            return _sized(spec, area, exact=True)
        flat = _sized(replace(spec, shape=spec.shape[-4:]), area, exact=True)  # frames stay
        return [replace(one, shape=(*spec.shape[:-2], *one.shape[-2:])) for one in flat]

    yield path, change


def _alike(spec: Spec, x: Operand, wanted: tuple[int, ...]) -> list[Spec]:
    found: list[Spec] = []
    for back in range(1, min(len(x.shape), len(wanted)) + 1):
        have, want = x.shape[-back], wanted[-back]
        if want in (have, 1) or have == 1:
            continue
        if x.shape == spec.shape:
            shape = list(spec.shape)
            shape[-back] = want
            found.append(replace(spec, shape=tuple(shape)))
        elif len(spec.shape) > 2 and len(x.shape) > 1:  # as many patches as there are positions
            found += _sized(spec, want / have) + _sized(spec, max(1, want - 1) / max(1, have - 1))
            found += _sized(spec, max(1, want - 1) / have)
        elif have in spec.shape:
            axis = spec.shape.index(have)
            found.append(replace(spec, shape=(*spec.shape[:axis], want, *spec.shape[axis + 1 :])))
    return found


_RULES: dict[str, Callable[[Failure], Wishes]] = {
    "linear": _linear, "embedding": _embedding, "embedding_bag": _embedding, "getitem": _indexed,
    "index_select": _indexed, "gather": _indexed, "scatter": _indexed, "scatter_add": _indexed, "index_add": _indexed,
    "one_hot": _indexed, "take_along_dim": _indexed,
    "conv1d": _conv, "conv2d": _conv, "conv3d": _conv,
    "conv_transpose1d": _conv, "conv_transpose2d": _conv, "conv_transpose3d": _conv,
    "layer_norm": _normed, "rms_norm": _normed, "batch_norm": _normed, "instance_norm": _normed, "group_norm": _normed,
    "matmul": _product, "mm": _product, "bmm": _product, "mv": _product, "addmm": _product, "baddbmm": _product,
    "einsum": _summed, "add": _elementwise, "sub": _elementwise, "mul": _elementwise, "div": _elementwise,
    "truediv": _elementwise, "where": _elementwise, "maximum": _elementwise, "minimum": _elementwise,
    "reshape": _reshaped, "view": _reshaped, "unflatten": _reshaped,
    "cat": _joined, "concat": _joined, "concatenate": _joined, "stack": _joined,
    "iadd": _elementwise, "imul": _elementwise, "isub": _elementwise,
}  # fmt: skip


def _by_module(failure: Failure) -> Wishes:
    """A recurrent net, an attention and the like check their input before any torch function sees it."""
    module, inputs = failure.module, failure.inputs
    x = next((one for one in inputs if isinstance(one, Operand)), None)
    path = source(x)
    if module is None or x is None or path is None:
        return
    width = 0
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        width = module.input_size
    elif isinstance(module, nn.MultiheadAttention):
        width = module.embed_dim
    if width:
        flat = isinstance(module, nn.RNNCellBase)
        fresh = (BATCH, width) if flat else (BATCH, LENGTH, width)
        if x.shape and x.shape[-1] != width and len(x.shape) == len(fresh):
            yield from _last(x, width)
        yield path, lambda spec: [replace(spec, shape=fresh, dtype="float32")]
