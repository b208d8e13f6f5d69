"""What the tensors of one module are, told by their local names and shapes alone."""

from __future__ import annotations

import re
from dataclasses import replace

from initaudit.layers import words
from initaudit.layers.drafts import again, layer, parameter_axes
from initaudit.layers.groups import Effective, Group, effective
from initaudit.types import Evidence, Layer, Skip, Tensor

GATES = {"lstm": ("input", "forget", "cell", "output"), "gru": ("reset", "update", "new"), "rnn": ()}
GATE_COUNT = {"lstm": 4, "gru": 3, "rnn": 1}
_RECURRENT = re.compile(r"^weight_(ih|hh|hr)((?:_l\d+)?(?:_reverse)?)$")
_ATTENTION = re.compile(r"^(in_proj|q_proj|k_proj|v_proj)_weight$")
_HEADS = re.compile(r"(?:^|[./])(?:query|key|value|qkv|out|[qkvo]_proj|out_proj|to_[qkv]|to_out)$")
_MAIN = ("weight", "kernel", "scale", "gamma", "g", "W", "w")
_BIAS = {"weight": "bias", "kernel": "bias", "scale": "bias", "gamma": "beta", "g": "b", "W": "b", "w": "b"}


class Reader:
    """Takes the tensors of one group one by one until none is left."""

    def __init__(self, group: Group) -> None:
        self.path = group.path
        self.left: dict[str, Tensor] = dict(group.tensors)
        self.layers: list[Layer] = []
        self.skipped: list[Skip] = []
        self.made: dict[str, Effective] = {}

    def take(self, *names: str) -> Tensor | None:
        """Return the first of these that is left, which is then accounted for."""
        for name in names:
            if name in self.left:
                return self.left.pop(name)
        return None

    def rebuild(self, transposed: bool = False) -> None:
        """Replace re-parametrised weights by the effective ones, under the name of the weight they make."""
        self.made = effective(self.left, transposed)
        for local, e in self.made.items():
            for used in e.used:
                self.left.pop(used, None)
            self.left[local] = e.weight

    def extras(self, local: str) -> tuple[Tensor, ...]:
        """Return the tensors that an effective weight was made of."""
        return self.made[local].extra if local in self.made else ()

    def add(self, made: Layer) -> None:
        """Put a layer on the list."""
        self.layers.append(made)

    def name(self, local: str) -> str:
        """Return the name of a row: the module's path, with the local name where that alone does not say it."""
        if local in ("weight", "kernel") and self.path:
            return self.path
        return f"{self.path}.{local}" if self.path else local


def read(group: Group) -> tuple[list[Layer], list[Skip]]:
    """Return the layers of a group that nothing but its names and shapes describes."""
    reader = Reader(group)
    reader.rebuild()
    recurrent(reader)
    attention(reader)
    _main(reader)
    rest(reader)
    return reader.layers, reader.skipped


def recurrent(reader: Reader, kind: str | None = None, sure: Evidence = Evidence.NAMED, reason: str = "") -> None:
    """Read the weights of an RNN, LSTM or GRU or of their cells: one row per matrix and direction."""
    for local in [n for n in reader.left if _RECURRENT.match(n)]:
        if local not in reader.left:
            continue
        match = _RECURRENT.match(local)
        suffix = match[2] if match else ""
        hh, hr = reader.left.get(f"weight_hh{suffix}"), reader.left.get(f"weight_hr{suffix}")
        if hh is None or len(hh.shape) != 2:
            continue
        hidden = hr.shape[1] if hr is not None and len(hr.shape) == 2 else hh.shape[1]
        count = hh.shape[0] // hidden if hidden and hh.shape[0] % hidden == 0 else 0
        known = kind or {n: k for k, n in GATE_COUNT.items()}.get(count)
        for which in ("ih", "hh", "hr"):
            weight = reader.take(f"weight_{which}{suffix}")
            if weight is None:
                continue
            if known is None or len(weight.shape) != 2:
                reader.left[f"weight_{which}{suffix}"] = weight
                break
            read = layer(
                reader.name(f"weight_{which}{suffix}"),
                known,
                weight,
                "oi",
                sure=sure,
                reason=reason or f"{count or 1} gate matrices of {hidden} units by names and shapes",
                bias=reader.take(f"bias_{which}{suffix}"),
                extra=reader.extras(f"weight_{which}{suffix}"),
                parts=GATES[known] if which != "hr" and weight.shape[0] % GATE_COUNT[known] == 0 else (),
            )
            reader.add(again(read, words.OWN_GATES, activation_evidence=Evidence.NAMED) if read.parts else read)


def attention(reader: Reader, sure: Evidence = Evidence.NAMED) -> None:
    """Read what torch.nn.MultiheadAttention keeps as bare parameters."""
    found = [n for n in reader.left if _ATTENTION.match(n) and len(reader.left[n].shape) == 2]
    for local in found:
        weight = reader.left[local]
        packed = local == "in_proj_weight"
        if packed and weight.shape[0] != 3 * weight.shape[1]:
            continue
        del reader.left[local]
        first = local == found[0]
        reader.add(
            layer(
                reader.name(local),
                "attention",
                weight,
                "oi",
                sure=sure,
                reason="query, key and value projections of torch.nn.MultiheadAttention",
                bias=reader.take(local.replace("weight", "bias"), *(["in_proj_bias"] if first else [])),
                extra=(
                    *reader.extras(local),
                    *((reader.take("bias_k"), reader.take("bias_v")) if first else ()),
                ),
                parts=words.PARTS_QKV if packed else (),
            )
        )


def _main(reader: Reader) -> None:
    """Read the group's principal weight with its bias and statistics."""
    for local in _MAIN:
        weight = reader.left.get(local)
        if weight is None or not weight.is_float:
            continue
        bias = reader.left.get(_BIAS[local])
        flat = len(weight.shape) == 1
        if local in ("gamma", "scale", "g", "w", "W") and not (
            flat and bias is not None and bias.shape == weight.shape
        ):
            named = local == "scale" and flat and words.NORM_NAME.search(words.leaf(reader.path))
            matrix = local in ("w", "W", "g") and len(weight.shape) > 1 and bias is not None
            if not named and not matrix:
                continue
        del reader.left[local]
        bias = reader.take(_BIAS[local])
        if flat or not weight.shape:
            _vector(reader, local, weight, bias)
        else:
            reader.add(matrix_layer(reader, local, weight, bias))
        return


def _vector(reader: Reader, local: str, weight: Tensor, bias: Tensor | None) -> None:
    """A one-dimensional weight: a norm, or the slopes of a PReLU."""
    statistics = [reader.take(n) for n in ("running_mean", "running_var", "running_std", "num_batches_tracked")]
    name = words.leaf(reader.path)
    alone = bias is None and not any(statistics)
    if alone and (words.PRELU_NAME.search(name) or (weight.size == 1 and not words.NORM_NAME.search(name))):
        sure = Evidence.NAMED if words.PRELU_NAME.search(name) else Evidence.ASSUMED
        reader.add(
            layer(reader.name(local), "prelu", weight, "o" * len(weight.shape), sure=sure, reason="slopes of a PReLU")
        )
        return
    if alone and not words.NORM_NAME.search(reader.path) and words.GATE_WHOLE.search(reader.path):
        reader.add(
            layer(
                reader.name(local), "parameter", weight, "o", sure=Evidence.NAMED, reason="one factor per unit, by name"
            )
        )
        return
    why = (
        "running statistics"
        if any(statistics)
        else "weight and bias of one size"
        if bias is not None
        else "weight alone"
    )
    sure = Evidence.NAMED if not alone or words.NORM_NAME.search(reader.path) else Evidence.ASSUMED
    reader.add(
        layer(
            reader.name(local),
            "norm",
            weight,
            "o" * len(weight.shape),
            sure=sure,
            reason=f"one-dimensional weight: a norm ({why})",
            bias=bias,
            extra=(*reader.extras(local), *statistics),
        )
    )


def matrix_layer(reader: Reader, local: str, weight: Tensor, bias: Tensor | None) -> Layer:
    """Read a weight of two or more axes; orientation and groups are settled later, with its neighbours."""
    shape, name = weight.shape, reader.name(local)
    whole = f"{reader.path}.{local}"
    extra = list(reader.extras(local))
    made_of = reader.made.get(local)
    if made_of is not None and not made_of.known:
        return layer(
            name,
            "parameter",
            weight,
            parameter_axes(shape),
            sure=Evidence.ASSUMED,
            reason=made_of.reason,
            bias=bias,
            extra=extra,
        )
    flax = local == "kernel"
    if len(shape) == 2:
        embedding = _embedding(reader.path, shape[0], shape[1]) if bias is None and not flax else None
        if embedding is not None:
            return layer(
                name, "embedding", weight, "io", sure=embedding, reason="a table by its name, without bias", extra=extra
            )
        sure = (
            Evidence.NAMED
            if bias is not None or words.says_linear(reader.path) or words.ADAPTER.search(reader.path)
            else Evidence.ASSUMED
        )
        made = layer(
            name, "linear", weight, "io" if flax else "oi", sure=sure, reason="two axes", bias=bias, extra=extra
        )
    elif len(shape) == 3 and words.EXPERTS.search(whole):
        made = layer(
            name, "linear", weight, "soi", sure=Evidence.ASSUMED, reason="stacked experts", bias=bias, extra=extra
        )
    elif flax and _HEADS.search(reader.path) and (heads := _headed(shape, bias)):
        why = "heads and their width as axes of their own"
        made = layer(name, "linear", weight, heads, sure=Evidence.ASSUMED, reason=why, bias=bias, extra=extra)
    elif len(shape) <= 5:
        axes = "k" * (len(shape) - 2) + "io" if flax else "oi" + "k" * (len(shape) - 2)
        made = layer(
            name, "conv", weight, axes, sure=Evidence.ASSUMED, reason=f"{len(shape)} axes", bias=bias, extra=extra
        )
    else:
        axes = parameter_axes(shape)
        made = layer(
            name, "parameter", weight, axes, sure=Evidence.ASSUMED, reason=f"{len(shape)} axes", bias=bias, extra=extra
        )
    return replace(made, reasons=(*made.reasons, made_of.reason)) if made_of is not None else made


def _headed(shape: tuple[int, ...], bias: Tensor | None) -> str:
    """Label the axes of a projection into heads, (in, heads, width), or out of them, (heads, width, out)."""
    if len(shape) != 3:
        return ""
    into = bias.shape == shape[1:] if bias is not None else shape[0] > shape[1]
    return "ioo" if into else "iio"


def _embedding(path: str, rows: int, columns: int) -> Evidence | None:
    """Evidence that a matrix without bias is a lookup table, None if it is no table."""
    last = path.rpartition(".")[2]
    leaf = words.leaf(path)
    parts = set(words.tokens(leaf))
    if words.ADAPTER.search(path):
        return None
    if (parts & words.EMBEDDING_LEAF or leaf in words.EMBEDDING_WHOLE) and not parts & words.NOT_EMBEDDING:
        return Evidence.NAMED if leaf == last else Evidence.ASSUMED
    if not words.says_linear(path) and rows >= 16 * columns and not last.isdigit():
        return Evidence.ASSUMED
    return None


def rest(reader: Reader) -> None:
    """Read what is left: bare parameters, lone biases, buffers; whole numbers go beside the layer they serve."""
    for local in list(reader.left):
        tensor = reader.left.get(local)
        if tensor is None:
            continue
        if local.endswith(("bias", "_b")) and any(_pairs(other, local) for other in reader.left):
            continue  # its weight takes it
        del reader.left[local]
        if not tensor.is_float:
            _whole_number(reader, tensor)
        elif local in words.BUFFER_WORDS and reader.layers:
            _attach(reader, tensor)
        elif tensor.buffer:
            reader.skipped.append(Skip(tensor.name, "a buffer, no parameter", parameter=False))
        elif local in ("bias", "beta", "b") or (local.endswith("_bias") and len(tensor.shape) == 1):
            reader.add(
                layer(
                    reader.name(local),
                    "bias",
                    tensor,
                    parameter_axes(tensor.shape),
                    sure=Evidence.NAMED,
                    reason="a bias without a weight of its own",
                )
            )
        else:
            reader.add(_bare(reader, local, tensor))


def _pairs(weight: str, bias: str) -> bool:
    """Whether two bare parameters are named as weight and bias of one operator."""
    if weight == bias:
        return False
    return bias in (f"{weight}_bias", f"{weight}_b", weight.replace("weight", "bias"), re.sub(r"^w", "b", weight))


def _bare(reader: Reader, local: str, tensor: Tensor) -> Layer:
    """A parameter that hangs on a module under a name of its own."""
    shape = tensor.shape
    name = reader.name(local)
    whole = f"{reader.path}.{local}".strip(".")
    bias_name = next((n for n in reader.left if _pairs(local, n) and reader.left[n].size < tensor.size), None)
    adapter = bool(words.ADAPTER.search(whole))
    if len(shape) >= 3 and words.EXPERTS.search(whole) and not words.EMBEDDING_PARAMETER.search(local):
        bias = reader.take(bias_name) if bias_name else None
        if len(shape) == 3:
            return layer(
                name, "linear", tensor, "soi", sure=Evidence.ASSUMED, reason="stacked experts by name", bias=bias
            )
    if adapter and len(shape) == 2 and (words.ADAPTER_DOWN.search(whole) or words.ADAPTER_UP.search(whole)):
        axes = "oi"
        return layer(
            name, "linear", tensor, axes, sure=Evidence.NAMED, reason="a factor of a low-rank addition, by name"
        )
    special = (
        words.EMBEDDING_PARAMETER.search(local)
        or words.CLOSED_FORM.search(local)
        or words.GATE_WHOLE.search(whole)
        or tensor.buffer
    )
    if not special and len(shape) >= 2 and min(shape) > 1 and _weight_name(local):
        bias = reader.take(bias_name) if bias_name else None
        kind = "linear" if len(shape) <= 3 else "conv"
        axes = {2: "oi", 3: "soi"}.get(len(shape), "oi" + "k" * (len(shape) - 2))
        return layer(
            name, kind, tensor, axes, sure=Evidence.ASSUMED, reason="a bare parameter named like a weight", bias=bias
        )
    table = bool(words.EMBEDDING_PARAMETER.search(local))
    return layer(
        name,
        "parameter",
        tensor,
        parameter_axes(shape, table),
        sure=Evidence.NAMED if special else Evidence.ASSUMED,
        reason="a bare parameter",
        bias=reader.take(bias_name) if bias_name else None,
    )


def _weight_name(local: str) -> bool:
    low = local.lower()
    return bool(
        re.fullmatch(
            r"(?:w|w\d|w_\w+|\w*weights?\d*|\w*kernel|\w*_proj|proj|projection|\w*_projection|filters?|u|u_\w+)", low
        )
    )


def _whole_number(reader: Reader, tensor: Tensor) -> None:
    if reader.layers:
        _attach(reader, tensor)
    else:
        reader.skipped.append(Skip(tensor.name, f"{tensor.dtype} values: an index or a counter", parameter=False))


def _attach(reader: Reader, tensor: Tensor) -> None:
    last = reader.layers[-1]
    reader.layers[-1] = replace(last, extra=(*last.extra, tensor))
