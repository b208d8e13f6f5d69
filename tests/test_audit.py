"""The flow as a whole: coverage, ties, rules that fail, what cannot be measured."""

from dataclasses import replace

import numpy as np
import pytest

from initaudit import audit as flow
from initaudit.errors import CorruptFileError, InitauditError, UsageError
from initaudit.registry import rule
from initaudit.types import Model, Severity, Skip, Tensor
from tests.build import he, tensor


def bare(*tensors: Tensor, **fields: object) -> Model:
    return Model("model.pt", "torch", "state_dict", tensors, **fields)


def test_a_rule_that_fails_is_a_finding_and_the_others_still_speak():
    @rule("INI199", Severity.ERROR)
    def broken(audit):
        """Fails."""
        yield audit.nothing

    zero = bare(tensor("fc1.weight", np.zeros((8, 8), np.float32)), tensor("fc2.weight", he(8, 8)))
    report = flow.audit_model(zero, chosen=(broken, *flow.select(["INI103"])))
    assert report.crashed
    assert {f.rule for f in report.findings} == {"INI001", "INI103"}
    assert "INI199" in next(f.message for f in report.findings if f.rule == "INI001")


def test_ties_count_once_and_buffers_not_at_all():
    w = he(16, 8)
    tied = [tensor(n, w, storage="0") for n in ("embed.weight", "head.weight")]
    report = flow.audit_model(bare(*tied, tensor("mask", np.ones((4, 4), np.float32), buffer=True)))
    assert (report.parameters, report.coverage) == (128, 1.0)


def test_a_tensor_that_cannot_be_read_is_skipped_with_its_reason():
    def fails():
        raise CorruptFileError("its bytes are gone")

    good = tensor("fc1.weight", he(16, 8))
    report = flow.audit_model(bare(good, replace(tensor("fc2.weight", he(16, 8)), load=fails)))
    assert Skip("fc2.weight", "its bytes are gone") in report.skipped
    assert report.coverage == 0.5


def test_nothing_to_audit_is_refused():
    with pytest.raises(InitauditError, match="nothing to audit"):
        flow.audit_model(bare())

    def fails():
        raise CorruptFileError("its bytes are gone")

    with pytest.raises(InitauditError, match=r"among 1 tensors \(fc.weight: its bytes are gone\)"):
        flow.audit_model(bare(replace(tensor("fc.weight", he(16, 8)), load=fails)))


def test_select_takes_codes_prefixes_and_names_and_refuses_others():
    assert [r.code for r in flow.select(["not-finite"])] == ["INI101"]
    assert {r.code for r in flow.select(["ini1"], ["INI104"])} == {"INI101", "INI102", "INI103"}
    for words in (["INI9"], [""], ["nonsense"]):
        with pytest.raises(UsageError, match="no rule is called"):
            flow.select(words)


def test_paths_in_reports_are_never_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flow.shown(tmp_path / "a" / "b.pt") == "a/b.pt"
    assert flow.shown(tmp_path.parent / "b.pt") == "../b.pt"
    assert flow.shown("../b.pt") == "../b.pt"


def test_values_of_any_finite_size_are_measured():
    huge = tensor("fc1.weight", np.random.default_rng(0).random((64, 64)) * 1e160)
    report = flow.audit_model(bare(huge, tensor("fc2.weight", he(64, 64))))
    assert "INI102" in {f.rule for f in report.findings}


def test_names_may_hold_any_digits():
    names = ("²a.weight", "³a.weight", f"{'9' * 3000}.weight")
    assert flow.audit_model(bare(*(tensor(n, he(8, 8, k)) for k, n in enumerate(names)))).coverage == 1.0


def test_a_selection_that_leaves_no_rule_is_refused():
    with pytest.raises(UsageError, match="no rule is left"):
        flow.select(["INI101"], ["INI1"])


def test_clones_are_told_whichever_of_them_is_asked_for():
    w = he(16, 16)
    both = bare(tensor("a.0.weight", w), tensor("a.1.weight", w.copy()))
    for name in ("a.0", "a.1"):
        report = flow.audit_model(both, only=[name])
        assert [f.rule for f in report.findings] == ["INI204"]
        assert report.coverage == 0.5


def test_packed_weights_cost_coverage_and_counters_do_not():
    packed = tensor("fc1.qweight", np.ones((16, 8), np.int32))
    scales = tensor("fc1.scales", np.ones((1, 8), np.float16))
    counter = tensor("bn.num_batches_tracked", np.array(3), buffer=True)
    report = flow.audit_model(bare(packed, scales, counter, tensor("fc2.weight", he(16, 8))))
    assert report.parameters == 16 * 8 * 2
    assert report.coverage == 0.5
