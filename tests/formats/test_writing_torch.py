"""New values in zip archives of torch.save: what torch then loads, and which bytes differ."""

from __future__ import annotations

import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import ReadError, UnsupportedError
from tests.formats.torch_edits import (
    changed_bytes,
    checksums,
    drawn,
    edited,
    lying,
    made,
    named,
    redrawn,
    sound,
)
from tests.formats.torch_files import rezip, save

torch: Any = pytest.importorskip("torch")


def net() -> Any:
    torch.manual_seed(0)
    nn = torch.nn
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), act=nn.ReLU(), flat=nn.Flatten(), fc=nn.Linear(8, 5)
        )
    )


def seen(path: Path, key: Any = lambda value: value) -> dict[str, Any]:
    """Return what torch makes of a file without running anything of it."""
    found: dict[str, Any] = key(torch.load(path, weights_only=True))
    return found


def agrees(path: Path, new: dict[str, Any], old: dict[str, Any], key: Any = lambda value: value) -> None:
    """See that torch finds the new values, and the old ones elsewhere."""
    found = seen(path, key)
    assert found.keys() == old.keys()
    for name, value in old.items():
        wanted = torch.tensor(new[name]).to(value.dtype) if name in new else value
        assert torch.equal(found[name], wanted), name
        assert found[name].dtype == value.dtype and found[name].stride() == value.stride()


def test_exactly_the_tensors_bytes_and_their_checksums_differ(tmp_path: Path) -> None:
    old = net().state_dict()
    path = save(old, tmp_path / "model.pt")
    target, new = redrawn(path, ["conv.weight", "fc.bias"])
    agrees(target, new, old)
    data = path.read_bytes()
    tensors = named(path)
    touched = lying(data, tensors["conv.weight"]) | lying(data, tensors["fc.bias"])
    allowed = touched | checksums(data, touched)
    assert len(allowed) == len(touched) + 2 * 8
    assert changed_bytes(path, target) <= allowed
    assert sound(target)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "complex64"])
def test_every_element_type(tmp_path: Path, dtype: str) -> None:
    torch.manual_seed(0)
    old = {name: torch.randn(4, 6, dtype=torch.cfloat if dtype == "complex64" else torch.float) for name in "ab"}
    old = {name: (value if dtype == "complex64" else value.to(getattr(torch, dtype))) for name, value in old.items()}
    path = save(old, tmp_path / "model.pt")
    target, new = redrawn(path, ["a"])
    found = seen(target)
    assert torch.equal(found["a"].to(torch.complex128), torch.tensor(new["a"]).to(torch.complex128))
    assert torch.equal(found["b"].view(torch.uint8), old["b"].view(torch.uint8))


def test_optimizer_and_average_stay_as_they_are(tmp_path: Path) -> None:
    module = net()
    optimizer = torch.optim.AdamW(module.parameters())
    module(torch.randn(4, 3, 3, 3)).sum().backward()
    optimizer.step()
    average = {name: value.clone() + 1 for name, value in module.state_dict().items()}
    value = {
        "state_dict": module.state_dict(), "ema_state_dict": average, "optimizer_states": [optimizer.state_dict()],
        "epoch": 3, "hyper_parameters": {"lr": 0.1}, "pytorch-lightning_version": "2.0",
    }  # fmt: skip
    path = save(value, tmp_path / "model.ckpt")
    names = [name for name in named(path) if name.endswith("fc.weight") and "ema" not in name]
    target, new = redrawn(path, names)
    assert len(names) == 1
    agrees(target, {"fc.weight": new[names[0]]}, module.state_dict(), lambda found: found["state_dict"])
    agrees(target, {}, average, lambda found: found["ema_state_dict"])
    before, after = (torch.load(p, weights_only=True)["optimizer_states"][0] for p in (path, target))
    assert str(before) == str(after)
    data = path.read_bytes()
    touched = lying(data, named(path)[names[0]])
    assert changed_bytes(path, target) <= touched | checksums(data, touched)


def test_whole_module_with_tied_weights(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Embedding(7, 5), torch.nn.Linear(5, 7, bias=False))
    module[1].weight = module[0].weight
    path = save(module, tmp_path / "module.pt")
    target, new = redrawn(path, ["0.weight"])
    found = torch.load(target, weights_only=False)
    assert torch.equal(found[1].weight, torch.tensor(new["0.weight"]).float())
    assert found[1].weight is found[0].weight


def test_views_of_one_storage(tmp_path: Path) -> None:
    base = torch.arange(240.0)
    old = {
        "t": base[:48].view(8, 6).t(), "step": base[60:120].view(6, 10)[1::2, ::3], "back": base[130:190:7],
        "last": torch.as_strided(base, (2, 3, 4), (12, 1, 3), 200), "rest": base[48:60],
    }  # fmt: skip
    path = save(old, tmp_path / "model.pt")
    target, new = redrawn(path, ["t", "step", "back", "last"])
    agrees(target, new, old)
    want = base.clone()
    for name in new:
        torch.as_strided(want, old[name].shape, old[name].stride(), old[name].storage_offset()).copy_(
            torch.tensor(new[name])
        )
    assert torch.equal(torch.as_strided(seen(target)["rest"], (240,), (1,), 0), want)
    assert sound(target)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_view(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "views.pt"
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4))
    base = torch.arange(float(np.prod(sizes)) + 9)[4:-5].view(*sizes)
    view = base.permute(*data.draw(st.permutations(range(len(sizes)))))
    for axis, extent in enumerate(view.shape):
        start = data.draw(st.integers(0, extent - 1))
        stop = data.draw(st.integers(start + 1, extent))
        view = view[(slice(None),) * axis + (slice(start, stop, data.draw(st.integers(1, 3))),)]
    save({"view": view, "base": base, "other": torch.ones(3)}, path)
    values = drawn(named(path)["view"])
    target = edited(path, {"view": values}, "views2.pt")
    found = seen(target)
    assert torch.equal(found["view"], torch.tensor(values).float())
    want = torch.arange(float(np.prod(sizes)) + 9)
    torch.as_strided(want, view.shape, view.stride(), view.storage_offset()).copy_(torch.tensor(values))
    assert torch.equal(torch.as_strided(found["base"], (len(want),), (1,), 0), want)
    assert torch.equal(found["other"], torch.ones(3)) and sound(target)


def test_conjugate_and_negative_views(tmp_path: Path) -> None:
    value = torch.randn(3, 4, dtype=torch.cfloat)
    path = save({"c": value.conj(), "n": torch.randn(5, dtype=torch.cfloat).conj().imag}, tmp_path / "model.pt")
    target, new = redrawn(path, ["c", "n"])
    found = seen(target)
    assert torch.equal(found["c"].resolve_conj(), torch.tensor(new["c"]).to(torch.cfloat)) and found["c"].is_conj()
    assert torch.equal(found["n"].resolve_neg(), torch.tensor(new["n"]).float()) and found["n"].is_neg()


def test_without_checksums(tmp_path: Path) -> None:
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        path = save({"a": torch.randn(4, 3), "b": torch.randn(5)}, tmp_path / "model.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    target, new = redrawn(path, ["a"])
    agrees(target, new, torch.load(path))
    touched = lying(path.read_bytes(), named(path)["a"])
    assert changed_bytes(path, target) <= touched | checksums(path.read_bytes(), touched)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archive_of_another_tool(tmp_path: Path, method: int) -> None:
    old = net().state_dict()
    path = save(old, tmp_path / "plain.pt")
    path.write_bytes(rezip(path.read_bytes(), method=method))
    target, new = redrawn(path, ["conv.weight", "fc.weight"])
    agrees(target, new, old)
    assert sound(target)
    with zipfile.ZipFile(path) as first, zipfile.ZipFile(target) as second:
        assert first.namelist() == second.namelist()
        for one, two in zip(first.infolist(), second.infolist(), strict=True):
            same = first.read(one) == second.read(two)
            assert same == (named(path)["conv.weight"].storage not in one.filename) or "data/" in one.filename
            assert two.compress_type == (one.compress_type if same else zipfile.ZIP_STORED)


def test_archive_written_to_a_pipe(tmp_path: Path) -> None:
    """Such archives tell sizes behind the data, compressed or not."""
    old = {"a": torch.randn(40, 3), "b": torch.randn(50)}
    plain = save(old, tmp_path / "plain.pt")

    class Pipe:
        def __init__(self) -> None:
            self.data = b""

        def write(self, data: bytes) -> int:
            self.data += data
            return len(data)

        def flush(self) -> None:
            pass

    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        pipe = Pipe()
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(pipe, "w", method) as out:  # type: ignore[call-overload]
            for name in source.namelist():
                out.writestr(name, source.read(name))
        path = tmp_path / "piped.pt"
        path.write_bytes(pipe.data)
        target, new = redrawn(path, ["a"])
        agrees(target, new, old)
        assert sound(target)


def test_wide_sizes(tmp_path: Path) -> None:
    old = {"a": torch.randn(4, 3), "b": torch.randn(5)}
    plain = save(old, tmp_path / "plain.pt")
    path = tmp_path / "wide.pt"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", method) as out:
            for name in source.namelist():
                with out.open(name, "w", force_zip64=True) as member:
                    member.write(source.read(name))
        target, new = redrawn(path, ["a"])
        agrees(target, new, old)
        assert sound(target)


def test_big_endian_archive(tmp_path: Path) -> None:
    old = {"a": torch.randn(4, 3), "b": torch.randn(5).half(), "c": torch.randn(3, dtype=torch.cfloat)}
    swap = {"data/0": "<f4", "data/1": "<f2", "data/2": "<f4"}

    def other(name: str, content: bytes) -> bytes:
        kind = swap.get(name.partition("/")[2])
        if kind:
            return np.frombuffer(content, kind).byteswap().tobytes()
        return b"big" if name.endswith("byteorder") else content

    path = save(old, tmp_path / "plain.pt")
    path.write_bytes(rezip(path.read_bytes(), other))
    target, new = redrawn(path, ["a", "b", "c"])
    agrees(target, new, old)


# -- what is refused


def refusal(path: Path, name: str, values: Any = None) -> str:
    tensor = named(path)[name]
    with pytest.raises((UnsupportedError, ReadError)) as caught:
        for plan in formats.plan(path, [Edit(tensor, lambda: drawn(tensor) if values is None else values)]):
            made(plan)
    assert "\n" not in str(caught.value)
    return caught.value.reason


@pytest.mark.filterwarnings("ignore")
def test_tensors_that_take_no_new_values(tmp_path: Path) -> None:
    x = torch.randn(4, 5)
    value = {
        "sparse": x.relu().to_sparse(), "csr": x.relu().to_sparse_csr(), "long": torch.arange(5),
        "q": torch.quantize_per_tensor(x, 0.1, 0, torch.qint8), "half": x.half(),
    }  # fmt: skip
    path = save(value, tmp_path / "model.pt")
    assert "sparse" in refusal(path, "sparse") and "sparse" in refusal(path, "csr")
    assert "quantised" in refusal(path, "q")
    assert "whole numbers" in refusal(path, "long")
    assert "more than float16 holds" in refusal(path, "half", np.full((4, 5), 1e6))
    assert "shape" in refusal(path, "half", np.zeros((5, 4)))


def test_file_that_is_another_by_now(tmp_path: Path) -> None:
    path = save({"a": torch.randn(4, 3), "b": torch.randn(2)}, tmp_path / "model.pt")
    tensor = named(path)["b"]
    save({"a": torch.randn(4, 3)}, path)
    with pytest.raises(ReadError, match="as it was"):
        formats.plan(path, [Edit(tensor, lambda: np.zeros(2))])
