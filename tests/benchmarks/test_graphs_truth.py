"""The truths that `benchmarks.graphs` measures against: what hooks tell and do not tell, and how rows match names."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as everyone calls it)

from benchmarks import graphs_hooks, graphs_nets, graphs_reasons, graphs_truths


def _seen(model: nn.Module, *shape: int) -> graphs_hooks.Seen:
    first = next(iter(model.forward.__annotations__))
    return graphs_hooks.look(model.eval(), {first: torch.randn(*shape)})


class Mixed(nn.Module):
    """Modules that overwrite their input, pass it on, or leave the way to a function."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.relu, self.norm, self.drop = nn.ReLU(inplace=True), nn.LayerNorm(4), nn.Dropout()
        self.tanh = nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.a(x)))
        x = self.drop(self.b(x))  # in evaluation mode the very tensor it was given
        x = self.c(self.tanh(x)) + x
        return self.d(x)


def test_hooks_follow_a_tensor_through_norms_and_in_place_modules() -> None:
    seen = _seen(Mixed(), 2, 4)
    assert seen.answers == {"a.weight": "relu", "b.weight": "tanh", "d.weight": None}
    assert seen.untold == ("c.weight",)
    assert seen.functions == ()


class InPlace(nn.Module):
    """A function overwrites what a weight gave before the next module reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        F.relu_(x)
        return self.b(x)


def test_hooks_do_not_take_an_overwritten_tensor_for_the_same() -> None:
    seen = _seen(InPlace(), 2, 4)
    assert seen.untold == ("a.weight",)
    assert seen.functions == ("relu_",)


class Twice(nn.Module):
    """One matrix, two modules."""

    def __init__(self, second: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.weight = self.a.weight
        self.first, self.second = nn.Tanh(), second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.b(self.first(self.a(x))))


@pytest.mark.parametrize(("second", "told"), [(nn.Tanh(), {"a.weight": "tanh"}), (nn.ReLU(), {})])
def test_hooks_tell_of_a_tie_only_what_both_places_say(second: nn.Module, told: dict[str, str]) -> None:
    assert _seen(Twice(second), 2, 4).answers == told


@pytest.mark.parametrize("name", sorted(graphs_nets.MODELS))
def test_every_matrix_of_a_hand_written_network_matches_one_row(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = graphs_nets.MODELS[name]()
    model.eval()(**inputs)
    _, wrong = graphs_truths.told(name, [n for n, p in model.named_parameters() if p.dim() > 1])
    assert wrong == []


def test_rows_that_match_twice_or_never_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"layer.#.*.weight": "relu", "layer.{0,7}.a.weight": None, "head": None}
    monkeypatch.setitem(graphs_truths.TRUTHS, "made", rows)
    found, wrong = graphs_truths.told("made", ["layer.0.a.weight", "layer.12.b.weight", "layer.x.a.weight"])
    assert found == {"layer.12.b.weight": "relu"}
    assert wrong == [
        "layer.0.a.weight matches layer.#.*.weight and layer.{0,7}.a.weight",
        "layer.x.a.weight matches no row",
        "no parameter matches head",
    ]


def test_either_takes_both_answers_and_no_third() -> None:
    both = graphs_truths.either(None, "silu")
    assert graphs_truths.right("silu", both)
    assert graphs_truths.right(None, both)
    assert not graphs_truths.right("relu", both)
    assert not graphs_truths.right("silu", None)


def test_a_reason_holds_for_its_form_and_its_row_only() -> None:
    folded, glu, gate = "norm with running statistics: no row", "activation glu is sigmoid", "role other is gate"
    assert graphs_reasons.reason("ONNX, dynamo", folded, [folded])
    assert graphs_reasons.reason(".pt2", folded, [folded]) is None
    assert graphs_reasons.reason("ONNX, dynamo", "norm: no row", ["norm: no row"]) is None
    assert graphs_reasons.reason("ONNX, dynamo", gate, [glu, gate])
    assert graphs_reasons.reason("ONNX, dynamo", gate, [gate]) is None
