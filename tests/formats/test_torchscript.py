"""TorchScript archives as torch writes them: names, ties, buffers, graphs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats, layers
from initaudit.errors import ReadError
from initaudit.types import Evidence, Layer, Model
from tests.formats.script_files import nodes, ops, save, scripted, traced, why
from tests.formats.torch_files import differing

torch: Any = pytest.importorskip("torch")
nn: Any = torch.nn


class Block(nn.Module):  # type: ignore[misc]
    """A residual block with a choice, a loop over layers and a buffer."""

    def __init__(self, twice: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(8)
        self.more = nn.ModuleList([nn.Conv2d(8, 8, 1) for _ in range(2)])
        self.last = nn.Conv2d(8, 4, 1, bias=False)
        self.register_buffer("shift", torch.ones(4, 1, 1))
        self.twice = twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x)))
        for layer in self.more:
            y = torch.nn.functional.silu(layer(y))
        if self.twice:
            y = y * 2
        return x + self.last(y) + self.shift


class Tied(nn.Module):  # type: ignore[misc]
    """A head that is the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(10, 8, padding_idx=0)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.body(self.embed(ids))))


def rows(model: Model) -> dict[str, Layer]:
    found = layers.infer(model)
    return {layer.weight.name: layer for layer in (found[0] if isinstance(found, tuple) else found)}


def both(module: Any, folder: Path, *inputs: Any) -> tuple[Model, Model]:
    return scripted(module, folder), traced(module.eval(), folder, *inputs)


def test_scripted_and_traced_say_the_same(tmp_path: Path) -> None:
    block = Block()
    one, other = both(block, tmp_path, torch.ones(1, 4, 5, 5))
    for model, kind in ((one, "scripted"), (other, "traced")):
        assert (model.format, model.source, model.graph_source) == ("torch", "torchscript", "torchscript")
        assert model.detail == f"TorchScript archive, {kind}"
        assert differing(model, block.state_dict()) == []
        assert len(model.tensors) == len(block.state_dict())
        assert [t.name for t in model.tensors if t.buffer] == [
            "shift", "norm.running_mean", "norm.running_var", "norm.num_batches_tracked",
        ]  # fmt: skip
    assert ops(one) == ops(other)
    first = rows(one)
    assert {name: (r.kind, r.activation, r.groups, r.fan_in) for name, r in first.items()} == {
        name: (r.kind, r.activation, r.groups, r.fan_in) for name, r in rows(other).items()
    }
    assert (first["conv.weight"].groups, first["conv.weight"].activation) == (2, "relu")
    assert first["more.1.weight"].activation == "silu"
    assert first["last.weight"].activation_evidence is Evidence.TRACED


def test_scope_and_calls(tmp_path: Path) -> None:
    model = scripted(Block(), tmp_path)
    conv = nodes(model, "conv")[1]
    assert conv.attrs["@scope"] == "more.0"
    assert conv.call is not None and conv.call.target.endswith("conv2d")
    assert conv.inputs[1:] == ("more.0.weight", "more.0.bias")


def test_known_condition_takes_one_side(tmp_path: Path) -> None:
    assert len(nodes(scripted(Block(twice=True), tmp_path), "mul")) == 1
    assert len(nodes(scripted(Block(twice=False), tmp_path), "mul")) == 0


def test_ties_are_kept(tmp_path: Path) -> None:
    for model in both(Tied(), tmp_path, torch.zeros(1, 3, dtype=torch.long)):
        names = {t.name: t for t in model.tensors}
        assert names["embed.weight"].identity == names["head.weight"].identity
        assert [node.attrs["padding_idx"] for node in nodes(model, "embedding")] == [0]
        assert rows(model)["body.weight"].activation == "tanh"


@pytest.mark.parametrize(
    ("make", "shape", "op", "count"),
    [
        (lambda: nn.LSTM(4, 8, 2, bidirectional=True, batch_first=True), (2, 3, 4), "lstm", 2),
        (lambda: nn.GRU(4, 8), (2, 3, 4), "gru", 1),
        (lambda: nn.RNN(4, 8, nonlinearity="relu"), (2, 3, 4), "rnn", 1),
    ],
)
def test_recurrent(tmp_path: Path, make: Any, shape: tuple[int, ...], op: str, count: int) -> None:
    for model in both(make(), tmp_path, torch.ones(shape)):
        assert len(nodes(model, op)) == count
        assert {"weight_ih_l0", "weight_hh_l0"} <= rows(model).keys()


def test_attention_takes_the_way_of_training(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True)
    model = scripted(layer, tmp_path)
    assert "phi" not in ops(model)
    assert not any("layer_fwd" in op or "native" in op for op in ops(model))
    found = rows(model)
    assert found["linear1.weight"].activation == "gelu"
    assert {"self_attn.in_proj_weight", "self_attn.out_proj.weight", "norm1.weight"} <= found.keys()


def test_fast_path_that_was_traced(tmp_path: Path) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True).eval()
    with torch.no_grad():
        model = traced(layer, tmp_path, torch.ones(1, 3, 16))
    assert rows(model)["linear1.weight"].activation == "gelu"


def test_cell_in_a_loop_of_unknown_length(tmp_path: Path) -> None:
    class Steps(nn.Module):  # type: ignore[misc]
        """A cell, step by step."""

        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.GRUCell(4, 8)
            self.out = nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.zeros(x.size(1), 8)
            outs = []
            for t in range(x.size(0)):
                h = self.cell(x[t], h)
                outs.append(self.out(h))
            return torch.stack(outs)

    model = scripted(Steps(), tmp_path)
    assert {"cell.weight_ih", "cell.weight_hh", "out.weight"} <= rows(model).keys()
    assert len(nodes(model, "linear")) == 1


def test_frozen(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5)).eval()
    model = formats.read(save(torch.jit.freeze(torch.jit.script(net)), tmp_path / "frozen.pt"))
    assert model.detail == "TorchScript archive, frozen"
    found = {name: (row.kind, row.activation) for name, row in rows(model).items()}
    assert sorted(found.values(), key=str) == [("conv", "relu"), ("linear", None)]
    assert all(name.startswith("CONSTANTS.c") for name in found)


def test_lite_interpreter(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    torch.jit.script(net)._save_for_lite_interpreter(str(tmp_path / "net.ptl"))
    model = formats.read(tmp_path / "net.ptl")
    assert differing(model, net.state_dict()) == []
    assert rows(model)["0.weight"].activation == "relu"


def test_half_precision(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.GELU(approximate="tanh"), nn.Linear(8, 2)).to(torch.bfloat16)
    model = scripted(net, tmp_path)
    assert differing(model, net.state_dict()) == []
    assert {t.dtype for t in model.tensors} == {"bfloat16"}


def test_no_forward_is_no_obstacle(tmp_path: Path) -> None:
    class Parts(nn.Module):  # type: ignore[misc]
        """Two exported methods, and no forward."""

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(2, 3)
            self.b = nn.Conv1d(2, 3, 1)

        @torch.jit.export  # type: ignore[untyped-decorator]
        def encode(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x)

        @torch.jit.export  # type: ignore[untyped-decorator]
        def decode(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(x)

    model = scripted(Parts(), tmp_path)
    assert model.graph is None and model.graph_source == "module"
    assert "no forward" in why(model)
    assert [(m.path, m.cls) for m in model.modules][1:] == [
        ("a", "torch.nn.modules.linear.Linear"), ("b", "torch.nn.modules.conv.Conv1d"),
    ]  # fmt: skip
    assert rows(model)["b.weight"].kind == "conv"


def test_overloads_and_named_tuples(tmp_path: Path) -> None:
    model = scripted(nn.LSTM(4, 8), tmp_path)  # its forward takes a packed sequence too
    assert len(nodes(model, "lstm")) == 1


def test_nothing_to_audit(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="holds no tensors"):
        formats.read(save(torch.jit.trace(lambda x: x * 2, torch.ones(2)), tmp_path / "f.pt"))


def test_reading_needs_no_torch(tmp_path: Path) -> None:
    path = save(torch.jit.script(Block()), tmp_path / "m.pt")
    code = (
        "import sys; from initaudit import formats; m = formats.read(sys.argv[1]); "
        "print(m.graph is not None, {'torch'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(formats.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True set()"


def test_values_are_lazy_and_right(tmp_path: Path) -> None:
    net = nn.Linear(3, 2)
    model = scripted(net, tmp_path)
    weight = next(t for t in model.tensors if t.name == "weight")
    assert np.array_equal(weight.load(), net.weight.detach().numpy())
