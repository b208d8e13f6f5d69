"""Rank 1 and orthogonality: found where they are, and nowhere else."""

import math

import ml_dtypes
import numpy as np
import pytest

from initaudit.stats import measure
from tests.stats.reference import tensor

DTYPES = ["f4", "f8", "f2", ml_dtypes.bfloat16]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def orthogonal(rows, cols, seed=0):
    """What torch.nn.init.orthogonal_ does."""
    q, r = np.linalg.qr(normal(max(rows, cols), min(rows, cols), seed=seed))
    q *= np.sign(np.diag(r))
    return q if rows >= cols else q.T


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [1e-4, 0.02, 30.0])
def test_rank_one(dtype, scale):
    w = (normal(40, 1) * normal(1, 60, seed=1) * scale).astype(dtype)
    assert measure(tensor(w), "oi").rank_one
    assert measure(tensor(w.T), "io").rank_one
    w[3:9] = 0
    assert measure(tensor(w), "oi").rank_one
    two = (normal(40, 2) @ normal(2, 60, seed=1) * scale).astype(dtype)
    assert not measure(tensor(two), "oi").rank_one
    assert not measure(tensor((normal(40, 60) * scale).astype(dtype)), "oi").rank_one


def test_a_faint_second_direction_is_seen_down_to_the_tolerance():
    base, other = normal(100, 1) * normal(1, 80, seed=1), normal(100, 80, seed=2)
    other /= np.linalg.norm(other, 2) / np.linalg.norm(base)
    assert not measure(tensor((base + 1e-4 * other).astype("f4")), "oi").rank_one
    assert measure(tensor((base + 1e-7 * other).astype("f4")), "oi").rank_one


def test_one_stray_row_breaks_rank_one():
    w = (normal(500, 1) * normal(1, 80, seed=1)).astype("f4")
    w[333] = normal(80, seed=5)
    assert not measure(tensor(w), "oi").rank_one


def test_rank_one_of_stacks_and_groups():
    u = np.stack([normal(16, 1, seed=n) * normal(1, 20, seed=n + 9) for n in range(4)]).astype("f4")
    assert measure(tensor(u), "soi").rank_one
    assert not measure(tensor(u.reshape(64, 20)), "oi").rank_one
    assert measure(tensor(u.reshape(64, 20)), "oi", groups=4).rank_one
    u[2] = 0
    assert measure(tensor(u), "soi").rank_one
    u[1] = normal(16, 20)
    assert not measure(tensor(u), "soi").rank_one


@pytest.mark.parametrize(
    "w", [np.zeros((20, 20)), np.eye(20), np.ones((7, 20)), np.ones(64), np.full((20, 20), np.nan)]
)
def test_not_rank_one(w):
    assert not measure(tensor(w.astype("f4")), "oi" if w.ndim == 2 else "o").rank_one


def test_a_constant_is_rank_one_and_not_orthogonal():
    stats = measure(tensor(np.full((20, 30), 0.01, "f4")), "oi")
    assert stats.rank_one
    assert math.isnan(stats.orthogonality)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(64, 64), (30, 200), (200, 30), (3, 7), (129, 500), (2, 2)])
def test_orthogonal(shape, dtype):
    w = (orthogonal(*shape) * 1.7).astype(dtype)
    for values, axes in ((w, "oi"), (np.ascontiguousarray(w.T), "io"), (w.T, "io")):
        found = measure(tensor(values), axes)
        if dtype in ("f4", "f8"):
            assert found.orthogonality < 1e-5
        else:
            x = w.astype("f8") if shape[0] <= shape[1] else w.astype("f8").T
            gram = x @ x.T
            g = np.trace(gram) / len(gram)
            assert found.orthogonality == pytest.approx(abs(gram / g - np.eye(len(gram))).max(), rel=1e-3, abs=1e-6)
        assert found.part_orthogonality == found.orthogonality


def test_orthogonal_convolutions():
    w = orthogonal(40, 20 * 9).reshape(40, 20, 3, 3).astype("f4")
    assert measure(tensor(w), "oikk").orthogonality < 1e-5
    tall = orthogonal(400, 20 * 9).reshape(400, 20, 3, 3).astype("f4")
    assert measure(tensor(tall), "oikk").orthogonality < 1e-5
    delta = np.zeros((40, 20, 3, 3), "f4")
    delta[:, :, 1, 1] = orthogonal(40, 20)
    assert measure(tensor(delta[:20]), "oikk").orthogonality != measure(tensor(w), "oikk").orthogonality
    wide = np.zeros((20, 40, 3, 3), "f4")
    wide[:, :, 1, 1] = orthogonal(20, 40)
    assert measure(tensor(wide), "oikk").orthogonality < 1e-5
    assert measure(tensor(np.eye(40, dtype="f4")), "oi").orthogonality == 0.0


def test_gates_that_are_orthogonal_one_by_one_and_as_a_whole():
    one_by_one = np.concatenate([orthogonal(32, 32, seed=n) for n in range(4)]).astype("f4")
    stats = measure(tensor(one_by_one), "oi", parts=4)
    assert stats.part_orthogonality < 1e-5
    assert stats.orthogonality < 1e-5  # the columns of the stack are orthogonal too
    stacked = measure(tensor(orthogonal(128, 32).astype("f4")), "oi", parts=4)
    assert stacked.orthogonality < 1e-5
    assert not stacked.part_orthogonality < 0.05
    fused = measure(tensor(np.ascontiguousarray(one_by_one.T)), "io", parts=4)
    assert fused.part_orthogonality < 1e-5


@pytest.mark.parametrize("shape", [(8, 8), (16, 64), (64, 4096), (300, 200), (10, 25088)])
def test_random_matrices_are_not_taken_for_orthogonal(shape):
    for seed in range(3):
        for w in (normal(*shape, seed=seed), np.random.default_rng(seed).uniform(-1, 1, shape)):
            assert not measure(tensor(w.astype("f4")), "oi").orthogonality < 1e-3


def test_one_operator_that_is_not_orthogonal_settles_it():
    w = np.stack([orthogonal(32, 32, seed=n) for n in range(3)]).astype("f4")
    assert measure(tensor(w), "soi").orthogonality < 1e-5
    w[2] = normal(32, 32) / 6
    assert math.isnan(measure(tensor(w), "soi").orthogonality)
