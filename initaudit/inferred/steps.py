"""What torch.nn's own leaf modules call in a forward pass of evaluation, from their records: torch is not needed.

Each row gives the calls that `torch.nn.functional` gets, as they would be traced, and the shape that comes out. A
module that is not in the table, or whose attributes are not those that its constructor sets, has no calls here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from initaudit.errors import UnsupportedError
from initaudit.inferred.leaves import Leaf, MisfitError, Shape, Step, positive, with_channels
from initaudit.inferred.pools import adaptive, pool

_MOST = 1 << 40  # elements of a value


def steps(leaf: Leaf, shape: Shape) -> list[Step]:
    """Return what a module calls on a value of this shape, in order; nothing where it hands it on as it is.

    Raises:
        UnsupportedError: it is no module of the table, or lacks what it needs; MisfitError where the shape does not do.
    """
    made = _ROWS[leaf.kind](leaf, shape)
    if any(n < 1 for step in made for n in step.shape) or any(math.prod(step.shape) > _MOST for step in made):
        raise MisfitError(f"nothing is left of {shape} behind {leaf.where}")
    return made


def known(kind: str) -> bool:
    """Whether the table has a row for a class of torch.nn."""
    return kind in _ROWS


# ---- products


def _linear(leaf: Leaf, shape: Shape) -> list[Step]:
    out, wanted = _matrix(leaf)
    if not shape or shape[-1] != wanted:
        raise MisfitError(f"{leaf.where} takes {wanted} values", shape[-1] if shape else 0, wanted)
    return [Step("linear", (leaf.ref("weight"), leaf.ref("bias")), {}, (*shape[:-1], out))]


def _matrix(leaf: Leaf) -> tuple[int, int]:
    shape = leaf.weight().shape
    if len(shape) != 2:
        raise UnsupportedError(f"the weight of {leaf.where} is no matrix")
    return shape[0], shape[1]


def _conv(leaf: Leaf, shape: Shape) -> list[Step]:
    weight, n = leaf.weight().shape, leaf.rank
    groups = leaf.whole("groups", 1)
    if len(weight) != n + 2:
        raise UnsupportedError(f"the weight of {leaf.where} has {len(weight)} axes")
    _channels(leaf, shape, weight[1] * groups)
    stride, dilation = positive(leaf, leaf.several("stride")), positive(leaf, leaf.several("dilation", 1))
    given = leaf.get("padding", 0)
    if given not in ("same", "valid"):
        given = leaf.several("padding", 0)
    spans = [d * (k - 1) for d, k in zip(dilation, weight[2:], strict=True)]
    each = [(s // 2, s - s // 2) for s in spans] if given == "same" else [(0, 0)] * n
    if isinstance(given, tuple):
        each = [(p, p) for p in given]
    mode = leaf.get("padding_mode", "zeros")
    made: list[Step] = []
    used: Any = given
    if mode != "zeros":
        if mode not in ("reflect", "replicate", "circular"):
            raise UnsupportedError(f"{leaf.where} pads by {mode!s:.40}")
        made.append(_padded(shape, [p for pair in reversed(each) for p in pair], mode, None))
        shape, used, each = made[-1].shape, (0,) * n, [(0, 0)] * n
    out = tuple(
        (x + a + b - span - 1) // step + 1 for x, (a, b), span, step in zip(shape[2:], each, spans, stride, strict=True)
    )
    if any(x + a + b < span + 1 for x, (a, b), span in zip(shape[2:], each, spans, strict=True)):
        raise MisfitError(f"the kernel of {leaf.where} is larger than what it is applied to", 1, 4**n)
    args = (leaf.ref("weight"), leaf.ref("bias"), stride, used, dilation, groups)
    return [*made, Step(f"conv{n}d", args, {}, (shape[0], weight[0], *out))]


def _turned(leaf: Leaf, shape: Shape) -> list[Step]:
    weight, n = leaf.weight().shape, leaf.rank
    if len(weight) != n + 2 or leaf.get("padding_mode", "zeros") != "zeros":
        raise UnsupportedError(f"{leaf.where} is no plain transposed convolution")
    _channels(leaf, shape, weight[0])
    stride, dilation = positive(leaf, leaf.several("stride")), positive(leaf, leaf.several("dilation", 1))
    groups = leaf.whole("groups", 1)
    padding, more = leaf.several("padding", 0), leaf.several("output_padding", 0)
    out = tuple(
        (x - 1) * s - 2 * p + d * (k - 1) + m + 1
        for x, s, p, d, k, m in zip(shape[2:], stride, padding, dilation, weight[2:], more, strict=True)
    )
    args = (leaf.ref("weight"), leaf.ref("bias"), stride, padding, more, groups, dilation)
    return [Step(f"conv_transpose{n}d", args, {}, (shape[0], weight[1] * groups, *out))]


def _channels(leaf: Leaf, shape: Shape, wanted: int) -> None:
    if len(shape) != leaf.rank + 2:
        raise MisfitError(f"{leaf.where} takes {leaf.rank + 2} axes, not {len(shape)}")
    if shape[1] != wanted:
        raise MisfitError(f"{leaf.where} takes {wanted} channels, not {shape[1]}")


def _embedding(leaf: Leaf, shape: Shape) -> list[Step]:
    kwargs = {
        "padding_idx": leaf.get("padding_idx"), "max_norm": leaf.get("max_norm"),
        "norm_type": leaf.get("norm_type", 2.0), "scale_grad_by_freq": leaf.get("scale_grad_by_freq", False),
        "sparse": leaf.get("sparse", False),
    }  # fmt: skip
    _, width = _matrix(leaf)
    return [Step("embedding", (leaf.ref("weight"),), kwargs, (*shape, width))]


def _embedding_bag(leaf: Leaf, shape: Shape) -> list[Step]:
    kwargs = {
        "offsets": None, "max_norm": leaf.get("max_norm"), "norm_type": leaf.get("norm_type", 2.0),
        "scale_grad_by_freq": leaf.get("scale_grad_by_freq", False), "mode": leaf.get("mode", "mean"),
        "sparse": leaf.get("sparse", False), "per_sample_weights": None,
        "include_last_offset": leaf.get("include_last_offset", False), "padding_idx": leaf.get("padding_idx"),
    }  # fmt: skip
    if len(shape) != 2:
        raise MisfitError(f"{leaf.where} takes two axes")
    return [Step("embedding_bag", (leaf.ref("weight"),), kwargs, (shape[0], _matrix(leaf)[1]))]


# ---- norms


def _batch_norm(leaf: Leaf, shape: Shape) -> list[Step]:
    ranks = {0: (2, 3), 1: (2, 3)}.get(leaf.rank, (leaf.rank + 2,))
    size = leaf.whole("num_features")
    if len(shape) not in ranks or shape[1] != size:
        raise MisfitError(f"{leaf.where} takes {size} channels, not {shape}")
    mean, variance = leaf.ref("running_mean"), leaf.ref("running_var")
    momentum = leaf.get("momentum", 0.1)
    kwargs = {
        "weight": leaf.ref("weight"), "bias": leaf.ref("bias"), "training": mean is None and variance is None,
        "momentum": 0.0 if momentum is None else momentum, "eps": leaf.get("eps", 1e-5),
    }  # fmt: skip
    return [Step("batch_norm", (mean, variance), kwargs, shape)]


def _instance_norm(leaf: Leaf, shape: Shape) -> list[Step]:
    size = leaf.whole("num_features")
    own = leaf.ref("weight") is not None
    if len(shape) != leaf.rank + 2 or (own and shape[1] != size):
        raise MisfitError(f"{leaf.where} takes {size} channels, not {shape}")
    kwargs = {
        "running_mean": leaf.ref("running_mean"), "running_var": leaf.ref("running_var"),
        "weight": leaf.ref("weight"), "bias": leaf.ref("bias"),
        "use_input_stats": not leaf.get("track_running_stats", False),
        "momentum": leaf.get("momentum", 0.1) or 0.0, "eps": leaf.get("eps", 1e-5),
    }  # fmt: skip
    return [Step("instance_norm", (), kwargs, shape)]


def _layer_norm(leaf: Leaf, shape: Shape) -> list[Step]:
    own = leaf.get("normalized_shape")
    if not isinstance(own, tuple) or not own:
        raise UnsupportedError(f"{leaf.where} has no normalized_shape")
    if shape[-len(own) :] != own:
        raise MisfitError(f"{leaf.where} takes {own}", shape[-1] if len(own) == 1 else 0, int(own[-1]))
    if leaf.kind == "RMSNorm":
        kwargs = {"weight": leaf.ref("weight"), "eps": leaf.get("eps")}
        return [Step("rms_norm", (own,), kwargs, shape)]
    kwargs = {"weight": leaf.ref("weight"), "bias": leaf.ref("bias"), "eps": leaf.get("eps", 1e-5)}
    return [Step("layer_norm", (own,), kwargs, shape)]


def _group_norm(leaf: Leaf, shape: Shape) -> list[Step]:
    size = leaf.whole("num_channels")
    if len(shape) < 2 or shape[1] != size:
        raise MisfitError(f"{leaf.where} takes {size} channels, not {shape}")
    kwargs = {"weight": leaf.ref("weight"), "bias": leaf.ref("bias"), "eps": leaf.get("eps", 1e-5)}
    return [Step("group_norm", (leaf.whole("num_groups"),), kwargs, shape)]


def _local_norm(leaf: Leaf, shape: Shape) -> list[Step]:
    if len(shape) < 3:
        raise MisfitError(f"{leaf.where} takes at least three axes")
    kwargs = {"alpha": leaf.get("alpha", 1e-4), "beta": leaf.get("beta", 0.75), "k": leaf.get("k", 1.0)}
    return [Step("local_response_norm", (leaf.whole("size"),), kwargs, shape)]


# ---- pools


# ---- moves


def _nothing(leaf: Leaf, shape: Shape) -> list[Step]:
    return []


def _flatten(leaf: Leaf, shape: Shape) -> list[Step]:
    start, end = leaf.whole("start_dim", 1), leaf.whole("end_dim", -1)
    first, last = (n % len(shape) if -len(shape) <= n < len(shape) else -1 for n in (start, end))
    if first < 0 or last < first:
        raise MisfitError(f"{leaf.where} flattens axes that are not there")
    if first == last:
        return []
    out = (*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])
    return [Step("flatten", (start, end), {}, out)]


def _unflatten(leaf: Leaf, shape: Shape) -> list[Step]:
    axis, sizes = leaf.whole("dim"), leaf.get("unflattened_size")
    if not isinstance(sizes, tuple) or not all(isinstance(n, int) for n in sizes) or sizes.count(-1) > 1:
        raise UnsupportedError(f"{leaf.where} has no sizes")
    if not -len(shape) <= axis < len(shape):
        raise MisfitError(f"{leaf.where} unflattens an axis that is not there")
    at = axis % len(shape)
    whole, rest = shape[at], math.prod(n for n in sizes if n != -1)
    if rest < 1 or whole % rest or (-1 not in sizes and whole != rest):
        raise MisfitError(f"{leaf.where} takes {rest} values", whole, rest)
    made = tuple(whole // rest if n == -1 else n for n in sizes)
    return [Step("unflatten", (axis, sizes), {}, (*shape[:at], *made, *shape[at + 1 :]))]


def _shuffle(leaf: Leaf, shape: Shape) -> list[Step]:
    if leaf.kind == "ChannelShuffle":
        return [Step("channel_shuffle", (leaf.whole("groups"),), {}, shape)]
    if len(shape) != 4:
        raise MisfitError(f"{leaf.where} takes four axes")
    batch, channels, high, wide = shape
    if leaf.kind == "PixelShuffle":
        r = leaf.whole("upscale_factor")
        if r < 1 or channels % (r * r):
            raise MisfitError(f"{leaf.where} takes a multiple of {r * r} channels")
        return [Step("pixel_shuffle", (r,), {}, (batch, channels // (r * r), high * r, wide * r))]
    r = leaf.whole("downscale_factor")
    if r < 1 or high % r or wide % r:
        raise MisfitError(f"{leaf.where} takes multiples of {r}")
    return [Step("pixel_unshuffle", (r,), {}, (batch, channels * r * r, high // r, wide // r))]


def _upsample(leaf: Leaf, shape: Shape) -> list[Step]:
    size, factor = leaf.get("size"), leaf.get("scale_factor")
    n = len(shape) - 2
    if n < 1 or leaf.rank not in (0, n):
        raise MisfitError(f"{leaf.where} takes no value of {len(shape)} axes")
    given = factor if size is None else size
    items = given if isinstance(given, tuple) else (given,) * n
    if len(items) != n or not all(isinstance(x, (int, float)) for x in items):
        raise UnsupportedError(f"{leaf.where} has no size")
    out = tuple(int(x * f) if size is None else int(f) for x, f in zip(shape[2:], items, strict=True))
    kwargs = {
        "size": size, "scale_factor": factor, "mode": leaf.get("mode", "nearest"),
        "align_corners": leaf.get("align_corners"), "recompute_scale_factor": leaf.get("recompute_scale_factor"),
        "antialias": False,
    }  # fmt: skip
    return [Step("interpolate", (), kwargs, (*shape[:2], *out))]


def _pad(leaf: Leaf, shape: Shape) -> list[Step]:
    with_channels(leaf, shape)
    sides = leaf.get("padding")
    if not isinstance(sides, tuple) or len(sides) != 2 * leaf.rank or not all(isinstance(n, int) for n in sides):
        raise UnsupportedError(f"{leaf.where} has no padding")
    modes = {"Reflection": "reflect", "Replication": "replicate", "Circular": "circular"}
    mode = next((word for start, word in modes.items() if leaf.kind.startswith(start)), "constant")
    value = leaf.get("value", 0.0) if mode == "constant" else None
    return [_padded(shape, sides, mode, value)]


def _padded(shape: Shape, sides: Sequence[int], mode: str, value: Any) -> Step:
    out = list(shape)
    for at in range(len(sides) // 2):
        if mode == "reflect" and max(sides[2 * at : 2 * at + 2]) >= shape[-1 - at]:
            raise MisfitError("the padding is larger than what it reflects", 1, 4)
        out[-1 - at] += sides[2 * at] + sides[2 * at + 1]
    return Step("pad", (tuple(sides),), {"mode": mode, "value": value}, tuple(out))


# ---- activations


def _same(target: str, *args: tuple[str, Any], **kwargs: Any) -> Callable[[Leaf, Shape], list[Step]]:
    """Return the row of a function of the same shape: attributes, with what they are where they are not given."""

    def row(leaf: Leaf, shape: Shape) -> list[Step]:
        positional = tuple(leaf.get(name, default) for name, default in args)
        named = {name: leaf.get(name, default) for name, default in kwargs.items()}
        return [Step(target, positional, named, shape)]

    return row


def _dropout(target: str) -> Callable[[Leaf, Shape], list[Step]]:
    """Return the row of a dropout, as it runs in evaluation; one that never drops anything is no step."""

    def row(leaf: Leaf, shape: Shape) -> list[Step]:
        share = leaf.get("p", 0.5)
        given = {"p": share, "training": False, "inplace": leaf.get("inplace", False)}
        return [Step(target, (), given, shape)] if share else []

    return row


def _hardtanh(leaf: Leaf, shape: Shape) -> list[Step]:
    low, high = leaf.get("min_val", -1.0), leaf.get("max_val", 1.0)
    if leaf.kind == "ReLU6":
        low, high = 0.0, 6.0
    return [Step("hardtanh", (), {"min_val": low, "max_val": high, "inplace": leaf.get("inplace", False)}, shape)]


def _prelu(leaf: Leaf, shape: Shape) -> list[Step]:
    size = leaf.weight().size
    if size not in (1, shape[1] if len(shape) > 1 else 1):
        raise MisfitError(f"{leaf.where} takes {size} channels, not {shape}")
    return [Step("prelu", (leaf.ref("weight"),), {}, shape)]


def _rrelu(leaf: Leaf, shape: Shape) -> list[Step]:
    kwargs = {
        "lower": leaf.get("lower", 1 / 8), "upper": leaf.get("upper", 1 / 3), "training": False,
        "inplace": leaf.get("inplace", False),
    }  # fmt: skip
    return [Step("rrelu", (), kwargs, shape)]


def _glu(leaf: Leaf, shape: Shape) -> list[Step]:
    axis = leaf.whole("dim", -1)
    if not -len(shape) <= axis < len(shape) or shape[axis] % 2:
        raise MisfitError(f"{leaf.where} cannot halve {shape}")
    at = axis % len(shape)
    return [Step("glu", (), {"dim": axis}, (*shape[:at], shape[at] // 2, *shape[at + 1 :]))]


def _softmax(leaf: Leaf, shape: Shape) -> list[Step]:
    target = {"LogSoftmax": "log_softmax", "Softmin": "softmin"}.get(leaf.kind, "softmax")
    axis = -3 if leaf.kind == "Softmax2d" else leaf.get("dim")
    if isinstance(axis, int) and not -len(shape) <= axis < len(shape):
        raise MisfitError(f"{leaf.where} works along an axis that is not there")
    return [Step(target, (), {"dim": axis, "_stacklevel": 5, "dtype": None}, shape)]


Row = Callable[[Leaf, Shape], list[Step]]
_ROWS: dict[str, Row] = {
    "Linear": _linear, "Embedding": _embedding, "EmbeddingBag": _embedding_bag,
    **dict.fromkeys(("Conv1d", "Conv2d", "Conv3d"), _conv),
    **dict.fromkeys(("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d"), _turned),
    **dict.fromkeys(("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), _batch_norm),
    **dict.fromkeys(("InstanceNorm1d", "InstanceNorm2d", "InstanceNorm3d"), _instance_norm),
    **dict.fromkeys(("LayerNorm", "RMSNorm"), _layer_norm),
    "GroupNorm": _group_norm, "LocalResponseNorm": _local_norm,
    **dict.fromkeys((f"{kind}Pool{n}d" for kind in ("Max", "Avg") for n in (1, 2, 3)), pool),
    **dict.fromkeys(("LPPool1d", "LPPool2d", "LPPool3d"), pool),
    **dict.fromkeys((f"Adaptive{kind}Pool{n}d" for kind in ("Max", "Avg") for n in (1, 2, 3)), adaptive),
    "Identity": _nothing, "Dropout": _dropout("dropout"), "AlphaDropout": _dropout("alpha_dropout"),
    **{f"Dropout{n}d": _dropout(f"dropout{n}d") for n in (1, 2, 3)},
    "FeatureAlphaDropout": _dropout("feature_alpha_dropout"),
    "Flatten": _flatten, "Unflatten": _unflatten,
    **dict.fromkeys(("PixelShuffle", "PixelUnshuffle", "ChannelShuffle"), _shuffle),
    **dict.fromkeys(("Upsample", "UpsamplingNearest2d", "UpsamplingBilinear2d"), _upsample),
    **dict.fromkeys(
        (f"{kind}Pad{n}d" for kind in ("Zero", "Constant", "Reflection", "Replication", "Circular") for n in (1, 2, 3)),
        _pad,
    ),
    "ReLU": _same("relu", inplace=False), "LeakyReLU": _same("leaky_relu", negative_slope=0.01, inplace=False),
    "ELU": _same("elu", alpha=1.0, inplace=False), "SELU": _same("selu", inplace=False),
    "CELU": _same("celu", alpha=1.0, inplace=False), "GELU": _same("gelu", approximate="none"),
    "SiLU": _same("silu", inplace=False), "Mish": _same("mish", inplace=False), "Sigmoid": _same("sigmoid"),
    "Tanh": _same("tanh"), "Hardsigmoid": _same("hardsigmoid", inplace=False),
    "Hardswish": _same("hardswish", inplace=False), "Softplus": _same("softplus", ("beta", 1.0), ("threshold", 20.0)),
    "Softsign": _same("softsign"), "LogSigmoid": _same("log_sigmoid"),
    "Softshrink": _same("softshrink", ("lambd", 0.5)), "Hardshrink": _same("hardshrink", ("lambd", 0.5)),
    "Tanhshrink": _same("tanhshrink"), "Threshold": _same("threshold", ("threshold", None), ("value", None)),
    "ReLU6": _hardtanh, "Hardtanh": _hardtanh, "PReLU": _prelu, "RReLU": _rrelu, "GLU": _glu,
    **dict.fromkeys(("Softmax", "LogSoftmax", "Softmin", "Softmax2d"), _softmax),
}  # fmt: skip
