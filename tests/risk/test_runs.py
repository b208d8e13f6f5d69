"""Runs: the largest change along a sequence, without the flat parts before and after it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.risk.runs import FLOOR, decades, fall, growth

VALUES = st.lists(st.floats(-30, 30, allow_nan=False), min_size=1, max_size=12)


@given(VALUES)
def test_a_fall_is_the_largest_there_is(values):
    largest = max(values[i] - values[j] for i in range(len(values)) for j in range(i, len(values)))
    run = fall(values)
    if largest <= 0:
        assert run is None
    else:
        assert run is not None
        assert run.decades == largest
        assert 0 <= run.start < run.end < len(values)
        assert values[run.start] - values[run.end] >= 0.89 * largest


@given(VALUES)
def test_growth_is_a_fall_upside_down(values):
    assert growth(values) == fall([-v for v in values])


def test_a_single_step_is_found_where_it_is():
    run = fall([0.0, 0.1, 0.0, -4.0, -4.1, -4.0])
    assert run is not None
    assert (run.start, run.end, run.steps) == (2, 3, 1)


@pytest.mark.parametrize(("value", "told"), [(100.0, 2.0), (0.0, FLOOR), (float("inf"), -FLOOR), (None, None)])
def test_decades(value, told):
    assert decades(value) == told


def test_nan_has_no_decades():
    assert decades(float("nan")) is None
