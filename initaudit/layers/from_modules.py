"""Layers of a pickled nn.Module: from its module tree, whose records say class, attributes and order of registration.

Fans of torch.nn's own classes are as certain as in a graph. A foreign class that carries the attributes of one of them
(in_features and out_features, kernel_size and stride, ...) is read as that kind; any other by names and shapes.
"""

from __future__ import annotations

from initaudit.layers import activated, following, neighbours, roles, shapes
from initaudit.layers.drafts import layer
from initaudit.layers.groups import Group, by_module
from initaudit.types import Evidence, Layer, Model, Module, Skip, Tensor

_MODES = {"LSTM": "lstm", "GRU": "gru", "RNN_TANH": "rnn", "RNN_RELU": "rnn"}
_CELLS = {"LSTMCell": "lstm", "GRUCell": "gru", "RNNCell": "rnn"}


def infer(model: Model, tensors: tuple[Tensor, ...] | None = None) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """Return the layers of a module tree in the order of registration, and what could not be read.

    Args:
        model: a model with modules.
        tensors: the tensors to read, all by default.
    """
    layers: list[Layer] = []
    skipped: list[Skip] = []
    known: set[str] = set()
    owners: dict[str, Module] = {}
    for group in by_module(model.tensors if tensors is None else tensors, model.modules):
        found, unread, certain = _read(group)
        layers += found
        skipped += unread
        if group.module is not None:
            owners.update({a.weight.name: group.module for a in found})
        if certain:
            known.update(a.weight.name for a in found if a.fan_evidence is not Evidence.ASSUMED)
    settled = neighbours.settle(layers, model.config, ordered=True, known=frozenset(known))
    named = roles.assign(settled, model.config, ordered=True)
    traced = following.trace(named, model.modules, owners)
    held = following.Held(model.modules)
    made = activated.fill(traced, model.config, ordered=True, told=held.told, usual=held.usual)
    frozen = [a for a in made if a.kind == "norm" and a.weight.buffer]  # read so far for what it tells of the others
    skipped += [
        Skip(t.name, "a buffer, no parameter", parameter=False)
        for a in frozen
        for t in (a.weight, a.bias, *a.extra)
        if t is not None
    ]
    return tuple(a for a in made if a not in frozen), tuple(skipped)


def _read(group: Group) -> tuple[list[Layer], list[Skip], bool]:
    """Read one module; the flag tells that its class or attributes settled what its weights are."""
    module = group.module
    if module is None:
        return (*shapes.read(group), False)
    reader = shapes.Reader(group)
    own = module.cls.startswith("torch.nn.")
    reader.rebuild(transposed=bool(module.attrs.get("transposed")))
    known = _by_class(reader, module, Evidence.TRACED if own else Evidence.NAMED)
    if not known:
        return (*shapes.read(group), False)
    shapes.rest(reader)
    return reader.layers, reader.skipped, True


def _by_class(reader: shapes.Reader, module: Module, sure: Evidence) -> bool:
    kind, attrs = module.kind, module.attrs
    why = f"a {kind} module"
    if "weight_ih_l0" in reader.left or (kind in _CELLS and "weight_ih" in reader.left):
        mode = _MODES.get(str(attrs.get("mode"))) or _CELLS.get(kind)
        shapes.recurrent(reader, mode, sure if mode else Evidence.NAMED, why)
        return bool(reader.layers)
    if "in_proj_weight" in reader.left or "q_proj_weight" in reader.left:
        shapes.attention(reader, sure if kind == "MultiheadAttention" else Evidence.NAMED)
        return bool(reader.layers)
    weight = reader.left.get("weight")
    if weight is None or not weight.is_float or not (reader.made["weight"].known if "weight" in reader.made else True):
        return False
    made = _operator(reader, module, weight, sure, why) or _vector(reader, module, weight, sure, why)
    if made is None:
        return False
    reader.layers.append(made)
    return True


def _operator(reader: shapes.Reader, module: Module, weight: Tensor, sure: Evidence, why: str) -> Layer | None:
    """Read a weight of two or more axes by the attributes that torch.nn's class of its kind has."""
    attrs, shape = module.attrs, weight.shape
    spatial = len(shape) - 2
    name = reader.name("weight")
    if module.kind == "Bilinear" and spatial == 1:
        return layer(
            name, "bilinear", _taken(reader), "oik", sure=sure, reason=why, bias=_bias(reader), extra=_extra(reader)
        )
    if spatial == 0:
        rows, columns = shape
        if _whole(attrs, "num_embeddings") and _whole(attrs, "embedding_dim"):
            padding = attrs.get("padding_idx")
            index = int(padding) % rows if isinstance(padding, int) and rows and -rows <= padding < rows else None
            return layer(
                name, "embedding", _taken(reader), "io", sure=sure, reason=why, extra=_extra(reader), padding=index
            )
        inward, outward = _whole(attrs, "in_features"), _whole(attrs, "out_features")
        if module.kind == "Conv1D" and _whole(attrs, "nf") == columns:
            return layer(
                name, "linear", _taken(reader), "io", sure=sure, reason=f"{why}, stored (in, out)", bias=_bias(reader)
            )
        if inward is not None and outward is not None and {(rows, columns)} & {(outward, inward), (inward, outward)}:
            axes = "oi" if (rows, columns) == (outward, inward) else "io"
            return layer(
                name, "linear", _taken(reader), axes, sure=sure, reason=why, bias=_bias(reader), extra=_extra(reader)
            )
        return None
    if spatial < 1 or spatial > 3 or not ({"kernel_size", "stride"} & attrs.keys()):
        return None
    groups = _whole(attrs, "groups") or 1
    stride = _tuple(attrs.get("stride"), spatial)
    transposed = bool(attrs.get("transposed")) or (
        "transposed" not in attrs and "Transpose" in module.kind and _whole(attrs, "in_channels") == shape[0]
    )
    if shape[0] % groups:
        return None
    return layer(
        name,
        "conv_transpose" if transposed else "conv",
        _taken(reader),
        ("io" if transposed else "oi") + "k" * spatial,
        sure=sure,
        reason=why,
        bias=_bias(reader),
        extra=_extra(reader),
        groups=groups,
        stride=stride,
    )


def _vector(reader: shapes.Reader, module: Module, weight: Tensor, sure: Evidence, why: str) -> Layer | None:
    """Read a norm or the slopes of a PReLU."""
    attrs, kind = module.attrs, module.kind
    if kind == "PReLU" or (len(weight.shape) == 1 and "PReLU" in kind):
        return layer(reader.name("weight"), "prelu", _taken(reader), "o" * len(weight.shape), sure=sure, reason=why)
    norm = {"normalized_shape", "num_features", "num_channels", "variance_epsilon", "eps"} & attrs.keys()
    if not norm and "norm" not in kind.lower():
        return None
    if len(weight.shape) > 1 and "normalized_shape" not in attrs:
        return None
    statistics = [reader.take(n) for n in ("running_mean", "running_var", "num_batches_tracked")]
    return layer(
        reader.name("weight"),
        "norm",
        _taken(reader),
        "o" * len(weight.shape),
        sure=sure,
        reason=why,
        bias=_bias(reader),
        extra=(*_extra(reader), *(t for t in statistics if t is not None)),
    )


def _taken(reader: shapes.Reader) -> Tensor:
    return reader.left.pop("weight")


def _bias(reader: shapes.Reader) -> Tensor | None:
    return reader.take("bias")


def _extra(reader: shapes.Reader) -> tuple[Tensor, ...]:
    return reader.extras("weight")


def _whole(attrs: object, name: str) -> int | None:
    value = attrs.get(name) if hasattr(attrs, "get") else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _tuple(value: object, length: int) -> tuple[int, ...]:
    """A stride as a tuple of the right length; what is not a stride counts as 1."""
    items = value if isinstance(value, tuple | list) else (value,) * length
    whole = tuple(v if isinstance(v, int) and not isinstance(v, bool) and v > 0 else 1 for v in items)
    return whole if len(whole) == length else (1,) * length
