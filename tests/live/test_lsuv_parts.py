"""LSUV part by part: projections, experts, and weights made of several tensors."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from initaudit.edits import Recipe  # noqa: E402
from initaudit.live import model as reading  # noqa: E402
from initaudit.live.lsuv import calibrate  # noqa: E402
from initaudit.live.lsuv.parts import parts  # noqa: E402
from initaudit.types import Tensor  # noqa: E402
from tests import build  # noqa: E402
from tests.live.scaled import draw, recipes, scaled, told, variances  # noqa: E402

nn = torch.nn
F = nn.functional


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def near(value, tol=2e-3):
    return float(value) == pytest.approx(1, abs=tol)


class Attending(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.own = nn.MultiheadAttention(16, 4, batch_first=True, **options)
        self.other = nn.MultiheadAttention(16, 4, batch_first=True, kdim=8, vdim=8)
        self.head = nn.Linear(16, 3)

    def forward(self, x, memory):
        x = x + self.own(x, x, x, need_weights=False)[0]
        return self.head(x + self.other(x, memory, memory, need_weights=False)[0])


def test_packed_projections_are_scaled_one_by_one():
    net = Attending().eval()
    data = {"x": torch.randn(24, 6, 16) * 3, "memory": torch.randn(24, 5, 8) + 2}
    done = scaled(net, data)
    w, b = net.own.in_proj_weight.chunk(3), net.own.in_proj_bias.chunk(3)
    assert all(near(F.linear(data["x"], *pair).var(correction=0)) for pair in zip(w, b, strict=True))
    scales = {row.part: row.scale for row in done.reached if row.layer.startswith("own.in_proj")}
    assert set(scales) == {"query", "key", "value"}
    for name in ("k_proj_weight", "v_proj_weight"):
        assert near((data["memory"] @ getattr(net.other, name).T).var(correction=0))
    assert told(done) == {}


class Fused(nn.Module):
    """Query, key and value in one layer, split behind it."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, 2, 8).permute(2, 0, 3, 1, 4).unbind(0)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


def test_a_fused_layer_is_scaled_part_by_part():
    net, x = Fused().eval(), torch.randn(24, 6, 16)
    with torch.no_grad():
        net.qkv.bias.uniform_(-0.5, 0.5)
        net.qkv.bias[16:32] += 1  # a bias common to a part is no variance of that part
    scaled(net, x)
    assert all(near(part.var(correction=0)) for part in net.qkv(x).chunk(3, -1))
    assert near(net(x).var(correction=0))


def test_parts_whose_means_differ_are_within_the_tolerance_one_by_one_and_together():
    net, x = Fused().eval(), torch.randn(200, 6, 16)
    with torch.no_grad():
        net.qkv.bias.zero_()
        net.qkv.bias[:16] = 0.55
    done = scaled(net, x)
    whole = net.qkv(x).detach()
    assert near(whole.var(correction=0), 0.05)
    assert all(near(part.var(correction=0), 0.05) for part in whole.chunk(3, -1))
    assert told(done) == {}


class Experts(nn.Module):
    """Stacked experts, of which the router never chooses the last."""

    def __init__(self):
        super().__init__()
        self.up = nn.Parameter(torch.randn(4, 8, 12))
        self.down = nn.Parameter(torch.randn(4, 12, 8))

    def forward(self, x, choice):
        hidden = torch.bmm(x.unsqueeze(1), self.up[choice]).relu()
        return torch.bmm(hidden, self.down[choice]).squeeze(1)


def test_experts_are_scaled_one_by_one_and_an_idle_one_like_its_brothers():
    net = Experts().eval()
    x, choice = torch.randn(60, 8), torch.arange(60) % 3
    x = x * (1 + choice[:, None])
    done = scaled(net, {"x": x, "choice": choice}, examples={"x": x, "choice": choice})
    for k in range(3):
        hidden = x[choice == k] @ net.up[k]
        assert near(hidden.var(correction=0))
        assert near((hidden.relu() @ net.down[k]).var(correction=0))
    idle = [row for row in done.reached if row.part.endswith("3")]
    assert len(idle) == 2
    assert all("scaled like its other parts" in row.why for row in idle)
    up = [row.scale for row in done.reached if row.layer == "up"]
    assert min(up[:3]) <= up[3] <= max(up[:3])


def test_a_bilinear_layer_is_scaled():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Bilinear(6, 5, 4)

        def forward(self, a, b):
            return self.mix(a, b)

    net = Two()
    data = {"a": torch.randn(40, 6), "b": torch.randn(40, 5) * 4}
    scaled(net, data)
    assert near(variances(net, *data.values())["mix"][0])


def test_of_a_weight_norm_the_norms_are_scaled():
    wn = nn.utils.parametrizations.weight_norm
    net = nn.Sequential(wn(nn.Linear(10, 20)), nn.Tanh(), wn(nn.Conv1d(1, 4, 3)))
    x = torch.randn(50, 1, 10)
    done = scaled(net, x)
    assert told(done) == {}
    assert all(near(v[0]) for v in variances(net, x).values())
    v = net[0].parametrizations.weight.original1
    assert near(float(v.T.matmul(v).diagonal().mean()))  # still as it was drawn


def test_a_weight_that_is_normalised_is_told():
    net = nn.Sequential(nn.utils.parametrizations.spectral_norm(nn.Linear(10, 20)), nn.Linear(20, 5))
    x = torch.randn(50, 10) * 3
    done = scaled(net, x)
    assert "is normalised" in told(done)["0"]
    assert near(variances(net, x)["1"][0])


def planned(net, x):
    model = reading.read(net.eval(), x[:2])
    return model, recipes(model)


def test_only_units_that_are_drawn_are_scaled():
    net, x = nn.Sequential(nn.Linear(10, 8, bias=False)), torch.randn(64, 10)
    model, (one,) = planned(net, x)
    one = replace(one, units=(1, 2, 5))
    done = calibrate(model, [one], lambda recipe: _kept(net, recipe), data=x)
    values = torch.from_numpy(done.values[0]()).float()
    rows = [1, 2, 5]
    assert near((x @ values[rows].T).var(correction=0))
    others = [k for k in range(8) if k not in rows]
    assert torch.allclose(values[others], net[0].weight[others])


def _kept(net, recipe):
    made = net[0].weight.detach().double().numpy().copy()
    made[list(recipe.units)] = np.random.default_rng(0).standard_normal((3, 10))
    return made


def test_parts_with_another_scheme_keep_their_values():
    net, x = Fused().eval(), torch.randn(24, 6, 16)
    model, todo = planned(net, x)
    at = next(k for k, r in enumerate(todo) if r.measured.layer.name == "qkv")
    todo[at] = replace(todo[at], by_part={"key": "zeros"})

    def drawn(recipe):
        made = draw(replace(recipe, by_part={}))
        if recipe.by_part:
            made[16:32] = 0.25
        return made

    values = torch.from_numpy(calibrate(model, todo, drawn, data=x).values[at]()).float()
    assert bool((values[16:32] == 0.25).all())
    for part in (slice(0, 16), slice(32, 48)):
        assert near((F.linear(x, values[part], net.qkv.bias[part])).var(correction=0))


def test_other_recipes_are_in_place_while_the_net_runs():
    net, x = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(64, 10)
    model, todo = planned(net, x)
    bias = replace(todo[0], tensor=todo[0].measured.layer.bias, scheme="constant:value=3")

    def drawn(recipe):
        return np.full(16, 3.0) if recipe.scheme.startswith("constant") else draw(recipe)

    done = calibrate(model, [*todo, bias], drawn, data=x)
    assert (done.values[2]() == 3).all()
    first = F.linear(x, torch.from_numpy(done.values[0]()).float(), torch.full((16,), 3.0))
    assert near(first.var(correction=0))
    second = F.linear(first.relu(), torch.from_numpy(done.values[1]()).float(), net[2].bias)
    assert near(second.var(correction=0))


def test_parts_are_told_in_every_form_of_a_tensor():
    values = np.zeros((6, 6), np.float32)
    layer = build.layer("a", values, parts=("query", "key", "value"))
    one = build.measured(layer)
    stored, turned = layer.weight, replace(layer.weight, strides=(1, 6), load=lambda: values.T)
    cast = replace(stored, dtype="float16", storage="elsewhere")
    scales = [2.0, 3.0, 5.0]
    wanted = np.repeat(scales, 2)
    for tensor in (stored, cast):
        made = parts(Recipe(one, tensor, "lsuv", ""), "lsuv").scaled(np.ones((6, 6)), scales)
        assert (made == wanted[:, None]).all()
    made = parts(Recipe(one, turned, "lsuv", ""), "lsuv").scaled(np.ones((6, 6)), scales)
    assert (made == wanted).all()
    norms = Tensor("a.weight_g", (6, 1), "float32", lambda: values[:, :1])
    made = parts(Recipe(one, norms, "lsuv", ""), "lsuv").scaled(np.ones((6, 1)), scales)
    assert (made[:, 0] == wanted).all()
