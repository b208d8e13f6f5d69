"""Pairs of positions: counts, means and sums against all pairs written out."""

import itertools

import numpy as np
import pytest

from initaudit.theory.grid import Grid, grid_of, regrid


def every(grid, f):
    """Return a function of the offset as a table over all pairs of positions."""
    places = list(itertools.product(*(range(n) for n in grid.extents)))
    out = np.array([[grid.at(f, [b - a for a, b in zip(p, q, strict=True)]) for q in places] for p in places])
    return out.reshape(*grid.extents, *grid.extents)


def some(grid, seed=0):
    return np.random.default_rng(seed).normal(size=grid.size)


@pytest.mark.parametrize("extents", [(), (5,), (1,), (6, 3), (2, 7)])
def test_mean_and_total(extents):
    grid = grid_of(extents)
    f = some(grid)
    assert grid.counts.sum() == grid.positions**2
    assert grid.total(f) == pytest.approx(every(grid, f).sum() if extents else f[0])
    assert grid.mean(f) == pytest.approx(grid.total(f) / grid.positions**2)


def test_sum_over_an_axis():
    grid = grid_of((6, 3))
    f = some(grid)
    rest, g = grid.summed(f, [0])
    assert rest.extents == (3,)
    assert every(rest, g) == pytest.approx(every(grid, f).sum((0, 2)))


def test_one_place_of_an_axis():
    grid = grid_of((6, 3))
    f = some(grid)
    rest, g = grid.diagonal(f, [1])
    assert every(rest, g) == pytest.approx(every(grid, f)[:, 0, :, 0])


def test_copies_along_a_new_axis_keep_mean_and_what_is_near():
    grid, wide = grid_of((5,)), grid_of((5, 4))
    f = some(grid)
    g = grid.remapped(f, wide, (0, None))
    assert wide.mean(g) == pytest.approx(grid.mean(f))
    assert wide.at(g, (2, 3)) == grid.at(f, (2,))


def test_regrid_keeps_the_mean():
    grid, tokens = grid_of((4, 4)), Grid((16,), (0,))
    f = some(grid)
    g = regrid(f, grid, tokens, lambda offset: None if any(offset) else (0, 0))
    assert g[0] == f[0]
    assert tokens.mean(g) == pytest.approx(grid.mean(f))


def test_collapsed():
    grid = grid_of((5,))
    f = some(grid)
    same, far = grid.collapsed(f)
    table = every(grid, f)
    assert same == pytest.approx(np.diag(table).mean())
    assert far == pytest.approx((table.sum() - np.trace(table)) / 20)
