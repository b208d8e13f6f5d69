"""Small nets for rules that speak of what the graph proves."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

import initaudit
from initaudit.types import Finding, Report

ROWS = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))


def dense(*between: nn.Module, width: int = 64) -> nn.Sequential:
    """Three linear layers and ReLU, with something more after the first."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(16, width), nn.ReLU(), *between, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )


def tied(net: nn.Sequential, *units: int, at: int = 0) -> nn.Sequential:
    """Make units of a linear layer equal in what comes in and what goes out."""
    linear = [m for m in net if isinstance(m, nn.Linear)]
    own, reader = linear[at], linear[at + 1]
    with torch.no_grad():
        for unit in units[1:]:
            own.weight[unit], own.bias[unit] = own.weight[units[0]], own.bias[units[0]]
            reader.weight[:, unit] = reader.weight[:, units[0]]
    return net


def checked(net: nn.Module, *examples: torch.Tensor) -> Report:
    """Return the report on a module without a probe."""
    return initaudit.check(net.eval(), examples or (ROWS,), probe=False)


def told(net: nn.Module, *examples: torch.Tensor, code: str) -> list[Finding]:
    """Return what one rule finds."""
    return [f for f in checked(net, *examples).findings if f.rule == code]


class Branch(nn.Module):
    """x + gate * up(act(down(x))), between two linear layers."""

    def __init__(self, *, gate: float | None = None, names: tuple[str, str] = ("lora_A", "lora_B")) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.base, self.head = nn.Linear(16, 32), nn.Linear(32, 32), nn.Linear(32, 4)
        self.names = names
        self.add_module(names[0], nn.Linear(32, 4, bias=False))
        self.add_module(names[1], nn.Linear(4, 32, bias=False))
        self.gate = None if gate is None else nn.Parameter(torch.tensor([gate]))

    def zeroed(self, *names: str) -> Branch:
        """Set some parameters to zero."""
        for name, p in self.named_parameters():
            if any(name.startswith(one) for one in names):
                nn.init.zeros_(p)
        return self

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.inp(x))
        down, up = (getattr(self, name) for name in self.names)
        branch: Any = up(down(h))
        return self.head(F.relu(self.base(h) + (branch if self.gate is None else self.gate * branch)))
