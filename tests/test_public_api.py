import subprocess
import sys

import initaudit


def test_the_public_names():
    assert sorted(initaudit.__all__) == ["__version__", "check"]


def test_importing_the_package_imports_nothing_else():
    code = "import sys, initaudit; print({'numpy', 'rich', 'typer', 'torch', 'onnx'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"
