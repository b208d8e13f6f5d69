"""Hashes of units and digests: equal exactly where the values are."""

import numpy as np
import pytest

from initaudit.stats import measure
from tests.stats.reference import same_partition, tensor


def normal(shape, seed=0, dtype="f4"):
    return (np.random.default_rng(seed).standard_normal(shape) * 0.02).astype(dtype)


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
def test_copied_rows_and_columns_are_found_and_no_others(dtype):
    w = normal((1200, 900), dtype=dtype)
    w[600:900] = w[:300]
    w[:, 5] = w[:, 890]
    stats = measure(tensor(w), "oi")
    assert same_partition(stats.rows.hash, w)
    assert same_partition(stats.columns.hash, w.T)
    assert len(np.unique(stats.rows.hash)) == 900
    assert len(np.unique(stats.columns.hash)) == 899


def test_a_single_bit_tells_units_apart():
    w = np.tile(normal((1, 4000)), (33, 1))
    for bit in range(32):
        w.view("u4")[bit + 1, 100 * bit] ^= np.uint32(1) << np.uint32(bit)
    assert len(np.unique(measure(tensor(w), "oi").rows.hash)) == 33


@pytest.mark.parametrize("values", [(-1.0, 1.0), (-0.02, 0.0, 0.02), (1.0, 2.0, 4.0, 0.5), (2.0**-149, 0.0)])
def test_no_false_copies_among_coarse_values(values):
    # Differences of few distinct values are where a linear hash without mixing would fail.
    w = np.random.default_rng(0).choice(np.array(values, "f4"), (20000, 40))
    stats = measure(tensor(w), "oi")
    assert len(np.unique(stats.rows.hash)) == len(np.unique(w, axis=0))


def test_swapped_and_shifted_values_do_not_collide():
    w = np.zeros((400, 400), "f4")
    np.fill_diagonal(w, 1)
    assert len(np.unique(measure(tensor(w), "oi").rows.hash)) == 400
    w = np.stack([np.roll(normal(300), n) for n in range(300)])
    assert len(np.unique(measure(tensor(w), "oi").rows.hash)) == 300
    kernels = np.stack(
        [np.roll(normal((8, 3, 3)), (a, b, c), (0, 1, 2)) for a in range(8) for b in range(3) for c in range(3)]
    )
    assert len(np.unique(measure(tensor(kernels), "oikk").rows.hash)) == 72


def test_zeros_of_either_sign_are_alike():
    w = normal((4, 50))
    w[0] = w[1]
    w[0, 3], w[1, 3] = 0.0, -0.0
    w[2], w[3] = 0.0, -0.0
    hashes = measure(tensor(w), "oi").rows.hash
    assert hashes[0] == hashes[1]
    assert hashes[2] == hashes[3]


@pytest.mark.parametrize("dtype", ["int64", "uint64"])
def test_integers_beyond_float64_are_told_apart(dtype):
    w = np.full((3, 10), 2**60, dtype)
    w[1, 4] += 1
    hashes = measure(tensor(w), "oi").rows.hash
    assert hashes[0] == hashes[2] != hashes[1]


def test_experts_drawn_alike_show_in_their_rows():
    one = normal((1, 64, 32))
    w = np.concatenate([one, normal((1, 64, 32), 1), one])
    hashes = measure(tensor(w), "soi").rows.hash.reshape(3, 64)
    assert (hashes[0] == hashes[2]).all()
    assert not (hashes[0] == hashes[1]).any()


@pytest.mark.parametrize(("shape", "axes", "twin"), [((70, 50), "oi", "io"), ((40, 30, 3, 3), "oikk", "iokk")])
def test_a_transposed_twin_has_the_digests_swapped(shape, axes, twin):
    w = normal(shape)
    a = measure(tensor(w), axes)
    b = measure(tensor(np.ascontiguousarray(w.swapaxes(0, 1))), axes)
    assert (a.digest, a.digest_t) == (b.digest_t, b.digest)
    assert a.digest != a.digest_t
    c = measure(tensor(w), twin)  # the same bytes read the other way round
    assert (a.digest, a.digest_t) == (c.digest_t, c.digest)


def test_digest_tells_order_shape_and_values():
    w = normal((64, 48))
    seen = {measure(tensor(v), "oi").digest for v in (w, w[::-1], w[:, ::-1], w.reshape(48, 64), w[:-1], -w, w * 2)}
    assert len(seen) == 7
    assert measure(tensor(w.copy()), "oi").digest in seen
    zeros = [measure(tensor(np.zeros(shape, "f4")), "oi").digest for shape in ((4, 4), (8, 2), (2, 8), (16, 1))]
    assert len(set(zeros)) == 4


def test_a_narrow_dtype_hashes_like_its_values_in_float32():
    half = normal((30, 40), dtype="f2")
    assert measure(tensor(half), "oi").digest == measure(tensor(half.astype("f4")), "oi").digest


def test_longer_than_the_table_of_multipliers():
    w = normal((3, 1_100_000))
    w[2] = w[0]
    w[:, -1] = w[:, 3]
    w[1, -2] = w[1, -3]
    stats = measure(tensor(w), "oi")
    assert stats.rows.hash[0] == stats.rows.hash[2] != stats.rows.hash[1]
    assert stats.columns.hash[-1] == stats.columns.hash[3]
    assert stats.digest == measure(tensor(w.T), "io").digest
    assert stats.digest_t == measure(tensor(np.ascontiguousarray(w.T)), "oi").digest
