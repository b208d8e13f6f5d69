"""Whether training contradicts a claim that is wrong, and none that is right."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import symmetry_zoo as zoo  # noqa: E402
from initaudit import layers, symmetry  # noqa: E402
from initaudit.audit import live  # noqa: E402
from initaudit.symmetry.moving import Moving  # noqa: E402


def net():
    torch.manual_seed(0)
    made = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 2))
    with torch.no_grad():
        for tensor in (made[0].weight, made[0].bias, made[2].weight.T):
            tensor[1] = tensor[0]
    return made, {"input": torch.randn(5, 4)}


def looked_at(change=None):
    """What training says of ties, as told or changed."""
    module, inputs = net()
    model = live(module, dict(inputs))
    found, _ = layers.infer(model)
    told = symmetry.analyse(model.graph, found)
    if change is not None:
        told = replace(told, layers=(replace(told.layers[0], **change), *told.layers[1:]))
    rounding, wrong = zoo.trained(module.double(), zoo.wide(inputs), model.graph, {})
    assert (rounding, wrong) == (1.0, [])
    return zoo.parted(module, zoo.wide(inputs), found, told, rounding)


def test_a_true_tie_stands_and_a_false_one_falls():
    assert looked_at() == (1, 1, [])
    tied, checked, wrong = looked_at({"classes": ((0, 1), (2, 3))})
    assert (tied, checked) == (2, 2)
    assert wrong[0].startswith("0: 1 of 2 ties part")


def test_twins_may_differ_in_sign_and_nothing_else():
    assert looked_at({"classes": (), "twins": ((0, 1),)})[2] == []
    assert looked_at({"classes": (), "twins": ((0, 2),)})[2]
    units = torch.tensor([[1.0, -2.0, 3.0], [-0.5, 1.0, -1.5], [1.0, -2.0, 3.1]])
    assert [zoo._skew(units, (0, k)) > zoo.APART for k in (1, 2)] == [False, True]


def test_what_is_told_silent_and_moves_is_found():
    module, inputs = net()
    model = live(module, dict(inputs))
    name = next(value for value, tensor in model.graph.constants.items() if tensor.name == "0.weight")
    never = Moving(np.zeros((1, 1), np.int8), np.zeros((1, 1), bool), np.ones((1, 1), bool))
    wrong = zoo.trained(module.double(), zoo.wide(inputs), model.graph, {name: never})[1]
    assert [line.split(" (")[0] for line in wrong] == [f"0.weight moves at step {k}" for k in (1, 2, 3)]


def test_a_model_that_computes_in_float32_is_given_its_rounding():
    class Rounds(torch.nn.Linear):
        def forward(self, x):
            return super().forward(x).float().double()

    assert zoo.trained(Rounds(4, 2).double(), {"x": torch.randn(3, 4).double()}, None, {})[0] == zoo.NARROW


@pytest.mark.parametrize(("axes", "shape", "units"), [("oi", (3, 4), 3), ("io", (4, 3), 3), ("sio", (2, 4, 3), 6),
                                                      ("oikk", (3, 4, 2, 2), 3), ("ooo", (1, 1, 5), 5),
                                                      ("", (), 1)])  # fmt: skip
def test_sums_of_rows_are_by_unit(axes, shape, units):
    from tests.build import layer

    values = torch.arange(float(np.prod(shape))).reshape(shape)
    one = layer("w", values.numpy().astype(np.float32), axes=axes, fan_in=None, fan_out=None)
    (sums,) = zoo._sums(one, {"w.weight": values})
    assert len(sums) == units
    assert float(sums.sum()) == float(values.sum())


def test_names_alike_are_told_as_one():
    parts = [("a.0.b1.weight", 1, 4, "(off)"), ("a.1.b1.weight", 2, 4, "(off)"), ("a.0.b2.weight", 3, 4, "")]
    assert zoo._folded(parts) == "a.N.b1.weight (x2) 3 of 8 (off), a.0.b2.weight 3 of 4"
    assert zoo._folded(()) == "-"
