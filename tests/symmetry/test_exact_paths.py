"""The quick ways of labelling sums against fractions, whatever the dtype, the layout in memory and the classes."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest

from initaudit.symmetry import exact
from initaudit.symmetry.exact import NotFinite, projected
from initaudit.symmetry.labels import mix

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16, np.int8]


def told(weight, classes):
    """Labels of rows (stack, rows, terms) under classes (sets, stack, terms) given as small numbers."""
    return projected(np.asarray(weight), mix(np.asarray(classes, np.uint64)))


def sums(row, classes):
    """What a label stands for: the exact sum over each class, by class."""
    out = {}
    for value, label in zip(row.astype(np.float64).tolist(), classes.tolist(), strict=True):
        out[label] = out.get(label, 0) + Fraction(value)
    return tuple(sorted(out.items()))


def agree(found, wanted):
    """Labels are equal exactly where sums are."""
    ids = {}
    numbers = np.array([ids.setdefault(one, len(ids)) for one in wanted])
    found = np.asarray(found)
    return np.array_equal(found[:, None] == found[None], numbers[:, None] == numbers[None])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kinds", [1, 3, 12, 40])
def test_labels_are_equal_exactly_where_sums_are(dtype, kinds):
    rng = np.random.default_rng(kinds)
    classes = rng.integers(0, kinds, 40) if kinds < 40 else rng.permutation(40)
    rows = rng.integers(-8, 9, (48, 40)) * 2.0 ** rng.integers(-3, 3, (48, 40))
    rows[rng.random(rows.shape) < 0.1] = -0.0
    rows[16:32] = rows[:16]  # the same sums: elements of one class change places, or give to one another
    for k in range(16, 32):
        for one in range(kinds):
            where = np.flatnonzero(classes == one)
            rows[k, where] = rows[k, rng.permutation(where)]
    rows[32:40] = rows[:8]
    rows[np.arange(32, 40), rng.integers(0, 40, 8)] += 1  # nearly the same
    weight = rows.astype(dtype)
    found = told(weight[None], classes[None, None])[0, 0]
    assert agree(found, [sums(row, classes) for row in weight])
    turned = np.ascontiguousarray(weight.T)[None].transpose(0, 2, 1)
    assert np.array_equal(told(turned, classes[None, None])[0, 0], found)


@pytest.mark.parametrize("kinds", [1, 5, 30])
def test_what_is_equal_has_one_label_in_every_dtype_and_block(kinds, monkeypatch):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, kinds, 30) if kinds < 30 else np.arange(30)
    rows = (rng.integers(-64, 65, (20, 30)) / 16).astype(np.float16)
    wanted = told(rows[None], classes[None, None])
    for dtype in (np.float32, np.float64, ml_dtypes.bfloat16):
        assert np.array_equal(told(rows.astype(dtype)[None], classes[None, None]), wanted)
    monkeypatch.setattr(exact, "_BLOCK", 64)
    monkeypatch.setattr(exact, "_SLICE", 7)
    assert np.array_equal(told(rows[None], classes[None, None]), wanted)


def test_the_label_is_told_by_sums_whatever_else_is_in_the_block():
    rng = np.random.default_rng(1)
    classes = np.array([0, 0, 1, 1, 1, 2])
    plain = rng.integers(-9, 10, (4, 6)) / 8
    wanted = told(plain[None], classes[None, None])[0, 0]
    for other in (5e-324, 1e300, -3e-200, 2.0**60, 2.0**-47):
        beside = np.vstack([plain, np.full((1, 6), other)])
        assert np.array_equal(told(beside[None], classes[None, None])[0, 0, :4], wanted)


def test_order_does_not_matter_and_place_in_a_class_does_not():
    rng = np.random.default_rng(2)
    rows, classes = rng.standard_normal((10, 25)), rng.integers(0, 20, 25)
    order = rng.permutation(25)
    assert np.array_equal(told(rows[None], classes[None, None]), told(rows[:, order][None], classes[order][None, None]))


def test_stacks_and_sets_are_told_each_by_itself():
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((5, 7, 9)).astype(np.float32)
    classes = rng.integers(0, 6, (3, 5, 9))
    classes[0] = np.arange(9)
    whole = told(weight, classes)
    for k in range(3):
        for s in range(5):
            assert np.array_equal(told(weight[s : s + 1], classes[k : k + 1, s : s + 1])[0, 0], whole[k, s])


@pytest.mark.parametrize("kinds", [1, 2])
def test_sums_of_very_many_terms(kinds):
    rng = np.random.default_rng(4)
    rows = rng.standard_normal((3, 70_000)).astype(np.float32)
    classes = rng.integers(0, kinds, 70_000)
    rows[1] = rows[0]
    where = np.flatnonzero(classes == 0)
    rows[1, where] = rows[1, where[::-1]]
    rows[2] = rows[1]
    rows[2, where[5]] = np.nextafter(rows[2, where[5]], np.float32(9))
    big = np.full((2, 70_000), 2.0**60)
    big[1, where] = -(2.0**60)
    found = told(rows[None], classes[None, None])[0, 0]
    assert found[0] == found[1] != found[2]
    assert agree(told(big[None], classes[None, None])[0, 0], [sums(row, classes) for row in big])


@pytest.mark.parametrize("classes", [[0, 1, 2], [0, 0, 1]])
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_has_no_sums(classes, odd):
    with pytest.raises(NotFinite):
        told(np.array([[[1.0, odd, 2.0]]]), np.array([[classes]]))


@pytest.mark.parametrize("values", [[2**53 + 1, 1], [1 + 2j, 1]])
def test_numbers_that_float64_does_not_hold_have_no_sums(values):
    with pytest.raises(NotFinite):
        told(np.array([[values]]), np.array([[[0, 1]]]))


def test_signs_alone_and_single_bits_are_told_apart():
    rng = np.random.default_rng(5)
    weight = np.where(rng.random((4000, 64)) < 0.5, -0.1, 0.1).astype(np.float32)
    weight[1::2] = weight[::2]
    weight[np.arange(1, 4000, 2), rng.integers(0, 64, 2000)] *= -1
    kinds = len(np.unique(weight, axis=0))
    assert len(np.unique(told(weight[None], np.arange(64)[None, None]))) == kinds
