"""Modules built from a name, with weights and without."""

import copy
import json
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from initaudit.errors import UnsupportedError, UsageError
from initaudit.live import build, tree
from initaudit.live.bare import bare


def devices(module: nn.Module) -> set[str]:
    return {p.device.type for p in module.parameters()}


class Odd(nn.Module):
    """Does to its parameters what constructors do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)
        self.table = nn.Parameter(torch.zeros(3, 4))
        self.register_buffer("rates", torch.linspace(0, 1, 3))
        self.steps = self.rates.tolist()
        with torch.no_grad():
            self.linear.weight.copy_(torch.ones(4, 6))
            self.linear.weight[0] = torch.zeros(6)
            self.linear.bias += torch.arange(4.0)
            self.table.data = torch.randn(3, 4)
            self.table.data[1].mul_(torch.tensor(2.0))
        for init in (nn.init.orthogonal_, nn.init.trunc_normal_, nn.init.xavier_uniform_, nn.init.eye_):
            init(self.linear.weight)
        self.tied = nn.Linear(6, 4)
        self.tied.weight = self.linear.weight
        self.light = nn.Linear(4, 4).half()
        self.twin = copy.deepcopy(self.linear)
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4))
        self.rnn = nn.LSTM(4, 5, bidirectional=True)


def test_a_module_built_bare_has_shapes_ties_and_real_buffers():
    with bare():
        module = Odd()
    assert devices(module) == {"meta"}
    assert module.steps == [0.0, 0.5, 1.0]
    assert torch.equal(module.rates, torch.tensor([0.0, 0.5, 1.0]))
    assert module.tied.weight is module.linear.weight
    assert module.twin.weight is not module.linear.weight
    assert module.light.weight.dtype is torch.float16
    assert isinstance(module.table, nn.Parameter)
    assert {n: tuple(p.shape) for n, p in module.named_parameters()} == {
        n: tuple(p.shape) for n, p in Odd().named_parameters()
    }


def test_nothing_stays_patched():
    with pytest.raises(ZeroDivisionError), bare():
        raise ZeroDivisionError
    assert devices(nn.Linear(2, 2)) == {"cpu"}
    assert torch.randn(1 << 20).device.type == "cpu"


def test_large_weights_take_no_memory():
    with bare():
        module = nn.Sequential(nn.Linear(1 << 16, 1 << 16), nn.Embedding(1 << 24, 1 << 10))
    assert sum(p.numel() for p in module.parameters()) > 2e10


def test_a_constructor_that_asks_for_values_is_run_for_real(tmp_path):
    (tmp_path / "asks.py").write_text(
        "from torch import nn\n"
        "class Asks(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.linear = nn.Linear(3, 3)\n"
        "        self.norm = self.linear.weight.norm().item()\n"
        "class Plain(nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(3, 3)\n"
    )
    assert devices(build.build(f"{tmp_path}/asks.py:Asks", weights=False)) == {"cpu"}
    assert devices(build.build(f"{tmp_path}/asks.py:Plain", weights=False)) == {"meta"}
    one, two = (build.build(f"{tmp_path}/asks.py:Plain") for _ in range(2))
    assert torch.equal(one.weight, two.weight)


def test_what_cannot_be_built_says_why(tmp_path, monkeypatch):
    (tmp_path / "own_models.py").write_text(
        "from torch import nn\n"
        "net = nn.Linear(2, 2)\n"
        "number = 3\n"
        "def broken():\n"
        "    raise ValueError('no\\ndata')\n"
        "def nothing(): pass\n"
        "def needy(width): return nn.Linear(width, 2)\n"
    )
    (tmp_path / "own_slip.py").write_text("import torch\nx = = 3\n")
    (tmp_path / "own_exit.py").write_text("raise SystemExit(3)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(build.build("own_models:net"), nn.Linear)
    for given, words in {
        "own_models:broken": "ValueError: no data (own_models.py:5, in broken)",
        "own_models:nothing": "returned a NoneType, not a torch.nn.Module",
        "own_models:number": "own_models:number is a int",
        "own_models:needy": "missing 1 required positional argument: 'width'",
        "own_models:missing": "has no 'missing'; it has",
        "own_absent:net": "no module named 'own_absent'",
        "own_slip:net": "SyntaxError: invalid syntax (own_slip.py:2)",
        "own_exit:net": "SystemExit: 3",
        "absent.py:net": "no such file",
        "own_models": "--model takes package.module:callable",
    }.items():
        with pytest.raises(UsageError) as refusal:
            build.build(given)
        assert words in str(refusal.value)
        assert "\n" not in str(refusal.value)


def test_a_file_is_imported_once_and_sees_its_neighbours(tmp_path):
    (tmp_path / "own_part.py").write_text("WIDTH = 7\n")
    (tmp_path / "own_whole.py").write_text(
        "from torch import nn\nfrom own_part import WIDTH\ndef make(): return nn.Linear(WIDTH, 1)\n"
    )
    first = build.build(f"{tmp_path}/own_whole.py:make")
    second = build.build(f"{tmp_path}/own_whole.py:make")
    assert type(first) is type(second)
    assert first.in_features == 7


def test_code_that_reads_the_command_line_finds_that_of_a_plain_script(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["initaudit", "check", "net.pt", "--model", "x"])
    (tmp_path / "own_script.py").write_text(
        "import argparse, sys\nfrom torch import nn\nparser = argparse.ArgumentParser()\n"
        "parser.add_argument('--width', type=int, default=5)\nargs = parser.parse_args()\n"
        "def make(): return nn.Linear(parser.parse_args().width, len(sys.argv))\n"
    )
    made = build.build(f"{tmp_path}/own_script.py:make")
    assert (made.in_features, made.out_features) == (5, 1)
    assert sys.argv[1:] == ["check", "net.pt", "--model", "x"]


def test_architectures_refuse_what_is_not_the_librarys_own(tmp_path):
    for given in ("resnet18", "keras:vgg", "timm:", "hf:"):
        with pytest.raises(UsageError, match="--arch takes timm:NAME"):
            build.build(arch=given)
    with pytest.raises(UsageError, match="no such folder"):
        build.build(arch=f"hf:{tmp_path}/nothing")
    with pytest.raises(UsageError, match=r"no config\.json"):
        build.build(arch=f"hf:{tmp_path}")
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="an adapter, which has no architecture of its own"):
        build.build(arch=f"hf:{tmp_path}")
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UsageError, match="a diffusers pipeline"):
        build.build(arch=f"hf:{tmp_path}")


def folder(path, **config) -> str:
    path.mkdir(exist_ok=True)
    (path / "config.json").write_text(json.dumps(config))
    return f"hf:{path}"


def test_hf_folders_use_the_librarys_classes_and_never_the_folders_code(tmp_path):
    if find_spec("transformers") is None:
        pytest.skip("transformers is not installed")
    small = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    given = folder(tmp_path / "bert", model_type="bert", architectures=["BertForMaskedLM"], **small)
    module = build.build(arch=given, weights=False)
    assert type(module).__name__ == "BertForMaskedLM"
    assert devices(module) == {"meta"}
    assert module.cls.predictions.decoder.weight is module.bert.embeddings.word_embeddings.weight
    code = folder(
        tmp_path / "own", model_type="mine", architectures=["MineForCausalLM"], auto_map={"AutoConfig": "x.MineConfig"}
    )
    (tmp_path / "own" / "x.py").write_text("raise RuntimeError('ran')\n")
    with pytest.raises(UnsupportedError, match="code of its own"):
        build.build(arch=code)
    with pytest.raises(UnsupportedError, match="has no model type 'mine'"):
        build.build(arch=folder(tmp_path / "mine", model_type="mine"))


def test_timm_names_are_plain_and_nearly_right_ones_are_told():
    if find_spec("timm") is None:
        pytest.skip("timm is not installed")
    module = build.build(arch="timm:resnet18,num_classes=7", weights=False)
    assert module.fc.out_features == 7
    with pytest.raises(UsageError, match="near it are resnet18"):
        build.build(arch="timm:resnet_18")
    with pytest.raises(UsageError, match="download"):
        build.build(arch="timm:hf-hub:someone/thing")


def test_records_of_a_live_module():
    linear = nn.Linear(4, 3, dtype=torch.bfloat16)
    linear.bias.requires_grad_(False)
    module = nn.Sequential(linear, nn.GELU(approximate="tanh"), nn.BatchNorm1d(3))
    module.again = nn.Linear(4, 3)
    module.again.weight = linear.weight
    found = tree.read(module)
    assert list(found.tensors) == [
        "0.weight", "0.bias", "2.weight", "2.bias", "2.running_mean", "2.running_var", "2.num_batches_tracked",
        "again.weight", "again.bias",
    ]  # fmt: skip
    weight = found.tensors["0.weight"]
    assert (weight.shape, weight.dtype) == ((3, 4), "bfloat16")
    assert weight.load().astype("float32").tolist() == linear.weight.float().tolist()
    assert weight.identity == found.tensors["again.weight"].identity
    assert weight.identity != found.tensors["0.bias"].identity
    assert [name for name, t in found.tensors.items() if t.buffer] == [
        "2.running_mean", "2.running_var", "2.num_batches_tracked",
    ]  # fmt: skip
    by_path = {one.path: one for one in found.modules}
    assert by_path[""].children == ("0", "1", "2", "again")
    assert by_path["0"].cls == "torch.nn.modules.linear.Linear"
    assert by_path["0"].attrs["in_features"] == 4
    assert by_path["0"].attrs["parameters.frozen"] == ("bias",)
    assert by_path["1"].attrs["approximate"] == "tanh"


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.complex64, torch.int8])
def test_values_of_every_type_are_read(dtype):
    tensor = torch.tensor([[0, 1, -2], [3, 4, -0.5]]).to(dtype)
    read = tree.values(tensor.t())
    assert read.shape == (3, 2)
    assert read.astype("complex64").T.tolist() == tensor.to(torch.complex64).tolist()


def test_values_that_are_not_there_are_refused():
    with pytest.raises(UnsupportedError, match="without values"):
        tree.values(torch.empty(3, device="meta"))
