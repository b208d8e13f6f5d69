"""One net with planted faults in every format, as users have it: repaired, opened by its own library, compared."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from initaudit.repair.diffing import diff
from tests.running import runner

FAULTY = {"conv2.weight", "fc1.weight", "fc2.weight"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3)
        self.conv2 = nn.Conv2d(16, 16, 3)
        self.fc1 = nn.Linear(16 * 4 * 4, 64)
        self.fc2 = nn.Linear(64, 64)
        self.head = nn.Linear(64, 10)

    def forward(self, image):
        x = torch.relu(self.conv2(torch.relu(self.conv1(image)))).flatten(1)
        return self.head(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def net() -> Net:
    torch.manual_seed(0)
    made = Net().eval()
    for module in made.children():
        nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(module.bias)
    with torch.no_grad():
        made.conv2.weight[1, 2] = torch.nan
        made.fc1.weight.zero_()
        made.fc2.weight[32:] = made.fc2.weight[:32]
    return made


def image() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3))


def saved(kind: str) -> str:
    """Write the net in a format and return where."""
    module = net()
    tensors = module.state_dict()
    match kind:
        case "state_dict":
            torch.save(tensors, "net.pt")
        case "checkpoint":
            optimizer = torch.optim.Adam(module.parameters()).state_dict()
            torch.save({"epoch": 3, "model": tensors, "optimizer": optimizer}, "net.pt")
        case "legacy":
            torch.save(tensors, "net.pt", _use_new_zipfile_serialization=False)
        case "module":
            torch.save(module, "net.pt")
        case "torchscript":
            torch.jit.save(torch.jit.script(module), "net.pt")
        case "exported":
            torch.export.save(torch.export.export(module, (image(),)), "net.pt2")
            return "net.pt2"
        case "safetensors":
            save_file(tensors, "net.safetensors", metadata={"format": "pt"})
            return "net.safetensors"
        case "onnx":
            torch.onnx.export(module, (image(),), "net.onnx", dynamo=False, input_names=["image"])
            return "net.onnx"
        case "sharded":
            return sharded(tensors)
    return "net.pt"


def sharded(tensors: dict[str, torch.Tensor]) -> str:
    folder = Path("net")
    folder.mkdir()
    names = list(tensors)
    files = {f"model-0000{k + 1}-of-00002.safetensors": names[k::2] for k in (0, 1)}
    for file, some in files.items():
        save_file({name: tensors[name] for name in some}, folder / file, metadata={"format": "pt"})
    placed = {name: file for file, some in files.items() for name in some}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return "net"


def opened(kind: str, path: str) -> dict[str, torch.Tensor]:
    """Return the parameters, read by the library that the format is of."""
    match kind:
        case "state_dict" | "legacy":
            return torch.load(path)
        case "checkpoint":
            whole = torch.load(path)
            assert whole["epoch"] == 3
            assert len(whole["optimizer"]["param_groups"]) == 1
            return whole["model"]
        case "module":
            return torch.load(path, weights_only=False).state_dict()
        case "torchscript":
            return torch.jit.load(path).state_dict()
        case "exported":
            return torch.export.load(path).module().state_dict()
        case "safetensors":
            return load_file(path)
        case "sharded":
            return {k: v for file in Path(path).glob("*.safetensors") for k, v in load_file(file).items()}
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"image": image().numpy()})
    held = {t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in model.graph.initializer}
    return {name: value for name, value in held.items() if name.endswith((".weight", ".bias"))}


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    return runner(monkeypatch, capsys)


KINDS = (
    "state_dict", "checkpoint", "legacy", "module", "torchscript", "exported", "safetensors", "onnx", "sharded",
)  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> dict[str, torch.Tensor]:
    """What the state_dict's repair draws: every other format gets the same."""
    import initaudit

    path = tmp_path_factory.mktemp("drawn") / "net.pt"
    torch.save(net().state_dict(), path)
    initaudit.fix(path, activation="relu")
    return torch.load(path.with_name("net.fixed.pt"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_is_repaired_and_holds_the_same_values(cli, kind, drawn):
    path = saved(kind)
    plain = () if kind in ("torchscript", "exported", "onnx") else ("--activation", "relu")
    code, out, err = cli("fix", path, *plain)
    assert (code, err) == (0, ""), out
    assert "3 layers drawn again" in out
    assert "audited again: healthy" in out
    target = next(str(one) for one in Path().iterdir() if ".fixed" in one.name)
    assert {one.name.partition("model.")[2] or one.name for one in diff(path, target).changed} == FAULTY
    values = opened(kind, target)
    assert set(values) >= FAULTY  # an exporter stores equal biases once
    assert set(values) <= set(drawn)
    assert all(torch.equal(value, drawn[name]) for name, value in values.items())
    assert cli("fix", target, *plain)[1].count("nothing to fix") == 1


@pytest.mark.parametrize("kind", ["torchscript", "onnx"])
def test_lsuv_runs_a_graph(cli, kind):
    np.save("batch.npy", torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(5)).numpy())
    code, out, err = cli("fix", saved(kind), "--scheme", "lsuv", "--all", "--data", "batch.npy")
    assert (code, err) == (0, ""), out
    assert "5 pre-activations at variance" in out


def test_the_code_that_is_emitted_does_the_same_to_a_fresh_model(cli):
    code, out, _ = cli("fix", saved("onnx"), "--emit-code", "init.py")
    assert code == 0
    assert "code for 3 layers written to init.py" in out
    assert not Path("net.fixed.onnx").exists()
    space: dict[str, object] = {}
    exec(Path("init.py").read_text(), space)
    module = net()
    before = module.state_dict()["conv1.weight"].clone()
    space["initialize"](module)  # type: ignore[operator]
    assert torch.equal(module.state_dict()["conv1.weight"], before)
    torch.save(module, "again.pt")
    assert cli("check", "again.pt")[0] == 0
