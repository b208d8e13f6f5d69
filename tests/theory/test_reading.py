"""Operations read since they cost whole models: maxima over axes, ratios, tables, and batches of any size."""

from __future__ import annotations

import numpy as np
import pytest

from initaudit.theory.small import evaluated
from initaudit.types import Node
from tests.theory.test_predict import model, normal, rows

WIDE = 64


def test_the_largest_of_positions_is_that_of_normal_numbers():
    w = normal((WIDE, WIDE), WIDE**-0.5, 0)
    nodes = [
        Node("linear", ("x", "a.weight"), ("h",)),
        Node("reduce_max", ("h",), ("g",), {"axes": (1,), "keepdims": 0}),
        Node("gemm", ("g", "b.weight"), ("y",), {"transB": 1}),
    ]
    found, whole = rows(model(nodes, {"a.weight": w, "b.weight": w + 1e-3}, {"x": (8, 16, WIDE)}))
    drawn = np.random.default_rng(1).normal(size=(4000, 16)).max(1)
    assert whole.unread == ()
    moments = float(np.mean(drawn**2))
    assert found["b.weight"].second_moment == pytest.approx(moments, rel=0.3)
    assert found["a.weight"].gradient is not None
    assert found["a.weight"].gradient > 0


def test_a_ratio_by_what_may_be_zero_does_not_explode():
    w = normal((WIDE, WIDE), WIDE**-0.5, 0)
    nodes = [
        Node("gemm", ("x", "a.weight"), ("h",), {"transB": 1}),
        Node("div", ("x", "h"), ("g",)),
        Node("gemm", ("g", "b.weight"), ("y",), {"transB": 1}),
    ]
    found, _ = rows(model(nodes, {"a.weight": w, "b.weight": w + 1e-3}, {"x": (8, WIDE)}))
    assert found["b.weight"].forward_variance < 10


@pytest.mark.parametrize("batch", [1, 2, 64])
def test_batch_norms_do_not_depend_on_the_batch_of_the_trace(batch):
    w = normal((WIDE, WIDE), WIDE**-0.5, 0)
    ones, zeros = np.ones(WIDE, np.float32), np.zeros(WIDE, np.float32)
    nodes = [
        Node("gemm", ("x", "a.weight"), ("h",), {"transB": 1}),
        Node("batch_norm", ("h", "n.weight", "n.bias", "n.mean", "n.var"), ("g",)),
        Node("gemm", ("g", "b.weight"), ("y",), {"transB": 1}),
    ]
    constants = {"a.weight": w, "b.weight": w + 1e-3, "n.weight": ones, "n.bias": zeros, "n.mean": zeros, "n.var": ones}
    one, other = (rows(model(nodes, constants, {"x": (n, WIDE)}))[0]["b.weight"] for n in (batch, 16))
    assert one.forward_variance == pytest.approx(other.forward_variance)
    assert one.gradient == pytest.approx(other.gradient)
    assert one.forward_variance > 0.5


def test_an_absent_bound_is_not_another_one():
    made = evaluated(
        None, Node("clip", ("x", "", "most"), ("y",)), "y", {"x": np.array([1.0, 9.0]), "most": np.array(4.0)}.get, 100
    )  # type: ignore[arg-type]
    assert made is not None
    assert made.tolist() == [1.0, 4.0]


@pytest.mark.parametrize("shape", [(), (1,), (8,)])
def test_a_gate_that_is_scaled_before_it_multiplies_is_a_gate_still(shape):
    torch = pytest.importorskip("torch")
    import initaudit

    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.branch, self.head = (torch.nn.Linear(8, n) for n in (8, 8, 4))
            self.gate = torch.nn.Parameter(torch.zeros(shape))

        def forward(self, x):
            x = self.stem(x)
            return self.head(x + 0.2 * self.gate * torch.relu(self.branch(x)))

    torch.manual_seed(0)
    rows = {m.layer.name: m.predicted for m in initaudit.check(Scaled(), torch.randn(8, 8), probe=False).measured}
    assert rows["gate"].gradient > 0
    assert rows["branch"].behind_gate
