"""The false alarm benchmark can fail, and keeps what the first audit of a held-out model said."""

import pytest

from benchmarks import false_alarms_report as report


def finding(severity="warning", layer="a", also=(), rule="INI204"):
    return {
        "rule": rule, "name": "equal-layers", "severity": severity, "layer": layer, "also": list(also), "message": "m"
    }  # fmt: skip


def model(*findings, name="transformer_encoder", held_out=False, layers=1000, crashed=False, failed=None):
    way = {
        "layers": layers, "findings": list(findings), "crashed": crashed, "risk": 0.1, "probe": "", "symptoms": []
    }  # fmt: skip
    return {
        "name": name, "library": "torch", "held_out": held_out, "failed": failed or {},
        "ways": {} if failed else {"probe": way},
    }  # fmt: skip


def told(*models):
    return report.whole(models, {})


def test_silence_and_a_warning_with_a_reason_pass():
    assert report.verdict(told(model())) == 0
    assert report.verdict(told(model(finding()))) == 0


@pytest.mark.parametrize(
    "bad",
    [
        model(finding("error")),
        model(finding(rule="INI503")),  # no reason is written for it
        model(finding(), name="resnet18"),
        model(finding(also=[f"b{k}" for k in range(9)]), layers=999),
        model(crashed=True),
        model(failed={"all": "audit: exit 1"}),
    ],
)
def test_what_must_not_be_fails(bad):
    assert report.verdict(told(bad)) == 1


def test_a_warning_counts_for_every_layer_that_it_names():
    page = report.summary(told(model(finding(also=["a", "b", "c"]), finding(layer="c"))))
    assert "2 warnings on 3 layers (0.30 %)" in page


def test_the_first_look_stays_as_it_was():
    first = told(model(finding("error"), name="new", held_out=True))
    later = report.whole([model(name="new", held_out=True)], first["first looks"])
    assert later["first looks"]["new"]["probe"]["errors"] == 1
    assert "1 models, 1000 layers, 1 errors" in report.render(later)
    assert not told(model(name="resnet18"))["first looks"]


def test_the_page_names_what_failed():
    page = report.render(told(model(failed={"all": "audit: more than 600 s"}), model(finding())))
    assert "audit: more than 600 s" in page
    assert "deep-copy the layer" in page
