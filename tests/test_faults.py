"""The ten faults: the same findings in every format, and silence on the healthy and the recognised layers."""

from pathlib import Path

import pytest

import initaudit
from fixtures.make import FAULTS, cnn, mlp
from initaudit.types import Report, Severity

FIXTURES = Path(__file__).parent.parent / "fixtures"
NAMES = {kind: str(2 * k) for k, kind in enumerate(FAULTS)}
WANTED = {
    "zeros": "INI103", "constant": "INI104", "copied": "INI201", "tiny": "INI301", "huge": "INI301",
    "rank_one": "INI203", "sparse": "INI202", "nan": "INI101",
}  # fmt: skip


@pytest.fixture(scope="module", params=["onnx", "pt", "safetensors"])
def report(request) -> Report:
    return initaudit.check(FIXTURES / f"faults.{request.param}")


def test_each_fault_is_named(report):
    found = {(f.layer, f.rule) for f in report.findings}
    for kind, rule in WANTED.items():
        assert (NAMES[kind], rule) in found, kind


def test_no_warning_on_a_healthy_or_recognised_layer(report):
    grave = {f.layer for f in report.findings if f.severity >= Severity.WARNING}
    assert not grave & {NAMES[k] for k in ("he", "torch_default", "identity", "sparse", "he2")}


def test_every_format_says_the_same_of_the_values():
    values = {"select": ("INI1", "INI2", "INI3"), "ignore": ("INI205", "INI206")}  # the rest takes a graph
    said = [
        {(f.layer, f.rule) for f in initaudit.check(FIXTURES / f"faults.{suffix}", **values).findings}
        for suffix in ("onnx", "pt", "safetensors")
    ]
    assert said[0] == said[1] == said[2]


def test_the_fixtures_are_what_make_writes():
    from safetensors.numpy import load_file

    stored = load_file(FIXTURES / "faults.safetensors")
    for name, values in mlp().items():
        assert stored[name].tobytes() == values.tobytes()
    assert set(cnn(broken=True)) == set(cnn(broken=False))
