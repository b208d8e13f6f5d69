"""What is a parameter, and what is a number of a formula."""

from dataclasses import replace

import pytest

from initaudit.freedom import Freedom, ParameterFreedom
from initaudit.owned import made_up, owned
from initaudit.types import Graph, Skip
from tests.build import he, layer, model, tensor

MADE_UP = [
    "val_12", "/model/Constant_output_0", "/model/blocks/blocks.0/mlp/act/Constant_2_output_0", "onnx::Mul_12", "37",
    "scalar_tensor_default", "_to_copy_3", "_tensor_constant0", "lifted_tensor_constant1", "model/dense/mul/y:0",
    "const_fold_opt__9", "Const", "clone_1",
]  # fmt: skip
OWN = ["gate", "alpha", "blocks.0.alpha", "gates.0", "resweight", "logit_scale", "net/rezero/scale:0", "zero_gate",
       "constant_gain", "c", "beta1"]  # fmt: skip


@pytest.mark.parametrize("name", MADE_UP)
def test_numbers_of_a_formula_are_known_by_the_names_that_exporters_make_up(name):
    assert made_up(name)


@pytest.mark.parametrize("name", OWN)
def test_a_scalar_parameter_has_a_name_of_its_own(name):
    assert not made_up(name)


def test_only_parameters_are_told():
    names = {"val_1": 1, "val_2": 4, "blocks.0.alpha": 1, "fc.weight": 64, "grid": 9}
    found = Freedom((), tuple(ParameterFreedom(name, size, 2, ((2, size),)) for name, size in names.items()))
    whole = replace(model(), graph=Graph((), {}, (), {}))
    layers, skipped = [layer("fc", he(8, 8))], [Skip("grid", "a table", parameter=False)]
    assert [p.name for p in owned(found, whole, layers, skipped).parameters] == ["val_2", "blocks.0.alpha", "fc.weight"]
    traced = replace(whole, source="traced")  # where every number has its own name
    assert "val_1" in [p.name for p in owned(found, traced, layers, skipped).parameters]
    held = layer("gate", he(1, 1), weight=tensor("val_1", he(1, 1)))
    assert owned(found, whole, [held], skipped).parameters[0].name == "val_1"
