from __future__ import annotations

import dataclasses
import enum
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit.types import Global
from tests.formats.torch_files import differing, saved, tensors

torch = pytest.importorskip("torch")
nn = torch.nn
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


class Mode(enum.Enum):
    FAST = "fast"


@dataclasses.dataclass
class Config:
    n_layer: int = 2
    act: str = "gelu"
    mode: Mode = Mode.FAST


class Net(nn.Module):  # type: ignore[misc,name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.config = Config()
        self.act = nn.functional.gelu
        self.soft = functools.partial(nn.functional.gelu, approximate="tanh")
        self.mode, self.sizes, self.table = Mode.FAST, [1, (2, 3)], {"k": 1, "f": torch.relu}
        self.kind, self.rate, self.nothing, self.extent = torch.float16, np.float32(0.5), None, torch.Size([1, 2])
        self.second = nn.Linear(3, 4)
        self.first = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.BatchNorm2d(6))
        self.tied = nn.Linear(3, 4)
        self.tied.weight = self.second.weight
        self.shared = self.second
        self.frozen = nn.Parameter(torch.randn(2, 2), requires_grad=False)
        self.register_buffer("kept", torch.arange(3.0))
        self.register_buffer("unkept", torch.arange(3.0), persistent=False)
        self.register_parameter("absent", None)
        self.plain = torch.randn(3)
        self.__dict__["parent"] = self


@BOTH
def test_a_whole_module_has_the_names_and_values_of_its_state_dict(tmp_path: Path, legacy: bool) -> None:
    net = Net()
    model = saved(net, tmp_path, legacy=legacy)
    assert differing(model, net.state_dict()) == []
    assert [name for name in tensors(model) if name != "unkept"] == list(net.state_dict())
    buffers = {name for name, tensor in tensors(model).items() if tensor.buffer}
    assert buffers == {
        "kept",
        "unkept",
        *(f"first.1.{n}" for n in ("running_mean", "running_var", "num_batches_tracked")),
    }
    assert model.detail.endswith("whole module Net")
    assert model.graph_source == "module"


def test_the_tree_is_in_order_of_registration(tmp_path: Path) -> None:
    model = saved(Net(), tmp_path)
    assert [m.path for m in model.modules] == ["", "second", "first", "first.0", "first.1", "tied", "shared"]
    assert model.modules[0].children == ("second", "first", "tied", "shared")
    conv = model.modules[3]
    assert (conv.cls, conv.kind) == ("torch.nn.modules.conv.Conv2d", "Conv2d")
    assert conv.tensors == {"weight": "first.0.weight", "bias": "first.0.bias"}
    assert (conv.attrs["stride"], conv.attrs["groups"], conv.attrs["padding_mode"]) == ((2, 2), 2, "zeros")


def test_attributes_are_plain(tmp_path: Path) -> None:
    attrs = saved(Net(), tmp_path).modules[0].attrs
    expected = {
        "act": Global("torch._C._nn.gelu"), "soft": Global("torch._C._nn.gelu"), "soft.approximate": "tanh",
        "mode": "fast", "sizes": (1, (2, 3)), "table.k": 1, "kind": Global("torch.float16"), "rate": 0.5,
        "nothing": None, "extent": (1, 2), "config.act": "gelu", "config.mode": "fast",
        "parameters.frozen": ("frozen",), "training": True,
    }  # fmt: skip
    assert {key: attrs.get(key, "missing") for key in expected} == expected
    assert isinstance(attrs["parent"], Global)
    assert not any(key.startswith(("_modules", "_parameters", "_buffers", "parent.")) for key in attrs)


def test_shared_and_tied_tensors_have_one_identity(tmp_path: Path) -> None:
    found = tensors(saved(Net(), tmp_path))
    assert found["second.weight"].identity == found["tied.weight"].identity == found["shared.weight"].identity
    assert found["second.bias"].identity == found["shared.bias"].identity != found["tied.bias"].identity


def test_the_configuration_of_the_root(tmp_path: Path) -> None:
    expected = {"n_layer": 2, "act": "gelu", "mode": "fast"}
    assert saved(Net(), tmp_path).config == expected
    wrapped = saved(nn.Sequential(nn.Sequential(Net())), tmp_path)
    assert wrapped.config == expected


@pytest.mark.filterwarnings("ignore")
def test_hooks_of_weight_norm_survive(tmp_path: Path) -> None:
    layer = nn.utils.weight_norm(nn.Linear(3, 4), dim=1)
    module = saved(layer, tmp_path).modules[0]
    assert set(module.tensors) == {"bias", "weight_g", "weight_v"}
    hook = next(key for key in module.attrs if key.startswith("_forward_pre_hooks."))  # torch numbers them on and on
    assert module.attrs[hook] == Global("torch.nn.utils.weight_norm.WeightNorm")
    assert (module.attrs[f"{hook}.name"], module.attrs[f"{hook}.dim"]) == ("weight", 1)


def test_modules_inside_a_checkpoint(tmp_path: Path) -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    one = saved({"model": net, "ema": None, "optimizer": optimizer.state_dict(), "epoch": 2}, tmp_path)
    assert [m.path for m in one.modules][:2] == ["", "second"]
    assert differing(one, net.state_dict()) == []
    assert one.detail.endswith("whole module Net under 'model'")
    live = saved({"model": net, "optimizer": optimizer}, tmp_path)
    assert differing(live, net.state_dict()) == []
    assert [skip.name for skip in live.skipped] == ["optimizer"]


def test_several_modules_get_a_root(tmp_path: Path) -> None:
    model = saved({"generator": nn.Linear(2, 3), "discriminator": nn.Linear(3, 1)}, tmp_path)
    assert [(m.path, m.cls) for m in model.modules][:2] == [
        ("", "dict"),
        ("generator", "torch.nn.modules.linear.Linear"),
    ]
    assert model.modules[0].children == ("generator", "discriminator")
    assert set(tensors(model)) >= {"generator.weight", "discriminator.bias"}


def test_what_is_no_module_is_told(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(2, 2))
    net.__dict__["_modules"]["odd"] = Config()
    net.__dict__["_modules"]["loop"] = nn.Sequential()
    net.loop.__dict__["_modules"]["back"] = net
    model = saved(net, tmp_path)
    told = {skip.name: skip.why for skip in model.skipped}
    assert told.keys() == {"odd", "loop.back"}
    paths = {module.path for module in model.modules}
    assert all(child in paths for module in model.modules for child in module.children)
    assert "contains itself" in told["loop.back"]


def test_lazy_parameters_are_told(tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = saved(nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 3)), tmp_path)
    assert set(tensors(model)) == {"1.weight", "1.bias"}
    assert {skip.name for skip in model.skipped} == {"0.weight", "0.bias"}


def test_one_module_under_many_names_ends(tmp_path: Path) -> None:
    from initaudit.errors import ReadError

    module: Any = nn.Linear(1, 1)
    for _ in range(60):
        module = nn.ModuleList([module, module])
    with pytest.raises(ReadError, match="more than"):
        saved(module, tmp_path)


def test_values_that_multiply_are_not_copied_out(tmp_path: Path) -> None:
    value: Any = ("x",) * 60
    for _ in range(40):
        value = (value,) * 60
    module = nn.Linear(2, 2)
    module.table, module.tables = value, dict.fromkeys(range(60), value)
    model = saved(module, tmp_path)
    assert "table" not in model.modules[0].attrs


@pytest.mark.filterwarnings("ignore")
def test_graph_modules_and_standard_layers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for module in (
        torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2), 2), nn.LSTM(3, 4, 2, bidirectional=True),
        nn.DataParallel(nn.Linear(2, 2)), nn.ModuleDict({"a": nn.GRU(2, 3), "b": nn.Embedding(5, 3, padding_idx=0)}),
        nn.ParameterList([torch.randn(2, 2)]), nn.PReLU(3), nn.Bilinear(2, 3, 4),
    ):  # fmt: skip
        model = saved(module, tmp_path)
        assert differing(model, module.state_dict()) == []
        assert len(model.modules) == len(list(module.modules()))


@pytest.mark.filterwarnings("ignore")
def test_quantised_modules(tmp_path: Path) -> None:
    quantize = torch.ao.quantization
    dynamic = quantize.quantize_dynamic(nn.Sequential(nn.Linear(4, 5), nn.ReLU()), {nn.Linear}, torch.qint8)
    weight, bias = dynamic[0].weight(), dynamic[0].bias()
    names = ("0._packed_params._packed_params.0", "0._packed_params._packed_params.1")
    for value in (dynamic, dynamic.state_dict()):
        found = tensors(saved(value, tmp_path))
        assert found[names[0]].dtype == "qint8"
        assert np.array_equal(found[names[0]].load(), weight.dequantize().numpy())
        assert np.array_equal(found[names[1]].load(), bias.detach().numpy())
