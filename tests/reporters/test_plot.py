"""Plots of signal and gradient: where the points stand, and what a terminal can show."""

from dataclasses import replace
from itertools import pairwise

import pytest

from initaudit.reporters.plot import FINE, PLAIN, ink, plots
from initaudit.types import Report, Signal
from tests.build import he, layer, report


def told(measured=(), predicted=()) -> Report:
    """Layers with the given variances; gradients are not known."""
    n = max(len(measured), len(predicted))
    made = report(*(layer(f"layer{k}", he(16, 16, k)) for k in range(n)))
    rows = [
        replace(
            m,
            probed=None if k >= len(measured) else Signal(forward_variance=measured[k]),
            predicted=None if k >= len(predicted) else Signal(forward_variance=predicted[k]),
        )
        for k, m in enumerate(made.measured)
    ]
    return replace(made, measured=tuple(rows))


def body(lines) -> list[str]:
    return [line[10:] for line in lines if "|" in line]


def test_a_signal_that_falls_runs_from_top_left_to_bottom_right():
    lines = plots(told([10.0**-k for k in range(9)]), 80)
    drawn = body(lines)
    places = [(at, line.index("o")) for at, line in enumerate(drawn) if "o" in line]
    assert places == [(k, 4 * k) for k in range(9)]
    assert lines[4].startswith("   1e+00 |o")
    assert lines[12].startswith("   1e-08 |")
    assert lines[-2].split() == ["layer0", "layer8"]
    assert lines[1] == "o measured"
    assert lines[3].endswith("across inputs, 9 layers")


def test_both_judges_share_one_scale_and_meet_where_they_agree():
    lines = plots(told([1.0, 1.0], [1.0, 1e-4]), 80)
    assert lines[1] == "o measured  . predicted  @ both"
    drawn = body(lines)
    assert drawn[0] == "@   o"
    assert drawn[-1] == "    ."


@pytest.mark.parametrize("width", [40, 80, 160])
@pytest.mark.parametrize("layers", [1, 2, 17, 71, 400])
@pytest.mark.parametrize("chars", [PLAIN, FINE])
def test_no_line_is_wider_than_the_page_and_no_layer_is_lost(width, layers, chars):
    lines = plots(told([0.5**k for k in range(layers)], [0.3**k for k in range(layers)]), width, chars)
    assert max(map(len, lines)) <= width
    columns = {line.index(c) for line in lines[4:13] for c in (chars.measured, chars.both) if c in line}
    assert len(columns) >= min(layers, 3)
    assert ("".join(lines)).isascii() == (chars is PLAIN)


def test_zero_and_infinity_are_marked_and_nan_is_left_out():
    drawn = body(plots(told([1.0, 0.0, float("inf"), float("nan"), 1e-3]), 80))
    assert drawn[0][8] == "^"
    assert drawn[-1][4] == "0"
    assert sum(line.count("o") for line in drawn) == 2
    drawn = body(plots(told([0.0, 0.0]), 80))
    assert drawn[-1] == "0   0"


def test_one_value_for_all_and_very_small_ones_have_whole_decades_at_the_ticks():
    for values in ([1.0] * 5, [1e-300, 1e-20], [3e-5, 2e-5]):
        lines = plots(told(values), 80)
        ticks = [line.split("|")[0].strip() for line in lines if "|" in line][::2]
        powers = [int(tick[2:]) for tick in ticks]
        assert len({a - b for a, b in pairwise(powers)}) == 1
        assert 10.0 ** powers[0] >= max(values) * 0.999
        assert 10.0 ** powers[-1] <= min(values)


def test_without_signals_it_says_where_they_are_known():
    assert "graph" in plots(told([None]), 80)[0]
    assert plots(told(), 80) == plots(told([None]), 80)


def test_the_encoding_decides_what_is_drawn_with():
    assert ink("utf-8") is FINE
    for encoding in ("ascii", "latin-1", "cp1252", None, "no-such-encoding"):
        assert ink(encoding) is PLAIN


def test_a_hostile_name_reaches_no_terminal():
    made = told([1.0, 1.0])
    bad = replace(made.measured[0], layer=replace(made.measured[0].layer, name="a\x1b[2J\n"))
    assert "\x1b" not in "\n".join(plots(replace(made, measured=(bad, made.measured[1])), 80))
