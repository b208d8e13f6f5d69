"""Shapes of results, as far as they follow from what is known: enough to decide what a scripted forward asks for."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from initaudit.formats.torch.script_values import Shape, Sizes, Sym, words

Rule = Callable[[list[Any], dict[str, Any]], Shape | None]

_SAME = words("""
    relu relu_ relu6 gelu silu silu_ hardswish hardswish_ hardsigmoid hardtanh hardtanh_ leaky_relu leaky_relu_
    elu elu_ selu celu mish sigmoid tanh softplus softsign logsigmoid prelu rrelu softshrink hardshrink threshold
    dropout dropout_ feature_dropout alpha_dropout batch_norm group_norm instance_norm rms_norm softmax log_softmax to
    contiguous clone detach alias abs neg exp log sqrt rsqrt erf sin cos square reciprocal clamp clamp_ clamp_min
    clamp_max masked_fill masked_fill_ zeros_like ones_like empty_like full_like rand_like randn_like type_as float half
    bfloat16 double cumsum cumprod roll flip bernoulli copy_ fill_ zero_ floor ceil round triu tril nan_to_num sign
    logical_not bitwise_not isnan normalize sort_ index_fill index_copy scatter scatter_ scatter_add masked_scatter
    index_put index_put_ _weight_norm bitwise_and_ logical_or_ quick_gelu floor_ sigmoid_ tanh_ cpu cuda
""")  # fmt: skip
_BROADCAST = words("""
    add add_ sub sub_ mul mul_ div div_ pow maximum minimum where eq ne lt gt le ge logical_and logical_or fmod
    remainder __and__ __or__ __xor__ bitwise_and bitwise_or rsub true_divide floor_divide atan2 lerp addcmul addcdiv
""")  # fmt: skip
_REDUCED = words("mean sum amax amin max min argmax argmin std var prod norm logsumexp all any median")


def shape_of(value: Any) -> Shape | None:
    """Return the shape of a tensor or number, None where it is not known."""
    if isinstance(value, Sym):
        return value.shape
    return () if isinstance(value, (bool, int, float)) else None


class MisfitError(Exception):
    """Shapes that no run could bring together: the inputs are taken for something that they are not."""


def result(name: str, args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    """Return the shape of an operator's first result, None where it is not known.

    Raises:
        MisfitError: the operator would refuse arguments of these shapes.
    """
    try:
        if name in _SAME:
            return shape_of(args[0])
        if name in _BROADCAST:
            return _broadcast([arg for arg in args if isinstance(arg, (Sym, int, float))])
        if name in _REDUCED:
            return _reduced(args, kwargs)
        rule = _RULES.get(name)
        return rule(args, kwargs) if rule else None
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        if args and shape_of(args[0]) is not None:
            raise MisfitError(name) from None
        return None


def _fit(one: int | None, other: int | None) -> None:
    if one is not None and other is not None and one != other:
        raise ValueError(f"{one} is not {other}")


def _broadcast(args: list[Any]) -> Shape | None:
    shapes = [shape_of(arg) for arg in args]
    if not shapes or any(shape is None for shape in shapes):
        return None
    known = [shape for shape in shapes if shape is not None]
    rank = max(len(shape) for shape in known)
    out: list[int | None] = []
    for axis in range(-rank, 0):
        extents = {shape[axis] for shape in known if len(shape) >= -axis} - {1}
        told = extents - {None}
        if len(told) > 1:
            raise ValueError(f"extents {told}")
        out.append(told.pop() if told else None if extents else 1)
    return tuple(out)


def _reduced(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = shape_of(args[0])
    place = 2 if len(args) > 2 and isinstance(args[1], (int, float)) and isinstance(args[2], (list, tuple)) else 1
    axes = kwargs.get("dim", args[place] if len(args) > place else None)
    if isinstance(axes, Sym) or shape is None:
        return None if axes is not None else ()
    if axes is None:
        return ()
    keep = kwargs.get("keepdim", args[place + 1] if len(args) > place + 1 else False)
    gone = {axis % len(shape) for axis in (axes if isinstance(axes, (list, tuple)) else [axes])}
    if keep is True:
        return tuple(1 if axis in gone else extent for axis, extent in enumerate(shape))
    return tuple(extent for axis, extent in enumerate(shape) if axis not in gone)


def _sizes(value: Any) -> Shape | None:
    if isinstance(value, Sizes) or not isinstance(value, (list, tuple)):
        return None
    return tuple(item if isinstance(item, int) and item >= 0 else None for item in value)


def _view(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    wanted, before = _sizes(args[1]), shape_of(args[0])
    if wanted is None:
        return None
    if before is not None and None not in before and None not in wanted:
        _fit(math.prod(e for e in before if e is not None), math.prod(e for e in wanted if e is not None))
    if list(args[1]).count(-1) == 1 and before is not None and None not in before:
        rest = math.prod(item for item in args[1] if isinstance(item, int) and item > 0)
        if wanted.count(None) == 1 and rest:
            whole = math.prod(extent for extent in before if extent is not None)
            _fit(whole % rest, 0)
            return tuple(whole // rest if item is None else item for item in wanted)
    return wanted


def _expand(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    wanted, before = _sizes(args[1]), shape_of(args[0])
    if wanted is None or before is None:
        return wanted
    padded = (None,) * (len(wanted) - len(before)) + before
    return tuple(b if w == -1 else p for b, w, p in zip(padded, args[1], wanted, strict=True))


def _swap(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = list(args[0].shape)
    a, b = args[1], args[2]
    shape[a], shape[b] = shape[b], shape[a]
    return tuple(shape)


def _unsqueeze(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = list(args[0].shape)
    shape.insert(args[1] % (len(shape) + 1), 1)
    return tuple(shape)


def _squeeze(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = args[0].shape
    axis = args[1] % len(shape)
    return tuple(extent for i, extent in enumerate(shape) if i != axis) if shape[axis] == 1 else None


def _flatten(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = args[0].shape
    start = (args[1] if len(args) > 1 else 0) % len(shape)
    stop = (args[2] if len(args) > 2 else -1) % len(shape)
    inner = shape[start : stop + 1]
    return (*shape[:start], None if None in inner else math.prod(inner), *shape[stop + 1 :])


def _sliced(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = list(args[0].shape)
    axis = args[1] if len(args) > 1 else 0
    start, stop, step = (*args[2:5], *(None,) * (5 - max(len(args), 2)))[:3]
    extent = shape[axis]
    plain = all(bound is None or isinstance(bound, int) for bound in (start, stop, step))
    if start in (None, 0) and (stop is None or stop == (1 << 63) - 1) and step in (None, 1):
        return tuple(shape)
    shape[axis] = len(range(extent)[start:stop:step]) if plain and extent is not None else None
    return tuple(shape)


def _select(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = list(args[0].shape)
    del shape[args[1]]
    return tuple(shape)


def _linear(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    _fit(args[0].shape[-1], args[1].shape[1])
    return (*args[0].shape[:-1], args[1].shape[0])


def _normalised(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    for extent, wanted in zip(reversed(args[0].shape), reversed(args[1]), strict=False):
        _fit(extent, wanted)
    return shape_of(args[0])


def _matmul(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    a, b = args[0].shape, args[1].shape
    if len(a) < 2 or len(b) < 2:
        return None
    _fit(a[-1], b[-2])
    longer = a if len(a) >= len(b) else b
    return (*longer[:-2], a[-2], b[-1])


def _conv(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    weight, shape = args[1].shape, args[0].shape
    groups = args[6] if len(args) > 6 and isinstance(args[6], int) else 1
    if len(shape) not in (len(weight), len(weight) - 1):
        raise ValueError("too few axes or too many")
    _fit(shape[1 - len(weight)], weight[1] * groups)
    batch = shape[: len(shape) - len(weight) + 1]
    return (*batch, weight[0], *(None,) * (len(weight) - 2))


def _conv_transpose(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    weight = args[1].shape
    groups = args[6] if len(args) > 6 and isinstance(args[6], int) else 1
    _fit(args[0].shape[1 - len(weight)], weight[0])
    return (None, weight[1] * groups, *(None,) * (len(weight) - 2))


def _convolution(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    if args[6] is True:
        return (None, args[1].shape[1] * args[8], *(None,) * (len(args[1].shape) - 2))
    return _conv([args[0], args[1], None, None, None, None, args[8]], kwargs)


def _pool(axes: int) -> Rule:
    def rule(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
        return (*args[0].shape[:-axes], *(None,) * axes)

    return rule


def _adaptive(axes: int) -> Rule:
    def rule(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
        size = _sizes(args[1]) or (None,) * axes
        return (*args[0].shape[:-axes], *size)

    return rule


def _padded(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = list(args[0].shape)
    for pair in range(len(args[1]) // 2):
        low, high = args[1][2 * pair : 2 * pair + 2]
        extent = shape[-1 - pair]
        shape[-1 - pair] = extent + low + high if isinstance(low, int) and isinstance(high, int) and extent else None
    return tuple(shape)


def _cat(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shapes = [item.shape for item in args[0]]
    axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
    if any(shape is None or len(shape) != len(shapes[0]) for shape in shapes):
        return None
    out: list[int | None] = []
    for at, extents in enumerate(zip(*shapes, strict=True)):
        if at == axis % len(shapes[0]):
            out.append(None if None in extents else sum(extents))
        else:
            out.append(next((extent for extent in extents if extent is not None), None))
    return tuple(out)


def _stack(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = list(args[0][0].shape)
    shape.insert((args[1] if len(args) > 1 else 0) % (len(shape) + 1), len(args[0]))
    return tuple(shape)


def _embedding(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    return (*args[1].shape, args[0].shape[1])


def _recurrent(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    shape = args[0].shape
    return (*shape[:-1], None) if shape else (None, None, None)


def _created(args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    return _sizes(args[0])


_RULES: dict[str, Rule] = {
    "view": _view, "reshape": _view, "expand": _expand, "transpose": _swap, "unsqueeze": _unsqueeze,
    "squeeze": _squeeze, "flatten": _flatten, "slice": _sliced, "select": _select, "linear": _linear,
    "matmul": _matmul, "bmm": _matmul, "mm": _matmul, "conv1d": _conv, "conv2d": _conv, "conv3d": _conv,
    "_convolution": _convolution, "conv_transpose1d": _conv_transpose, "conv_transpose2d": _conv_transpose,
    "conv_transpose3d": _conv_transpose, "max_pool1d": _pool(1), "max_pool2d": _pool(2), "max_pool3d": _pool(3),
    "avg_pool1d": _pool(1), "avg_pool2d": _pool(2), "avg_pool3d": _pool(3), "adaptive_avg_pool1d": _adaptive(1),
    "adaptive_avg_pool2d": _adaptive(2), "adaptive_avg_pool3d": _adaptive(3), "adaptive_max_pool2d": _adaptive(2),
    "upsample_nearest2d": _pool(2), "upsample_bilinear2d": _pool(2), "upsample_nearest1d": _pool(1),
    "upsample_bicubic2d": _pool(2), "upsample_linear1d": _pool(1), "pad": _padded, "constant_pad_nd": _padded,
    "reflection_pad1d": _padded, "reflection_pad2d": _padded, "cat": _cat, "stack": _stack, "embedding": _embedding,
    "lstm": _recurrent, "gru": _recurrent, "rnn_tanh": _recurrent, "rnn_relu": _recurrent, "zeros": _created,
    "ones": _created, "empty": _created, "rand": _created, "randn": _created, "full": _created,
    "permute": lambda args, kwargs: tuple(args[0].shape[axis] for axis in args[1]),
    "layer_norm": _normalised, "t": lambda args, kwargs: tuple(reversed(args[0].shape)),
    "scaled_dot_product_attention": lambda args, kwargs: (*args[0].shape[:-1], args[2].shape[-1]),
    "unflatten": lambda args, kwargs: (
        *args[0].shape[: args[1] % len(args[0].shape)],
        *(_sizes(args[2]) or (None,) * len(args[2])),
        *args[0].shape[args[1] % len(args[0].shape) + 1 :],
    ),
    "arange": lambda args, kwargs: (None,),
    "new_zeros": lambda args, kwargs: _sizes(args[1]), "new_ones": lambda args, kwargs: _sizes(args[1]),
    "new_full": lambda args, kwargs: _sizes(args[1]), "item": lambda args, kwargs: (),
    "addmm": lambda args, kwargs: (args[1].shape[0], args[2].shape[1]),
}  # fmt: skip


def wanted_rank(name: str, args: list[Any]) -> int | None:
    """Return how many axes an operator asks of its first argument, taking a batch of several for granted."""
    if name in ("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
        return int(name[-2]) + 2
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return 3
    if name == "_convolution" and isinstance(args[1], Sym) and args[1].shape is not None:
        return len(args[1].shape)
    return None
