"""Convolutions: a product per group, over channels and the places of a kernel."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence

from initaudit.symmetry.combining import reshaped
from initaudit.symmetry.engine import Case, Step, Unread, Weight, op
from initaudit.symmetry.labels import Labels
from initaudit.symmetry.products import Back, Pairs, contracted, finished, forgotten, paired, with_bias
from initaudit.types import Array


@op("conv")
def _conv(c: Case) -> Step:
    return _convolved(c, turned=False)


@op("conv_transpose")
def _conv_transpose(c: Case) -> Step:
    return _convolved(c, turned=True)


class Computed(Weight):
    """A weight that is computed from parameters: only its labels are known."""


def _computed(x: Labels) -> Computed:
    return Computed(_no_numbers, x.shape, (x,))


def _no_numbers() -> Array:
    raise Unread


def _convolved(c: Case, *, turned: bool) -> Step:
    x, weight = c.labels(0), c.weight(1) or _computed(c.labels(1))
    groups = c.integer("group", 1)
    space = len(weight.shape) - 2
    bare = x.rank == space + 1
    first = 0 if bare else 1
    shape = x.shape
    outs = c.shape()
    if outs is None or len(outs) != len(shape):
        raise Unread
    for k in range(first + 1, x.rank):
        x = x.freed(k)
    kernel = math.prod(weight.shape[2:])
    ins = shape[first]
    cut = (groups, weight.shape[0] // groups, weight.shape[1], kernel)
    order = "gick" if turned else "gcik"
    units = weight.shape[1] * groups if turned else weight.shape[0]
    cut_up = tuple(reshaped(f, cut) for f in weight.factors)
    own = (
        None
        if isinstance(weight, Computed)
        else Weight(lambda: weight.numbers().reshape(cut), cut, cut_up, weight.reading)
    )
    lead = "b" if first else ""
    places = string.ascii_uppercase[:space]
    apart = reshaped(x, (*shape[:first], groups, ins // groups, *shape[first + 1 :]))
    there = apart.added(apart.rank, kernel, free=True)
    tag = [(k, v) for k, v in sorted(c.attrs.items()) if k in ("strides", "pads", "dilations", "auto_pad")]
    letters = f"{lead}gi{places}k", order, f"{lead}gc{places}"
    told = ("conv", turned, str(tag), kernel, weight.shape[2:])
    back: Back | Pairs
    if own is not None:
        made, back = contracted(there, letters[0], own, letters[1], letters[2], *told)
    else:
        made, back = paired(there, letters[0], cut_up[0], letters[1], letters[2], *told)
    made = reshaped(made, (*shape[:first], units, *shape[first + 1 :]))
    out = resized(made, first + 1, outs[first + 1 :])
    c.used(1, {1 if turned else 0: first}, groups=groups if turned else 1)
    out, biases = with_bias(c, out, 2, first)

    def split(d: Labels) -> Labels:
        d = d.whole(first)
        for k in range(first + 1, d.rank):
            d = d.freed(k)
        d = resized(d, first + 1, shape[first + 1 :])
        return reshaped(d, (*shape[:first], groups, units // groups, *shape[first + 1 :]))

    def signal(d: Labels) -> Labels:
        found = (
            back.signal(split(d)) if isinstance(back, Back) else back.first(split(d))
        )  # (b) g i places k: the kernel's places are summed over by what they are
        return reshaped(forgotten(found, found.rank - 1), shape)

    def factors(d: Labels) -> list[Labels]:
        given = back.factors(split(d)) if isinstance(back, Back) else [back.second(split(d))]
        return [reshaped(f, weight.shape) for f in given]

    return finished(out, {0: signal, 1: factors}, biases)


def resized(x: Labels, first: int, sizes: Sequence[int]) -> Labels:
    """Return labels with free axes of other extents from `first` on."""
    out = x
    for k, size in enumerate(sizes):
        out = out.freed(first + k).as_free(first + k, size)
    return out
