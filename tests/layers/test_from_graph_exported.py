"""What torch's own exporters write, read back: fans and activations of the modules that were exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from initaudit.formats import onnx as onnx_format  # noqa: E402
from initaudit.layers.from_graph import infer  # noqa: E402
from initaudit.types import Evidence, Layer, Role  # noqa: E402

nn = torch.nn


class Block(nn.Module):
    """A pre-norm residual block with LayerScale and a gated unit."""

    def __init__(self, dim: int, act: Any) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.gate = nn.Linear(dim, 2 * dim)
        self.up = nn.Linear(dim, 2 * dim, bias=False)
        self.down = nn.Linear(2 * dim, dim)
        self.gamma = nn.Parameter(torch.full((dim,), 0.1))
        self.act = act

    def forward(self, x: Any) -> Any:
        y = self.norm(x)
        return x + self.gamma * self.down(self.act(self.gate(y)) * self.up(y))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.GroupNorm(4, 16), nn.Mish())
        self.depth = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Hardswish())
        self.one = Block(16, nn.SiLU())
        self.two = Block(16, nn.GELU(approximate="tanh"))
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 5)
        for name, p in self.named_parameters():
            if name.endswith(("norm.weight", "norm.bias", ".bias", "1.weight", "gamma")):
                nn.init.normal_(p)  # exporters merge equal tensors

    def forward(self, x: Any) -> Any:
        x = self.depth(self.stem(x)).flatten(2).transpose(1, 2)
        x = self.two(self.one(x))
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x.mean(1))


@pytest.fixture(scope="module", params=[(False, 14), (False, 17), (True, 18)], ids=str)
def rows(request: Any, tmp_path_factory: Any) -> tuple[Layer, ...]:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    dynamo, opset = request.param
    if dynamo:
        pytest.importorskip("onnxscript")
    path: Path = tmp_path_factory.mktemp("exported") / "net.onnx"
    training = torch.onnx.TrainingMode.EVAL
    options = {} if dynamo else {"training": training}
    net, x = Net().train(), torch.zeros(2, 3, 16, 16)
    net.eval()
    torch.onnx.export(net, (x,), str(path), dynamo=dynamo, opset_version=opset, verbose=False, **options)
    found, _ = infer(onnx_format.FORMAT.read(path))
    return found


def test_fans_and_activations_are_those_of_the_modules(rows: tuple[Layer, ...]) -> None:
    plain = [one for one in rows if one.fan_in is not None]
    told = [(one.fan_in, one.fan_out, one.activation) for one in plain]
    attention = [one for one in plain if one.fan_in == one.fan_out == 16]
    assert told[:8] == [
        (27, 144, "mish"),
        (9, 9, "hardswish"),
        (16, 32, "silu"),
        (16, 32, None),
        (32, 16, None),
        (16, 32, "gelu"),
        (16, 32, None),
        (32, 16, None),
    ]
    assert told[-1] == (16, 5, None)
    assert sum(max(1, len(one.parts)) for one in attention) == 4  # query, key, value and out, however they are packed
    assert len(plain) == 9 + len(attention)
    assert all(one.evidence is Evidence.TRACED for one in plain)


def test_roles_are_those_of_the_modules(rows: tuple[Layer, ...]) -> None:
    by_role: dict[Role, int] = {}
    for one in rows:
        by_role[one.role] = by_role.get(one.role, 0) + 1
    assert by_role[Role.NORM] == 3
    assert by_role[Role.HEAD] == 1
    assert by_role[Role.BRANCH_END] == 3
    assert by_role[Role.GATE] == 4  # two gate projections, two LayerScales
    assert [one.fan_out for one in rows if one.role is Role.HEAD] == [5]
