"""The probe against hooks on the living module: eager forward, eager autograd, measures written out again."""

import math

import numpy as np
import pytest

from initaudit import audit, layers
from initaudit.errors import UsageError
from initaudit.types import Node
from tests.live.test_execute import graph

torch = pytest.importorskip("torch")
nn = torch.nn


def probed(module, *inputs, seed=0):
    """Probe a module on given inputs; return rows by weight name, and the whole."""
    from initaudit.live.probe import probe

    model = audit.live(module, tuple(inputs))
    rows = layers.infer(model)[0]
    names = list(model.graph.inputs)
    data = {name: torch.cat([value, more(value)]) for name, value in zip(names, inputs, strict=True)}
    made = probe(model.graph, rows, data, seed=seed)
    assert not made.why
    return {row.weight.name: one for row, one in zip(rows, made.layers, strict=True)}, made, data


def more(value):
    torch.manual_seed(5)
    return torch.randn_like(torch.cat([value] * 3)) if value.is_floating_point() else torch.cat([value.flip(1)] * 3)


def eager(module, data, watched):
    """Return the variance of what modules make across four runs of two inputs, and the outputs."""
    outs = {}
    hooks = [
        module.get_submodule(name).register_forward_hook(
            lambda m, i, o, name=name: outs.update({name: o[0] if isinstance(o, tuple) else o})
        )
        for name in watched
    ]
    for part in module.modules():
        part.train(isinstance(part, nn.modules.batchnorm._BatchNorm))
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.momentum = 0.0
    y = module(*data.values())
    for hook in hooks:
        hook.remove()
    variance = {name: float(o.detach().double().unflatten(0, (4, 2)).var(0).mean()) for name, o in outs.items()}
    return variance, y


class Plain(nn.Module):
    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x):
        return self.parts(x)


def cnn():
    return Plain(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


def mlp():
    return Plain(nn.Linear(12, 24), nn.Tanh(), nn.Linear(24, 24), nn.ReLU(), nn.Dropout(0.5), nn.Linear(24, 4))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.rnn = nn.LSTM(16, 12, batch_first=True)
        self.head = nn.Linear(12, 3)

    def forward(self, ids):
        return self.head(self.rnn(self.embed(ids))[0][:, -1])


class Vit(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, 4)
        self.cls = nn.Parameter(torch.randn(1, 1, 16) * 0.02)
        layer = nn.TransformerEncoderLayer(16, 4, 32, activation="gelu", batch_first=True, norm_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 6)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head(self.body(torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1))[:, 0])


CASES = {
    "mlp": (mlp, lambda: torch.randn(2, 12), ("parts.0", "parts.2", "parts.5")),
    "cnn": (cnn, lambda: torch.randn(2, 3, 9, 9), ("parts.0", "parts.1", "parts.3", "parts.8")),
    "lstm": (Text, lambda: torch.randint(0, 30, (2, 7)), ("embed", "head")),
    "vit": (Vit, lambda: torch.randn(2, 3, 8, 8), ("patch", "body.layers.0.linear1", "body.layers.1.linear2", "head")),
}


@pytest.mark.parametrize("case", CASES)
def test_signal_and_gradient_are_those_of_eager_hooks(case):
    build, draw, watched = CASES[case]
    torch.manual_seed(0)
    module = build()
    starts = []
    original = torch.autograd.backward

    def spy(values, given, **options):
        starts.append(list(given))
        return original(values, given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "backward", spy)
        rows, made, data = probed(module, draw())
    assert made.inputs == 8
    module.double()  # as the probe computes where it is cheap
    data = {name: value.double() if value.is_floating_point() else value for name, value in data.items()}
    variance, y = eager(module, data, watched)
    for name in watched:
        assert rows[f"{name}.weight"].forward_variance == pytest.approx(variance[name], rel=1e-3), name
    kinds = {"gradient": starts[0::3], "common": starts[1::3], "contrast": starts[2::3]}
    count = len(torch.unique(torch.cat([value.flatten(1) for value in data.values()], 1), dim=0))
    for kind, calls in kinds.items():
        squares = {}
        for call in calls:
            module.zero_grad()
            y.backward(torch.cat(call), retain_graph=True)
            for name, p in module.named_parameters():
                squares[name] = squares.get(name, 0.0) + float(p.grad.norm()) ** 2 / len(calls)
        for name, p in module.named_parameters():
            if name in rows and name != "cls":
                wanted = math.sqrt(squares[name])
                value = getattr(rows[name], kind)
                if kind == "common":  # and what a batch of so few finds of it by chance
                    value = max(value, 1e-12) + rows[name].contrast / count
                    wanted = max(wanted, math.sqrt(rows[name].contrast / count))
                assert (value if kind == "gradient" else math.sqrt(value)) == pytest.approx(wanted, rel=1e-3), name
                if kind == "gradient":
                    relative = wanted / float(p.detach().norm())
                    assert rows[name].relative_gradient == pytest.approx(relative, rel=1e-3), name
    for call in kinds["gradient"]:
        assert torch.cat(call).flatten(1).norm(dim=1) * math.sqrt(8) == pytest.approx(1, rel=1e-5)
    for call in kinds["common"]:
        each = torch.cat(call)
        assert torch.equal(each, each[:1].expand_as(each))
        assert float(each[0].norm()) == pytest.approx(1 / 8, rel=1e-5)
    for one, call in zip(kinds["common"], kinds["contrast"], strict=True):
        weights = (torch.cat(call) / torch.cat(one)).flatten(1)[:, 0] / math.sqrt(8)
        assert weights.square() == pytest.approx(1, rel=1e-4)
        assert float(weights.sum()) == pytest.approx(0, abs=1e-4)


def test_variance_is_across_inputs_and_not_the_second_moment():
    module = Plain(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 8))
    with torch.no_grad():
        module.parts[0].weight.mul_(1e-4)
        module.parts[0].bias.fill_(2.0)
    x = torch.randn(2, 6)
    rows, _, data = probed(module, x)
    z = module.parts[0](data["x"]).detach().double()
    runs = z.reshape(4, 2, 8).var(0).mean()  # four runs of two
    assert rows["parts.0.weight"].forward_variance == pytest.approx(float(runs), rel=1e-3)
    assert rows["parts.0.weight"].forward_variance < 1e-6 < float(z.square().mean())
    assert rows["parts.0.weight"].input_correlation == pytest.approx(1, abs=1e-6)


def test_dead_and_saturated_units():
    module = Plain(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        module.parts[0].bias[:2] = -100
        module.parts[2].bias[0] = 4.5
    rows, _, _ = probed(module, torch.randn(2, 6))
    assert rows["parts.0.weight"].dead == 0.25
    assert rows["parts.0.weight"].saturated is None
    assert (rows["parts.2.weight"].dead, rows["parts.2.weight"].saturated) == (0, 0.25)


def test_slopes_of_an_activation_in_several_steps_count_all_its_paths():
    class Swish(nn.Module):
        def forward(self, x):
            return x * torch.sigmoid(x)

    a, _, _ = probed(Plain(nn.Linear(6, 8), Swish(), nn.Linear(8, 4)), torch.randn(2, 6))
    assert a["parts.0.weight"].dead == 0


class Scaled(nn.Module):
    def __init__(self, gate):
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.gamma = nn.Parameter(torch.full((6,), float(gate)))

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.gamma * self.branch(x))


@pytest.mark.parametrize("gate", [0.0, 1e-6])
def test_a_branch_behind_a_gate_sleeps(gate):
    rows, _, _ = probed(Scaled(gate), torch.randn(2, 6))
    branch = rows["branch.weight"]
    assert branch.behind_gate
    assert branch.gate == "gamma"
    assert branch.gate_gradient > 1e-2
    assert branch.open_relative_gradient > 1e-2 > 1e3 * branch.relative_gradient
    assert not rows["stem.weight"].behind_gate
    assert not rows["head.weight"].behind_gate


def test_an_open_gate_is_none_and_weights_are_left_as_they_were():
    module = Scaled(0.0)
    before = {name: p.clone() for name, p in module.named_parameters()}
    rows, _, _ = probed(module, torch.randn(2, 6))
    assert all(torch.equal(before[name], p) for name, p in module.named_parameters())
    rows, _, _ = probed(Scaled(0.5), torch.randn(2, 6))
    assert not any(row.behind_gate or row.gate_gradient for row in rows.values())


class Modulated(nn.Module):
    """adaLN-Zero: scale and gate of a branch are made from a condition by a zero layer."""

    def __init__(self):
        super().__init__()
        self.norm, self.branch = nn.LayerNorm(6, elementwise_affine=False), nn.Linear(6, 6)
        self.modulation, self.head = nn.Linear(4, 12), nn.Linear(6, 3)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x, c):
        scale, gate = self.modulation(c).chunk(2, -1)
        return self.head(x + gate * self.branch(self.norm(x) * (1 + scale)))


def test_a_gate_that_a_zero_layer_makes():
    rows, _, _ = probed(Modulated(), torch.randn(2, 6), torch.randn(2, 4))
    assert rows["branch.weight"].gradient == 0
    assert rows["branch.weight"].behind_gate
    assert rows["branch.weight"].gate == "modulation.weight"
    assert rows["branch.weight"].gate_gradient > 1e-2
    assert rows["modulation.weight"].relative_gradient is None
    assert rows["modulation.weight"].gradient > 0


def test_a_dead_layer_is_no_sleeper():
    """A zeroed layer in the trunk before a ReLU gets no gradient itself: its gate never opens."""
    module = Plain(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3))
    nn.init.zeros_(module.parts[2].weight)
    nn.init.zeros_(module.parts[2].bias)
    rows, _, _ = probed(module, torch.randn(2, 6))
    assert not any(row.behind_gate for row in rows.values())
    assert rows["parts.2.weight"].gate_gradient == 0
    assert rows["parts.2.weight"].gradient == 0
    assert rows["parts.0.weight"].open_relative_gradient is None


def test_attention_and_head():
    _, made, _ = probed(Vit(), torch.randn(2, 3, 8, 8))
    assert len(made.attention) == 2
    assert all(0.9 < one.entropy <= 1 for one in made.attention)
    (head,) = made.heads
    assert head.shape == (2, 6)
    assert 0 <= head.excess_loss < 0.5


def test_seeds_decide():
    from initaudit.live.probe import probe

    torch.manual_seed(0)
    model = audit.live(cnn(), torch.randn(1, 3, 9, 9))
    rows = layers.infer(model)[0]
    a, b, c = (probe(model.graph, rows, seed=seed) for seed in (3, 3, 4))
    assert a == b
    assert a.layers != c.layers
    assert a.inputs == 8


def test_what_cannot_run_says_why():
    from initaudit.live.probe import probe

    made = probe(graph(Node("nonsense", ("x",), ("y",))), ())
    assert made.why == "it cannot be run: nonsense: not implemented"


def test_what_is_too_large_is_left_alone(monkeypatch):
    from initaudit.live.probe import cost, probe

    monkeypatch.setattr(cost, "MOST", 10.0)
    model = audit.live(mlp(), torch.randn(2, 12))
    rows = layers.infer(model)[0]
    made = probe(model.graph, rows)
    assert made.why.startswith("too large to run")
    assert [row.forward_variance for row in made.layers] == [None] * len(rows)


def test_ids_masks_and_numbers_are_told_apart():
    from initaudit.graph.view import View
    from initaudit.live.probe.feeds import kinds

    class Model(Text):
        def forward(self, ids, attention_mask, x):
            mask = attention_mask[..., None].bool()
            return torch.where(mask, self.embed(ids), x)

    model = audit.live(Model(), (torch.zeros(2, 7, dtype=torch.int64), torch.ones(2, 7), torch.randn(2, 7, 16)))
    found = kinds(View(model.graph), (16, 64))
    assert [(k.word, k.below) for k in found.values()] == [("ids", 30), ("mask", 2), ("numbers", 2)]


@pytest.mark.parametrize("suffix", ["npy", "npz", "pt"])
def test_data_of_the_user(tmp_path, suffix):
    import initaudit

    x = np.random.default_rng(0).standard_normal((8, 12)).astype(np.float32)
    path = tmp_path / f"data.{suffix}"
    if suffix == "npy":
        np.save(path, x)
    elif suffix == "npz":
        np.savez(path, x=x)
    else:
        torch.save({"x": torch.from_numpy(x)}, path)
    torch.manual_seed(0)
    module = mlp()
    report = initaudit.check(module, torch.zeros(2, 12), data=path)
    z = module.parts[0](torch.from_numpy(x)).detach().double().reshape(4, 2, -1)
    assert report.measured[0].probed.forward_variance == pytest.approx(float(z.var(0).mean()), rel=1e-4)
    assert initaudit.check(module, torch.zeros(2, 12), probe=False).measured[0].probed is None


def test_data_that_do_not_fit(tmp_path):
    import initaudit

    module = mlp()
    with pytest.raises(UsageError, match="has shape"):
        initaudit.check(module, torch.zeros(2, 12), data=np.zeros((8, 5), np.float32))
    with pytest.raises(UsageError, match="no input 'nope'"):
        initaudit.check(module, torch.zeros(2, 12), data={"nope": np.zeros((8, 12)), "x": np.zeros((8, 12))})
    np.save(tmp_path / "bad.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(initaudit.errors.InitauditError):
        initaudit.check(module, torch.zeros(2, 12), data=tmp_path / "bad.npy")


def test_the_report_has_columns_and_keys():
    import initaudit
    from initaudit.reporters import reporters
    from initaudit.reporters.base import Style
    from initaudit.reporters.json import document

    report = initaudit.check(mlp(), torch.zeros(2, 12), probe=True)
    row = document(report)["layers"][0]
    assert row["forward_variance"] > 0
    assert row["relative_gradient"] > 0
    assert row["behind_gate"] is False
    assert math.isfinite(row["input_correlation"])
    assert document(report)["summary"]["probe"]["inputs"] == 8
    assert "grad/w" in reporters()["console"].render([report], Style(width=120))
    assert initaudit.check(mlp(), torch.zeros(2, 12), probe=False).probe is None
