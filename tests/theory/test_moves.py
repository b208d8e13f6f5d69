"""Moves keep pairs of positions what they are: means over all pairs survive, and ways back are adjoint."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.theory.contraction import contracted, tabled, untabled
from initaudit.theory.engine import Unread
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Back, Kernel
from initaudit.theory.moves import indexed, reshaped
from initaudit.theory.moves_axes import rebuilt
from initaudit.theory.moves_cut import cut
from initaudit.theory.moves_join import concat


def image(height=8, width=6, units=4, reach=2, seed=0):
    """A kernel with axes (inputs, rows, columns, units) that is a positive function of the offset."""
    random = np.random.default_rng(seed)
    grid = Grid((height, width), (min(reach, height - 1), min(reach, width - 1)))
    own, shared = (np.abs(random.normal(size=grid.size)) * 0.3 for _ in range(2))
    own[0], shared[0] = 1.0, 0.5
    axes = ((Atom(BATCH, 2),), (Atom(PLACE, height, 0),), (Atom(PLACE, width, 1),), (Atom(UNIT, units),))
    return Kernel(axes, grid, own, shared, 0.3, 1 / units)


def tokens(count=10, units=4, near=1.0, far=0.2):
    grid = Grid((count,), (0,))
    axes = ((Atom(BATCH, 2),), (Atom(PLACE, count, 0),), (Atom(UNIT, units),))
    return Kernel(axes, grid, np.array([near, far]), np.zeros(2), 0.0, 1 / units)


def ones(x):
    peak = x.grid.peak(1.0)
    return Back(x.grid, peak, np.zeros_like(peak), peak)


SHAPES = [(2, 48, 4), (2, 4, 2, 6, 4), (2, 2, 4, 3, 2, 4), (2, 8, 6, 2, 2), (16, 6, 4), (2, 8, 3, 2, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_reshape_there_and_back(shape):
    x = image()
    made, back = reshaped(x, shape)
    assert made.shape == shape
    for before, after in ((x.own, made.own), (x.shared, made.shared)):
        assert after[0] == pytest.approx(before[0])
        assert made.grid.mean(after) == pytest.approx(x.grid.mean(before))
    again, _ = reshaped(made, x.shape)
    assert again.shape == x.shape
    d = back(ones(made))
    assert d.grid == x.grid
    assert d.grid.total(d.each) == pytest.approx(made.grid.total(ones(made).each))


def test_neighbours_stay_neighbours_in_windows():
    x = image(8, 8, reach=3)
    made, _ = reshaped(x, (2, 2, 4, 2, 4, 4))
    assert made.grid.at(made.own, [0, 1, 0, 0]) == pytest.approx(x.grid.at(x.own, [1, 0]))
    back, _ = rebuilt(made, 1, made.axes[1])
    assert back.shape == made.shape


def test_what_a_reshape_cannot_do_is_unread():
    with pytest.raises(Unread):
        reshaped(image(), (2, 12, 4, 5))


@pytest.mark.parametrize(("start", "length", "step"), [(0, 1, 1), (3, 4, 1), (0, 4, 2), (1, 2, 3)])
def test_cut_hands_back_to_its_places(start, length, step):
    x = tokens()
    made, back = cut(x, 1, start, length, step)
    d = back(ones(made))
    assert d.grid == x.grid
    assert d.grid.total(d.each) == pytest.approx(made.grid.total(ones(made).each))
    assert d.profile[0] is not None
    assert set(np.flatnonzero(d.profile[0])) == set(range(start, start + length * step, step))


def test_half_of_the_units_is_half_of_the_gradient():
    x = tokens(units=8)
    made, back = cut(x, 2, 0, 4)
    assert made.own == pytest.approx(x.own)
    assert back(ones(made)).each == pytest.approx(0.5 * ones(x).each)


def test_numbers_slices_and_new_axes():
    x = image()
    made, back = indexed(x, (slice(None), 0, None, Ellipsis, slice(0, 2)))
    assert made.shape == (2, 1, 6, 2)
    assert back(ones(made)).grid == x.grid


def test_a_class_token_before_others():
    first = Kernel(((Atom(BATCH, 2),), (), (Atom(UNIT, 4),)), Grid(), np.zeros(2), np.full(2, 1e-6), 0.0, 0.25)
    rest = tokens(9)
    made, backs = concat([first, rest], 1)
    assert made.shape == (2, 10, 4)
    assert made.own[0] == pytest.approx(0.9)
    assert made.profile[0][0] < 1e-4 < made.profile[0][1]
    one, two = backs(ones(made))
    assert one.grid == first.grid
    assert two.grid == rest.grid
    assert one.each[0] == two.each[0] == 1.0


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 3), st.integers(0, 1000))
def test_tables_keep_means(rows, columns, reach, seed):
    grid = Grid((rows, columns), (min(reach, rows - 1), min(reach, columns - 1)))
    f = np.random.default_rng(seed).normal(size=grid.size)
    if grid.counts[-1] == 0:
        f[-1] = 0.0
    assert grid.mean(untabled(grid, tabled(grid, f))) == pytest.approx(grid.mean(f), abs=1e-9)


def test_product_of_two_signals():
    """k^T v over tokens and then q times it, against draws."""
    random = np.random.default_rng(0)
    n, units, draws = 12, 6, 4000
    common = random.normal(size=(2, draws, 1, units)) * 0.6
    k, v = common + random.normal(size=(2, draws, n, units))
    y = np.einsum("rnd,rne->rde", k, v)
    x = tokens(n, units, 1.36, 0.36)
    made, (to_k, _) = contracted(x, x, "bnd", "bne", "bde")
    assert made.own[0] == pytest.approx((y**2).mean(), rel=0.1)
    g = random.normal(size=y.shape)
    back = np.einsum("rde,rne->rnd", g, v)
    assert to_k(ones(made)).each[0] == pytest.approx((back**2).mean(), rel=0.1)
    far = np.einsum("rnd,rmd->nm", back, back)
    far = (far.sum() - np.trace(far)) / (n * (n - 1) * draws * units)
    assert to_k(ones(made)).each[-1] == pytest.approx(far, rel=0.15)
