"""Theory against networks of numpy: forward and backward written out, many inputs, unit cotangents."""

import numpy as np
import pytest

from initaudit import audit
from initaudit.theory.predicted import excess
from initaudit.types import Graph, Model, Node, Tensor

WIDE = 200


def tensor(name, values):
    values = np.asarray(values, np.float32)
    return Tensor(name, values.shape, "float32", lambda: values)


def model(nodes, constants, inputs, outputs=("y",), shapes=None):
    held = {name: tensor(name, values) for name, values in constants.items()}
    graph = Graph(tuple(nodes), inputs, tuple(outputs), held, shapes or {})
    return Model("net.onnx", "onnx", "", tuple(held.values()), graph)


def rows(made):
    report = audit.audit_model(made)
    return {m.layer.weight.name: m.predicted for m in report.measured}, report.theory


def dense(weights, act, biases=None):
    """Return the model of dense layers with an activation between."""
    nodes, constants, name = [], {}, "x"
    for k, w in enumerate(weights):
        last = k == len(weights) - 1
        out = "y" if last else f"h{k}"
        operands = [name, f"{k}.weight"]
        constants[f"{k}.weight"] = w
        if biases is not None:
            constants[f"{k}.bias"] = biases[k]
            operands.append(f"{k}.bias")
        nodes.append(Node("gemm", tuple(operands), (out,), {"transB": 1}))
        if not last:
            nodes.append(Node(act, (out,), (f"a{k}",)))
        name = f"a{k}"
    return model(nodes, constants, {"x": (16, weights[0].shape[1])})


FUNCTIONS = {
    "relu": (lambda x: np.maximum(x, 0), lambda x: (x > 0) * 1.0),
    "tanh": (np.tanh, lambda x: 1 - np.tanh(x) ** 2),
    "sigmoid": (lambda x: 1 / (1 + np.exp(-x)), lambda x: np.exp(-x) / (1 + np.exp(-x)) ** 2),
}


def measured(weights, act, biases=None, inputs=64, seed=0):
    """Return variance across inputs, gradient, common and contrast of each layer, averaged over cotangents."""
    f, df = FUNCTIONS[act]
    random = np.random.default_rng(1000 + seed)
    x = random.normal(size=(inputs, weights[0].shape[1]))
    before, after = [], [x]
    for k, w in enumerate(weights):
        before.append(after[-1] @ w.T + (biases[k] if biases is not None else 0.0))
        after.append(f(before[-1]))
    out = [[h.var(0, ddof=1).mean(), 0.0, 0.0] for h in before]
    draws = 8
    for _ in range(draws):
        u = random.normal(size=weights[-1].shape[0])
        d = np.tile(u / np.linalg.norm(u), (inputs, 1))
        for k in range(len(weights) - 1, -1, -1):
            gram = (d @ d.T) * (after[k] @ after[k].T)
            same, whole = np.trace(gram) / inputs, gram.sum()
            cross = (whole - np.trace(gram)) / inputs / (inputs - 1)
            out[k][1] += same / draws
            out[k][2] += (same - cross) / draws
            if k:
                d = (d @ weights[k]) * df(before[k - 1])
    return out


def close(found, wanted):
    """One draw of a network of this width lies within a factor 2 of what all have on the mean."""
    return wanted / 2 < found < wanted * 2


def normal(shape, std, seed):
    return np.random.default_rng(seed).normal(size=shape) * std


@pytest.mark.parametrize(
    ("act", "gain", "depth"),
    [("relu", 2.0, 6), ("relu", 0.4, 12), ("tanh", 1.0, 6), ("tanh", 9.0, 4), ("sigmoid", 1.0, 5)],
)
def test_dense_layers(act, gain, depth):
    weights = [normal((WIDE, WIDE), (gain / WIDE) ** 0.5, k) for k in range(depth)]
    found, whole = rows(dense(weights, act))
    assert not whole.unread
    for k, (variance, square, apart) in enumerate(measured(weights, act)):
        row = found[f"{k}.weight"]
        assert close(row.forward_variance, variance)
        assert close(row.gradient**2, square)
        assert close(row.contrast, apart)


def test_biases_bring_inputs_together():
    weights = [normal((WIDE, WIDE), (1 / 3 / WIDE) ** 0.5, k) for k in range(8)]
    biases = [normal(WIDE, (1 / 3 / WIDE) ** 0.5, 100 + k) for k in range(8)]
    found, _ = rows(dense(weights, "tanh", biases))
    for k, (variance, square, _) in enumerate(measured(weights, "tanh", biases)):
        assert found[f"{k}.weight"].forward_variance == pytest.approx(variance, rel=0.5)
        assert found[f"{k}.weight"].gradient ** 2 == pytest.approx(square, rel=0.5)
    assert found["7.weight"].input_correlation > 0.5 > found["0.weight"].input_correlation


def test_thirty_decades_are_no_rounding_error():
    weights = [normal((WIDE, WIDE), (0.02 / WIDE) ** 0.5, k) for k in range(14)]
    biases = [np.full(WIDE, 0.1) for _ in range(14)]
    found, _ = rows(dense(weights, "sigmoid", biases))
    last = found["13.weight"]
    factor = found["13.weight"].forward_variance / found["12.weight"].forward_variance
    assert 1e-4 < factor < 2e-3  # 0.02 of the variance, times the square of a sigmoid's slope, about 1/16
    assert last.forward_variance < 1e-30
    assert 0 < last.contrast < 1e-10 * last.common


def test_a_constant_weight_makes_units_alike():
    constant = [np.full((WIDE, WIDE), 0.05) for _ in range(3)]
    found, _ = rows(dense(constant, "relu"))
    # All units are one: the variance of a sum of 200 inputs, not that of 200 random signs.
    assert found["0.weight"].forward_variance == pytest.approx(WIDE * 0.05**2, rel=0.2)
    assert found["1.weight"].forward_variance > 20 * found["0.weight"].forward_variance
    assert found["1.weight"].tied == 1.0
    mixed = [normal((WIDE, WIDE), (2 / WIDE) ** 0.5, k) for k in range(3)]
    mixed[1] = np.tile(mixed[1][: WIDE // 2], (2, 1))
    found, _ = rows(dense(mixed, "relu"))
    assert found["1.weight"].tied == 0.0  # what comes back differs from unit to unit


def test_dead_units():
    weights = [normal((WIDE, WIDE), (2 / WIDE) ** 0.5, k) for k in range(2)]
    found, _ = rows(dense(weights, "relu", [np.full(WIDE, -8.0), np.zeros(WIDE)]))
    assert found["0.weight"].dead > 0.9
    found, _ = rows(dense(weights, "relu", [np.zeros(WIDE), np.zeros(WIDE)]))
    assert found["0.weight"].dead < 0.01


def test_saturated_units():
    weights = [normal((WIDE, WIDE), 1 / WIDE**0.5, k) for k in range(2)]
    found, _ = rows(dense(weights, "tanh", [np.full(WIDE, 6.0), np.zeros(WIDE)]))
    assert found["0.weight"].saturated > 0.9
    found, _ = rows(dense(weights, "tanh"))
    assert found["0.weight"].saturated < 0.1


def test_a_zero_branch_sleeps_and_is_told_as_it_would_be_open():
    first, last, head = normal((64, 64), 0.18, 0), np.zeros((64, 64)), normal((10, 64), 0.12, 1)
    nodes = [
        Node("gemm", ("x", "first.weight"), ("h",), {"transB": 1}),
        Node("relu", ("h",), ("a",)),
        Node("gemm", ("a", "last.weight"), ("b",), {"transB": 1}),
        Node("add", ("x", "b"), ("s",)),
        Node("gemm", ("s", "head.weight"), ("y",), {"transB": 1}),
    ]
    constants = {"first.weight": first, "last.weight": last, "head.weight": head}
    found, _ = rows(model(nodes, constants, {"x": (8, 64)}))
    sleeper = found["first.weight"]
    assert sleeper.behind_gate
    assert sleeper.gate == "last.weight"
    assert sleeper.gradient == 0
    assert sleeper.gate_gradient > 1e-3
    assert sleeper.open_relative_gradient > 1e-3
    assert not found["head.weight"].behind_gate


def test_an_operation_that_nobody_knows_is_told_and_costs_no_more_than_itself():
    w = normal((64, 64), 0.1, 0)
    nodes = [
        Node("gemm", ("x", "a.weight"), ("h",), {"transB": 1}),
        Node("some_new_thing", ("h",), ("g",)),
        Node("gemm", ("g", "b.weight"), ("y",), {"transB": 1}),
    ]
    found, whole = rows(model(nodes, {"a.weight": w, "b.weight": w + 1e-3}, {"x": (8, 64)}))
    assert whole.unread == ("some_new_thing",)
    assert found["a.weight"].forward_variance is not None
    assert found["a.weight"].gradient == pytest.approx(6.4, rel=0.1)  # as if it were not there
    assert found["b.weight"].forward_variance == pytest.approx(0.4, rel=0.1)
    assert found["b.weight"].gradient is not None


def test_nothing_is_told_of_the_weights_of_an_operation_that_nobody_knows():
    w = normal((64, 64), 0.1, 0)
    nodes = [
        Node("gemm", ("x", "a.weight"), ("h",), {"transB": 1}),
        Node("conv", ("h", "b.weight"), ("y",)),  # of no image
    ]
    found, whole = rows(model(nodes, {"a.weight": w, "b.weight": w + 1e-3}, {"x": (8, 64)}))
    assert whole.unread == ("conv",)
    assert found["a.weight"].gradient is not None
    assert "b.weight" not in found or found["b.weight"].gradient is None


def test_the_head_tells_the_loss():
    weights = [normal((WIDE, WIDE), (2 / WIDE) ** 0.5, 0), normal((10, WIDE), (18 / WIDE) ** 0.5, 1)]
    _, whole = rows(dense(weights, "relu"))
    random = np.random.default_rng(5)
    hidden = np.maximum(random.normal(size=(400, WIDE)) @ weights[0].T, 0)
    logits = hidden @ (random.normal(size=(20, 10, WIDE)) * (18 / WIDE) ** 0.5).transpose(0, 2, 1)
    loss = np.log(np.exp(logits).sum(-1)) - logits.mean(-1) - np.log(10)
    assert whole.heads[0].excess_loss == pytest.approx(loss.mean(), rel=0.15)


@pytest.mark.parametrize(("classes", "deviation"), [(2, 1.0), (10, 0.1), (10, 5.0), (1000, 1.0), (1000, 8.0)])
def test_loss_of_normal_logits(classes, deviation):
    z = np.random.default_rng(0).normal(size=(4000, classes)) * deviation
    loss = np.log(np.exp(z).sum(1)) - z.mean(1) - np.log(classes)
    assert excess(deviation**2, classes) == pytest.approx(loss.mean(), rel=0.2)


def test_the_same_twice():
    weights = [normal((64, 64), 0.1, k) for k in range(3)]
    one, other = (audit.audit_model(dense(weights, "gelu")).theory for _ in range(2))
    assert one == other


def test_a_table_computed_from_a_parameter_has_its_real_values():
    """exp(-exp(a)) is below 1, however far a reaches; counted as normal step by step it would be astronomical."""
    rng = np.random.default_rng(0)
    first, second = (rng.standard_normal((WIDE, WIDE)) / WIDE**0.5 for _ in range(2))
    made, theory = rows(
        model(
            [
                Node("matmul", ("x", "w1"), ("h",)),
                Node("exp", ("a",), ("e",)),
                Node("neg", ("e",), ("n",)),
                Node("exp", ("n",), ("decay",)),
                Node("mul", ("h", "decay"), ("g",)),
                Node("matmul", ("g", "w2"), ("y",)),
            ],
            {"w1": first, "w2": second, "a": np.log(np.linspace(1, 16, WIDE))},
            {"x": (8, WIDE)},
        )
    )
    decay = np.exp(-np.linspace(1, 16, WIDE))
    assert not theory.unread
    assert made["w2"].forward_variance == pytest.approx(float(np.mean(decay**2)), rel=0.5)
