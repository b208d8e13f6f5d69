"""Rows that make a matrix orthogonal again beside those that are kept."""

import hashlib

import numpy as np
import pytest

from initaudit.draws.completing import completed
from initaudit.draws.orthogonal import orthonormal
from tests.build import rng


def whole(kept, new, chosen):
    w = np.zeros((len(kept) + len(new), kept.shape[1]))
    w[chosen] = new
    w[np.setdiff1d(np.arange(len(w)), chosen)] = kept
    return w


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(
    "rows, columns, missing",
    [(16, 16, 1), (16, 40, 5), (300, 300, 140), (40, 600, 39), (40, 8, 3), (40, 8, 35), (40, 8, 39), (9, 8, 4)],
)
def test_a_matrix_that_lost_rows_is_orthogonal_again(rows, columns, missing, dtype):
    full = (1.3 * orthonormal(rng(), 1, rows, columns)[0]).astype(dtype)
    chosen = rng(1).permutation(rows)[:missing]
    kept = np.delete(full, chosen, 0)
    before = kept.copy()
    w = whole(kept, completed(rng(2), kept, missing, 1.3), chosen)
    assert (kept == before).all()
    gram = w @ w.T if rows <= columns else w.T @ w
    assert np.abs(gram / 1.69 - np.eye(len(gram))).max() < (1e-9 if dtype == np.float64 else 2e-6)


def test_nothing_of_what_was_lost_comes_back():
    full = orthonormal(rng(), 1, 20, 40)[0]
    a, b = completed(rng(1), full[4:], 4), completed(rng(2), full[4:], 4)
    assert np.abs(a @ full[4:].T).max() < 1e-9
    assert np.abs(a - b).max() > 0.1
    assert np.linalg.norm(a - full[:4]) > 1


def test_rows_in_the_complement_favour_no_direction():
    kept = orthonormal(rng(), 1, 3, 12)[0]
    drawn = np.concatenate([completed(rng(seed), kept, 2) for seed in range(4000)])
    second = drawn.T @ drawn / len(drawn)
    assert np.abs(second - (np.eye(12) - kept.T @ kept) / 9).max() < 0.01
    assert np.abs(drawn.mean(0)).max() < 0.02


def test_rows_that_are_not_orthogonal_get_orthonormal_ones_beside_them():
    kept = rng().standard_normal((6, 20))
    kept[5] = kept[4]  # and not even independent
    new = completed(rng(1), kept, 5, 2.0)
    assert np.allclose(new @ new.T, 4 * np.eye(5))
    assert np.abs(new @ kept.T).max() < 1e-9


def test_where_no_rows_would_do_they_have_the_usual_size():
    kept = rng().standard_normal((200, 30))
    new = completed(rng(1), kept, 400, 1.5)
    assert np.square(new).mean() == pytest.approx(2.25 / 600, rel=0.05)


def test_nothing_kept_and_nothing_missing():
    assert completed(rng(), np.zeros((4, 8)), 0).shape == (0, 8)
    alone = completed(rng(), np.zeros((0, 8)), 4, 2.0)
    assert np.allclose(alone @ alone.T, 4 * np.eye(4))


def test_the_bits_are_the_same_everywhere():
    """Told once: no sum may depend on threads, or on how many numbers a processor adds at once."""
    made = completed(rng(3), orthonormal(rng(), 1, 150, 300)[0], 150)
    tall = completed(rng(3), orthonormal(rng(), 1, 150, 30)[0][10:], 10)
    digests = [hashlib.sha256(one.tobytes()).hexdigest()[:16] for one in (made, tall)]
    assert digests == ["4b48b490a3ce6243", "e54cc1e9f7d8d922"]
