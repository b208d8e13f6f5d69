"""New elements into runs of bytes: places, byte orders, rounding, and what is refused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.patching import cast, check_writable, element_patches, in_order, rewritten
from initaudit.types import Array, Tensor


def tensor(
    *shape: int, dtype: str = "float32", offset: int = 0, strides: tuple[int, ...] | None = None, name: str = "w"
) -> Tensor:
    return Tensor(name, shape, dtype, lambda: np.zeros(shape), "@0", offset, strides)


def edit(where: Tensor, values: object) -> Edit:
    return Edit(where, lambda: np.broadcast_to(np.asarray(values), where.shape))


class Bytes:
    """A file in memory that remembers what was asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        return memoryview(self.data)[offset : offset + length]


def test_a_patch_holds_just_the_bytes_of_its_tensor_counted_from_the_start_of_the_storage() -> None:
    file = Bytes(b"head" + np.arange(10, dtype="<f4").tobytes())
    (patch,) = element_patches(file, 4, 40, [edit(tensor(2, offset=3), [1, 2])])
    assert (patch.start, patch.stop) == (16, 24)
    assert bytes(patch.data()) == np.array([1, 2], "<f4").tobytes()


def test_values_are_asked_for_only_when_the_patch_is_written() -> None:
    def never() -> Array:
        raise AssertionError

    (patch,) = element_patches(Bytes(bytes(8)), 0, 8, [Edit(tensor(2), never)])
    with pytest.raises(AssertionError):
        patch.data()


def test_what_lies_between_the_elements_of_a_view_stays() -> None:
    raw = np.arange(12, dtype="<f4")
    new = np.frombuffer(rewritten(raw.tobytes(), [edit(tensor(3, 2, strides=(4, 1), offset=1), -1)]), "<f4")
    want = raw.copy().reshape(3, 4)
    want[:, 1:3] = -1
    np.testing.assert_array_equal(new.reshape(3, 4), want)


def test_views_that_interleave_become_one_patch_and_others_their_own() -> None:
    edits = [
        edit(tensor(2, offset=20), 3),
        edit(tensor(3, 2, strides=(4, 1)), 1),
        edit(tensor(3, 2, strides=(4, 1), offset=2), 2),
    ]
    raw = bytes(24 * 4)
    patches = element_patches(Bytes(raw), 0, len(raw), edits)
    assert [(patch.start, patch.stop) for patch in patches] == [(0, 48), (80, 88)]
    want = [1, 1, 2, 2] * 3 + [0] * 8 + [3, 3, 0, 0]
    np.testing.assert_array_equal(np.frombuffer(rewritten(raw, edits), "<f4"), want)


def test_negative_strides() -> None:
    new = rewritten(bytes(16), [edit(tensor(3, strides=(-1,), offset=3), [1, 2, 3])])
    np.testing.assert_array_equal(np.frombuffer(new, "<f4"), [0, 3, 2, 1])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16", "complex64", "complex128"])
def test_big_endian_elements(dtype: str) -> None:
    values = np.array([1.5, -2.25, 3.0]) * (1 + 2j if dtype.startswith("complex") else 1)
    where = tensor(3, dtype=dtype, strides=(2,), offset=1)
    width = numpy_dtype(dtype).itemsize
    little = rewritten(bytes(6 * width), [edit(where, values)])
    big = rewritten(bytes(6 * width), [edit(where, values)], big_endian=True)
    unit = width // 2 if dtype.startswith("complex") else width
    np.testing.assert_array_equal(np.frombuffer(little, f"u{unit}").byteswap(), np.frombuffer(big, f"u{unit}"))
    read = np.frombuffer(little, numpy_dtype(dtype))[[1, 3, 5]]
    np.testing.assert_array_equal(read.astype(values.dtype), values)


def test_a_repeated_element_takes_a_value_that_all_agree_on() -> None:
    where = tensor(3, 2, strides=(0, 1))
    np.testing.assert_array_equal(np.frombuffer(rewritten(bytes(8), [edit(where, [[4, 5]])]), "<f4"), [4, 5])
    with pytest.raises(UnsupportedError, match="share a place"):
        rewritten(bytes(8), [edit(where, [[4, 5], [4, 5], [4, 6]])])


def test_overlapping_windows_and_two_edits_of_one_place_must_agree() -> None:
    with pytest.raises(UnsupportedError, match="share a place"):
        rewritten(bytes(16), [edit(tensor(2, 3, strides=(1, 1)), [[1, 2, 3], [9, 3, 4]])])
    same = [edit(tensor(4), [1, 2, 3, 4]), edit(tensor(2, offset=2), [3, 4])]
    np.testing.assert_array_equal(np.frombuffer(rewritten(bytes(16), same), "<f4"), [1, 2, 3, 4])
    with pytest.raises(UnsupportedError, match="share a place"):
        rewritten(bytes(16), [same[0], edit(tensor(2, offset=2), [3, 5])])


@pytest.mark.parametrize("first", [True, False])
def test_the_order_of_edits_changes_nothing(first: bool) -> None:
    edits = [edit(tensor(4), [1, 2, 3, 4]), edit(tensor(2, offset=2), [3, 5])]
    with pytest.raises(UnsupportedError, match="share a place"):
        rewritten(bytes(16), edits if first else edits[::-1])


def test_a_tensor_beyond_its_storage() -> None:
    for where in (tensor(3), tensor(2, offset=1), tensor(2, strides=(-1,))):
        with pytest.raises(CorruptFileError, match="reaches"):
            element_patches(Bytes(bytes(8)), 0, 8, [edit(where, 1)])


def test_empty_tensors_and_scalars() -> None:
    assert element_patches(Bytes(b""), 0, 0, [edit(tensor(0, 3), 1)]) == ()
    assert rewritten(bytes(4), [edit(tensor(), 2.0)]) == np.array(2, "<f4").tobytes()


@pytest.mark.parametrize(
    ("dtype", "why"),
    [
        ("int8", "whole numbers"), ("uint8", "whole numbers"), ("bool", "whole numbers"), ("quint8", "quantised"),
        ("qint32", "quantised"), ("float8_e8m0fnu", "powers of two"), ("float4_e2m1fn", "packs"),
    ],
)  # fmt: skip
def test_what_holds_no_weights_is_refused_before_anything_is_written(dtype: str, why: str) -> None:
    with pytest.raises(UnsupportedError, match=why):
        check_writable(tensor(2, dtype=dtype))
    with pytest.raises(UnsupportedError, match=why):
        element_patches(Bytes(bytes(8)), 0, 8, [edit(tensor(2, dtype=dtype), 1)])


@pytest.mark.parametrize(
    ("dtype", "most"),
    [
        ("float16", 65504.0), ("bfloat16", 3.3895313892515355e38), ("float8_e4m3fn", 448.0), ("float8_e5m2", 57344.0),
        ("float8_e4m3fnuz", 240.0), ("float8_e5m2fnuz", 57344.0), ("float32", 3.4028234663852886e38),
    ],
)  # fmt: skip
def test_the_largest_value_fits_and_a_larger_one_is_refused(dtype: str, most: float) -> None:
    assert float(cast(tensor(1, dtype=dtype), np.array([most]))[0]) == most
    with pytest.raises(UnsupportedError, match=f"more than {dtype} holds"):
        cast(tensor(2, dtype=dtype), np.array([0.0, -most * 1.1]))


def test_values_that_were_not_finite_before_may_stay_so() -> None:
    done = cast(tensor(3, dtype="bfloat16"), np.array([np.inf, -np.inf, np.nan]))
    np.testing.assert_array_equal(done.astype("f4"), [np.inf, -np.inf, np.nan])


def test_complex_values_need_a_complex_tensor_and_the_other_way_round() -> None:
    np.testing.assert_array_equal(cast(tensor(1, dtype="complex64"), np.array([1 + 2j])), [1 + 2j])
    with pytest.raises(UnsupportedError, match="complex values for a tensor of real"):
        cast(tensor(1), np.array([1 + 2j]))
    with pytest.raises(UnsupportedError, match="real values for a tensor of complex"):
        cast(tensor(1, dtype="complex64"), np.array([1.0]))
    with pytest.raises(UnsupportedError, match="shape"):
        cast(tensor(2), np.zeros(3))


def nearest(value: float, dtype: str) -> float:
    """The nearest number of a narrow type, by looking at all of them; ties go to the even one."""
    kind = np.dtype(getattr(ml_dtypes, dtype))
    codes = np.arange(1 << (8 * kind.itemsize), dtype=f"u{kind.itemsize}")
    with np.errstate(invalid="ignore"):
        numbers = codes.view(kind).astype("f8")
    codes, numbers = codes[np.isfinite(numbers)], numbers[np.isfinite(numbers)]
    gap = np.abs(numbers - value)
    near = np.flatnonzero(gap == gap.min())
    return float(min((numbers[i] for i in near), key=lambda n: int(codes[numbers == n][0]) & 1))


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"])
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_rounding_from_double_to_the_nearest_ties_to_even(dtype: str, data: st.DataObject) -> None:
    kind = np.dtype(getattr(ml_dtypes, dtype))
    code = data.draw(st.integers(0, (1 << (8 * kind.itemsize)) - 2))
    pair = np.array([code, code + 1], f"u{kind.itemsize}").view(kind).astype("f8")
    if not np.isfinite(pair).all() or np.sign(pair).prod() < 0:
        return
    middle = pair.mean()
    for value in (middle, np.nextafter(middle, np.inf), np.nextafter(middle, -np.inf)):
        assert float(cast(tensor(1, dtype=dtype), np.array([value]))[0]) == nearest(float(value), dtype), value


def test_doubles_are_not_rounded_twice() -> None:
    above = 1 + 2.0**-8 + 2.0**-40  # just above the middle of two bfloat16; as a float32 it would be the middle
    assert float(cast(tensor(1, dtype="bfloat16"), np.array([above]))[0]) == 1 + 2.0**-7


def test_patches_of_several_storages_in_order() -> None:
    file = Bytes(bytes(64))
    late = element_patches(file, 32, 8, [edit(tensor(2), 1)])
    early = element_patches(file, 0, 8, [edit(tensor(2), 1)])
    assert [patch.start for patch in in_order([*late, *early])] == [0, 32]
    with pytest.raises(UnsupportedError, match="overlap"):
        in_order([*early, *element_patches(file, 4, 8, [edit(tensor(2), 1)])])


@settings(max_examples=60, deadline=None)
@given(
    offset=st.integers(0, 5),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    strides=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_any_view_reads_back_what_was_written_and_the_rest_is_untouched(
    offset: int, shape: tuple[int, int], strides: tuple[int, int]
) -> None:
    raw = np.arange(100, 140, dtype="<f4")
    where = tensor(*shape, offset=offset, strides=strides)
    values = np.arange(shape[0] * shape[1], dtype="f8").reshape(shape)
    places = offset + np.add.outer(np.arange(shape[0]) * strides[0], np.arange(shape[1]) * strides[1])
    try:
        new = np.frombuffer(rewritten(raw.tobytes(), [edit(where, values)]), "<f4")
    except UnsupportedError:
        assert len(np.unique(places)) < places.size
        return
    np.testing.assert_array_equal(new[places], values)
    others = np.setdiff1d(np.arange(40), places)
    np.testing.assert_array_equal(new[others], raw[others])
