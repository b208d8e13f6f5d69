"""The lists of what the executor runs are those that it goes by."""

import pytest

from initaudit.ops import OPS, from_onnx
from initaudit.types import Node
from tests.live.test_execute import graph

pytest.importorskip("torch")


def test_each_operation_is_on_one_list_and_the_lists_are_true():
    from initaudit.live.execute import Executor, covered, uncovered

    run, rest = covered(), uncovered()
    assert not set(run) & set(rest)
    assert {name for op in OPS.values() for name in op.onnx} <= {*run, *rest}
    assert {"Conv", "Gemm", "LSTM", "Attention", "If"} <= set(run)
    assert {"Loop", "Scan", "MoE"} <= set(rest)
    for name in rest:
        assert Executor(graph(Node(from_onnx(name), ("x",), ("y",)))).missing, name


def test_a_probe_names_what_stopped_it():
    from initaudit.live.execute import uncovered
    from initaudit.live.probe import probe

    for name in uncovered():
        made = probe(graph(Node(from_onnx(name), ("x",), ("y",))), ())
        assert made.why.startswith(f"it cannot be run: {from_onnx(name)}: "), made.why
