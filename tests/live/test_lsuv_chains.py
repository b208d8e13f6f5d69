"""LSUV on files that hold no graph: what they prove is run, anything else is refused with what would help."""

from types import SimpleNamespace

import pytest

from initaudit import formats, layers
from initaudit.errors import UsageError

torch = pytest.importorskip("torch")

from initaudit.live.lsuv import calibrate  # noqa: E402
from tests.live.scaled import draw, recipes, variances  # noqa: E402

nn = torch.nn


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def repaired(path, net, data, activation=None):
    """Scale what a file holds, put it into the module, and return the variances there."""
    model = formats.read(path)
    todo = recipes(model)
    if activation:
        known = {a.weight.name: a for a in layers.infer(model, activation)[0]}
        todo = [_told(recipe, known[recipe.tensor.name]) for recipe in todo]
    done = calibrate(model, todo, draw, data=data)
    state = dict(net.named_parameters())
    with torch.no_grad():
        for at, values in done.values.items():
            state[todo[at].tensor.name].copy_(torch.from_numpy(values()))
    return variances(net.eval(), data)


def _told(recipe, layer):
    from dataclasses import replace

    return replace(recipe, measured=replace(recipe.measured, layer=layer))


def near(seen):
    return all(v[0] == pytest.approx(1, abs=2e-3) for v in seen.values())


def test_a_pickled_container_of_torchs_own_modules(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.SiLU(), nn.MaxPool2d(2),
        nn.Sequential(nn.Conv2d(8, 4, 3), nn.LeakyReLU(0.3)), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.9),
        nn.Linear(16, 5),
    )  # fmt: skip
    net[1].running_var.fill_(3.0)
    torch.save(net, tmp_path / "m.pt")
    assert near(repaired(tmp_path / "m.pt", net, torch.randn(24, 3, 10, 10)))


def test_a_pickled_encoder_and_a_recurrent_layer(tmp_path):
    layer = nn.TransformerEncoderLayer(16, 2, 32, activation="gelu", batch_first=True, norm_first=True)
    net = nn.TransformerEncoder(layer, 2)
    torch.save(net, tmp_path / "m.pt")
    seen = repaired(tmp_path / "m.pt", net, torch.randn(16, 5, 16))
    assert near({k: v for k, v in seen.items() if "linear" in k})
    torch.save(nn.Sequential(nn.Embedding(9, 6), nn.GRU(6, 5, 2)), tmp_path / "r.pt")
    model = formats.read(tmp_path / "r.pt")
    done = calibrate(model, recipes(model), draw, data=torch.randint(0, 9, (30, 16)))
    assert not any(row.why for row in done.reached)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x):
        return self.b(self.a(x).relu())


def test_a_class_of_the_users_own_is_not_guessed_at(tmp_path):
    torch.save(Own(), tmp_path / "m.pt")
    model = formats.read(tmp_path / "m.pt")
    with pytest.raises(UsageError, match=r"Own.*--model module:callable or --arch"):
        calibrate(model, recipes(model), draw, data=torch.randn(8, 6))


def test_a_numbered_chain_of_dense_layers_with_a_known_activation(tmp_path):
    net = nn.Sequential(nn.Linear(7, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 3))
    torch.save(net.state_dict(), tmp_path / "s.pt")
    assert near(repaired(tmp_path / "s.pt", net, torch.randn(50, 7), "tanh"))
    model = formats.read(tmp_path / "s.pt")
    with pytest.raises(UsageError, match="--activation"):
        calibrate(model, recipes(model), draw, data=torch.randn(8, 7))


@pytest.mark.parametrize(
    "state",
    [
        {"a.weight": (6, 6), "b.weight": (6, 6)},  # nothing numbers them
        {"0.weight": (5, 7), "2.weight": (3, 6)},  # they do not fit
        {"0.weight": (6, 7), "0.bias": (6,), "1.weight": (6,), "1.bias": (6,), "2.weight": (3, 6)},  # a norm between
        {"0.weight": (8, 3, 3, 3), "2.weight": (4, 8, 3, 3)},
        {"heads.0.weight": (6, 6), "body.1.weight": (6, 6)},
    ],
)
def test_what_a_state_dict_does_not_prove_is_refused(tmp_path, state):
    torch.save({name: torch.randn(shape) for name, shape in state.items()}, tmp_path / "s.pt")
    model = formats.read(tmp_path / "s.pt")
    told = {a.weight.name: a for a in layers.infer(model, "relu")[0]}
    todo = [_told(r, told.get(r.tensor.name, r.measured.layer)) for r in recipes(model)]
    with pytest.raises(UsageError, match="--model module:callable or --arch"):
        calibrate(model, todo, draw, data=torch.randn(8, 7))


def test_nothing_of_the_file_is_run(tmp_path):
    """A record may claim to be of torch.nn.modules: no class outside of torch.nn is made, no constructor called."""
    from initaudit.errors import UnsupportedError
    from initaudit.live.rebuilt import rebuilt
    from initaudit.types import Global, Module

    for cls, attrs in (
        ("torch.nn.modules.module.Module.__init__", {}),
        ("torch.nn.modules.os.system", {}),
        ("evil.Sequential", {}),
        ("torch.nn.modules.linear.Linear", {"_forward_hooks.0": Global("os.system")}),
        ("torch.nn.modules.activation.ReLU", {"activation": Global("os.system")}),
    ):
        model = SimpleNamespace(modules=(Module("", cls, attrs, {}, ()),), tensors=())
        with pytest.raises(UnsupportedError):
            rebuilt(model)
