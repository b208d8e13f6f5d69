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
    whole = 0 if turned or isinstance(weight, Computed) or _padded(c) else _across(x, weight.shape, outs, space)
    for k in range(first + 1, x.rank - whole):
        x = x.freed(k)
    across, rest = string.ascii_lowercase[-whole:] if whole else "", space - whole
    kernel = math.prod(weight.shape[2 : 2 + rest])
    ins = shape[first]
    cut = (groups, weight.shape[0] // groups, weight.shape[1], kernel, *weight.shape[2 + rest :])
    order = "gick" if turned else f"gcik{across}"
    units = weight.shape[1] * groups if turned else weight.shape[0]
    cut_up = tuple(reshaped(f, cut) for f in weight.factors)
    own = (
        None
        if isinstance(weight, Computed)
        else Weight(lambda: weight.numbers().reshape(cut), cut, cut_up, weight.reading)
    )
    lead = "b" if first else ""
    places = string.ascii_uppercase[:rest]
    apart = reshaped(x, (*shape[:first], groups, ins // groups, *shape[first + 1 :]))
    there = apart.added(apart.rank, kernel, free=True)
    tag = [(k, v) for k, v in sorted(c.attrs.items()) if k in ("strides", "pads", "dilations", "auto_pad")]
    letters = f"{lead}gi{places}{across}k", order, f"{lead}gc{places}"
    told = ("conv", turned, str(tag), kernel, weight.shape[2:])
    back: Back | Pairs
    if own is not None:
        made, back = contracted(there, letters[0], own, letters[1], letters[2], *told)
    else:
        made, back = paired(there, letters[0], cut_up[0], letters[1], letters[2], *told)
    made = reshaped(made, (*shape[:first], units, *shape[first + 1 : len(shape) - whole]))
    out = resized(made, first + 1, outs[first + 1 : len(shape) - whole])
    for _ in range(whole):
        out = out.added(out.rank)
    c.used(1, {1 if turned else 0: first}, groups=groups if turned else 1)
    out, biases = with_bias(c, out, 2, first)

    def split(d: Labels) -> Labels:
        d = d.whole(first)
        for _ in range(whole):
            d = d.dropped(d.rank - 1)
        for k in range(first + 1, d.rank):
            d = d.freed(k)
        kept = shape[first + 1 : len(shape) - whole]
        d = resized(d, first + 1, kept)
        return reshaped(d, (*shape[:first], groups, units // groups, *kept))

    def signal(d: Labels) -> Labels:
        found = (
            back.signal(split(d)) if isinstance(back, Back) else back.first(split(d))
        )  # (b) g i places k: the kernel's places are summed over by what they are
        return reshaped(forgotten(found, found.rank - 1), shape)

    def factors(d: Labels) -> list[Labels]:
        given = back.factors(split(d)) if isinstance(back, Back) else [back.second(split(d))]
        return [reshaped(f, weight.shape) for f in given]

    return finished(out, {0: signal, 1: factors}, biases)


def _padded(c: Case) -> bool:
    """Whether a kernel may meet places that are not there, so that its first does not meet the first of the input."""
    pads = c.attrs.get("pads", 0)
    given = pads if isinstance(pads, (tuple, list)) else (pads,)
    return any(n != 0 for n in given) or str(c.attrs.get("auto_pad") or "NOTSET") not in ("NOTSET", "b'NOTSET'")


def _across(x: Labels, weight: Sequence[int], outs: Sequence[int], space: int) -> int:
    """Return how many of the last axes hold units that a kernel takes all of at once."""
    count = 0
    for k in range(1, space + 1):
        if x.is_free(-k) or not weight[-k] == x.shape[-k] > outs[-k] == 1:
            break
        count = k
    return count


def resized(x: Labels, first: int, sizes: Sequence[int]) -> Labels:
    """Return labels with free axes of other extents from `first` on."""
    out = x
    for k, size in enumerate(sizes):
        out = out.freed(first + k).as_free(first + k, size)
    return out
