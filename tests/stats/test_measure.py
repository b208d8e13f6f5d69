"""stats.measure against the definitions, over shapes, dtypes, strides, axes and groups."""

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.errors import UnsupportedError
from initaudit.stats import accumulate, elements, layout, measure
from initaudit.types import Stats
from tests.stats.reference import canonical, moments, same_partition, tensor

DTYPES = [
    "float32", "float64", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2,
    ml_dtypes.float8_e4m3fnuz, "int8", "uint8", "int16", "int32", "int64", "bool", ">f4", ">f8", ">f2", ">i4",
]  # fmt: skip
AXES = ["", "o", "oi", "io", "oik", "oikk", "iokk", "sio", "soi", "ioo", "kkio", "koki", "oioi", "ooi", "s", "k", "i"]


@st.composite
def cases(draw):
    axes = draw(st.sampled_from(AXES))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    parts = draw(st.sampled_from([1, 1, 2, 3]))
    split = "i" if "i" in axes and "o" in axes and axes.index("i") < axes.index("o") else "o"
    if "o" not in axes:
        groups = parts = 1
    shape = [draw(st.integers(1, 7)) for _ in axes]
    if groups > 1:
        shape[axes.index(split)] *= groups
    if parts > 1:
        shape[axes.index("o")] *= parts
    if groups > 1 and parts > 1:
        parts = groups  # parts and groups that cut across each other are refused
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = rng.standard_normal(shape) * draw(st.sampled_from([1.0, 0.02, 3.0, 1e-3])) + draw(
        st.sampled_from([0, 1, 7])
    )
    values *= rng.random(shape) > draw(st.sampled_from([0.0, 0.3, 0.9]))
    if draw(st.booleans()) and shape and shape[0] > 1:
        values[-1] = values[0]
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    with np.errstate(all="ignore"):
        values = values.astype(dtype)
    if draw(st.booleans()) and values.ndim:  # stored in another memory order
        order = draw(st.permutations(range(values.ndim)))
        values = np.ascontiguousarray(values.transpose(order)).transpose(np.argsort(order))
    if draw(st.booleans()) and values.ndim:
        values = np.repeat(values, 2, axis=0)[::2]
    if draw(st.booleans()) and values.ndim:
        values = values[..., ::-1]
    return values, axes, groups, parts


def check(values, axes, groups, parts, stats: Stats):
    with np.errstate(all="ignore"):
        x = canonical(values, axes, groups).astype(np.float64)
    finite = np.where(np.isfinite(x), x, 0)
    seen = x[np.isfinite(x)]
    assert stats.count == x.size
    assert stats.nans == np.isnan(x).sum()
    assert stats.infs == np.isinf(x).sum()
    assert stats.zeros == (x == 0).sum()
    assert stats.positive == (x > 0).sum()
    mean, variance, kurtosis = moments(x)
    spread = math.sqrt(variance) if seen.size else 1.0
    assert stats.mean == pytest.approx(mean, rel=1e-6, abs=1e-6 * spread, nan_ok=True)
    assert stats.variance == pytest.approx(variance, rel=1e-5, abs=1e-13 * (mean**2 if seen.size else 0), nan_ok=True)
    if seen.size and spread > 1e-6 * abs(mean):
        assert stats.kurtosis == pytest.approx(kurtosis, rel=1e-5)
    assert (stats.min, stats.max) == (seen.min(), seen.max()) if seen.size else math.isnan(stats.min)
    for units, axis in ((stats.rows, (2, 3)), (stats.columns, (1, 3))):
        np.testing.assert_allclose(units.square, (finite**2).sum(axis).reshape(-1), rtol=1e-5)
        assert (units.nonzero == (x != 0).sum(axis).reshape(-1)).all()
    assert same_partition(stats.rows.hash, x.reshape(-1, *x.shape[2:]))
    assert same_partition(stats.columns.hash, x.transpose(0, 2, 1, 3).reshape(-1, x.shape[1], x.shape[3]))
    assert len(stats.part_variance) == parts
    operators = len(x) // groups
    rows = x.reshape(operators, parts, -1, *x.shape[2:])
    for n, got in enumerate(stats.part_variance):
        mean, wanted, _ = moments(rows[:, n])
        assert got == pytest.approx(wanted, rel=1e-5, abs=1e-13 * mean**2)


@given(cases())
@settings(max_examples=250, deadline=None)
def test_agrees_with_the_definitions(case):
    values, axes, groups, parts = case
    check(values, axes, groups, parts, measure(tensor(values), axes, groups=groups, parts=parts))


@given(case=cases(), box=st.sampled_from([1, 2, 5, 16]), segment=st.sampled_from([1, 30, 200]))
@settings(max_examples=60, deadline=None)
def test_agrees_when_cut_into_many_boxes_and_segments(case, box, segment):
    values, axes, groups, parts = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layout, "CHUNK", box)
        patch.setattr(layout, "SEGMENT", segment)
        patch.setattr(accumulate, "SCRATCH", elements.Scratch())
        check(values, axes, groups, parts, measure(tensor(values), axes, groups=groups, parts=parts))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ml_dtypes.bfloat16, ml_dtypes.float8_e5m2])
def test_non_finite_and_subnormal_values_are_counted_by_the_stored_dtype(dtype):
    limits = ml_dtypes.finfo(dtype)
    tiny = float(limits.smallest_subnormal)
    values = np.full((40, 30), 1.5).astype(dtype)
    values[0, :3] = np.nan
    values[1, :5] = [np.inf, -np.inf, np.inf, -0.0, 0.0]
    values[2, :2] = [tiny, -tiny]
    values[3, 0] = limits.smallest_normal
    stats = measure(tensor(values), "oi")
    assert (stats.nans, stats.infs, stats.zeros, stats.subnormals) == (3, 3, 2, 2)
    assert stats.nonfinite == 6
    assert stats.max == 1.5
    assert stats.rows.nonzero[:3].tolist() == [30, 28, 30]
    assert stats.rows.square[0] == pytest.approx(27 * 1.5**2)
    assert stats.variance == pytest.approx(moments(values.astype("f8"))[1], rel=1e-5)


def test_float16_infinities_and_nan_stay_what_they_are():
    values = np.array([np.inf, -np.inf, np.nan, 65504, -65504, 6e-8, 1.0], np.float16)
    stats = measure(tensor(values), "o")
    assert (stats.infs, stats.nans, stats.max, stats.min, stats.subnormals) == (2, 1, 65504.0, -65504.0, 1)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_values_count_as_two_reals(dtype):
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((20, 30)) + 1j * rng.standard_normal((20, 30))).astype(dtype)
    for values, axes in ((w, "oi"), (w.T, "io"), (w[:, ::3], "oi")):
        stats = measure(tensor(values), axes)
        pair = np.stack([values.real, values.imag], -1).astype("f8")
        assert stats.count == pair.size
        assert stats.variance == pytest.approx(pair.var(), rel=1e-5)
        assert len(stats.rows.square) == 20
        assert stats.rows.square.sum() == pytest.approx((abs(values.astype("c16")) ** 2).sum(), rel=1e-5)
    assert measure(tensor(np.complex64(1 + 2j)), "").count == 2


@pytest.mark.parametrize(("shape", "axes"), [((0,), "o"), ((0, 5), "oi"), ((5, 0), "oi"), ((3, 0, 2, 2), "oikk")])
def test_empty_tensors(shape, axes):
    stats = measure(tensor(np.zeros(shape, "f4")), axes, groups=2, parts=3)
    assert (stats.count, stats.zeros, stats.nonfinite) == (0, 0, 0)
    assert math.isnan(stats.mean)
    assert math.isnan(stats.variance)
    assert len(stats.part_variance) == 3
    assert len(stats.rows.hash) == shape[0]
    assert not stats.constant


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -3e30, 1e-40])
def test_constants_have_no_variance_at_all(value):
    stats = measure(tensor(np.full((700, 800), value, "f4")), "oi")
    assert stats.constant
    assert stats.variance == 0.0
    assert math.isnan(stats.kurtosis)
    assert stats.mean == float(np.float32(value))
    assert stats.exponent_span == 0.0


@pytest.mark.parametrize(
    ("axes", "shape", "groups", "parts"),
    [
        ("oi", (4,), 1, 1),
        ("ox", (4, 4), 1, 1),
        ("oikk", (4, 4), 1, 1),
        ("oi", (4, 6), 3, 1),
        ("oi", (4, 6), 1, 3),
        ("oi", (6, 6), 2, 3),
    ],
)
def test_a_reading_that_does_not_fit_is_refused(axes, shape, groups, parts):
    with pytest.raises(UnsupportedError):
        measure(tensor(np.ones(shape)), axes, groups=groups, parts=parts)


@pytest.mark.parametrize(
    "values", [np.array(["a"]), np.array([object()]), np.array([(1, 2.0)], "i4,f4"), np.zeros(2, "M8[s]")]
)
def test_elements_that_are_no_numbers_are_refused(values):
    with pytest.raises(UnsupportedError, match="not measured"):
        measure(tensor(values), "o")


def test_unaligned_values_are_read_right():
    w = np.random.default_rng(0).standard_normal((300, 40)).astype("f4")
    shifted = np.frombuffer(b"x" + w.tobytes(), "u1")[1:].view("f4").reshape(w.shape)
    assert not shifted.flags.aligned
    assert measure(tensor(shifted), "oi").digest == measure(tensor(w), "oi").digest


def test_the_result_depends_on_values_and_not_on_the_stored_order():
    w = np.random.default_rng(0).standard_normal((600, 900)).astype("f4")
    a, b = measure(tensor(w), "oi"), measure(tensor(np.ascontiguousarray(w.T)), "io")
    assert (a.digest, a.digest_t) == (b.digest, b.digest_t)
    assert (a.rows.hash == b.rows.hash).all()
    assert a.variance == pytest.approx(b.variance, rel=1e-6)
