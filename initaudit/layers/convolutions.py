"""Transposition and groups of convolutions whose module is not known, from the channels around them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from initaudit.layers import words
from initaudit.layers.drafts import again, sides
from initaudit.layers.places import Place, cousins, paired, place, siblings, succeeds
from initaudit.types import Evidence, Layer

_LARGE = 16  # few kernels are larger
_WINDOW = 256  # how far to look for a neighbour: blocks are short, and files may hold tens of thousands of tensors


@dataclass(frozen=True, slots=True)
class Around:
    """What stands around one convolution."""

    here: Place
    before: Sequence[Layer]
    after: Sequence[Layer]
    outs: set[int]  # channels that earlier layers give; all others, where the order is not known
    ordered: bool
    takers: Counter[int] = field(default_factory=Counter)  # how many convolutions store each number of input channels

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
    def close(self) -> bool:
        """Whether that layer stands near enough to tell what this one does not take as it is stored."""
        previous = self.previous
        if previous is None or self.ordered:
            return previous is not None
        return siblings(place(previous), self.here) or cousins(place(previous), self.here)

    def alone(self, a: Layer) -> bool:
        """Whether no layer gives a number of channels that more than one group of this one would take."""
        first, second = a.weight.shape[:2]
        return not any(n > second and n % second == 0 and first % (n // second) == 0 for n in self.outs)

    def entry(self, a: Layer) -> bool:
        """Whether it is the one convolution on a picture or sound: told by its channels and its name, in any order."""
        second = a.weight.shape[1]
        if second not in words.PICTURE or self.takers[second] != 1 or words.NOT_TRUNK.search(self.here.path):
            return False
        return bool(words.STEM.search(self.here.path))

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

    def start(self) -> list[Layer]:
        """Return the operators that may come first in the block of a shortcut."""
        for n, step in enumerate(self.here.steps):
            if _BRANCH.search(step) and n:
                prefix = self.here.steps[:n]
                rows = (*self.before[-_WINDOW:], *self.after)
                inside = [b for b in rows if _operator(b) and place(b).steps[:n] == prefix and len(place(b).steps) > n]
                return [
                    b for b in inside if place(b).steps[n] != step and re.search(r"(?:^|\D)[01]$", place(b).steps[n])
                ]
        return []

    @property
    def first(self) -> bool:
        """Whether nothing is known to come before it."""
        return self.ordered and not self.outs


_BRANCH = re.compile(r"shortcut|downsample|skip|residual|proj")


def _operator(b: Layer) -> bool:
    return b.kind in ("conv", "linear", "conv_transpose")


def settle(layers: list[Layer], ordered: bool, known: frozenset[str]) -> list[Layer]:
    """Return the layers with the convolutions among them settled, but for those whose weights are `known`."""
    settled: list[Layer] = []
    outs: set[int] = set()
    takers = Counter(b.weight.shape[1] for b in layers if b.kind == "conv" and b.axes.startswith("oi"))
    everywhere = Counter(sides(b)[1] for b in layers if _operator(b) and "o" in b.axes)
    for i, a in enumerate(layers):
        if a.kind == "conv" and a.weight.name not in known:
            own = sides(a)[1]
            channels = outs if ordered else {n for n, count in everywhere.items() if n != own or count > 1}
            a = _convolution(a, Around(place(a), settled, layers[i + 1 : i + _WINDOW], channels, ordered, takers))  # noqa: PLW2901
        if (_operator(a) or a.kind == "embedding") and "o" in a.axes:
            outs.add(sides(a)[1])
        settled.append(a)
    return settled


def _convolution(a: Layer, near: Around) -> Layer:
    if a.axes.startswith("k"):  # (kernel, in, out): channels last, as JAX stores it
        agrees = a.bias is not None and a.bias.shape == a.weight.shape[-1:]
        return replace(a, fan_evidence=Evidence.NAMED if agrees else Evidence.ASSUMED)
    if _channels_last(a):
        why = "a square kernel before many channels: (out, kernel, in)"
        return again(a, why, axes="o" + "k" * (len(a.axes) - 2) + "i", fan_evidence=Evidence.ASSUMED)
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
    turned = gives == first and gives != second and size is None and second > 1 and near.close
    turned = turned and (near.ordered or any(k > 1 for k in a.weight.shape[2:]))
    if turned and (_next(a, near) or (previous is not None and previous.kind == "conv_transpose")):
        return _transposed(a, 1, "the layers around it have its channels the other way round")
    made = _one_channel(a, near, gives) if second == 1 and first > 1 else _grouped(a, near, gives, even)
    return replace(made, fan_evidence=Evidence.ASSUMED) if hint else made


def _channels_last(a: Layer) -> bool:
    """Whether the inner axes are equal and the last one is far larger: no kernel is (3, 64), but (3, 3) of 64 is."""
    _, *inner, last = a.weight.shape
    return len(inner) >= 2 and len(set(inner)) == 1 and 1 < inner[0] <= _LARGE and last > _LARGE


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
    """Settle the groups of a convolution that is not transposed.

    Its inputs are its second axis times the groups. One group is certain where the layer before gives just that many
    channels; where it gives a multiple of them, several are possible, and only numbering speaks for them.
    """
    first, second = a.weight.shape[:2]
    if first == second and even:
        return again(a, "as many channels in as out and an even kernel: may be transposed, taken is not")
    previous = near.previous
    if second in (gives, near.norm):
        turned = previous is not None and previous.kind == "conv_transpose"  # itself a guess
        sure = Evidence.ASSUMED if turned and second != near.norm else Evidence.NAMED
        return again(a, f"takes the {second} channels of the layer before it", fan_evidence=sure)
    beside = [b for b in near.block() if second in sides(b)]
    source = next((b for b in (previous, near.near) if b is not None), None)
    if source is not None and sides(source)[0] == second:
        beside.append(source)  # it takes the same: the two may stand beside one another
    count = sides(source)[1] if source is not None else 0
    groups = count // second if count % second == 0 and (near.ordered or near.close) else 1
    # Pointwise convolutions and such as give no more than they take are next to never grouped.
    lone = near.ordered or near.alone(a) or first <= second or all(k == 1 for k in a.weight.shape[2:])
    if _BRANCH.search(near.here.path) and any(sides(b)[0] == second for b in near.start()):
        return again(a, f"takes the {second} channels that its block takes", fan_evidence=Evidence.NAMED)
    if groups > 1 and first % groups == 0:
        if beside or count != first or (groups == 2 and second in near.outs):
            return again(a, f"takes {second} channels, or is {groups} groups: the layer before gives {count}")
        numbered = any(
            succeeds(place(b), near.here) for b in near.before[-3:] if _operator(b) and cousins(place(b), near.here)
        )
        sure = Evidence.NAMED if groups > 2 and not even and (numbered or second not in near.outs) else Evidence.ASSUMED
        return again(a, f"{groups} groups: the layer before gives {count} channels", groups=groups, fan_evidence=sure)
    if beside:
        why = f"takes the {second} channels that {beside[0].name} gives or takes"
        return again(a, why, fan_evidence=Evidence.NAMED if lone else Evidence.ASSUMED)
    if second in near.outs:
        why = f"takes the {second} channels that another layer gives"
        return again(a, why, fan_evidence=Evidence.NAMED if lone else Evidence.ASSUMED)
    if near.first or near.entry(a):
        return again(a, f"the first layer, on {second} channels", fan_evidence=Evidence.NAMED)
    if lone and not near.ordered:
        why = f"takes {second} channels: no layer gives what more groups would take"
        return again(a, why, fan_evidence=Evidence.NAMED)
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
    if near.first or (near.entry(a) and not near.ordered):
        return again(a, "takes one channel: nothing comes before it", fan_evidence=Evidence.NAMED)
    if all(k == 1 for k in a.weight.shape[2:]):
        return again(a, "takes one channel by its kernel of 1")
    beside = near.near is not None and siblings(place(near.near), near.here)
    if gives and 1 < gives < first and first % gives == 0 and beside:
        return again(a, f"depthwise: the layer before gives {gives} channels", groups=gives)
    if not near.ordered and first not in near.outs:
        return again(a, f"takes one channel: no other layer gives {first}")
    repeated = not near.ordered and near.takers[1] > 1 and not words.STEM.search(near.here.path)
    if repeated and any(first in sides(b) for b in near.block() if not words.GATE_PATH.search(place(b).path)):
        return again(a, f"depthwise: layers beside it have {first} channels", groups=first, fan_evidence=Evidence.NAMED)
    return again(a, "depthwise, as one channel usually means; groups are not in the file", groups=first)


def _norm_after(here: Place, near: Sequence[Layer]) -> int | None:
    """The size of the norm that the numbering pairs with this layer: conv1 and bn1, 0 and 1."""
    for b in near:
        if b.kind == "norm" and b.weight.shape:
            there = place(b)
            if paired(here, there):
                return b.weight.shape[0]
    return None


def _next(a: Layer, near: Around) -> bool:
    """Whether the next numbered convolution takes what this one would give if it were transposed."""
    first, second = a.weight.shape[:2]
    for b in near.after:
        if b.kind == "conv" and succeeds(near.here, place(b)):
            rows, columns = b.weight.shape[:2]
            return rows == second or (columns == second and rows != first)
    return False
