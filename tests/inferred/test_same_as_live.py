"""The report on a pickled module is that on the live one."""

import random

import pytest

import initaudit
from initaudit.types import Evidence
from tests.inferred.nets import drawn

torch = pytest.importorskip("torch")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("seed", range(14))
def test_the_report_is_that_of_the_live_module(tmp_path, seed):
    torch.manual_seed(seed)
    net = drawn(random.Random(seed))
    torch.save(net, tmp_path / "net.pt")
    told, live = initaudit.check(tmp_path / "net.pt"), initaudit.check(net)
    assert told.model.graph_source == "inferred"
    assert told.model.graph.inputs == live.model.graph.inputs
    assert told.verdict == live.verdict
    assert [(f.rule, f.severity, f.layer, f.message) for f in told.findings] == [
        (f.rule, f.severity, f.layer, f.message) for f in live.findings
    ]
    for ours, theirs in zip(told.measured, live.measured, strict=True):
        a, b = ours.layer, theirs.layer
        assert (a.name, a.kind, a.activation, a.activation_evidence) == (
            b.name, b.kind, b.activation, b.activation_evidence,
        )  # fmt: skip
        assert (a.fan_in, a.fan_out, a.fan_evidence, a.role, a.normed) == (
            b.fan_in, b.fan_out, b.fan_evidence, b.role, b.normed,
        )  # fmt: skip
        assert (a.tags, a.depth, ours.predicted) == (b.tags, b.depth, theirs.predicted)
        assert a.evidence is Evidence.TRACED
