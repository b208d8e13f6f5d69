from fractions import Fraction

import numpy as np
import pytest

from initaudit.symmetry.exact import NotFinite, projected
from initaudit.symmetry.labels import mix


def classes(values):
    return mix(np.asarray(values, np.uint64))[None, None]


def equal(rows, labels):
    found = projected(np.asarray(rows)[None], classes(labels))[0, 0]
    return found[0] == found[1]


def test_sums_over_classes_count_not_the_weights_one_by_one():
    assert equal([[0.5, 0.75], [0.75, 0.5]], [7, 7])
    assert not equal([[0.5, 0.75], [0.75, 0.5]], [7, 8])


def test_rounding_neither_parts_nor_joins():
    assert equal([[0.1, 0.2, 0.3], [0.3, 0.1, 0.2]], [1, 1, 1])  # in floating point these sums differ
    assert not equal([[1e16, 1.0], [1e16, 0.0]], [1, 1])  # and these do not


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_sums_of_any_sizes_agree_with_fractions(dtype):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, 50)
    rows = (rng.standard_normal((40, 50)) * 2.0 ** rng.integers(-9, 6, (40, 50))).astype(dtype)
    rows[20:] = rows[:20, rng.permutation(50)]
    for k in range(4):
        rows[20 + k, np.argsort(labels)] = rows[k, np.argsort(labels)[::-1]][np.argsort(np.argsort(labels[::-1]))]
    sums = [tuple(sum(map(Fraction, row[labels == c].tolist())) for c in range(4)) for row in rows]
    found = projected(rows[None], classes(labels))[0, 0]
    for i in range(40):
        for j in range(40):
            assert (found[i] == found[j]) == (sums[i] == sums[j])


def test_the_smallest_and_the_largest_numbers_are_told_apart():
    assert not equal([[5e-324, 1e300], [0.0, 1e300]], [1, 1])
    assert equal([[5e-324, 1e300], [1e300, 5e-324]], [1, 1])


def test_negative_sums():
    assert equal([[-1.5, 1.0], [0.5, -1.0]], [1, 1])
    assert not equal([[-1.5, 1.0], [0.5, 0.0]], [1, 1])


def test_no_sums_of_what_is_no_number():
    with pytest.raises(NotFinite):
        projected(np.array([[[1.0, np.nan]]]), classes([1, 1]))
