"""What products of several values, none of which need be a parameter, do to zeros and to gradients that may be zero."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.weighed import with_bias
from initaudit.symmetry.zones import Grad, Zone, collapsed, some
from initaudit.types import Array


def spread(v: Array, letters: str, order: str) -> Array:
    """Return an array of truths with its axes, named by letters, in another order; any over those not in it.

    A letter of the order that the array lacks is an axis of one entry.
    """
    for q in dict.fromkeys(letters):  # a letter that stands twice is the diagonal: any element will do
        while letters.count(q) > 1:
            at = letters.rindex(q)
            v, letters = some(v, at), letters[:at] + letters[at + 1 :]
    kept = [q for q in order if q in letters]
    gone = [q for q in letters if q not in order]
    v = v.transpose([letters.index(q) for q in kept + gone])
    v = np.asarray(v.any(tuple(range(len(kept), v.ndim))))
    return v.reshape([v.shape[kept.index(q)] if q in kept else 1 for q in order])


def several(zones: Mapping[int, Zone], letters: Mapping[int, str], out: str, shape: Sequence[int]) -> Step:
    """Return a step that sums products of values over the letters that are not in the result."""
    every = "".join(dict.fromkeys("".join(letters.values()) + out))
    sizes = {q: n for k, z in zones.items() for q, n in zip(letters[k], z.shape, strict=True)}
    if any(sizes.get(q) != n for q, n in zip(out, shape, strict=True)):
        raise Unread
    alive = {k: spread(~z.zero, letters[k], every) for k, z in zones.items()}

    def product(parts: Sequence[Array], to: str) -> Array:
        live = np.ones((1,) * len(every), bool)
        for part in parts:
            live = live & part
        return spread(live, every, to)

    live = product(list(alive.values()), out)
    still = np.asarray(~live | all(bool(z.fixed.all()) for z in zones.values()))
    made = Zone(np.where(live, -np.inf, 0.0), np.where(live, np.inf, 0.0), tuple(shape), still)

    def back(d: Sequence[Grad]) -> Given:
        given = spread(d[0].live, out, every)
        found: dict[int, Grad] = {}
        for k, z in zones.items():
            own = "".join(dict.fromkeys(letters[k]))
            live = product([given, *(v for j, v in alive.items() if j != k)], own)
            if own != letters[k]:
                live = np.full((1,) * len(z.shape), bool(live.any()))
            found[k] = Grad(live, z.shape)
        return found

    return Step((made,), back)


def equation(c: Case, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Return the letters of the operands and of the result of an einsum, what is left out written out.

    Raises:
        Unread: they do not fit the operands.
    """
    text = str(c.attrs.get("equation", "")).replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise Unread
    spare = [q for q in string.ascii_letters if q not in text]
    deep = max((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    dots = "".join(spare[: max(0, deep)])
    terms = [t.replace("...", dots[deep - (rank - len(t) + 3) :] if "..." in t else "")
             for t, rank in zip(terms, ranks, strict=True)]  # fmt: skip
    if not arrow:
        once = "".join(terms)
        right = dots + "".join(sorted(q for q in set(once) if once.count(q) == 1 and q not in dots))
    right = right.replace("...", dots)
    if any(len(t) != rank for t, rank in zip(terms, ranks, strict=True)):
        raise Unread
    return terms, right


def einsum(c: Case) -> Step:
    """Return the step of an einsum of any number of operands."""
    zones = {k: c.zone(k) for k in range(len(c.node.inputs))}
    terms, right = equation(c, [len(z.shape) for z in zones.values()])
    return several(zones, dict(enumerate(terms)), right, c.shape())


@rule("bilinear")
def _bilinear(c: Case) -> Step:
    """x1, weight, x2 and a bias: b_o = x_i W_oij y_j."""
    x, w, y = c.zone(0), c.zone(1), c.zone(2)
    lead = string.ascii_uppercase[: len(x.shape) - 1]
    shape = (*x.shape[:-1], w.shape[0])
    step = several({0: x, 1: w, 2: y}, {0: lead + "i", 1: "oij", 2: lead + "j"}, lead + "o", shape)
    assert isinstance(step.outs[0], Zone)
    out, more = with_bias(c, step.outs[0], 3, len(shape) - 1)
    return Step((out,), lambda d: {**step.back(d), **more(d[0])})


@rule("weight_norm")
def _weight_norm(c: Case) -> Step:
    """A direction and its length; a direction of zero length has no finite gradient."""
    v, g = c.zone(0), c.zone(1)
    if c.attrs.get("p") is not None or len(g.shape) != len(v.shape):
        raise Unread
    over = [a for a, n in enumerate(g.shape) if n == 1 and v.shape[a] > 1]
    still = collapsed(v.fixed, over, np.all) & g.fixed
    zero = g.zero | v.zero
    out = Zone(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf), v.shape, np.broadcast_to(still, zero.shape))

    def back(d: Sequence[Grad]) -> Given:
        row = collapsed(d[0].live, over, np.any)
        return {0: Grad(row & ~g.zero, v.shape), 1: Grad(collapsed(d[0].live & ~v.zero, over, np.any), g.shape)}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


def convolved(c: Case, x: Zone, w: Zone, *, turned: bool, groups: int) -> Step:
    """Return the step of a convolution with a kernel that was computed."""
    shape = c.shape()
    first = len(shape) - (len(w.shape) - 2) - 1
    places = [a for a in range(len(shape)) if a != first]
    thin = np.broadcast_to(collapsed(~x.zero, places, np.any).reshape(-1), x.shape[first]).reshape(groups, -1)
    taps = collapsed(~w.zero, range(2, len(w.shape)), np.any)
    taps = np.broadcast_to(taps.reshape(taps.shape[:2]), w.shape[:2]).reshape(groups, -1, w.shape[1])
    if turned:
        taps = taps.transpose(0, 2, 1)  # (group, out, in)
    lead = [1] * len(shape)
    lead[first] = -1
    live = (taps & thin[:, None]).any(2).reshape(lead)
    out, more = with_bias(c, Zone(np.where(live, -np.inf, 0.0), np.where(live, np.inf, 0.0), shape), 2, first)

    def back(d: Sequence[Grad]) -> Given:
        given = np.broadcast_to(collapsed(d[0].live, places, np.any).reshape(-1), shape[first]).reshape(groups, -1)
        signal = (taps & given[:, :, None]).any(1).reshape(lead)
        own = given[:, :, None] & thin[:, None]
        own = (own.transpose(0, 2, 1) if turned else own).reshape(*w.shape[:2], *(1,) * (len(w.shape) - 2))
        return {0: Grad(signal, x.shape), 1: Grad(own, w.shape), **more(d[0])}

    return Step((out,), back)
