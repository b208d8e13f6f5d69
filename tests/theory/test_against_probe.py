"""Theory against the probe on modules: the same figures without running anything."""

import math

import numpy as np
import pytest

from initaudit import audit, theory

torch = pytest.importorskip("torch")
nn = torch.nn


class Block(nn.Module):
    def __init__(self, channels, norm):
        super().__init__()
        self.one, self.two = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.norm1, self.norm2 = norm(channels), norm(channels)

    def forward(self, x):
        return torch.relu(x + self.norm2(self.two(torch.relu(self.norm1(self.one(x))))))


class Gated(nn.Module):
    """Squeeze and excite."""

    def __init__(self, channels):
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.up(torch.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Scaled(nn.Module):
    """A dense block behind a small factor per channel."""

    def __init__(self, width, factor):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.factor = nn.Parameter(torch.full((width,), factor))

    def forward(self, x):
        return x + self.factor * self.down(nn.functional.gelu(self.up(self.norm(x))))


def head(channels):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def convolution(*shape, **given):
    made = nn.Conv2d(*shape, **given)
    nn.init.kaiming_normal_(made.weight, nonlinearity="relu")
    return made


NETS = {
    "max pool": lambda: nn.Sequential(
        convolution(3, 32, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), convolution(32, 64, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(3, 2, 1), convolution(64, 64, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 25, 10),
    ),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.BatchNorm2d(48), nn.ReLU(), Block(48, nn.BatchNorm2d),
        nn.Conv2d(48, 64, 3, 2, 1), Block(64, nn.BatchNorm2d), head(64),
    ),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.GroupNorm(8, 48), nn.SiLU(), nn.Conv2d(48, 64, 3, 2, 1),
        nn.GroupNorm(8, 64), nn.SiLU(), nn.Conv2d(64, 64, 3, padding=1), nn.GroupNorm(8, 64), nn.SiLU(), head(64),
    ),
    "depthwise and gates": lambda: nn.Sequential(
        convolution(3, 48, 3, 2, 1), nn.BatchNorm2d(48), nn.Hardswish(),
        nn.Conv2d(48, 48, 3, padding=1, groups=48, bias=False), nn.BatchNorm2d(48), nn.Hardswish(), Gated(48),
        nn.Conv2d(48, 64, 1), nn.BatchNorm2d(64), head(64),
    ),
    "transposed": lambda: nn.Sequential(
        nn.Linear(16, 48 * 25), nn.Unflatten(1, (48, 5, 5)), nn.ConvTranspose2d(48, 48, 4, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(48, 24, 4, 2, 1), nn.ReLU(), nn.Conv2d(24, 3, 3, padding=1), nn.Tanh(),
    ),
    "upsampled": lambda: nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(),
        nn.Upsample(scale_factor=2), nn.Conv2d(48, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 4, 1),
    ),
    "layer scale": lambda: nn.Sequential(
        nn.Linear(32, 96), Scaled(96, 1.0), Scaled(96, 1e-4), nn.LayerNorm(96), nn.Linear(96, 10)
    ),
    "gated units": lambda: nn.Sequential(
        nn.Linear(32, 192), nn.GLU(), nn.Linear(96, 96), nn.LayerNorm(96), nn.Linear(96, 192), nn.GLU(),
        nn.Linear(96, 10),
    ),
}  # fmt: skip


def compared(name):
    torch.manual_seed(0)
    net = NETS[name]().eval()
    first = next(m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    x = torch.randn(16, 3, 20, 20) if isinstance(first, nn.Conv2d) else torch.randn(16, first.in_features)
    report = audit.audit_model(audit.live(net, (x,)), probe=True)
    assert not report.probe.why
    assert not report.theory.unread
    return report


def factor(found, wanted):
    if not wanted:
        return 0.0 if not found else math.inf
    return abs(math.log2(found / wanted)) if found else math.inf


@pytest.mark.parametrize("name", NETS)
def test_within_a_factor_two(name):
    report = compared(name)
    off = {field: [] for field in ("forward_variance", "relative_gradient", "contrast")}
    for m in report.measured:
        for field, values in off.items():
            wanted = getattr(m.probed, field)
            if wanted is not None:
                values.append(factor(getattr(m.predicted, field), wanted))
    assert np.mean(np.array(off["forward_variance"]) < 1) >= 0.85
    assert np.mean(np.array(off["relative_gradient"]) < 1) >= 0.85
    assert np.mean(np.array(off["contrast"]) < math.log2(3)) >= 0.75


def test_small_factors_are_gates():
    report = compared("layer scale")
    rows = {m.layer.name: m for m in report.measured}
    for name, m in rows.items():
        assert m.predicted.behind_gate == m.probed.behind_gate == name.startswith("2.") * ("factor" not in name), name
        if m.probed.behind_gate:
            assert factor(m.predicted.open_relative_gradient, m.probed.open_relative_gradient) < 1
            assert factor(m.predicted.gate_gradient, m.probed.gate_gradient) < 1


def test_no_graph_is_too_odd():
    """What is read may be anything: no shapes, loops of names, ops with too few operands, constants without values."""
    from initaudit.types import Graph, Node, Tensor

    def missing():
        raise ValueError

    gone = Tensor("gone", (4, 4), "float32", missing)
    odd = [
        Graph((), {}, (), {}),
        Graph((Node("add", ("x", "x"), ("x",)),), {"x": None}, ("x",), {}),
        Graph((Node("conv", ("x", "gone"), ("y",)), Node("softmax", ("y",), ("z",))), {"x": (None,) * 4}, ("z",),
              {"gone": gone}),
        Graph((Node("layer_norm", ("x",), ("y",), {"axis": 9}), Node("matmul", ("y", "y"), ("z",))), {"x": (2, 3)},
              ("z", "nowhere"), {}),
        Graph((Node("reshape", ("x",), ("y",), {"shape": (-1, -1)}), Node("concat", ("y", ""), ("z",))), {"x": (0, 3)},
              ("z",), {}),
    ]  # fmt: skip
    for graph in odd:
        made = theory.predict(graph, ())
        assert made.by == "theory"
