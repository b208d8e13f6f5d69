"""Sums and products of values, element by element."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initaudit.theory.activate import applied, nothing, numeric, returned
from initaudit.theory.align import Laid, apart, common, laid, profile_of
from initaudit.theory.bending import Bender, bender
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.kernel import Back, Kernel, blended
from initaudit.theory.moves_cut import cut
from initaudit.types import Array

_AWAY = 0.3  # of the mean: what positive denominators stay above


def _operands(c: Case, places: Sequence[int]) -> tuple[list[Kernel], Kernel, list[Laid]]:
    values = [c.kernel(p) for p in places]
    main = common(values)
    return values, main, [laid(v, main) for v in values]


def _scalar(c: Case, place: int) -> float | None:
    """Return an operand that is one number and no parameter that learns."""
    if not c.has(place) or c.moves(place):
        return None
    found = c.walk.weights.of(c.name(place))
    if found is not None and found.count > 1:
        return None
    if found is not None and any(c.walk.weights.belongs(source) for source in found.sources):
        return None
    return c.number(place)


@op("add", "sub", "sum")
def _add(c: Case) -> Step:
    places = [k for k in range(len(c.node.inputs)) if c.has(k)]
    signs = [-1.0 if c.node.op == "sub" and k == 1 else 1.0 for k in range(len(places))]
    alpha = c.real("alpha", 1.0)
    if len(places) == 2 and alpha != 1:
        signs[1] *= alpha
    if len(places) == 2 and c.name(places[0]) == c.name(places[1]):
        factor = sum(signs)
        x = c.kernel(places[0])
        return Step((x.scaled(factor),), lambda d: {0: None if d[0] is None else d[0].scaled(factor**2)})
    for one, other in ((0, 1), (1, 0)):
        number = _scalar(c, places[one]) if len(places) == 2 else None
        if number is not None and math.isfinite(number):
            x = c.kernel(places[other]).scaled(signs[other])
            out = replace(x, mean=x.mean + signs[one] * number)
            return Step((out,), lambda d, p=places[other], s=signs[other]: {p: _times(d[0], s * s)})  # type: ignore[misc]
    values, main, lays = _operands(c, places)
    own = np.zeros(main.grid.size)
    shared = np.zeros(main.grid.size)
    mean, alike = 0.0, 0.0
    profile: tuple[Array | None, ...] = ()
    for lay, value, sign in zip(lays, values, signs, strict=True):
        mine, ours = lay.up(lay.own.own) * sign**2, lay.up(lay.own.shared) * sign**2
        before = float(own[0] + shared[0])
        profile = blended(profile, before, profile_of(lay), float(mine[0] + ours[0]), main.grid)
        own, shared = own + mine, shared + ours
        mean += sign * value.mean
        alike += (1.0 if lay.units > 1 else lay.own.alike) * float(mine[0])
    alike = alike / float(own[0]) if own[0] > 0 else 0.0
    out = Kernel(main.axes, main.grid, own, shared, mean, min(1.0, alike), profile)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        return {
            p: lay.down(back).scaled(s * s) for p, lay, s in zip(places, lays, signs, strict=True)
        }  # fmt: skip

    return Step((out,), down)


def _times(back: Back | None, square: float) -> Back | None:
    return None if back is None else back.scaled(square)


@op("neg")
def _neg(c: Case) -> Step:
    return Step((c.kernel(0).scaled(-1.0),), lambda d: {0: d[0]})


@op("mul")
def _mul(c: Case) -> Step:
    if len(c.node.inputs) != 2:
        raise Unread
    for one, other in ((0, 1), (1, 0)):
        number = _scalar(c, one)
        if number is not None and math.isfinite(number):
            return scaled(c, other, number)
    if c.name(0) == c.name(1):
        return curved(c, 0, Bender("square", np.square, lambda v: 2 * v))
    return multiplied(c, 0, 1)


def scaled(c: Case, place: int, number: float) -> Step:
    """Return an operand times a number."""
    x = c.kernel(place)
    square = number * number
    return Step((x.scaled(number),), lambda d: {place: _times(d[0], square)})


def curved(c: Case, place: int, function: Bender) -> Step:
    """Return a function of an operand."""
    x = c.kernel(place)
    out, made = applied(x, function)
    return Step((out,), lambda d: {place: None if d[0] is None else returned(x, made, d[0])})


def multiplied(c: Case, first: int, second: int, inverse: Kernel | None = None) -> Step:
    """Return the product of two operands that know nothing of each other, `inverse` instead of the second."""
    values = [c.kernel(first), c.kernel(second) if inverse is None else inverse]
    return product_of(values, (first, second))


def product_of(values: Sequence[Kernel], places: Sequence[int]) -> Step:
    """Return the product of two kernels, and the way back to both."""
    main = common(values)
    lays = [laid(v, main) for v in values]
    own = [lay.up(lay.own.own) for lay in lays]
    cross = [lay.up(lay.own.cross) for lay in lays]
    same = [o + s for o, s in zip(own, cross, strict=True)]
    mean = values[0].mean * values[1].mean
    whole = own[0] * same[1] + cross[0] * own[1]
    shared = cross[0] * cross[1] - mean**2
    alike = 0.0
    if whole[0] > 0:
        units = max(1, main.units)
        pair = [_pair(lay, v, units) for lay, v in zip(lays, values, strict=True)]  # of two different units
        between = pair[0][0] * pair[1][1] + pair[0][2] * pair[1][0]
        alike = 1 / units + (1 - 1 / units) * max(0.0, min(1.0, between / float(whole[0])))
    profile: tuple[Array | None, ...] = ()
    p, q = profile_of(lays[0]), profile_of(lays[1])
    if p or q:
        profile = p or q
    out = Kernel(main.axes, main.grid, whole, np.asarray(shared), mean, min(1.0, alike), profile)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        found: dict[int, Back | None] = {}
        for k in (0, 1):
            j = 1 - k
            passed = back.times(same[j], cross[j], own[j])
            # Units that are summed over: how alike the factors of two of them are comes in too.
            unlike = 0.0
            if lays[k].units > 1 and same[j][0] > 0:
                n = lays[k].units
                unlike = apart(back.alike, n) * max(0.0, min(1.0, values[j].mean ** 2 / float(same[j][0])))
                passed = replace(passed, alike=1 / n)
            elif same[j][0] > 0 and back.alike * main.units > 1.5:  # alike gradients are so only if the factors are
                n = max(2, main.units)
                ratio = values[j].mean ** 2 / float(same[j][0]) if lays[j].units <= 1 else 1.0
                between = apart(back.alike, n) * max(0.0, min(1.0, ratio))
                passed = replace(passed, alike=1 / n + (1 - 1 / n) * between)
            found[places[k]] = lays[k].down(passed, unlike)
        return found

    return Step((out,), down)


def _pair(lay: Laid, value: Kernel, units: int) -> tuple[float, float, float]:
    """Return own, same and cross for two different units."""
    if lay.units > 1 and lay.own.units <= 1:
        return float(value.own[0]), float(value.same[0]), float(value.cross[0])
    own = float(value.own[0]) * apart(value.alike, units)
    return own, own + value.mean**2, value.mean**2


@op("where", "masked_fill")
def _where(c: Case) -> Step:
    """Return a value where a constant condition holds, another or a number elsewhere."""
    first, second = (1, 2) if c.node.op == "where" else (2, 0)
    condition = c.values(0 if c.node.op == "where" else 1)
    numbers = [_scalar(c, place) for place in (first, second) if c.has(place)]
    if c.attrs.get("constant") or (numbers and all(n is not None for n in numbers)):
        return Step((nothing(c),), lambda _: {})  # a mask, which lets pass what a real batch has
    if condition is None and len(numbers) == 2 and sum(n is not None for n in numbers) == 1:
        place = (first, second)[int(numbers[0] is not None)]  # a mask, which lets pass what a real batch has
        return Step((c.kernel(place),), lambda d: {place: d[0]})
    share = 0.5 if condition is None or not condition.size else float(np.mean(condition != 0))
    values, places, shares = [], [], []
    for place, part in ((first, share), (second, 1 - share)):
        if part <= 0 or _scalar(c, place) is not None:
            continue
        values.append(c.kernel(place))
        places.append(place)
        shares.append(part)
    if not values:
        raise Unread
    main = common(values)
    lays = [laid(v, main) for v in values]
    zero = np.zeros(main.grid.size)
    own = sum((lay.up(lay.own.own) * w for lay, w in zip(lays, shares, strict=True)), zero)
    cross = sum((lay.up(lay.own.cross) * w for lay, w in zip(lays, shares, strict=True)), zero)
    mean = sum(v.mean * w for v, w in zip(values, shares, strict=True))
    out = Kernel(main.axes, main.grid, own, cross - mean**2, mean, max(v.alike for v in values))

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        return {p: lay.down(back.scaled(w)) for p, lay, w in zip(places, lays, shares, strict=True)}

    return Step((out,), down)


@op("div")
def _div(c: Case) -> Step:
    if len(c.node.inputs) != 2 or c.attrs.get("rounding_mode"):
        raise Unread
    number = _scalar(c, 1)
    if number:
        return scaled(c, 0, 1 / number)
    number = _scalar(c, 0)
    if number is not None:
        return curved(c, 1, _reciprocal(number, c.kernel(1)))
    if _parts_of_one(c):
        raise Unread  # the last unit of a product that had ones put beside its values: units are not alike there
    y = c.kernel(1)
    made, moments = applied(y, _reciprocal(1.0, y))
    step = product_of([c.kernel(0), made], (0, 1))

    def down(d: Grads) -> dict[int, Back | None]:
        found = dict(step.back(d))
        back = found.get(1)
        found[1] = None if back is None else returned(y, moments, back)
        return found

    return Step(step.outs, down)


def _parts_of_one(c: Case) -> bool:
    """Whether a value is divided by another piece of what it was cut from."""
    view = c.walk.view
    roots = []
    for place in (0, 1):
        name = c.name(place)
        for _ in range(4):
            at = view.producer.get(name)
            if at is None:
                return False
            node = view.nodes[at]
            if node.op in ("slice", "split"):
                roots.append(node.inputs[0])
                break
            moving = view.moving(node)
            if node.op not in ("add", "clip", "max", "cast", "identity") or not moving:
                return False
            name = node.inputs[moving[0]]
    return len(roots) == 2 and roots[0] == roots[1]


def _reciprocal(number: float, y: Kernel) -> Bender:
    """Return number / v, with what lies about 0 held back: nets divide only by what stays away from it.

    Sums of positive numbers have no values near 0, though a normal number with their mean and variance would. Where
    the mean is no larger than what varies, the sign was lost on the way here: then v counts as its usual size.
    """
    least = _AWAY * abs(y.mean) if y.mean**2 > y.spread else 0.0
    if least > 0:
        least = float(f"{least:.2g}")
        sign = math.copysign(1.0, y.mean)
        return numeric(f"{number}/v from {sign * least}", lambda v: sign * number / np.maximum(sign * v, least))

    size = math.sqrt(max(0.0, float(y.same[0])))
    usual = float(f"{number / size:.4g}") if math.isfinite(size) and size > 0 else 0.0
    return numeric(f"{usual} throughout", lambda v: np.full_like(v, usual))


@op("reciprocal", "sqrt", "rsqrt", "log")
def _power(c: Case) -> Step:
    if c.node.op == "reciprocal":
        return curved(c, 0, _reciprocal(1.0, c.kernel(0)))
    run = {
        "sqrt": lambda v: np.sqrt(np.maximum(v, 0.0)),
        "rsqrt": lambda v: 1 / np.sqrt(np.maximum(v, 1e-6)),
        "log": lambda v: np.log(np.maximum(v, 1e-9)),
    }[c.node.op]
    return curved(c, 0, numeric(c.node.op, run))


@op("pow")
def _pow(c: Case) -> Step:
    exponent = _scalar(c, 1) if c.has(1) else c.attrs.get("exponent")
    if not isinstance(exponent, (int, float)):
        raise Unread
    p = float(exponent)
    if p == 1:
        return scaled(c, 0, 1.0)
    if p == -1:
        return curved(c, 0, _reciprocal(1.0, c.kernel(0)))
    if p == int(p) and p > 0:
        return curved(c, 0, Bender(f"pow{p}", lambda v: v**p, lambda v: p * v ** (p - 1)))
    return curved(c, 0, numeric(f"pow{p}", lambda v: np.power(np.maximum(v, 1e-6), p)))


@op("glu")
def _glu(c: Case) -> Step:
    """Return the first half of the units times the sigmoid of the second."""
    x = c.kernel(0)
    axis = c.integer("axis", c.integer("dim", -1)) % len(x.axes)
    half = x.shape[axis] // 2
    first, back_first = cut(x, axis, 0, half)
    second, back_second = cut(x, axis, half, half)
    gate = bender("sigmoid")
    if gate is None:
        raise Unread
    opened, moments = applied(second, gate)
    step = product_of([first, opened], (0, 1))

    def down(d: Grads) -> dict[int, Back | None]:
        found = step.back(d)
        one, other = found.get(0), found.get(1)
        if one is None or other is None:
            return {}
        return {0: back_first(one).plus(back_second(returned(second, moments, other)))}

    return Step(step.outs, down)
