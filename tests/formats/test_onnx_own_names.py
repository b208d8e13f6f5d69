from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("onnx")

from onnx import helper

from tests.formats.onnx_files import model, read, weights

SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
CALL = "pkg.torch.onnx.fx_node"
TEXT = """
# inputs
p_fc_weight: PARAMETER target='fc.weight'
p_head_weight: PARAMETER target='head.weight'
b_mean: BUFFER target='mean' persistent=True
x: USER_INPUT
"""


def proto(stored: str = "val_1", signature: str = TEXT, call: str = "(args = (%x, %p_fc_weight, %b_mean))"):
    made = model([helper.make_node("MatMul", ["x", stored], ["y"])], {stored: weights()})
    made.graph.metadata_props.add(key=SIGNATURE, value=signature)
    made.graph.node[0].metadata_props.add(key=CALL, value=f"%y : call_function[target=aten.linear]{call}")
    return made


def test_a_node_tells_which_renamed_parameters_it_takes(tmp_path: Path) -> None:
    graph = read(proto(), tmp_path).graph
    assert graph is not None
    assert graph.nodes[0].attrs["@parameters"] == ("fc.weight",)
    assert [tensor.name for tensor in graph.constants.values()] == ["val_1"]


def test_a_parameter_under_its_own_name_is_not_looked_for(tmp_path: Path) -> None:
    graph = read(proto(stored="fc.weight"), tmp_path).graph
    assert graph is not None
    assert "@parameters" not in graph.nodes[0].attrs


@pytest.mark.parametrize(
    ("signature", "call"),
    [("", "(args = (%p_fc_weight))"), (TEXT, ""), (TEXT, "(args = (%p_fc"), ("p: PARAMETER target=", "(args = (%p))")],
)
def test_notes_that_say_nothing(tmp_path: Path, signature: str, call: str) -> None:
    graph = read(proto(signature=signature, call=call), tmp_path).graph
    assert graph is not None
    assert "@parameters" not in graph.nodes[0].attrs
