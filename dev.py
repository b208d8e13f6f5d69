#!/usr/bin/env python3
"""Set up what the repository needs, then run it. Needs Python 3.11 or newer and git, nothing installed by hand.

python3 dev.py run check fixtures/broken.onnx    any initaudit command, in the repository's own environment
python3 dev.py test [pytest arguments]           lint, types and tests: what CI runs
python3 dev.py lint | type | docs                one part of it; `docs` writes the generated pages again
python3 dev.py bench coverage|speed              a long benchmark (python -m benchmarks.NAME)
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
LEAST = (3, 11)
CODE = ("initaudit", "tests", "fixtures", "benchmarks", "dev.py")


def fail(reason: str) -> None:
    """Stop with one line."""
    sys.exit(f"dev.py: {reason}")


def interpreter() -> str:
    """Return a Python that is new enough: this one if possible."""
    if sys.version_info >= LEAST:
        return sys.executable
    for minor in range(20, LEAST[1] - 1, -1):
        found = shutil.which(f"python3.{minor}")
        if found:
            return found
    fail(f"Python {LEAST[0]}.{LEAST[1]} or newer is needed, this is {sys.version.split()[0]}")
    return ""


def call(*command: str, quiet: bool = False) -> int:
    """Run a command from the repository's root and return its exit code."""
    return subprocess.call(command, cwd=ROOT, stdout=subprocess.DEVNULL if quiet else None)


def environment() -> None:
    """Make .venv, also where the system's Python comes without ensurepip or refuses to be installed into."""
    if PYTHON.exists():
        return
    base = interpreter()
    if subprocess.call([base, "-m", "venv", str(VENV)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
        return
    shutil.rmtree(VENV, ignore_errors=True)
    if call(base, "-m", "venv", "--without-pip", str(VENV)) or call(
        base, "-m", "pip", "--python", str(PYTHON), "install", "--quiet", "pip"
    ):
        shutil.rmtree(VENV, ignore_errors=True)
        fail("no virtual environment could be made: install your system's python3-venv package")


def install(extra: str) -> None:
    """Install the package with its pinned dependencies, once per change of what pins them."""
    environment()
    pins = (ROOT / "constraints.txt").read_text()
    digest = hashlib.sha256((pins + (ROOT / "pyproject.toml").read_text()).encode()).hexdigest()
    stamp = VENV / f".installed-{extra or 'run'}"
    if stamp.exists() and stamp.read_text() == digest:
        return
    pip = (str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", "constraints.txt")
    if extra:  # torch first and by its exact version, so that a CPU build at hand is taken
        torch = re.search(r"^torch==\S+", pins, re.MULTILINE)
        if torch and call(*pip, torch.group()):
            fail("torch could not be installed")
    if call(*pip, "-e", f".[{extra}]" if extra else "."):
        fail("the dependencies could not be installed")
    stamp.write_text(digest)


def lint() -> int:
    """Check style and formatting."""
    return call(str(PYTHON), "-m", "ruff", "check", *CODE) or call(
        str(PYTHON), "-m", "ruff", "format", "--check", *CODE
    )


def types() -> int:
    """Check types."""
    return call(str(PYTHON), "-m", "mypy")


def main() -> int:
    """Do what the command line asks for."""
    word, *rest = sys.argv[1:] or ["help"]
    if word == "run":
        install("")
        return call(str(PYTHON), "-m", "initaudit", *rest)
    if word not in ("test", "lint", "type", "docs", "bench"):
        sys.stdout.write(__doc__ or "")
        return 0 if word in ("help", "-h", "--help") else 2
    install("dev")
    if word == "lint":
        return lint()
    if word == "type":
        return types()
    if word == "docs":
        return call(str(PYTHON), "-m", "docs.generate")
    if word == "bench":
        if not rest or rest[0] not in ("coverage", "speed"):
            fail("bench takes coverage or speed")
        return call(str(PYTHON), "-m", f"benchmarks.{rest[0]}", *rest[1:])
    return lint() or types() or call(str(PYTHON), "-m", "pytest", *rest)


if __name__ == "__main__":
    sys.exit(main())
