"""How far theory is from the probe, as a page."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.theory_cases import NETS, Case
from initaudit.types import Signal, Signals

NOTHING = 1e-30  # below it both say: nothing arrives
DECADES = range(-14, 9, 2)
WORST = 15

MAIN = ("forward variance", "relative gradient")


def _kernel(s: Signal) -> float | None:
    """Return the tangent kernel of one input, of one weight."""
    return None if s.common is None or s.contrast is None else s.common + s.contrast


def _apart(s: Signal) -> float | None:
    """Return the share of a gradient that tells inputs apart; `common` alone is noise where it is much the smaller."""
    whole = _kernel(s)
    return None if not whole or s.contrast is None else s.contrast / whole


QUANTITIES: Mapping[str, Callable[[Signal], float | None]] = {
    "forward variance": lambda s: s.forward_variance,
    "relative gradient": lambda s: s.gradient if s.relative_gradient is None else s.relative_gradient,
    "second moment": lambda s: s.second_moment,
    "contrast": lambda s: s.contrast,
    "common + contrast": _kernel,
    "contrast / (common + contrast)": _apart,
}


@dataclass(frozen=True, slots=True)
class Point:
    """One layer, one quantity: what was measured and what is said of it."""

    layer: str
    kind: str
    measured: float
    said: float | None  # None: theory says nothing

    @property
    def off(self) -> float | None:
        """Decades between the two, positive where too much is said; None where nothing is."""
        if self.said is None or math.isnan(self.said):
            return None
        low, high = (value <= NOTHING or math.isnan(value) for value in (self.said, self.measured))
        if low or high:
            return 0.0 if low and high else -math.inf if low else math.inf
        return math.log10(self.said / self.measured)


@dataclass(frozen=True, slots=True)
class Row:
    """One model: its points by quantity, and the same for the probe against itself."""

    name: str
    family: str
    points: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    reseeded: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    redrawn: Mapping[str, Sequence[Point]] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    why: str = ""
    seconds: float = 0.0
    attention: tuple[tuple[float, float, float, float], ...] = ()  # spread and entropy measured, then said
    failed: str = ""


def row(case: Case, made: Signals, seconds: float) -> Row:
    """Return the points of one model."""
    attention = ()
    if len(case.probed.attention) == len(made.attention):
        both = zip(case.probed.attention, made.attention, strict=True)
        attention = tuple((m.spread, m.entropy, s.spread, s.entropy) for m, s in both)
    return Row(
        case.name, case.family,
        points=_points(case, made), reseeded=_points(case, case.reseeded),
        redrawn={} if case.redrawn is None else _points(case, case.redrawn),
        unread=made.unread, why=made.why, seconds=seconds, attention=attention,
    )  # fmt: skip


def _points(case: Case, said: Signals) -> dict[str, list[Point]]:
    out: dict[str, list[Point]] = {}
    for word, of in QUANTITIES.items():
        out[word] = [
            Point(m.layer.name, m.layer.kind, value, of(one))
            for m, real, one in zip(case.measured, case.probed.layers, said.layers, strict=True)
            if (value := of(real)) is not None
        ]
    return out


# ---- the page


def render(rows: Sequence[Row]) -> str:
    """Return the page."""
    zoo = [row for row in rows if not row.family.startswith(NETS)]
    nets = [row for row in rows if row.family.startswith(NETS)]
    parts = ["# Theory against the probe\n\n" + _ABOUT]
    for title, some in (("Models of the zoo", zoo), ("Small networks", nets)):
        if some:
            parts.append(f"## {title}\n\n" + _shares(some) + _scatters(some))
    parts.append("## Worst models\n\n" + _worst(rows))
    if zoo:
        parts.append("## Operations that theory does not read\n\n" + _unread(zoo))
    parts.append("## Attention\n\n" + _attention(rows))
    parts.append("## Not judged\n\n" + _failed(rows))
    return "\n".join(parts)


_ABOUT = """Decades between what theory predicts from second moments of the weights, without running anything, and what
the probe measures on one small batch: log10(predicted / measured) per layer. *told* is the share of the measured layers
of which theory says anything; the shares within a factor 2 and 10 are of all measured layers, so silence is a miss.
Rows *probe, other inputs* and *other weights* hold the probe against itself, with another batch and cotangent, and with
weights drawn anew from the same laws: no theory that knows only the laws can agree better than the latter.
"""


def summary(rows: Sequence[Row]) -> str:
    """Return the shares alone."""
    return _shares([row for row in rows if not row.family.startswith(NETS)]) + _shares(
        [row for row in rows if row.family.startswith(NETS)]
    )


_HEAD = """| {} | layers | told | within 2x | within 10x | median abs | 1 % | 10 % | 50 % | 90 % | 99 % |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|
"""


def _shares(rows: Sequence[Row]) -> str:
    out = []
    families = list(dict.fromkeys(row.family for row in rows))
    for word in QUANTITIES:
        lines = [_share("all", _all(rows, word))]
        lines += [_share("probe, other inputs", [p for row in rows for p in row.reseeded.get(word, ())])]
        lines += [_share("probe, other weights", [p for row in rows for p in row.redrawn.get(word, ())])]
        if word in MAIN and len(families) > 1:
            lines += [_share(one, _all([row for row in rows if row.family == one], word)) for one in families]
        if any(lines):
            out.append(_HEAD.format(f"**{word}**") + "".join(lines))
    return "\n".join(out) + "\n"


def _all(rows: Iterable[Row], word: str) -> list[Point]:
    return [point for row in rows for point in row.points.get(word, ())]


def _share(name: str, points: Sequence[Point]) -> str:
    if not points:
        return ""
    offs = sorted(off for point in points if (off := point.off) is not None)
    quantiles = [_number(offs[min(len(offs) - 1, int(q * len(offs)))]) if offs else "" for q in _QUANTILES]
    sizes = sorted(map(abs, offs))
    median = _number(sizes[len(sizes) // 2]).lstrip("+") if sizes else ""
    cells = [name, str(len(points)), _percent(len(offs), len(points)), _percent(_within(points, 2), len(points)),
             _percent(_within(points, 10), len(points)), median, *quantiles]  # fmt: skip
    return "| " + " | ".join(cells) + " |\n"


_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99)


def _within(points: Iterable[Point], factor: float) -> int:
    return sum(off is not None and abs(off) <= math.log10(factor) for off in (p.off for p in points))


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def _number(value: float) -> str:
    return f"{value:+.2f}" if math.isfinite(value) else "+inf" if value > 0 else "-inf"


def _scatters(rows: Sequence[Row]) -> str:
    return "".join(f"{word}, predicted (across) against measured (down), in decades:\n\n{_scatter(_all(rows, word))}\n"
                   for word in MAIN)  # fmt: skip


def _scatter(points: Sequence[Point]) -> str:
    """Count points by two decades of what was measured and what was said; the right ones are on the diagonal."""
    counts = Counter((_bin(p.measured), _bin(p.said)) for p in points if p.said is not None)
    rows = sorted({m for m, _ in counts})
    columns = sorted({s for _, s in counts} | set(rows))
    head = "      " + "".join(f"{_label(c):>6}" for c in columns)
    lines = [f"{_label(r):>6}" + "".join(f"{counts[r, c] or '.':>6}" for c in columns) for r in rows]
    return "```\n" + "\n".join([head, *lines]) + "\n```\n"


def _bin(value: float) -> int:
    if not value > NOTHING:
        return DECADES[0] - 2
    return max(DECADES[0], min(DECADES[-1], 2 * math.floor(math.log10(value) / 2))) if math.isfinite(value) else 99


def _label(decade: int) -> str:
    if decade < DECADES[0]:
        return "none"
    return "inf" if decade > DECADES[-1] else f"1e{decade}"


def _worst(rows: Sequence[Row]) -> str:
    """List models by the share of layers that theory gets wrong, with the layer where it first does."""
    out = "| model | layers | forward 2x | gradient 2x | forward 10 to 90 % | gradient 10 to 90 % | first wrong layer "
    out += "| seconds |\n"
    out += "|---|---:|---:|---:|---|---|---|---:|\n"
    judged = [row for row in rows if not row.failed and any(row.points.get(word) for word in MAIN)]
    judged.sort(key=lambda row: (_good(row), row.name))
    shown = judged if len(judged) <= 120 else judged[: 4 * WORST]
    for row in shown:
        forward, gradient = (row.points.get(word, ()) for word in MAIN)
        first = next((p for p in forward if p.off is None or abs(p.off) > math.log10(2)), None)
        where = "" if first is None else f"{first.layer}: {'untold' if first.off is None else _number(first.off)}"
        cells = [row.name, str(len(forward)), *(_percent(_within(p, 2), len(p)) for p in (forward, gradient)),
                 _range(forward), _range(gradient), where, f"{row.seconds:.2f}"]  # fmt: skip
        out += "| " + " | ".join(cells) + " |\n"
    return out


def _good(row: Row) -> float:
    points = [p for word in MAIN for p in row.points.get(word, ())]
    return _within(points, 2) / len(points)


def _range(points: Sequence[Point]) -> str:
    offs = sorted(off for point in points if (off := point.off) is not None)
    if not offs:
        return "untold"
    return f"{_number(offs[int(0.1 * len(offs))])} to {_number(offs[min(len(offs) - 1, int(0.9 * len(offs)))])}"


def _unread(rows: Sequence[Row]) -> str:
    counts = Counter(word for row in rows for word in dict.fromkeys(row.unread))
    where = {word: [row.name for row in rows if word in row.unread] for word in counts}
    lines = [f"| {word} | {n} | {', '.join(where[word][:6])} |\n" for word, n in counts.most_common(60)]
    return "| operation | models | among them |\n|---|---:|---|\n" + "".join(lines)


def _attention(rows: Sequence[Row]) -> str:
    pairs = [pair for row in rows for pair in row.attention]
    told = sum(bool(row.attention) for row in rows)
    if not pairs:
        return "Theory tells no attention.\n"
    spread = [Point("", "", m, s) for m, _, s, _ in pairs]
    entropy = sorted(abs(s - m) for _, m, _, s in pairs)
    return (
        f"{len(pairs)} attentions of {told} models. "
        f"Entropy is off by at most {entropy[int(0.9 * (len(entropy) - 1))]:.3f} in 90 % of them.\n\n"
        + _HEAD.format("**spread of logits**") + _share("all", spread)
    )  # fmt: skip


def _failed(rows: Sequence[Row]) -> str:
    return "".join(f"* {row.name}: {row.failed}\n" for row in rows if row.failed) or "None.\n"


def layers(row: Row) -> str:
    """Return every layer of a model, for the eye."""
    out = f"\n## {row.name}\n\n{row.failed or row.why}\n\n"
    if row.unread:
        out += f"unread: {', '.join(row.unread)}\n\n"
    forward, gradient = ({p.layer: p for p in row.points.get(word, ())} for word in MAIN)
    out += (
        f"{'layer':60} {'kind':10} | {'variance':>9} {'said':>9} {'off':>6} | {'rel grad':>9} {'said':>9} {'off':>6}\n"
    )
    for name in dict.fromkeys([*forward, *gradient]):
        cells = [_cells(side.get(name)) for side in (forward, gradient)]
        kind = next(side[name].kind for side in (forward, gradient) if name in side)
        out += f"{name[-60:]:60} {kind[:10]:10} | {cells[0]} | {cells[1]}\n"
    for m, h, s, e in row.attention:
        out += f"attention: spread {m:.3g} said {s:.3g}, entropy {h:.4f} said {e:.4f}\n"
    return out


def _cells(point: Point | None) -> str:
    if point is None:
        return f"{'':>9} {'':>9} {'':>6}"
    if point.said is None or point.off is None:
        return f"{point.measured:9.2e} {'-':>9} {'':>6}"
    return f"{point.measured:9.2e} {point.said:9.2e} {_number(point.off):>6}"
