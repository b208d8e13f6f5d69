import json
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from initaudit import formats
from initaudit.errors import CorruptFileError, InitauditError, ReadError, UnsupportedError
from initaudit.formats import safetensors as reader


def write(path: Path, header: object, body: bytes = b"", *, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + body)
    return path


def entry(dtype: str = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "m.safetensors"


def test_values_and_places_of_what_numpy_wrote(file: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "fc.weight": rng.normal(size=(4, 3)).astype("f4"),
        "fc.bias": rng.normal(size=4).astype("f8"),
        "half": rng.normal(size=(2, 2, 2)).astype("f2"),
        "scalar": np.array(3.5, "f4"),
        "none": np.zeros((0, 3), "f4"),
        "also none": np.zeros((0, 3), "f4"),
        "bytes": np.arange(5, dtype="u1"),
        "mask": np.array([True, False]),
        "n": np.array([-1, 2], "i8"),
        "z": np.array([1 + 2j], "c8"),
    }
    safetensors.numpy.save_file(arrays, file)
    model = formats.read(file)
    assert (model.format, model.path, model.skipped) == ("safetensors", str(file), ())
    assert {t.name for t in model.tensors} == set(arrays)
    raw = file.read_bytes()
    for tensor in model.tensors:
        got = tensor.load()
        np.testing.assert_array_equal(got, arrays[tensor.name])
        assert got.dtype == arrays[tensor.name].dtype
        assert got.shape == tensor.shape
        if tensor.size:
            start = int(tensor.storage.removeprefix("@"))
            assert raw[start : start + got.nbytes] == arrays[tensor.name].tobytes()
        tensor.release()
        np.testing.assert_array_equal(tensor.load(), arrays[tensor.name])
    assert len({t.identity for t in model.tensors}) == len(arrays), "nothing in this format is tied"


def test_every_torch_type(file: Path) -> None:
    import safetensors.torch
    import torch

    names = [
        "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz",
        "float8_e5m2fnuz", "float8_e8m0fnu", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8",
        "bool", "complex64",
    ]  # fmt: skip
    values = torch.tensor([[0.0, 1.0, 2.0], [0.5, 4.0, 8.0]])
    tensors = {name: values.to(getattr(torch, name)) for name in names}
    safetensors.torch.save_file(tensors, file, metadata={"format": "pt"})
    model = formats.read(file)
    assert model.detail == "written for pt"
    assert {t.dtype for t in model.tensors} == set(names)
    for tensor in model.tensors:
        assert tensor.name == tensor.dtype
        want = tensors[tensor.name].to(torch.complex64 if tensor.name == "complex64" else torch.float32).numpy()
        np.testing.assert_array_equal(tensor.load().astype(want.dtype), want)


def test_nothing_is_read_before_it_is_asked_for(file: Path) -> None:
    header = {"w": entry(shape=[1 << 20, 1 << 10], offsets=[0, 1 << 32])}
    write(file, header)
    with file.open("r+b") as sparse:
        sparse.truncate(file.stat().st_size + (1 << 32))
    begin = time.perf_counter()
    (tensor,) = formats.read(file).tensors
    assert tensor.size == 1 << 30
    assert tensor.load()[-1, -1] == 0
    assert time.perf_counter() - begin < 1


def test_batch_norm_statistics_are_buffers(file: Path) -> None:
    one = np.ones(2, "f4")
    safetensors.numpy.save_file({"bn.running_mean": one, "bn.running_var": one, "bn.weight": one}, file)
    assert {t.name for t in formats.read(file).tensors if t.buffer} == {"bn.running_mean", "bn.running_var"}


def test_data_need_not_be_aligned(file: Path) -> None:
    values = np.array([1.5, -2.5], "<f4")
    header = json.dumps({"b": entry("U8", [3], [0, 3]), "w": entry("F32", [2], [3, 11])}).encode()
    write(file, header + b" " * (len(header) % 2 == 0), b"abc" + values.tobytes())
    by_name = {t.name: t for t in formats.read(file).tensors}
    np.testing.assert_array_equal(by_name["w"].load(), values)


def test_what_cannot_be_read_is_skipped_with_a_reason(file: Path) -> None:
    header = {
        "w": entry(),
        "packed": entry("F4", [2, 3], [8, 11]),
        "deep": entry("U8", [1] * 40, [11, 12]),
        "new": entry("F5_E3M1", [3], [12, 14]),
        "odd": entry("F32", [0, 1 << 62], [14, 14]),
    }
    model = formats.read(write(file, header, bytes(14)))
    assert [t.name for t in model.tensors] == ["w"]
    why = {skip.name: skip.why for skip in model.skipped}
    assert set(why) == {"packed", "deep", "new", "odd"}
    assert "F4 packs several values" in why["packed"]
    assert "F5_E3M1 is not known" in why["new"]
    assert "40 axes" in why["deep"]


def test_only_unreadable_tensors(file: Path) -> None:
    with pytest.raises(UnsupportedError, match="none of its 1 tensors can be read; p: element type F4"):
        formats.read(write(file, {"p": entry("F4", [2], [0, 1])}, b"x"))


@pytest.mark.parametrize(
    ("header", "says"), [({}, "no tensors"), ({"__metadata__": {"format": "pt"}}, "only metadata")]
)
def test_no_tensors(file: Path, header: object, says: str) -> None:
    with pytest.raises(ReadError, match=says):
        formats.read(write(file, header))


FAULTS = [
    (b"{", "header is not JSON"),
    (b'{"w": \xff}', "not UTF-8 text: invalid start byte at byte 6"),
    (b'{"w": [' + b"[" * 100_000, "nested too deeply"),
    (b'{"w": 1} x', "not JSON: Extra data at character 9"),
    (b'{"a": 1, "a": 1}', "'a' stands twice"),
    (b'{"w": {"dtype": "F32", "dtype": "F32"}}', "'dtype' stands twice"),
    (b'{"w": NaN}', "NaN is not JSON"),
    (b'{"w": ' + b"9" * 5000 + b"}", "number that is too long"),
    ({"__metadata__": {"a": 1}}, "__metadata__ is not a map of strings"),
    ({"__metadata__": "pt"}, "__metadata__ is not a map of strings"),
    ({"w": 1}, "'w' is not described by an object"),
    ({"\ud800": entry()}, "half a character"),
    ({"w": {"shape": [2], "data_offsets": [0, 8]}}, "'w' has no dtype"),
    ({"w": {"dtype": "F32", "data_offsets": [0, 8]}}, "'w' has no shape"),
    ({"w": {"dtype": "F32", "shape": [2]}}, "'w' has no data_offsets"),
    ({"w": entry(dtype=32)}, "dtype that is not a string"),  # type: ignore[arg-type]
    ({"w": entry(shape=2)}, "shape that is not a list"),
    ({"w": entry(shape=[-2])}, "shape that is not a list of whole"),
    ({"w": entry(shape=[2.0])}, "shape that is not a list of whole"),
    ({"w": entry(shape=[True, 2])}, "shape that is not a list of whole"),
    ({"w": entry(shape=[1 << 62, 1 << 62])}, "more bytes than any file"),
    ({"w": entry(offsets=[0])}, "data_offsets that are not two"),
    ({"w": entry(offsets=[0, 8, 16])}, "data_offsets that are not two"),
    ({"w": entry(offsets=[-8, 0])}, "data_offsets that are not two"),
    ({"w": entry(offsets=[8, 0])}, "ends at 0, before it begins at 8"),
    ({"w": entry(offsets=[0, 1 << 80])}, "data_offsets that are not two"),
    ({"w": entry(offsets=[0, 7])}, r"'w' of F32 \[2\] needs 8 bytes, data_offsets give 7"),
    ({"w": entry("F4", [3], [0, 2])}, "does not fill whole bytes"),
    ({"w": entry(offsets=[4, 12])}, "4 bytes of the data before tensor 'w'"),
    ({"w": entry(), "v": entry(offsets=[4, 12])}, "'v' at bytes 4 to 12 of the data overlaps"),
    ({"w": entry(), "v": entry()}, "'v' at bytes 0 to 8 of the data overlaps"),
    ({"w": entry(), "v": entry(offsets=[12, 20])}, "4 bytes of the data before tensor 'v'"),
    ({"w": entry(shape=[1], offsets=[0, 4])}, "4 bytes after the last tensor"),
    ({"w": entry(shape=[4], offsets=[0, 16])}, "need 16 bytes after the header, the file has 8"),
]


@pytest.mark.parametrize(("header", "says"), FAULTS, ids=[says for _, says in FAULTS])
def test_one_error_per_way_to_be_wrong(file: Path, header: object, says: str) -> None:
    with pytest.raises(CorruptFileError, match=says) as caught:
        formats.read(write(file, header, bytes(8)))
    assert caught.value.path == str(file)
    assert len(str(caught.value).splitlines()) == 1


def test_the_official_library_refuses_the_same(file: Path) -> None:
    for header, says in FAULTS:
        write(file, header, bytes(8))
        with pytest.raises((safetensors.SafetensorError, ValueError)):
            safetensors.numpy.load_file(file)
            pytest.fail(f"the library reads what we refuse: {says}")


@pytest.mark.parametrize("length", [100_000_001, 1 << 40, (1 << 63) + 5])
def test_header_over_the_limit(file: Path, length: int) -> None:
    with pytest.raises(CorruptFileError, match="safetensors allows 100000000"):
        formats.read(write(file, {"w": entry()}, bytes(8), length=length))


def test_header_past_the_end(file: Path) -> None:
    with pytest.raises(CorruptFileError, match="cut off: the header ends at byte 1008, the file at"):
        formats.read(write(file, {"w": entry()}, bytes(8), length=1000))


def test_cut_off_anywhere(file: Path) -> None:
    safetensors.numpy.save_file({"w": np.ones((3, 2), "f4"), "b": np.zeros(2, "f8")}, file, metadata={"format": "np"})
    whole = file.read_bytes()
    assert len(formats.read(file).tensors) == 2
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        with pytest.raises(CorruptFileError) as caught:
            formats.read(file)
        assert caught.value.path == str(file)


WHOLE = safetensors.numpy.save(
    {"w": np.arange(6, dtype="f4").reshape(3, 2), "b": np.zeros(2, "f8"), "e": np.zeros((0, 2), "f4")}, {"format": "np"}
)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_are_read_or_refused(tmp_path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(WHOLE)
    for place, value in changes:
        content[place] = value
    file = tmp_path / "m.safetensors"
    file.write_bytes(content)
    try:
        model = formats.read(file)
    except InitauditError as error:
        assert str(error).startswith(str(file)), "one line that says where"
        assert "broke the reader" not in error.reason, "each refusal is one that was thought of"
        return
    for tensor in model.tensors:
        assert tensor.load().shape == tensor.shape


def test_speed_of_a_thousand_tensors(file: Path) -> None:
    one = np.zeros((4, 4), "f4")
    safetensors.numpy.save_file({f"model.layers.{n}.self_attn.q_proj.weight": one for n in range(1000)}, file)

    def seconds() -> float:
        begin = time.perf_counter()
        assert len(reader.read(file).tensors) == 1000
        return time.perf_counter() - begin

    assert min(seconds() for _ in range(5)) < 0.02
