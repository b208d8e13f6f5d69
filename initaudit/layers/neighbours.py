"""What a weight's neighbours prove about it: orientation, transposition, groups, fused and stacked operators.

A bare checkpoint says neither which operator a weight belongs to nor how that operator was called. Its neighbours often
do: a bias has as many entries as there are outputs, a norm as many as the layer before it, and a layer takes as many
channels as the previous one in the same block gives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from initaudit.layers import words
from initaudit.layers.drafts import again, sides
from initaudit.layers.groups import split
from initaudit.layers.shapes import QKV
from initaudit.types import Evidence, Layer, Role, Tensor

_NUMBER = re.compile(r"(\d+)")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands: the path of its module, in parts."""

    path: str
    steps: tuple[str, ...]


def place(a: Layer) -> Place:
    """Return the place of a layer, from the name of its stored weight."""
    return _place(a.weight.name)


@lru_cache(maxsize=1 << 16)
def _place(name: str) -> Place:
    path, local = split(name)
    if local.partition("@")[0] not in ("weight", "weight_v", "weight_orig", "kernel"):
        path = f"{path}.{local}" if path else local
    return Place(path, tuple(re.split(r"[./]", path)) if path else ())


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key by which block 10 comes after block 2."""
    return tuple((0, int(t), "") if t.isdigit() else (1, 0, t) for t in _NUMBER.split(name) if t)


def in_order(tensors: Sequence[Tensor]) -> bool:
    """Whether a file keeps the order of registration; one sorted by name (and type) tells nothing about it."""
    kinds: dict[str, list[str]] = {}
    for t in tensors:
        kinds.setdefault(t.dtype, []).append(t.name)
    names = max(kinds.values(), key=len, default=[])
    return len(names) < 3 or names != sorted(names)


def succeeds(before: Place, after: Place) -> bool:
    """Whether two modules are numbered one after the other, in one container or under one stem.

    conv1 and conv2, 0 and 3, block.0.0 and block.1.0, but not conv2 and downsample.0.
    """
    for a, b in zip(before.steps, after.steps, strict=False):
        if a == b:
            continue
        stem_a, number_a = _stem(a)
        stem_b, number_b = _stem(b)
        return stem_a == stem_b and number_b > number_a
    return False


def _stem(step: str) -> tuple[str, tuple[int, ...]]:
    """Split a step into what stays and what counts: conv2 is (conv#, 2), conv2b (conv#, 2 1), c3x3_b (cx_, 1)."""
    letter = re.search(r"(?:^|_)([a-h])$", step)
    if letter:
        return re.sub(r"\d+", "", step[: letter.start(1)]), (ord(letter[1]) - ord("a"),)
    match = re.search(r"(\d+)([a-h]?)$", step) or re.search(r"(\d+)()", step)
    if match is None:
        return step, ()
    number = (int(match[1]), *([ord(match[2]) - ord("a")] if match[2] else []))
    return step[: match.start()] + "#" + step[match.end() :], number


def siblings(a: Place, b: Place) -> bool:
    """Whether two modules have the same parent."""
    return len(a.steps) == len(b.steps) and a.steps[:-1] == b.steps[:-1]


def cousins(a: Place, b: Place) -> bool:
    """Whether the paths of two modules differ in exactly one step: f.a.0 and f.b.0."""
    return len(a.steps) == len(b.steps) and sum(x != y for x, y in zip(a.steps, b.steps, strict=True)) == 1


def settle(
    found: Sequence[Layer], config: Mapping[str, Any], ordered: bool, known: frozenset[str] = frozenset()
) -> list[Layer]:
    """Return the layers with everything settled that neighbours settle.

    Args:
        found: in the order of the file.
        config: of the model; {} if there is none.
        ordered: whether that order is the order of registration.
        known: names of weights whose kind, axes and groups are certain; only the parts in them are looked for.
    """
    certain = {a.weight.name: a for a in found if a.weight.name in known}
    layers = _stacked(_orientation(list(found)), config)
    layers = [certain.get(a.weight.name, a) for a in layers]
    layers = _convolutions(layers, ordered, known)
    parents: dict[tuple[str, ...], list[Layer]] = {}
    sizes: Counter[int] = Counter()
    for a in layers:
        parents.setdefault(place(a).steps[:-1], []).append(a)
        sizes.update({*a.weight.shape, *sides(a)})
    supported = (a if a.weight.name in known else _supported(a, parents[place(a).steps[:-1]], sizes) for a in layers)
    return [_fused(a, parents[place(a).steps[:-1]]) for a in supported]


def _orientation(layers: list[Layer]) -> list[Layer]:
    """Tell (in, out) from (out, in): a bias has one entry per output, and modules of one name are stored alike."""
    votes: Counter[str] = Counter()
    for a in layers:
        if a.kind == "linear" and a.axes in ("oi", "io") and a.bias is not None and a.bias.shape:
            rows, columns = a.weight.shape
            n = a.bias.shape[-1]
            if rows != columns and n in (rows, columns):
                votes[words.leaf(place(a).path)] += 1 if n == rows else -1
    return [_oriented(a, votes) for a in layers]


def _oriented(a: Layer, votes: Counter[str]) -> Layer:
    if a.kind != "linear" or a.axes not in ("oi", "io"):
        return a
    rows, columns = a.weight.shape
    if a.bias is not None and a.bias.shape and rows != columns:
        n = a.bias.shape[-1]
        if n == rows:
            return again(
                a, "the bias has as many entries as the first axis: (out, in)", axes="oi", fan_evidence=Evidence.NAMED
            )
        if n == columns:
            return again(
                a, "the bias has as many entries as the second axis: (in, out)", axes="io", fan_evidence=Evidence.NAMED
            )
        return again(a, f"the bias has {n} entries, which fit neither axis", fan_evidence=Evidence.ASSUMED)
    vote = votes[words.leaf(place(a).path)]
    if vote < 0:
        return again(a, "stored (in, out) as the others of this name are", axes="io")
    return a


def _stacked(layers: list[Layer], config: Mapping[str, Any]) -> list[Layer]:
    """Orient stacked experts [experts, a, b]: by bias, by the pair of matrices, or by the width of the model."""
    by_parent: dict[str, list[Layer]] = {}
    for a in layers:
        if a.kind == "linear" and a.axes in ("soi", "sio"):
            by_parent.setdefault(split(a.weight.name)[0], []).append(a)
    widths = Counter(a.weight.shape[0] for a in layers if a.kind == "norm" and a.weight.shape)
    counts = {a.weight.shape[0] for a in layers if a.axes in ("soi", "sio")}
    routers = [
        a.weight.shape[1] for a in layers if a.kind == "linear" and a.axes == "oi" and a.weight.shape[0] in counts
    ]
    width = config.get("hidden_size") or next(iter(routers or [n for n, _ in widths.most_common(1)]), None)
    changed: dict[str, Layer] = {}
    for group in by_parent.values():
        proven = {a.weight.name: _by_bias(a) for a in group if _by_bias(a)}
        pair = _by_pair(group)
        for a in group:
            axes, why = proven.get(a.weight.name, ""), "its bias"
            if not axes and proven:
                axes, why = next(iter(proven.values())), "the bias of a sibling"
            if not axes and pair:
                axes, why = pair, "the sizes of the two matrices of an expert"
            if not axes and isinstance(width, int):
                axes, why = _by_width(a, width), "the width of the model"
            if axes:
                gated = _gate_up(a, axes)
                changed[a.weight.name] = again(
                    a, f"stacked operators, oriented by {why}", axes=axes, parts=gated, fan_evidence=Evidence.NAMED
                )
    return [changed.get(a.weight.name, a) for a in layers]


def _by_bias(a: Layer) -> str:
    _, first, second = a.weight.shape
    if a.bias is None or len(a.bias.shape) < 1 or first == second:
        return ""
    n = a.bias.shape[-1]
    return "soi" if n == first else "sio" if n == second else ""


def _by_pair(group: Sequence[Layer]) -> str:
    """gate_up (hidden -> 2 f) and down (f -> hidden), or up (hidden -> f) and down: one reading fits."""
    for a in group:
        for b in group:
            if (
                a is b
                or not re.search(r"down|w2|wo|fc2|output", b.weight.name)
                or re.search(r"down|w2|wo|fc2", a.weight.name)
            ):
                continue
            (_, a1, a2), (_, b1, b2) = a.weight.shape, b.weight.shape
            oi = b1 == a2 and a1 in (b2, 2 * b2)
            io = b2 == a1 and a2 in (b1, 2 * b1)
            if oi != io:
                return "soi" if oi else "sio"
    return ""


def _by_width(a: Layer, width: int) -> str:
    _, first, second = a.weight.shape
    if (first == width) == (second == width):
        return ""
    down = bool(re.search(r"down|w2|wo|fc2", a.weight.name))
    return "soi" if (second == width) != down else "sio"


def _gate_up(a: Layer, axes: str) -> tuple[str, ...]:
    out = a.weight.shape[axes.index("o")]
    return ("gate", "up") if re.search(r"gate_?up|w13$", a.weight.name) and out % 2 == 0 else ()


def _supported(a: Layer, beside: Sequence[Layer], sizes: Counter[int]) -> Layer:
    """Settle a matrix without bias: some norm or layer beside it has the size that it takes, or it is a table.

    Args:
        a: the matrix.
        beside: the layers with the same parent.
        sizes: how many layers have a side or an axis of each size.
    """
    if a.kind != "linear" or a.fan_evidence is not Evidence.ASSUMED or a.axes != "oi" or len(a.reasons) > 1:
        return a
    here = place(a)
    rows, takes = a.weight.shape
    for b in beside:
        if b is not a and b.kind in ("norm", "linear") and len(place(b).steps) == len(here.steps):
            gives = b.weight.shape[0] if b.kind == "norm" and b.weight.shape else sides(b)[1]
            if gives == takes and (b.kind == "norm" or succeeds(place(b), here)):
                return again(a, f"takes the {takes} units of {b.name}", fan_evidence=Evidence.NAMED)
    if a.bias is None and rows > takes and sizes[rows] < 2 and not words.says_linear(here.path):
        table = again(
            a, "no bias, and nothing else has as many units as it has rows: a table", kind="embedding", axes="io"
        )
        return replace(table, role=Role.EMBEDDING, activation_evidence=Evidence.ASSUMED)
    return a


def _fused(a: Layer, beside: Sequence[Layer]) -> Layer:
    """Count query, key and value one at a time where one matrix holds the three."""
    if a.kind not in ("linear", "conv") or a.parts or a.groups > 1 or a.axes[:2] not in ("oi", "io") or "s" in a.axes:
        return a
    path = place(a).path
    if words.ADAPTER.search(path):
        return a
    takes, gives = sides(a)
    parts: tuple[str, ...] = ()
    if words.QKV.search(path) and gives == 3 * takes and not _mixer(path, beside):
        parts = QKV
    elif words.KV.search(path) and gives == 2 * takes:
        parts = QKV[1:]
    elif re.search(r"(?:^|[._])gate_up_proj$", path) and gives % 2 == 0:
        parts = ("gate", "up")
    if not parts:
        return a
    sure = min(a.fan_evidence, Evidence.NAMED)
    return again(a, f"{', '.join(parts)} side by side, by name and shape", parts=parts, fan_evidence=sure)


def _mixer(path: str, beside: Sequence[Layer]) -> bool:
    """Whether an "in_proj" belongs to a state-space mixer, whose parts are unequal."""
    return path.endswith("in_proj") and any(re.search(r"A_log|dt_bias|conv1d", b.weight.name) for b in beside)


_WINDOW = 256  # how far to look for a neighbour: blocks are short, and files may hold tens of thousands of tensors


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around one convolution."""

    here: Place
    before: Sequence[Layer]
    after: Sequence[Layer]
    outs: set[int]  # channels that earlier layers give; all others, where the order is not known
    ordered: bool

    @property
    def near(self) -> Layer | None:
        """The operator just before it in the file."""
        return next((b for b in reversed(self.before[-_WINDOW:]) if _operator(b)), None) if self.ordered else None

    @property
    def previous(self) -> Layer | None:
        """The operator whose output it takes, as far as numbering in one container or the order of the file tells."""
        for b in reversed(self.before[-_WINDOW:]):
            if not _operator(b):
                continue
            there = place(b)
            if succeeds(there, self.here):
                return b
            if self.ordered:
                close = siblings(there, self.here) or cousins(there, self.here)
                return b if close and not _BRANCH.search(self.here.path) else None
        return None

    @property
    def norm(self) -> int | None:
        """The size of a norm just before it in its block: pre-activation order."""
        if not self.ordered or not self.before or self.before[-1].kind != "norm" or not self.before[-1].weight.shape:
            return None
        return self.before[-1].weight.shape[0] if siblings(place(self.before[-1]), self.here) else None

    def block(self) -> list[Layer]:
        """Return the operators beside it, those before it only where the order is known."""
        rows = self.before[-_WINDOW:] if self.ordered else (*self.before[-_WINDOW:], *self.after)
        return [b for b in rows if _operator(b) and siblings(place(b), self.here)]

    @property
    def first(self) -> bool:
        """Whether nothing is known to come before it."""
        return self.ordered and not self.outs


_BRANCH = re.compile(r"shortcut|downsample|skip|residual|proj")


def _operator(b: Layer) -> bool:
    return b.kind in ("conv", "linear", "conv_transpose")


def _convolutions(layers: list[Layer], ordered: bool, known: frozenset[str]) -> list[Layer]:
    settled: list[Layer] = []
    outs: set[int] = set()
    everywhere = Counter(sides(b)[1] for b in layers if _operator(b) and "o" in b.axes)
    for i, a in enumerate(layers):
        if a.kind == "conv" and a.weight.name not in known:
            own = sides(a)[1]
            channels = outs if ordered else {n for n, count in everywhere.items() if n != own or count > 1}
            a = _convolution(a, Around(place(a), settled, layers[i + 1 : i + _WINDOW], channels, ordered))  # noqa: PLW2901
        if (_operator(a) or a.kind == "embedding") and "o" in a.axes:
            outs.add(sides(a)[1])
        settled.append(a)
    return settled


def _convolution(a: Layer, near: Around) -> Layer:
    if a.axes.startswith("k"):  # (kernel, in, out): channels last, as JAX stores it
        return replace(a, fan_evidence=Evidence.NAMED if a.bias is not None else Evidence.ASSUMED)
    first, second = a.weight.shape[:2]
    if not first or not second:
        return a
    even = all(k % 2 == 0 for k in a.weight.shape[2:])
    path = near.here.path
    bias = a.bias.shape[0] if a.bias is not None and a.bias.shape else None
    numbered = path.rpartition(".")[2].isdigit()
    size = bias if bias is not None else _norm_after(near.here, near.after[:2]) if near.ordered or numbered else None
    size = size or None
    previous = near.previous
    gives = sides(previous)[1] if previous is not None else None
    hint = bool(words.TRANSPOSED.search(path)) or (even and bool(words.UPSAMPLING.search(path)))
    if size not in (None, first) and size is not None and size % second == 0 and (bias is not None or size == second):
        groups = size // second
        return _transposed(a, groups if first % groups == 0 else 1, "its bias or norm has the size of the second axis")
    if hint and (size in (None, second) or first == second):
        return _transposed(a, 1, "by its name")
    if hint and gives == first and first % second == 0:
        return _transposed(a, first // second, "by its name")
    turned = gives == first and gives != second and size is None and second > 1
    if turned and (_next(near) == second or (previous is not None and previous.kind == "conv_transpose")):
        return _transposed(a, 1, "the layers around it have its channels the other way round")
    made = _one_channel(a, near, gives) if second == 1 and first > 1 else _grouped(a, near, gives, even)
    return replace(made, fan_evidence=Evidence.ASSUMED) if hint else made


def _transposed(a: Layer, groups: int, why: str) -> Layer:
    kernel = a.weight.shape[2:]
    stride = tuple(2 if k in (2, 3) else k // 2 if k and k % 2 == 0 else 1 for k in kernel)
    return again(
        a,
        f"transposed, {why}; its stride is not in the file, taken is {'x'.join(map(str, stride))}",
        kind="conv_transpose",
        axes="io" + "k" * len(kernel),
        groups=groups,
        stride=stride,
        fan_evidence=Evidence.ASSUMED,
    )


def _grouped(a: Layer, near: Around, gives: int | None, even: bool) -> Layer:
    """Settle the groups of a convolution that is not transposed."""
    first, second = a.weight.shape[:2]
    if first == second and even:
        return again(a, "as many channels in as out and an even kernel: may be transposed, taken is not")
    if second in (gives, near.norm):
        return again(a, f"takes the {second} channels of the layer before it", fan_evidence=Evidence.NAMED)
    beside = [b for b in near.block() if second in sides(b)]
    if near.near is not None and cousins(place(near.near), near.here) and sides(near.near)[0] == second:
        beside.append(near.near)
    split = gives is not None and gives == first and gives % second == 0  # then it may as well be grouped
    if beside and not (split and all(b.fan_evidence is Evidence.ASSUMED for b in beside)):
        return again(
            a, f"takes the {second} channels that {beside[0].name} gives or takes", fan_evidence=Evidence.NAMED
        )
    if split and gives is not None:
        groups = gives // second
        if groups == 2 and (beside or second in near.outs):
            return again(a, f"takes the {second} channels that another layer gives, or is 2 groups")
        numbered = any(
            succeeds(place(b), near.here) for b in near.before[-3:] if _operator(b) and cousins(place(b), near.here)
        )
        sure = groups > 2 and not even and (numbered or second not in near.outs)
        return again(
            a,
            f"{groups} groups: the layer before gives {gives} channels",
            groups=groups,
            fan_evidence=Evidence.NAMED if sure else Evidence.ASSUMED,
        )
    if second in near.outs:
        rival = any(sides(b)[1] == first and first % second == 0 and first > second for b in near.block())
        sure = near.ordered or not rival
        return again(
            a,
            f"takes the {second} channels that another layer gives",
            fan_evidence=Evidence.NAMED if sure else Evidence.ASSUMED,
        )
    if near.first:
        return again(a, f"the first layer, on {second} channels", fan_evidence=Evidence.NAMED)
    return again(a, f"takes {second} channels per group; groups are not in the file, taken is 1")


def _one_channel(a: Layer, near: Around, gives: int | None) -> Layer:
    """Settle a convolution that takes one channel per group: depthwise, or the first on a grey picture or a sound."""
    first = a.weight.shape[0]
    said = {t for step in near.here.steps[-2:] for t in words.tokens(step)} & words.DEPTHWISE
    if first in (gives, near.norm):
        return again(
            a, f"depthwise: the layer before gives {first} channels", groups=first, fan_evidence=Evidence.NAMED
        )
    if said:
        return again(a, f"depthwise by name; groups taken are its {first} units", groups=first)
    if near.first:
        return again(a, "takes one channel: nothing comes before it", fan_evidence=Evidence.NAMED)
    if all(k == 1 for k in a.weight.shape[2:]):
        return again(a, "takes one channel by its kernel of 1")
    beside = near.near is not None and siblings(place(near.near), near.here)
    if gives and 1 < gives < first and first % gives == 0 and beside:
        return again(a, f"depthwise: the layer before gives {gives} channels", groups=gives)
    if not near.ordered and first not in near.outs:
        return again(a, f"takes one channel: no other layer gives {first}")
    return again(a, "depthwise, as one channel usually means; groups are not in the file", groups=first)


def _norm_after(here: Place, near: Sequence[Layer]) -> int | None:
    """The size of the norm that the numbering pairs with this layer: conv1 and bn1, 0 and 1."""
    for b in near:
        if b.kind == "norm" and b.weight.shape:
            there = place(b)
            if paired(here, there):
                return b.weight.shape[0]
    return None


def paired(a: Place, norm: Place) -> bool:
    """Whether numbering or naming pairs a layer with the norm after it: conv1 and bn1, 0 and 1, conv and bn or norm."""
    if not siblings(a, norm) or not a.steps:
        return False
    x, y = a.steps[-1], norm.steps[-1]
    if x.isdigit() and y.isdigit():
        return int(y) == int(x) + 1
    if x.isdigit() or y.isdigit():
        return False
    digits_x, digits_y = re.findall(r"\d+", x), re.findall(r"\d+", y)
    norms = r"bn|norm|gn" if "conv" in x.lower() else r"bn"  # linear2 and norm2 of a transformer are no pair
    bare = {
        "conv",
        "bn",
        "norm",
        "layer_norm",
        "gn",
        "fc",
        "linear",
        "dense",
        "batchnorm",
        "layernorm",
        "batch_norm",
        "ln",
    }
    if x in bare and y.lower() in bare:
        return True
    return bool(digits_x) and digits_x[-1:] == digits_y[-1:] and bool(re.search(norms, y, re.I))


def _next(near: Around) -> int | None:
    """Input channels of the next numbered convolution."""
    for b in near.after:
        if b.kind == "conv" and succeeds(near.here, place(b)):
            return b.weight.shape[1]
    return None
