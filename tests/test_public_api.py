import subprocess
import sys
from pathlib import Path

import pytest

import initaudit
from initaudit.errors import UsageError


def test_the_public_names():
    assert sorted(initaudit.__all__) == ["__version__", "check", "fix"]


def test_importing_the_package_imports_nothing_else():
    code = "import sys, initaudit; print({'numpy', 'rich', 'typer', 'torch', 'onnx'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_arguments_that_name_nothing_are_refused():
    fixture = Path(__file__).parent.parent / "fixtures" / "healthy.onnx"
    for path, settings in (
        (object(), {}), (None, {}), (fixture, {"activation": "rellu"}), (fixture, {"jobs": 0}),
        (fixture, {"select": ["INI9"]}), (fixture, {"layers": "nothing"}),
    ):  # fmt: skip
        with pytest.raises(UsageError):
            initaudit.check(path, **settings)


def test_a_report_says_what_it_is():
    report = initaudit.check(Path(__file__).parent.parent / "fixtures" / "broken.onnx", select="INI103", layers="fc*")
    assert report.verdict == "unhealthy"
    assert "unhealthy, 1 findings on 2 weights" in repr(report)
