"""What a model asks about values that are not there: constants answer for themselves, the rest is made up."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from initaudit.errors import UnsupportedError
from initaudit.live import answers
from initaudit.live.spec import Feed, Spec
from initaudit.live.trace import trace
from tests.live.test_trace import Made, X, calls, reading, same_values, traced


def test_constants_are_known() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        steps = torch.arange(4) * 2
        mask = torch.ones(4, dtype=torch.long)
        mask[2:] = 0
        for _ in range(int(m.times.max())):  # 3
            x = m.a(x)
        if mask.sum() == 2 and steps[-1].item() == 6 and mask.all().logical_not():
            x = m.b(x)
        return x.view(2, torch.tensor(2), -1)[:, torch.tensor(0)].repeat(int(mask.nonzero().shape[0]), 1)

    module = Made(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    module.register_buffer("times", torch.tensor([1, 3]))
    done = same_values(module, torch.randn(2, 4))
    assert len(reading(done, "a.weight")) == 3
    assert done.graph.shapes[done.graph.outputs[0]] == (4, 2)


def test_a_constant_that_data_was_written_to_is_none() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        flags = torch.zeros(2)
        view = flags[:1]
        flags += x.sum(1)
        return m.a(x) if view.item() == 0 else m.b(x)

    done = traced(Made(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)))
    assert done.read == {"b.weight", "b.bias"}


def _by_mask(m: Any, x: torch.Tensor) -> torch.Tensor:
    scores = m.gate(x).topk(2, -1).indices
    for expert, layer in enumerate(m.experts):
        token, _ = torch.where(scores == expert)
        if token.numel() > 0:
            x = x.index_add(0, token, layer(x[token]))
    return x


def _by_hits(m: Any, x: torch.Tensor) -> torch.Tensor:
    one_hot = nn.functional.one_hot(m.gate(x).topk(2, -1).indices, num_classes=3).permute(2, 1, 0)
    for expert in (one_hot.sum((-1, -2)) > 0).nonzero():
        _, token = torch.where(one_hot[expert].squeeze(0))
        x = x.index_add(0, token, m.experts[expert](x[token]))
    return x


def _by_unique(m: Any, x: torch.Tensor) -> torch.Tensor:
    chosen = m.gate(x).argmax(-1)
    for expert in torch.unique(chosen).tolist():
        x = x.masked_scatter((chosen == expert)[:, None], m.experts[expert](x[chosen == expert]))
    return x


def _by_count(m: Any, x: torch.Tensor) -> torch.Tensor:
    order = m.gate(x).argmax(-1).argsort()
    counts = torch.bincount(m.gate(x).argmax(-1), minlength=3)
    for layer, count in zip(m.experts, counts, strict=True):
        if count > 0:
            x = x + layer(x[order])
    return x


@pytest.mark.parametrize("forward", [_by_mask, _by_hits, _by_unique, _by_count])
def test_every_expert_is_run(forward: Any) -> None:
    module = Made(forward, gate=nn.Linear(4, 3), experts=nn.ModuleList(nn.Linear(4, 4) for _ in range(3)))
    done = traced(module)
    assert done.how == "fake"
    assert done.read == {name for name, _ in module.named_parameters()}


def test_loops_on_values_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "MOST_ALIKE", 20)

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        while x.norm() > 1e-3:
            x = m.a(x)
        while not bool((x > 0).all()):
            x = m.b(x)
        return x

    done = traced(Made(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4)))
    assert len(reading(done, "b.weight")) == 1 + 20  # the first reads what was not read before
    (met,) = done.other
    assert len([n for n in met.nodes if "a.weight" in n.inputs]) == 1 + 20


def test_the_other_way_is_tried_where_one_leaves_weights_out() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else m.a(x)

    done = traced(Made(forward, a=nn.Linear(4, 4)))
    assert done.read == {"a.weight", "a.bias"}
    assert any("not met" in note for note in done.notes)


def _shapes_of_choices(m: Any, x: torch.Tensor) -> Any:
    y = m.a(x)
    mask = y > 0
    chosen = y[mask]
    y = y.masked_fill(mask, 0.0)
    y[mask] = chosen * 2
    y = y.masked_scatter(mask, chosen)
    rows = mask.nonzero()[:, 0]
    lengths = f"{y.max()} {y.sum():.2f}"
    return y, rows, y.masked_select(mask), y.repeat_interleave(torch.tensor([2, 1]), 0), y.tolist(), lengths


def test_shapes_that_depend_on_values() -> None:
    done = traced(Made(_shapes_of_choices, a=nn.Linear(4, 4)))
    assert [done.graph.shapes[name] for name in done.graph.outputs] == [(2, 4), (8,), (8,), (3, 4)]
    assert "repeat_interleave" in calls(done)


def test_real_inputs_decide() -> None:
    def forward(m: Any, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return m.a(x)[:, : int(mask.sum())] if not mask.all() else x

    module = Made(forward, a=nn.Linear(4, 4))
    done = trace(module, Feed((X, torch.tensor([1, 1, 0, 0]))))
    assert done.graph.shapes[done.graph.outputs[0]] == (2, 2)


def test_where_stand_ins_fail_a_small_model_is_run() -> None:
    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        sizes = (m.a(x).softmax(-1).sum(-1) * 2).round().int().tolist()
        assert sizes == [2, 2], "counted by values"
        return m.b(torch.cat(x.split(sizes, 1), 1))

    module = Made(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    done = traced(module)
    assert done.how == "real"
    assert "counted by values" in done.notes[0]
    assert done.read == {"a.weight", "a.bias", "b.weight", "b.bias"}
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    with pytest.raises(UnsupportedError, match="counted by values"):
        trace(module.to("meta"), Feed((Spec((2, 4)),)))


def test_graph_attention_by_hand() -> None:
    def forward(m: Any, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        count, h = x.size(0), m.w(x).view(x.size(0), 2, 4)
        source, target = edges
        e = nn.functional.leaky_relu((torch.cat([h[source], h[target]], -1) * m.attention).sum(-1), 0.2).exp()
        total = torch.zeros(count, 2).index_add_(0, target, e)
        return nn.functional.elu(
            torch.zeros(count, 2, 4).index_add_(0, target, (e / total[target])[..., None] * h[source]).flatten(1)
        )

    module = Made(forward, w=nn.Linear(4, 8, bias=False), attention=nn.Parameter(torch.randn(1, 2, 8)))
    same_values(module, torch.randn(5, 4), torch.tensor([[0, 1, 2, 3, 4, 0], [1, 2, 3, 4, 0, 2]]))
