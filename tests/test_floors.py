"""Imports run downwards only, and reading never needs the heavy packages."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "initaudit"
FLOORS = {
    "errors": 0, "version": 0, "types": 0, "edits": 0, "differences": 0, "freedom": 0, "functions": 0, "quadrature": 0,
    "strides": 0,
    "registry": 1, "torch_ops": 1, "naming": 1, "dtypes": 1, "ops": 1, "activations": 1, "draws": 1,
    "schemes": 1, "grounds": 1, "cures": 1, "symptoms": 1, "ties": 1, "literature": 2, "closed_forms": 2,
    "formats": 2, "graph": 2, "layers": 2, "stats": 2, "laws": 2, "state": 2, "rules": 2, "reporters": 2,
    "live": 3, "names_from": 3, "theory": 3, "risk": 3, "inferred": 3, "symmetry": 3, "signals": 4, "audit": 4,
    "repair": 5, "options": 5, "cli": 6, "__init__": 6, "__main__": 7,
}  # fmt: skip
HEAVY = {"torch", "onnx", "onnxruntime", "safetensors", "scipy", "pickle"}
PEERS = {
    ("layers", "graph"),
    ("laws", "literature"),
    ("laws", "closed_forms"),
    ("state", "laws"),
    ("audit", "signals"),
}  # same floor, one direction


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def part(name: str) -> str:
    """The second component of initaudit.x.y, if that is a part of the package."""
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "initaudit" and len(pieces) > 1 and pieces[1] in FLOORS else ""


def climbs(path: Path) -> list[str]:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    bad = []
    for name in imports(path):
        other = part(name)
        level = FLOORS.get(other, -1)
        level_allowed = (own, other) in PEERS or FLOORS[own] <= 1
        if other != own and (level > FLOORS[own] or (level == FLOORS[own] and not level_allowed)):
            bad.append(f"{own} -> {other}")
    return bad


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_downwards(path):
    assert not climbs(path)


def test_no_module_imports_a_heavy_package_but_what_runs_live_modules():
    for path in PACKAGE.rglob("*.py"):
        if PACKAGE / "live" in path.parents:
            continue
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY, path


def test_the_check_can_fail(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.test_floors.PACKAGE", tmp_path)
    (tmp_path / "types.py").write_text("from initaudit import audit\n")
    assert climbs(tmp_path / "types.py") == ["types -> audit"]
