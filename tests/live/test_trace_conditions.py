"""Where a pass depends on values it is recorded both ways, and what differs is told with less evidence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from initaudit import layers
from initaudit.errors import UnsupportedError
from initaudit.live import model, trace
from initaudit.live.compared import Number
from initaudit.live.match import match
from initaudit.live.passes import run
from initaudit.types import Evidence, Layer, Model, Role
from tests.live.test_trace import Made, X, calls, reading, traced

F = nn.functional


def read(forward: Any, *parts: str, example: Any = None) -> tuple[Model, dict[str, Layer]]:
    made = Made(forward, **{name: nn.Linear(4, 4) for name in parts})
    found = model.read(made, torch.randn(2, 4) if example is None else example)
    return found, {row.name: row for row in layers.infer(found)[0]}


def _guarded(m: Any, x: Any) -> Any:
    h = m.a(x)
    if h.abs().max() > 1e4:
        h = torch.tanh(h)
    return m.o(F.relu(h))


def _guarded_by_number(m: Any, x: Any) -> Any:
    h = m.a(x)
    if 2 * h.abs().max().item() > 1e4:
        h = torch.tanh(h)
    return m.o(F.relu(h))


def _guarded_by_any(m: Any, x: Any) -> Any:
    h = m.a(x)
    h = torch.tanh(h) if any(row.isinf().any() for row in h) else h
    return m.o(F.relu(h))


@pytest.mark.parametrize("forward", [_guarded, _guarded_by_number, _guarded_by_any])
def test_a_guard_against_what_is_rare_is_not_taken_but_told(forward: Any) -> None:
    found, rows = read(forward, "a", "o")
    assert (rows["a"].activation, rows["a"].activation_evidence) == ("relu", Evidence.NAMED)
    assert "a condition on values decides: what follows is relu or tanh" in rows["a"].reasons
    assert rows["o"].activation_evidence is Evidence.TRACED
    assert "depends on values" in found.detail
    assert any("conditions on them are taken as not met" in skip.why for skip in found.skipped)


def test_a_checkpoint_is_read_both_ways() -> None:
    found, _ = read(_guarded, "a", "o")
    other = Model("file", "torch", "", found.tensors)
    rows = {row.name: row for row in layers.infer(match(other, found, "it"))[0]}
    assert (rows["a"].activation, rows["a"].activation_evidence) == ("relu", Evidence.NAMED)


def _by_tensor(change: torch.Tensor) -> bool:
    return bool(change.norm() < 1e-3)


def _by_item(change: torch.Tensor) -> bool:
    return bool(change.norm().item() < 1e-3)


def _by_float(change: torch.Tensor) -> bool:
    return float(change.norm()) < 1e-3


def _by_all(change: torch.Tensor) -> bool:
    return all((row.abs() < 1e-3).all() for row in change)


@pytest.mark.parametrize("settled", [_by_tensor, _by_item, _by_float, _by_all])
def test_a_loop_to_a_fixed_point_goes_on(settled: Any) -> None:
    def forward(m: Any, x: Any) -> Any:
        z, b = torch.zeros_like(x), m.u(x)
        for _ in range(5):
            new = torch.tanh(m.a(z) + b)
            if settled(new - z):
                break
            z = new
        return m.o(z)

    found, rows = read(forward, "a", "u", "o")
    assert found.graph is not None
    assert len([n for n in found.graph.nodes if "a.weight" in n.inputs]) == 5
    assert rows["a"].activation == rows["u"].activation == "tanh"
    assert rows["u"].role_evidence < Evidence.TRACED


def test_the_way_that_reads_more_is_taken() -> None:
    def forward(m: Any, x: Any) -> Any:
        h = F.relu(m.a(x))
        if h.mean().item() > 0.5:  # a second block, met
            h = torch.tanh(m.b(h))
        return m.o(h)

    found, rows = read(forward, "a", "b", "o")
    assert rows["b"].activation == "tanh"
    assert rows["a"].activation_evidence is Evidence.TRACED, "relu follows either way"
    assert any("as met, which uses more parameters" in skip.why for skip in found.skipped)


def test_whoever_asks_nothing_pays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[Any] = []

    def counted(*args: Any) -> Any:
        passes.append(args)
        return run(*args)

    monkeypatch.setattr(trace, "run", counted)
    traced(Made(lambda m, x: m.a(x), a=nn.Linear(4, 4)))
    assert len(passes) == 1
    done = traced(Made(lambda m, x: m.a(x) if torch.ones(2).all() else x, a=nn.Linear(4, 4)))  # a constant
    assert (len(passes), done.other, done.notes) == (2, (), ())
    done = traced(Made(lambda m, x: (x.isnan().any() and 2, m.a(x))[1], a=nn.Linear(4, 4)))  # nothing hangs on it
    assert (len(passes), done.other, done.notes) == (4, (), ())


def test_a_check_of_values_stops_one_way_only() -> None:
    def forward(m: Any, x: Any) -> Any:
        h = m.a(x)
        if h.isnan().any():
            raise ValueError("diverged")
        rate = h.sigmoid().mean().item()
        if not 0 <= rate <= 1:
            raise ValueError("no rate")
        return m.o(h * rate)

    done = traced(Made(forward, a=nn.Linear(4, 4), o=nn.Linear(4, 4)))
    assert done.how == "fake"
    assert calls(done) == ["linear", "mul", "linear"]


def _until_small(m: Any, x: Any) -> Any:
    while float(x.norm()) > 1e-3:
        x = m.a(x)
    return m.o(x)


def _until_large(m: Any, x: Any) -> Any:
    while float(x.norm()) < 100:
        x = m.a(x)
    return m.o(x)


def _while_number(m: Any, x: Any) -> Any:
    error = math.inf
    while error > 1e-3:
        x = m.a(x)
        error = x.norm().item() / 2
    return m.o(x)


@pytest.mark.parametrize("forward", [_until_small, _until_large, _while_number])
def test_every_loop_ends(forward: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initaudit.live.answers.MOST_ALIKE", 10)
    done = traced(Made(forward, a=nn.Linear(4, 4), o=nn.Linear(4, 4)))
    assert 1 <= len(reading(done, "a.weight")) <= 13
    assert done.read == {"a.weight", "a.bias", "o.weight", "o.bias"}


def test_a_long_loop_ends_sooner() -> None:
    def forward(m: Any, x: Any) -> Any:
        while not (x > 0).all():
            for _ in range(40):
                x = m.a(x)
        return x

    assert (
        len(reading(traced(Made(forward, a=nn.Linear(4, 4))), "a.weight")) == (1 + 32) * 40
    )  # the first reads what was not read before


def test_a_loop_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def forward(m: Any, x: Any) -> Any:
        while float(x.norm()) != 3.5:
            x = m.a(x)
        return x

    monkeypatch.setattr("initaudit.live.answers.MOST_ALIKE", 10)
    monkeypatch.setattr("initaudit.live.answers._MOST_ASKED", 50)
    monkeypatch.setattr("initaudit.live.recorder.MOST_REAL_CALLS", 50)
    with pytest.raises(UnsupportedError, match="does not come to an end"):
        traced(Made(forward, a=nn.Linear(4, 4)))


def test_many_experts_are_all_read() -> None:
    def forward(m: Any, x: Any) -> Any:
        counts = torch.bincount(m.gate(x).argmax(-1), minlength=60)
        out = torch.zeros_like(x)
        for expert, count in zip(m.experts, counts, strict=True):
            if count == 0:
                continue
            out = out + expert(x)
        return out

    experts = nn.ModuleList(nn.Sequential(*(nn.Linear(4, 4) for _ in range(20))) for _ in range(60))
    module = Made(forward, gate=nn.Linear(4, 60), experts=experts)
    assert traced(module).read == {name for name, _ in module.named_parameters()}


def test_numbers_are_plain_ones_to_torch_and_in_the_graph() -> None:
    def forward(m: Any, x: Any) -> Any:
        scale = x.abs().max().item()
        return F.dropout(m.a(x) * (scale / 2) + torch.full((4,), scale), scale / 4, training=True)

    done = traced(Made(forward, a=nn.Linear(4, 4)), X)
    found = [value for node in done.graph.nodes if node.call for value in (*node.call.args, *node.call.kwargs.values())]
    assert not any(isinstance(value, Number) for value in found)


def test_a_number_asks_whatever_is_worked_out_from_it() -> None:
    for truth, ask in ((True, lambda: True), (False, lambda: False)):
        number = Number(1.0, ask)
        asked = [number > 5, number * 2 > 5, (1 - number) / 3 >= 1, abs(-number) == 7, number**2 != 1, bool(number)]
        assert asked == [truth] * 6
        assert type(float(number)) is float
        assert hash(number) == hash(1.0)
    assert f"{Number(1.0, bool):.2f}" == "1.00"


@pytest.mark.parametrize(
    "outside",
    [
        lambda h: torch.from_numpy(np.maximum(h.detach().numpy(), 0)),
        lambda h: torch.as_tensor(np.maximum(np.asarray(h.detach()), 0)),
    ],
)
def test_what_leaves_torch_and_comes_back_is_not_known(outside: Any) -> None:
    found, rows = read(lambda m, x: m.b(outside(m.a(x))), "a", "b")
    assert rows["a"].activation_evidence is Evidence.ASSUMED
    assert rows["a"].role is not Role.HEAD
    assert rows["b"].depth == (2, 2)
    assert any("leave torch and come back" in skip.why for skip in found.skipped)


def test_a_constant_stays_one_where_others_leave() -> None:
    def forward(m: Any, x: Any) -> Any:
        h = m.a(x)
        m.seen = h.argmax(-1).tolist()
        return h * torch.tensor([1.0, 2.0, 3.0, 4.0])

    done = traced(Made(forward, a=nn.Linear(4, 4)))
    assert (calls(done), done.notes) == (["linear", "mul"], ())
