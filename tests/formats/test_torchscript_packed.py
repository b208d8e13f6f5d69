"""TorchScript archives whose weights are packed for an operator: quantised modules, XNNPACK's on mobiles."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats, layers
from initaudit.types import Layer, Model
from tests.formats.script_files import nodes, ops, scripted, why


def rows(model: Model) -> dict[str, Layer]:
    found = layers.infer(model)
    return {layer.weight.name: layer for layer in (found[0] if isinstance(found, tuple) else found)}


# --- written by hand: no build of torch that is at hand writes them


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(b"K" + bytes([value]) for value in values) + b"t"


def tensor(key: str, shape: tuple[int, ...]) -> bytes:
    strides = tuple(int(np.prod(shape[axis + 1 :], dtype=int)) for axis in range(len(shape)))
    count = b"M" + struct.pack("<H", int(np.prod(shape)))
    storage = b"((" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu") + count + b"tQK\x00"
    rest = numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n" + storage + rest + b"tR"


def integers(*values: int) -> bytes:
    return b"ctorch.jit._pickle\nbuild_intlist\n(](" + b"".join(b"K" + bytes([v]) for v in values) + b"etR"


def thing(cls: str, state: bytes) -> bytes:
    module, _, name = cls.rpartition(".")
    return f"c{module}\n{name}\n".encode() + b")\x81" + state + b"b"


def written(folder: Path, root: bytes, body: str, *, fields: str = "", values: str = "data") -> Model:
    """Return the model of an archive of one class Net with this pickle and this forward."""
    code = f"class Net(Module):\n  __parameters__ = ['w', ]\n  __buffers__ = []\n{fields}"
    code += f"  def forward(self: __torch__.Net,\n    x: Tensor) -> Tensor:\n{body}"
    path = folder / "net.ptl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/data.pkl", b"\x80\x02" + root + b".")
        archive.writestr("net/code/__torch__.py", code)
        archive.writestr("net/constants.pkl", b"\x80\x02).")
        archive.writestr(f"net/{values}/0", np.arange(216, dtype=np.float32).tobytes())
        archive.writestr(f"net/{values}/1", np.zeros(8, np.float32).tobytes())
    return formats.read(path)


@pytest.mark.parametrize("values", ["data", "tensors"])
def test_mobile_convolution(tmp_path: Path, values: str) -> None:
    lists = integers(2, 2) + integers(1, 1) + integers(1, 1) + b"K\x01"
    state = b"(" + tensor("0", (8, 3, 3, 3)) + tensor("1", (8,)) + lists + b"G" + struct.pack(">d", 0.0) + b"Nt"
    packed = thing("__torch__.torch.classes.xnnpack.Conv2dOpContext", state)
    root = thing("__torch__.Net", b"}(" + text("p") + packed + b"u")
    model = written(tmp_path, root, "    p = self.p\n    return ops.prepacked.conv2d_clamp_run(x, p)\n", values=values)
    assert ops(model) == ["conv", "relu"]
    (conv,) = nodes(model, "conv")
    assert (conv.inputs, conv.attrs["strides"]) == (("x", "p.0", "p.1"), (2, 2))
    assert rows(model)["p.0"].activation == "relu"


def test_module_that_holds_itself(tmp_path: Path) -> None:
    fields = text("w") + tensor("0", (8, 27)) + text("me") + b"h\x00"
    root = b"c__torch__\nNet\n)\x81q\x00}(" + fields + b"ub"
    body = "    me = self.me\n    return torch.linear((me).forward(x, ), me.w)\n"
    model = written(tmp_path, root, body)
    assert [t.name for t in model.tensors] == ["w"]
    assert {skip.name: skip.why for skip in model.skipped}["me"] == "contains itself"
    assert "deep" in why(model)


def test_member_of_an_enum(tmp_path: Path) -> None:
    kind = b"c__torch__\nKind\n" + text("nchw") + b"R"
    root = thing("__torch__.Net", b"}(" + text("w") + tensor("0", (8, 27)) + text("kind") + kind + b"u")
    body = '    if torch.eq(self.kind, "nchw"):\n      y = torch.relu(x)\n    else:\n      y = x\n    return y\n'
    fields = "  w : Tensor\n  kind : __torch__.Kind\n"
    model = written(tmp_path, root, body, fields=fields)
    assert [t.name for t in model.tensors] == ["w"]
    assert "relu" in ops(model)


# --- written by torch


def engine() -> Any:
    torch: Any = pytest.importorskip("torch")
    engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if not engines:
        pytest.skip("this torch has no quantised operators")
    torch.backends.quantized.engine = engines[-1]
    return torch


@pytest.mark.filterwarnings("ignore")
def test_quantised_convolution(tmp_path: Path) -> None:
    torch = engine()
    quantization = pytest.importorskip("torch.ao.quantization")

    class Net(torch.nn.Module):  # type: ignore[misc]
        """Between two stubs."""

        def __init__(self) -> None:
            super().__init__()
            self.into = quantization.QuantStub()
            self.conv = torch.nn.Conv2d(4, 8, 3, stride=2, groups=2)
            self.act = torch.nn.ReLU()
            self.head = torch.nn.Linear(8, 3)
            self.out = quantization.DeQuantStub()

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.out(self.head(self.act(self.conv(self.into(x))).mean([2, 3])))

    net = Net().eval()
    net.qconfig = quantization.get_default_qconfig(torch.backends.quantized.engine)
    net = quantization.prepare(quantization.fuse_modules(net, [["conv", "act"]]))
    net(torch.randn(2, 4, 8, 8))
    model = scripted(quantization.convert(net), tmp_path)
    found = rows(model)
    conv = found["conv.weight"]
    assert (conv.kind, conv.groups, conv.activation, conv.weight.dtype) == ("conv", 2, "relu", "qint8")
    assert nodes(model, "conv")[0].attrs["strides"] == (2, 2)
    assert [layer.kind for layer in found.values()] == ["conv", "linear"]


@pytest.mark.filterwarnings("ignore")
def test_quantised_while_running(tmp_path: Path) -> None:
    torch = engine()
    net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))
    model = scripted(torch.ao.quantization.quantize_dynamic(net, {torch.nn.Linear}), tmp_path)
    assert [op for op in ops(model) if op in ("linear", "relu")] == ["linear", "relu", "linear"]
    assert [layer.activation for layer in rows(model).values()] == ["relu", None]
