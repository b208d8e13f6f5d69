"""Helpers: TorchScript archives with members changed."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from initaudit import formats
from initaudit.types import Model, Node


def save(module: Any, path: Path) -> Path:
    import torch

    torch.jit.save(module, str(path))
    return path


def scripted(module: Any, folder: Path) -> Model:
    import torch

    return formats.read(save(torch.jit.script(module), folder / "scripted.pt"))


def traced(module: Any, folder: Path, *inputs: Any) -> Model:
    torch: Any = importlib.import_module("torch")
    return formats.read(save(torch.jit.trace(module, inputs, check_trace=False), folder / "traced.pt"))


def changed(path: Path, members: Mapping[str, str | bytes], *, packed: bool = False) -> Path:
    """Write an archive again with other contents of the members whose names hold this."""
    out = path.with_name(f"changed_{path.name}")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else 0) as new:
        for name in old.namelist():
            other = [content for part, content in members.items() if part in name and "debug" not in name]
            new.writestr(name, other[0] if other else old.read(name))
    return out


def with_forward(body: str, folder: Path, *, more: str = "", arguments: str = "x: Tensor") -> Model:
    """Return the model of an archive with two linear layers, a and b, and this forward; HERE is its own module."""
    torch: Any = importlib.import_module("torch")

    class Net(torch.nn.Module):  # type: ignore[misc]
        """Two layers."""

        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(4, 4)
            self.b = torch.nn.Linear(4, 4)

        def forward(self, x):  # type: ignore[no-untyped-def]
            return self.b(self.a(x))

    path = save(torch.jit.script(Net()), folder / "net.pt")
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".py") and b"class Net" in archive.read(n))
        text = archive.read(name).decode()
    head = text[: text.index("  def forward")]
    here = name[name.index("__torch__") : -len(".py")].replace("/", ".")
    body = body.replace("HERE", here)
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    source = (
        f"{head}  def forward(self: Net,\n    {arguments}) -> Tensor:\n    a = self.a\n    b = self.b\n{lines}{more}"
    )
    return formats.read(changed(path, {name: source}))


def ops(model: Model) -> list[str]:
    assert model.graph is not None, why(model)
    return [node.op for node in model.graph.nodes]


def nodes(model: Model, op: str) -> list[Node]:
    assert model.graph is not None, why(model)
    return [node for node in model.graph.nodes if node.op == op]


def why(model: Model) -> str:
    """Return why there is no graph."""
    return "; ".join(skip.why for skip in model.skipped if skip.name == "forward")
