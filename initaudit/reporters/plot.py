"""Signal and gradient against depth, drawn with characters.

variance across inputs (log scale), layers in order of execution     o measured  . predicted
 1e+00 |o  o
       |.  .  o
 1e-02 |      .  o
       |         .  o
 1e-04 |            .
       +---------------
        fc0         fc4
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, floor, isfinite, isnan, log10

from initaudit.reporters.base import printable
from initaudit.types import Measured, Report, Signal

_MARGIN = 8  # columns left of the axis
_TICKS = 4  # of equal decades between them, two lines each
_HEIGHT = 2 * _TICKS + 1  # lines of a plot
_STEP = 4  # columns from one layer to the next, at most
_NO_GRAPH = "there is no graph (--model, --arch or an ONNX export gives one)"


@dataclass(frozen=True, slots=True)
class Ink:
    """The characters of a plot."""

    measured: str
    predicted: str
    both: str
    side: str
    corner: str
    base: str


PLAIN = Ink("o", ".", "@", "|", "+", "-")
FINE = Ink("●", "·", "◉", "│", "└", "─")

FIGURES: tuple[tuple[str, Callable[[Signal], float | None]], ...] = (
    ("signal: variance across inputs", lambda s: s.forward_variance),
    ("gradient over weight, of one input", lambda s: s.relative_gradient),
)


def ink(encoding: str | None) -> Ink:
    """Return the characters that an encoding can carry."""
    try:
        "".join((FINE.measured, FINE.predicted, FINE.both, FINE.side, FINE.corner, FINE.base)).encode(encoding or "")
    except (UnicodeEncodeError, LookupError):
        return PLAIN
    return FINE


def plots(report: Report, width: int, chars: Ink = PLAIN) -> list[str]:
    """Return both plots, at most `width` columns wide: what was measured, and what theory predicts."""
    rows = [m for m in report.measured if m.signal is not None]
    drawn = [line for title, of in FIGURES for line in _plot(title, rows, of, width, chars)]
    key = [
        f"{mark} {word}"
        for mark, word in ((chars.measured, "measured"), (chars.predicted, "predicted"), (chars.both, "both"))
        if any(mark in line.partition(chars.side)[2] for line in drawn)
    ]
    return ["log scale, layers in order of execution", "  ".join(key), "", *drawn] if drawn else [_nothing(report)]


def _nothing(report: Report) -> str:
    told = [judge.why for judge in (report.probe, report.theory) if judge is not None and judge.why]
    why = _NO_GRAPH if report.model.graph is None else next(iter(told), "no layer's is known")
    return f"no signal and gradient to draw: {printable(why)}"


def _plot(
    title: str, rows: Sequence[Measured], of: Callable[[Signal], float | None], width: int, chars: Ink
) -> Iterator[str]:
    told = {
        chars.predicted: [_value(m.predicted, of) for m in rows],
        chars.measured: [_value(m.probed, of) for m in rows],
    }
    kept = [k for k in range(len(rows)) if any(values[k] is not None for values in told.values())]
    heights = [log10(v) for values in told.values() for v in values if v is not None and v > 0 and isfinite(v)]
    if not kept:
        return
    low, high = _bounds(heights)
    room = width - _MARGIN - 2
    step = max(1, min(_STEP, room // len(kept)))
    wide = min(room, (len(kept) - 1) * step + 1)
    page = [[" "] * wide for _ in range(_HEIGHT)]
    for mark, values in told.items():
        for place, k in enumerate(kept):
            value = values[k]
            if value is None:
                continue
            column = place * step if step > 1 or len(kept) <= room else place * (wide - 1) // (len(kept) - 1)
            line = _line(value, low, high)
            now = page[line][column]
            sign = "0" if value == 0 else "^" if not isfinite(value) else mark
            page[line][column] = sign if now in (" ", sign) or sign in "0^" else chars.both
    yield f"{title}, {len(kept)} layer{'s' * (len(kept) != 1)}"[:width]
    for at, drawn in enumerate(page):
        tick = f"1e{high - at // 2 * ((high - low) // _TICKS):+03d}" if at % 2 == 0 else ""
        yield f"{tick:>{_MARGIN}} {chars.side}{''.join(drawn)}".rstrip()
    yield f"{'':{_MARGIN}} {chars.corner}{chars.base * wide}"
    first, last = (printable(rows[k].layer.name) for k in (kept[0], kept[-1]))
    yield f"{'':{_MARGIN}}  {_ends(first, last, room, wide)}".rstrip()
    yield ""


def _bounds(heights: Sequence[float]) -> tuple[int, int]:
    """Return whole decades around the values, so many that every tick is one."""
    low, high = (floor(min(heights)), ceil(max(heights))) if heights else (-1, 0)
    missing = -(high - low) % _TICKS or (_TICKS if high == low else 0)
    return low - missing // 2, high + missing - missing // 2


def _value(signal: Signal | None, of: Callable[[Signal], float | None]) -> float | None:
    value = None if signal is None else of(signal)
    return None if value is None or isnan(value) else value


def _line(value: float, low: int, high: int) -> int:
    """Return the line of a value, from the top: zero on the last, what is not finite on the first."""
    if value <= 0:
        return _HEIGHT - 1
    if not isfinite(value):
        return 0
    return round((high - log10(value)) / (high - low) * (_HEIGHT - 1))


def _ends(first: str, last: str, room: int, wide: int) -> str:
    """Return the names under both ends of the axis, cut to fit."""
    half = room // 2 - 2
    first, last = (name if len(name) <= half else ".." + name[2 - half :] for name in (first, last))
    if first == last:
        return first
    return first + " " * max(2, wide - len(first) - len(last)) + last
