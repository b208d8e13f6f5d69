"""What a weight's neighbours prove about it: orientation, transposition, groups, fused and stacked operators.

A bare checkpoint says neither which operator a weight belongs to nor how that operator was called. Its neighbours often
do: a bias has as many entries as there are outputs, a norm as many as the layer before it, and a layer takes as many
channels as the previous one in the same block gives.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from initaudit.layers import convolutions, words
from initaudit.layers.drafts import again, sides
from initaudit.layers.groups import split
from initaudit.layers.places import place, succeeds
from initaudit.types import Evidence, Layer, Role


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
    layers = convolutions.settle(layers, ordered, known)
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
        parts = words.PARTS_QKV
    elif words.KV.search(path) and gives == 2 * takes:
        parts = words.PARTS_QKV[1:]
    elif re.search(r"(?:^|[._])gate_up_proj$", path) and gives % 2 == 0:
        parts = ("gate", "up")
    if not parts:
        return a
    sure = min(a.fan_evidence, Evidence.NAMED)
    return again(a, f"{', '.join(parts)} side by side, by name and shape", parts=parts, fan_evidence=sure)


def _mixer(path: str, beside: Sequence[Layer]) -> bool:
    """Whether an "in_proj" belongs to a state-space mixer, whose parts are unequal."""
    return path.endswith("in_proj") and any(re.search(r"A_log|dt_bias|conv1d", b.weight.name) for b in beside)
