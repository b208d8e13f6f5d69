"""How far a plan goes: as far as theory can tell what comes of it."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import initaudit
from initaudit.repair import searching
from initaudit.repair.foreseen import foresee
from initaudit.repair.planning import plan
from initaudit.types import Audit, Report


def net(depth: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential()
    for k in range(depth):
        made.extend([nn.Linear(24 if k == 0 else 40, 40), nn.ReLU()])
    made.append(nn.Linear(40, 5))
    for module in made:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return made


def checked(module: nn.Module, probe: bool = False) -> Report:
    example = torch.randn(16, 24, generator=torch.Generator().manual_seed(0))
    return initaudit.check(module, example, probe=probe)


def audit(report: Report) -> Audit:
    return Audit(
        report.model, report.measured, report.state, (), report.skipped, report.probe, report.theory, report.risk
    )


@torch.no_grad()
def test_what_is_foreseen_is_what_a_second_audit_says():
    module = net()
    for k in (2, 6):
        module[k].weight.zero_()
    report = checked(module)
    told = plan(report)
    seen = foresee(audit(report), told.recipes)
    assert seen is not None
    assert seen.healthy
    for k in (2, 6):
        nn.init.kaiming_normal_(module[k].weight)
    after = checked(module)
    assert after.risk is not None
    assert seen.value == pytest.approx(after.risk.value, abs=0.01)
    drawn = seen.audit.measured[1].stats
    assert drawn.std == pytest.approx((2 / 40) ** 0.5)
    assert drawn.zeros == 0


def test_without_recipes_nothing_changes():
    report = checked(net())
    seen = foresee(audit(report), ())
    assert seen is not None
    assert report.risk is not None
    assert seen.value == report.risk.value


def test_without_a_graph_nothing_is_foreseen():
    report = checked(net())
    blind = replace(report.model, graph=None)
    assert foresee(replace(audit(report), model=blind), ()) is None


@torch.no_grad()
def test_theory_is_not_asked_where_it_says_something_else_than_the_probe(monkeypatch):
    module = net()
    module[4].weight.zero_()
    report = checked(module, probe=True)
    monkeypatch.setattr(searching, "foresee", lambda audit, recipes: None)
    (recipe,) = plan(report).recipes
    assert recipe.tensor.name == "4.weight"


@torch.no_grad()
def test_where_nothing_is_foreseen_the_textbook_is_drawn(monkeypatch):
    module = net(12)
    for p in module.parameters():
        p.mul_(0.2)
    monkeypatch.setattr(searching, "foresee", lambda audit, recipes: None)
    told = plan(checked(module))
    assert {recipe.scheme for recipe in told.recipes} <= {"orthogonal:gain=1.414", "orthogonal:gain=1.826", "xavier"}


@torch.no_grad()
def test_the_number_of_tries_is_bounded(monkeypatch):
    module = net(12)
    for p in module.parameters():
        p.mul_(0.2)
    tries: list[int] = []

    def hopeless(audit: Audit, recipes: tuple) -> object:
        tries.append(len(recipes))
        seen = foresee(audit, ())
        assert seen is not None
        return seen

    monkeypatch.setattr(searching, "foresee", hopeless)
    monkeypatch.setattr(searching, "_BUDGET", 1)
    told = plan(checked(module))
    assert len(tries) == searching._FEW
    assert len(told.recipes) == tries[0]  # nothing helps: what touches least
    assert "no draw that is known cures INI501" in told.notes[0]
