from dataclasses import replace

import numpy as np
import pytest

from initaudit.reporters.curing import command, remedy
from initaudit.types import Finding, Report, Severity, State
from tests.build import he, layer, report


def healthy(**fields) -> Report:
    return replace(report(layer("fc", he(8, 8))), **fields)


def finding(rule: str = "INI103", severity: Severity = Severity.ERROR, words: str = "") -> Finding:
    return Finding(rule, "name", severity, "message", layer="fc", remedy=words)


def test_what_drawing_again_cures_has_the_command_and_the_words_behind_it():
    whole = healthy(given="my net.onnx")
    assert command(finding(), whole) == "initaudit fix 'my net.onnx'"
    assert remedy(finding(words="kaiming_normal_(w)"), whole) == (
        "initaudit fix 'my net.onnx'; or by hand: kaiming_normal_(w)"
    )


def test_options_that_say_what_the_model_is_go_with_it():
    assert command(finding(), healthy(given="a.pt", options="--arch timm:resnet18")).endswith(
        "a.pt --arch timm:resnet18"
    )


@pytest.mark.parametrize("path", ["-q", "--all", "-a b", "$(rm x)", "a;b", "ü b"])
def test_a_hostile_path_is_no_option_and_no_command(path):
    import shlex

    words = shlex.split(command(finding(), healthy(given=path)))
    assert words[:2] == ["initaudit", "fix"]
    assert words[2].removeprefix("./") == path
    assert not words[2].startswith("-")


def test_infos_other_faults_and_trained_models_have_none():
    assert command(finding(severity=Severity.INFO), healthy()) == ""
    assert command(finding(rule="INI401"), healthy()) == ""
    assert command(finding(), healthy(state=State.TRAINED)) == ""
    assert remedy(finding(rule="INI401", words="load the right one"), healthy()) == "load the right one"


def test_a_live_module_has_the_call():
    whole = healthy()
    assert command(finding(), replace(whole, model=replace(whole.model, format="module"))) == "initaudit.fix(model)"


def test_the_rules_that_name_a_command_are_found_in_a_report():
    whole = replace(report(layer("fc", np.zeros((8, 8), np.float32))), given="net.onnx")
    assert [command(f, whole) for f in whole.findings if f.severity is Severity.ERROR] == ["initaudit fix net.onnx"]
