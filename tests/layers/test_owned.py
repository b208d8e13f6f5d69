"""What is a parameter, and what is a number of a formula."""

from dataclasses import replace

import numpy as np

from initaudit.freedom import Freedom, ParameterFreedom
from initaudit.layers.owned import owned
from initaudit.types import Graph, Skip
from tests.build import he, layer, model, tensor

ONES, ZEROS = np.ones(4, np.float32), np.zeros((4, 4), np.float32)


def names(layers, *asked, source="onnx", skipped=()):
    found = Freedom((), tuple(ParameterFreedom(name, 4, 2, ((2, 4),)) for name in asked))
    whole = replace(model(), graph=Graph((), {}, (), {}), source="" if source == "onnx" else source)
    return [p.name for p in owned(found, whole, layers, skipped).parameters]


def test_in_onnx_only_what_is_part_of_a_layer_is_a_parameter():
    held = layer("fc", he(4, 4), bias=tensor("fc.bias", ONES))
    gate = layer("gate", np.zeros(1, np.float32), kind="parameter", axes="o")
    asked = ("fc.weight", "fc.bias", "gate.weight", "val_12", "/net/Constant_3_output_0", "scale", "grid")
    assert names([held, gate], *asked) == ["fc.weight", "fc.bias", "gate.weight"]


def test_elsewhere_all_is_but_what_is_known_to_be_none():
    skipped = [Skip("grid", "a table", parameter=False), Skip("odd", "not known")]
    assert names([], "scale", "grid", "odd", source="traced", skipped=skipped) == ["scale", "odd"]


def test_ones_and_zeros_that_an_exporter_filled_in_are_none():
    def norm(name, values):
        return layer("norm", values, kind="norm", axes="o", weight=tensor(name, values))

    drawn = he(4, 1).ravel()
    assert names([norm("val_7", ONES)], "val_7") == []
    assert names([norm("val_7", drawn)], "val_7") == ["val_7"]
    assert names([norm("norm.weight", ONES)], "norm.weight") == ["norm.weight"]
    lora = layer("lora_B", ZEROS, weight=tensor("onnx::MatMul_57", ZEROS), bias=tensor("val_8", ZEROS[0]))
    assert names([lora], "onnx::MatMul_57", "val_8") == ["onnx::MatMul_57"]  # a matrix, transposed when exported
