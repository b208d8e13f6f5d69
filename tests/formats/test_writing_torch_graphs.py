"""New values in TorchScript archives and exported programs: torch runs them, and computes with the new values."""

from __future__ import annotations

import importlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from tests.formats import exported_files
from tests.formats.torch_edits import changed_bytes, checksums, drawn, lying, named, redrawn, sound
from tests.formats.torch_files import rezip

torch: Any = pytest.importorskip("torch")


class Net(torch.nn.Module):  # type: ignore[misc]
    """A convolution and a tied pair of layers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv1d(3, 4, 3)
        self.fc = torch.nn.Linear(4, 4)
        self.again = torch.nn.Linear(4, 4)
        self.again.weight = self.fc.weight
        self.register_buffer("shift", torch.randn(4))

    def forward(self, x):  # type: ignore[no-untyped-def]
        y = torch.relu(self.conv(x)).mean(-1) + self.shift
        return self.again(torch.relu(self.fc(y)))


X = torch.linspace(-1, 1, 30).reshape(2, 3, 5)


def reference(new: dict[str, Any]) -> Any:
    net = Net()
    with torch.no_grad():
        for name, value in new.items():
            net.get_parameter(name).copy_(torch.tensor(value))
    return net.eval()(X)


def only_there(path: Path, target: Path, names: list[str]) -> None:
    data = path.read_bytes()
    touched = set().union(*(lying(data, named(path)[name]) for name in names))
    assert changed_bytes(path, target) <= touched | checksums(data, touched)
    assert sound(target)


@pytest.mark.parametrize("way", ["scripted", "traced", "frozen", "lite"])
def test_torchscript(tmp_path: Path, way: str) -> None:
    net = Net().eval()
    made = torch.jit.trace(net, X) if way == "traced" else torch.jit.script(net)
    made = torch.jit.freeze(made) if way == "frozen" else made
    path = tmp_path / "model.pt"
    if way == "lite":
        made._save_for_lite_interpreter(str(path))
    else:
        torch.jit.save(made, str(path))
    tensors = named(path)
    wanted = {"conv.weight": (4, 3, 3), "fc.weight": (4, 4)}
    names = [
        next(n for n, t in tensors.items() if (n == name or way == "frozen") and t.shape == shape)
        for name, shape in wanted.items()
    ]
    target, new = redrawn(path, names)
    only_there(path, target, names)
    expected = reference({name: new[other] for name, other in zip(wanted, names, strict=True)})
    if way == "lite":
        found = importlib.import_module("torch.jit.mobile")._load_for_lite_interpreter(str(target))(X)
    else:
        found = torch.jit.load(str(target))(X)
    assert torch.allclose(found, expected, atol=1e-6)


def exported(net: Any, path: Path) -> Path:
    torch.export.save(torch.export.export(net.eval(), (X,)), str(path))
    return path


@pytest.mark.parametrize("packed", [False, True])
def test_exported_program(tmp_path: Path, packed: bool) -> None:
    path = exported(Net(), tmp_path / "model.pt2")
    if packed:
        path.write_bytes(rezip(path.read_bytes(), method=zipfile.ZIP_DEFLATED))
    target, new = redrawn(path, ["conv.weight", "fc.weight"], "edited.pt2")
    if packed:
        with zipfile.ZipFile(path) as one, zipfile.ZipFile(target) as two:
            same = [name for name in one.namelist() if one.read(name) == two.read(name)]
            assert len(same) == len(one.namelist()) - 2 and two.testzip() is None
    else:
        only_there(path, target, ["conv.weight", "fc.weight"])
    assert torch.allclose(torch.export.load(str(target)).module()(X), reference(new), atol=1e-6)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("layout", ["first", "pickled"])
def test_exported_program_with_a_torch_file_in_it(tmp_path: Path, layout: str, packed: bool) -> None:
    """torch 2.1 to 2.8: a state_dict saved by torch.save is a member; two checksums cover a weight then."""
    values = {name: torch.tensor(array) for name, array in exported_files.weights().items()}
    inner = io.BytesIO()
    torch.save(values, inner)
    parts = exported_files.members()
    if layout == "first":
        record = parts["m/models/model.json"]
        parts = {"serialized_exported_program.json": record, "serialized_state_dict.pt": inner.getvalue()}
    else:
        parts = {name: content for name, content in parts.items() if "/weights/" not in name}
        parts["m/data/weights/model.pt"] = inner.getvalue()
    method = zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED
    path = exported_files.write(tmp_path, exported_files.packed(parts, method))
    target, new = redrawn(path, ["a.weight"], "edited.pt2")
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        member = archive.read(next(name for name in archive.namelist() if name.endswith(".pt")))
    (tmp_path / "inner.pt").write_bytes(member)
    assert sound(tmp_path / "inner.pt")
    found = torch.load(io.BytesIO(member), weights_only=True)
    assert torch.equal(found["a.weight"], torch.tensor(new["a.weight"]).float())
    assert torch.equal(found["b.weight"], values["b.weight"])
    if not packed:
        data = path.read_bytes()
        touched = lying(data, named(path)["a.weight"])
        start = data.index(inner.getvalue())
        allowed = touched | checksums(data, touched)
        allowed |= {b + start for b in checksums(inner.getvalue(), {b - start for b in touched})}
        assert changed_bytes(path, target) <= allowed


def test_shared_storage_in_a_program(tmp_path: Path) -> None:
    class Shared(torch.nn.Module):  # type: ignore[misc]
        """Two parameters in one storage."""

        def __init__(self) -> None:
            super().__init__()
            base = torch.randn(8, 5)
            self.a, self.b = torch.nn.Parameter(base[:3]), torch.nn.Parameter(base[3:].t())

        def forward(self, x):  # type: ignore[no-untyped-def]
            return (x @ self.a.t()).sum() + (x @ self.b).sum()

    net = Shared()
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(net, (torch.ones(2, 5),)), str(path))
    target, new = redrawn(path, ["a", "b"], "edited.pt2")
    found = torch.export.load(str(target)).state_dict
    assert all(torch.equal(found[name], torch.tensor(new[name]).float()) for name in "ab")


def test_a_tensor_that_is_worked_out_is_refused(tmp_path: Path) -> None:
    net = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(3, 2))
    path = tmp_path / "model.pt2"
    torch.export.save(torch.export.export(net, (torch.ones(1, 3),)), str(path))
    model = formats.read(path)
    assert model.graph is not None
    some = drawn(model.tensors[0])
    worked = model.tensors[0]
    odd = type(worked)("made", worked.shape, "float32", lambda: some, storage="x@0*y@0", parts=("x", "y"))
    with pytest.raises(UnsupportedError, match="worked out from x, y"):
        formats.plan(path, [Edit(odd, lambda: np.zeros(odd.shape))])
