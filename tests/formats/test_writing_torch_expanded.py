"""Tensors with a stride of 0: several elements, one place; those alone are stored anew."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.errors import UnsupportedError
from initaudit.types import Array
from tests.formats.torch_edits import changed_bytes, drawn, edited, framed, named, redrawn, sound
from tests.formats.torch_files import save

torch: Any = pytest.importorskip("torch")


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def aligned(path: Path) -> bool:
    """Whether the data of every member begin where torch would let them."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        headers = [info.header_offset for info in archive.infolist()]
    lengths = (int.from_bytes(data[at + k : at + k + 2], "little") for at in headers for k in (26, 28))
    return all((at + 30 + name + extra) % 64 == 0 for at, name, extra in zip(headers, lengths, lengths, strict=False))


def test_only_the_tensor_gets_a_storage_of_its_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = torch.randn(3)
    old = {
        "wide": base.expand(4, 3), "base": base, "last": torch.randn(5, 3).t(), "same": base.expand(4, 3),
        "other": base.expand(2, 3), "one": torch.nn.Parameter(torch.zeros(1).expand(700)), "count": torch.arange(3),
    }  # fmt: skip
    path = save(old, tmp_path / "model.pt")
    target, new = redrawn(path, ["wide", "one"])
    found = torch.load(target, weights_only=True)
    wide = torch.tensor(new["wide"]).float()
    assert torch.equal(found["wide"], wide) and torch.equal(found["same"], wide)
    assert found["wide"].data_ptr() == found["same"].data_ptr() and found["wide"].is_contiguous()
    assert torch.equal(found["one"], torch.tensor(new["one"]).float()) and isinstance(found["one"], torch.nn.Parameter)
    for name in ("base", "last", "other", "count"):
        assert torch.equal(found[name], old[name]) and found[name].stride() == old[name].stride()
    assert found["other"].data_ptr() == found["base"].data_ptr()
    first, second = members(path), members(target)
    assert [name for name in first if second[name] != first[name]] == ["model/data.pkl"]
    assert list(second)[: len(first)] == list(first) and len(second) == len(first) + 2
    assert sound(target) and aligned(path) and aligned(target)
    assert torch.equal(torch.load(target, mmap=True)["wide"], wide)


def test_whole_module(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    module[0].weight = torch.nn.Parameter(torch.full((1,), 0.5).expand(4, 3))
    path = save(module, tmp_path / "module.pt")
    target, new = redrawn(path, ["0.weight"])
    found = torch.load(target, weights_only=False)
    assert torch.equal(found[0].weight, torch.tensor(new["0.weight"]).float())
    assert str(found) == str(module) and torch.equal(found[1].weight, module[1].weight)


@pytest.mark.parametrize("legacy", [False, True])
def test_equal_values_fit_into_the_place_they_share(tmp_path: Path, legacy: bool) -> None:
    old = {"wide": torch.ones(1).expand(9), "row": torch.randn(3).expand(4, 3), "b": torch.randn(5)}
    path = save(old, tmp_path / "model.pt", legacy=legacy)
    row = np.broadcast_to(np.array([1.0, -2.0, 0.5]), (4, 3))
    target = edited(path, {"wide": np.zeros(9), "row": row})
    found = torch.load(target, weights_only=True)
    assert found["wide"].stride() == (0,) and not found["wide"].any() and torch.equal(found["b"], old["b"])
    assert torch.equal(found["row"], torch.tensor(row).float()) and found["row"].stride() == (0, 1)
    assert len(changed_bytes(path, target)) <= 4 * 4 + 2 * 8 * (not legacy)


def _expanded(data: st.DataObject) -> dict[str, Any]:
    """Return a few tensors, some expanded, that share storages in ways drawn at random."""
    bases = [torch.randn(data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4))) for _ in range(2)]
    made_up: dict[str, Any] = {}
    for index in range(data.draw(st.integers(2, 7))):
        base = bases[data.draw(st.integers(0, 1))]
        kind = data.draw(st.sampled_from(["plain", "row", "front", "half", "long"]))
        if kind == "row":
            base = base[:1].expand(data.draw(st.integers(1, 300)), base.shape[1])
        elif kind == "front":
            base = base.expand(data.draw(st.integers(1, 3)), *base.shape).transpose(0, data.draw(st.integers(0, 2)))
        elif kind == "half":
            base = base.half()[..., :1].expand(-1, data.draw(st.integers(1, 5)))
        elif kind == "long":
            base = base[0, :1].expand(2, 2, 2, 3)
        made_up[f"w{index}"] = torch.nn.Parameter(base) if data.draw(st.booleans()) else base
    return made_up


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_any_sharing(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "shared.pt"
    old = _expanded(data)
    legacy = data.draw(st.booleans())
    save(old, path, legacy=legacy)
    tensors = named(path)
    names = data.draw(st.lists(st.sampled_from(sorted(old)), min_size=1, unique=True))
    places = {name: {int(i) for i in _indices(old[name]).ravel()} for name in names}
    # tensors that overlap without being the same would have to agree: leave those out
    chosen: list[str] = []
    for name in names:
        others = [other for other in chosen if tensors[other].storage == tensors[name].storage]
        if all(
            tensors[other].identity != tensors[name].identity and not places[other] & places[name] for other in others
        ):
            chosen.append(name)
    new = {name: drawn(tensors[name], seed) for seed, name in enumerate(chosen)}
    target = edited(path, new, "shared2.pt")
    found = torch.load(target, weights_only=True)
    assert legacy or sound(target)
    for name, value in new.items():
        assert torch.equal(found[name], torch.tensor(value).to(old[name].dtype)), name
        assert type(found[name]) is type(old[name])
    written = {name for name in chosen if not _anew(tensors[name].strides, tensors[name].shape, new[name])}
    for name, value in old.items():
        same = [other for other in chosen if tensors[other].identity == tensors[name].identity]
        if same:
            assert torch.equal(found[name], torch.tensor(new[same[0]]).to(value.dtype))
        elif not any(tensors[other].storage == tensors[name].storage for other in written):
            assert torch.equal(found[name], value) and found[name].stride() == value.stride(), name


def _indices(value: Any) -> Array:
    every = torch.arange(value.untyped_storage().nbytes())
    return np.asarray(torch.as_strided(every, value.shape, value.stride(), value.storage_offset()))


def _anew(strides: tuple[int, ...] | None, shape: tuple[int, ...], values: Array) -> bool:
    """Whether these values differ where the tensor repeats an element."""
    for axis, (step, extent) in enumerate(zip(strides or (), shape, strict=bool(strides))):
        if step == 0 and extent > 1 and not (values == values.take([0], axis)).all():
            return True
    return False


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_other_protocols(tmp_path: Path, protocol: int) -> None:
    """From 4 on, parts of the pickle tell their lengths."""
    path = tmp_path / "model.pt"
    old = {"wide": torch.ones(1).expand(6), "b": torch.randn(3), "many": {f"x{k}": k for k in range(9000)}}
    torch.save(old, path, pickle_protocol=protocol)
    values = drawn(named(path)["wide"])
    target = edited(path, {"wide": values})
    found = torch.load(target, weights_only=False)
    assert torch.equal(found["wide"], torch.tensor(values).float()) and torch.equal(found["b"], old["b"])
    assert found["many"] == old["many"]
    assert framed(members(target)["model/data.pkl"]) == (protocol > 3)


def test_shared_storage_in_a_newer_protocol_is_refused(tmp_path: Path) -> None:
    """What is remembered has its number from the order there, so none may go."""
    path = tmp_path / "model.pt"
    base = torch.ones(1)
    torch.save({"wide": base.expand(6), "b": base}, path, pickle_protocol=4)
    with pytest.raises(UnsupportedError, match="stride of 0"):
        edited(path, {"wide": drawn(named(path)["wide"])})


def test_legacy_file(tmp_path: Path) -> None:
    base = torch.randn(3)
    old = {
        "wide": base.expand(4, 3), "base": base, "one": torch.ones(1).half().expand(300), "same": base.expand(4, 3),
        "other": base.expand(2, 3), "b": torch.randn(5),
    }  # fmt: skip
    path = save(old, tmp_path / "model.pt", legacy=True)
    target, new = redrawn(path, ["wide", "one"])
    for safe in (False, True):
        found = torch.load(target, weights_only=safe)
        for name, value in old.items():
            wanted = new["wide"] if name == "same" else new.get(name)
            assert torch.equal(found[name], value if wanted is None else torch.tensor(wanted).to(value.dtype)), name
        assert found["wide"].data_ptr() == found["same"].data_ptr() != found["base"].data_ptr()
        assert found["other"].data_ptr() == found["base"].data_ptr()
    assert target.stat().st_size < path.stat().st_size + 48 + 600 + 100


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_legacy_file_in_a_pickle(tmp_path: Path, protocol: int) -> None:
    """A pickled tensor holds a file for its storage alone: how it is looked at stands outside, and cannot change."""
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"wide": torch.ones(1).expand(6), "b": torch.randn(3)}, protocol))
    with pytest.raises(UnsupportedError, match="stride of 0"):
        edited(path, {"wide": drawn(named(path)["wide"])})


class Wide(torch.nn.Module):  # type: ignore[misc]
    """Parameters and a buffer that repeat storages, one of them shared."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.w = torch.nn.Parameter(torch.full((1,), 0.5).expand(4, 3))
        self.b = torch.nn.Parameter(torch.randn(4))
        self.first = torch.nn.Parameter(self.b.data.expand(3, 4))
        self.last = torch.nn.Parameter(self.b.data[1:2].expand(4))

    def forward(self, x):  # type: ignore[no-untyped-def]
        return torch.relu(x @ self.w.t() + self.b) + self.first.sum(0) * self.last


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("names", [["w"], ["first"], ["last", "w"], ["first", "last"], ["b", "last", "first", "w"]])
@pytest.mark.parametrize("kind", ["script", "program", "state_dict"])
def test_graphs_run_with_the_new_values(tmp_path: Path, kind: str, names: list[str]) -> None:
    net = Wide()
    x = torch.linspace(-1, 1, 6).reshape(2, 3)
    path = tmp_path / f"model.{'pt2' if kind == 'program' else 'pt'}"
    if kind == "script":
        torch.jit.save(torch.jit.script(net), str(path))
    elif kind == "program":
        torch.export.save(torch.export.export(net, (x,)), str(path))
    else:
        save(net.state_dict(), path)
    tensors = named(path)
    new = {name: drawn(tensors[name], seed) for seed, name in enumerate(names)}
    target = edited(path, new, f"edited{path.suffix}")
    assert sound(target) and aligned(target)
    after = named(target)
    for name, tensor in tensors.items():
        shared = name not in new and "b" in new and tensor.storage == tensors["b"].storage
        wanted = new[name].astype("f4") if name in new else tensor.load()
        assert shared or np.array_equal(after[name].load(), wanted), name
    fresh = Wide()
    for name, value in after.items():
        setattr(fresh, name, torch.nn.Parameter(torch.tensor(np.array(value.load()))))
    if kind == "state_dict":
        found = Wide()
        found.w = found.first = found.last = None
        state = torch.load(target, weights_only=True)
        for name, value in state.items():
            setattr(found, name, torch.nn.Parameter(value))
    else:
        found = torch.jit.load(str(target)) if kind == "script" else torch.export.load(str(target)).module()
    assert torch.equal(found(x), fresh(x))
    first, second = members(path), members(target)
    told = {"script": "model/data.pkl", "program": "model/data/weights/model_weights_config.json"}
    allowed = {told.get(kind, "model/data.pkl"), *((tensors["b"].storage, f"model/{tensors['b'].storage}"))}
    assert {name for name in first if second[name] != first[name]} <= allowed
    assert list(second)[: len(first)] == list(first) and len(second) == len(first) + len([n for n in names if n != "b"])
