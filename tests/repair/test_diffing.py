from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from initaudit.errors import ReadError
from initaudit.repair import diffing
from initaudit.repair.diffing import diff
from tests.build import he

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"


def saved(path: Path, **tensors) -> str:
    torch.save({name.replace("__", "."): value for name, value in tensors.items()}, path)
    return str(path)


def weights(**changes):
    base = {"a__weight": torch.tensor(he(8, 4)), "a__bias": torch.zeros(8), "b__weight": torch.tensor(he(4, 8, 1))}
    return {**base, **changes}


def test_the_same_values_in_three_formats_are_equal():
    for one, other in (("faults.pt", "faults.onnx"), ("faults.onnx", "faults.safetensors")):
        found = diff(FIXTURES / one, FIXTURES / other)
        assert not found.differs
        assert found.equal == 26


def test_a_changed_tensor_is_told_with_share_largest_difference_and_both_std(tmp_path):
    values = torch.tensor(he(4, 8, 1))
    values[0, :4] += 0.5
    found = diff(saved(tmp_path / "a.pt", **weights()), saved(tmp_path / "b.pt", **weights(b__weight=values)))
    (one,) = found.changed
    assert found.differs
    assert found.equal == 2
    assert (one.name, one.share) == ("b.weight", 4 / 32)
    assert one.largest == pytest.approx(0.5, rel=1e-6)
    assert one.stds == pytest.approx((float(he(4, 8, 1).std()), float(values.numpy().std())))


def test_nan_equals_nan_and_nothing_else(tmp_path):
    holed = torch.tensor(he(4, 8, 1))
    holed[1, 1] = torch.nan
    a, b = saved(tmp_path / "a.pt", **weights(b__weight=holed)), saved(tmp_path / "b.pt", **weights())
    assert not diff(a, a).differs
    (one,) = diff(a, b).changed
    assert (one.share, one.largest) == (1 / 32, None)
    assert (one.nans, one.nonfinite) == ((1, 0), (1, 0))
    holed[2] = torch.inf
    (one,) = diff(b, saved(tmp_path / "c.pt", **weights(b__weight=holed))).changed
    assert (one.nans, one.nonfinite) == ((0, 1), (0, 9))


def test_added_removed_shape_and_type_are_told_apart(tmp_path):
    a = saved(tmp_path / "a.pt", **weights(old=torch.ones(3)))
    b = saved(
        tmp_path / "b.pt", **weights(new=torch.ones(2), a__bias=torch.zeros(8).half(), b__weight=torch.ones(4, 9))
    )
    found = diff(a, b)
    assert [t.name for t in found.removed] == ["old"]
    assert [t.name for t in found.added] == ["new"]
    assert [(r.name, r.shapes) for r in found.reshaped] == [("b.weight", ((4, 8), (4, 9)))]
    (typed,) = found.changed
    assert (typed.dtypes, typed.values) == (("float32", "float16"), False)


def test_a_weight_that_lies_turned_and_renamed_in_a_graph_is_found(tmp_path):
    w = he(8, 4)
    node = helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["y"], name="/fc/MatMul")
    bias = helper.make_node("Add", ["y", "fc.bias"], ["z"], name="/fc/Add")
    graph = helper.make_graph(
        [node, bias], "net", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 8])],
        [numpy_helper.from_array(np.ascontiguousarray(w.T), "onnx::MatMul_7"),
         numpy_helper.from_array(np.zeros(8, np.float32), "fc.bias")],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    pt = saved(tmp_path / "net.pt", fc__weight=torch.tensor(w), fc__bias=torch.zeros(8))
    found = diff(pt, tmp_path / "net.onnx")
    assert not found.differs
    assert found.equal == 2


def test_findings_that_appeared_and_went_are_told():
    found = diff(FIXTURES / "broken.onnx", FIXTURES / "healthy.onnx")
    assert {f.rule for f in found.gone} >= {"INI101", "INI103", "INI104", "INI201"}
    assert found.appeared == ()


def test_a_model_in_which_nothing_can_be_judged_is_compared_all_the_same(tmp_path):
    a = saved(tmp_path / "a.pt", step=torch.tensor(3))
    b = saved(tmp_path / "b.pt", step=torch.tensor(4))
    found = diff(a, b)
    assert found.reports == (None, None)
    assert [one.name for one in found.changed] == ["step"]


def test_large_tensors_are_compared_in_pieces(monkeypatch, tmp_path):
    monkeypatch.setattr(diffing, "_BLOCK", 7)
    values = torch.tensor(he(4, 8, 1))
    values[3, 7] += 1
    found = diff(saved(tmp_path / "a.pt", **weights()), saved(tmp_path / "b.pt", **weights(b__weight=values)))
    (one,) = found.changed
    assert one.share == 1 / 32
    assert one.stds == pytest.approx((float(he(4, 8, 1).std()), float(values.numpy().std())))


def test_what_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(ReadError):
        diff(FIXTURES / "faults.pt", tmp_path / "nothing.pt")
