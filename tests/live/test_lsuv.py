"""LSUV: each layer's variance by torch's own hooks, above all where the package lsuv 0.3.0 goes wrong."""

import itertools
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from initaudit.errors import UsageError  # noqa: E402
from initaudit.live import model as reading  # noqa: E402
from initaudit.live.lsuv import calibrate  # noqa: E402
from initaudit.live.lsuv.sweep import Sweep  # noqa: E402
from tests.live.scaled import draw, recipes, scaled, told, variances  # noqa: E402

nn = torch.nn
F = nn.functional


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def near(value, tol=2e-3):
    return value == pytest.approx(1, abs=tol)


def mlp(*widths, activation=nn.ReLU):
    steps = []
    for a, b in itertools.pairwise(widths):
        steps += [nn.Linear(a, b), activation()]
    return nn.Sequential(*steps[:-1])


class Reversed(nn.Module):
    """Registered in reverse of the order of execution."""

    def __init__(self):
        super().__init__()
        self.c, self.b, self.a = nn.Linear(20, 20), nn.Linear(20, 20), nn.Linear(10, 20)

    def forward(self, x):
        return self.c(self.b(self.a(x).relu()).relu())


def test_order_is_that_of_execution_not_of_registration():
    net, x = Reversed(), torch.randn(40, 10) * 3
    done = scaled(net, x)
    assert [row.layer for row in done.reached] == ["a", "b", "c"]
    assert all(near(v[0]) for v in variances(net, x).values())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x):
        return self.b(self.a(self.a(x).tanh()))


def test_the_variance_of_a_module_called_twice_is_pooled_and_each_call_is_told():
    net, x = Twice(), torch.randn(50, 16)
    done = scaled(net, x)
    first, second = variances(net, x)["a"]
    assert near((first + second) / 2, 0.05)
    assert near(done.reached[0].variance, 0.05)
    uses = [row for row in done.reached if "use" in row.part]
    assert [row.part for row in uses] == ["use 1 of 2", "use 2 of 2"]
    assert [row.variance for row in uses] == pytest.approx([first, second], rel=1e-3)
    assert all("pooled" in row.why for row in uses if not near(row.variance, 0.05))
    assert near(variances(net, x)["b"][0])


def test_the_variance_of_tied_parameters_is_pooled():
    net = mlp(12, 12, 12, 12)
    net[2].weight = net[4].weight = net[0].weight
    x = torch.randn(60, 12) * 5
    done = scaled(net, x)
    seen = [v[0] for v in variances(net, x).values()]
    assert max(seen) < 3
    assert done.reached[0].why == ""
    assert len(done.reached) == 4


class Unrolled(nn.Module):
    """A recurrence written out, whose states grow without a bound."""

    def __init__(self):
        super().__init__()
        self.given, self.own, self.head = nn.Linear(6, 10), nn.Linear(10, 10, bias=False), nn.Linear(10, 3)

    def forward(self, x):
        h = x.new_zeros(x.shape[0], 10)
        for step in x.unbind(1):
            h = torch.relu(self.given(step) + self.own(h))
        return self.head(h)


def test_a_recurrence_that_is_written_out_is_pooled_over_its_steps():
    net, x = Unrolled(), torch.randn(40, 15, 6)
    done = scaled(net, x)
    hidden, own, given = x.new_zeros(40, 10), [], []
    with torch.no_grad():
        for step in x.unbind(1):
            given.append(net.given(step))
            own.append(net.own(hidden))
            hidden = torch.relu(given[-1] + own[-1])
    assert near(float(torch.stack(own).var(correction=0)), 0.05)
    assert near(float(torch.stack(given).var(correction=0)), 0.05)
    assert near(variances(net, x)["head"][0])
    assert not any(row.why for row in done.reached if "use" not in row.part)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_data_that_are_not_finite_are_refused(bad):
    x = torch.randn(8, 4)
    x[3, 2] = bad
    with pytest.raises(UsageError, match="NaN or infinite"):
        scaled(mlp(4, 4, 4), x)


def test_an_all_zero_batch_is_refused_and_one_zero_input_of_two_is_not():
    with pytest.raises(UsageError, match="all zero"):
        scaled(mlp(4, 4, 4), torch.zeros(8, 4), examples=torch.randn(2, 4))

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x, y):
            return self.a(x) + self.b(y)

    done = scaled(Both(), {"x": torch.randn(8, 4), "y": torch.zeros(8, 4)})
    assert told(done) == {"b": "its input is zero"}
    assert all(np.isfinite(values()).all() for values in done.values.values())


def test_biases_stay_and_count():
    net, x = mlp(10, 30, 30, 5), torch.randn(64, 10)
    with torch.no_grad():
        for layer in net[::2]:
            layer.bias.uniform_(-1, 1)
    before = [layer.bias.clone() for layer in net[::2]]
    scaled(net, x)
    assert all(torch.equal(layer.bias, old) for layer, old in zip(net[::2], before, strict=True))
    assert all(near(v[0]) for v in variances(net, x).values())


def test_a_bias_over_the_target_is_told():
    net, x = mlp(10, 30, 5), torch.randn(64, 10)
    with torch.no_grad():
        net[0].bias.normal_(0, 2)
    done = scaled(net, x)
    assert "its bias alone has variance" in told(done)["0"]
    product = (x @ net[0].weight.detach().T).var(correction=0)
    assert near(float(product))  # what can be reached


class Tables(nn.Module):
    def __init__(self):
        super().__init__()
        self.tokens = nn.Embedding(30, 12, padding_idx=0)
        self.places = nn.Parameter(torch.randn(1, 7, 12))
        self.head = nn.Linear(12, 4)

    def forward(self, ids):
        return self.head(self.tokens(ids) + self.places)


def test_embeddings_are_scaled_by_what_is_looked_up_and_bare_parameters_are_told():
    net = Tables()
    ids = torch.randint(0, 30, (32, 7))
    before = net.places.clone()
    done = scaled(net, ids, every=True)
    seen = variances(net, ids)
    assert near(seen["tokens"][0])
    assert near(seen["head"][0])
    assert bool((net.tokens.weight[0] == 0).all())
    assert torch.equal(net.places, before)
    assert "no product of its own" in told(done)["places"]


class Conv1D(nn.Module):
    """GPT-2's: the weight is (in, out)."""

    def __init__(self, wide, out):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(wide, out)), nn.Parameter(torch.zeros(out))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


def test_a_weight_stored_in_out_is_scaled():
    net, x = nn.Sequential(Conv1D(16, 24), nn.GELU(), Conv1D(24, 16)), torch.randn(20, 5, 16)
    scaled(net, x)
    with torch.no_grad():
        assert near(float(net[0](x).var(correction=0)))
        assert near(float(net(x).var(correction=0)))


def test_depthwise_filters_keep_one_norm():
    net, x = nn.Sequential(nn.Conv2d(32, 32, 3, groups=32)), torch.randn(16, 32, 8, 8)
    scaled(net, x)
    norms = net[0].weight.reshape(32, -1).norm(dim=1)
    assert float(norms.max() / norms.min()) == pytest.approx(1, abs=1e-5)
    assert near(variances(net, x)["0"][0])


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(8, 12, 3, groups=4, stride=2),
        nn.ConvTranspose2d(8, 6, 4, stride=2, padding=1),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.Conv1d(8, 6, 3),
        nn.Conv3d(8, 6, 2),
    ],
)
def test_convolutions_of_all_kinds(conv):
    spatial = conv.weight.dim() - 2
    x = torch.randn(16, 8, *(6,) * spatial)
    net = nn.Sequential(conv, nn.ReLU())
    scaled(net, x)
    assert near(variances(net, x)["0"][0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single_and_holds_after_the_cast(dtype):
    net, x = mlp(64, 96, 96, 10).to(dtype), torch.randn(128, 64)
    scaled(net, x, examples=x[:2].to(dtype))
    assert all(near(v[0], 0.01) for v in variances(net.float(), x).values())


def test_a_scale_that_does_not_fit_into_half_precision_is_told():
    net, x = mlp(8, 8, 8).half(), torch.randn(32, 8) * 1e-7
    with torch.no_grad():
        net[0].bias.zero_()
    done = scaled(net, x, examples=torch.randn(2, 8).half())
    assert "would not fit into float16" in told(done)["0"]
    assert bool(torch.isfinite(net[0].weight).all())


def test_the_sweep_takes_time_linear_in_depth(monkeypatch):
    calls = []
    step = Sweep._step
    monkeypatch.setattr(Sweep, "_step", lambda self, at, *rest: (calls.append(at), step(self, at, *rest))[1])
    counts = []
    for depth in (4, 8, 16):
        calls.clear()
        net = mlp(*(12,) * (depth + 1))
        scaled(net, torch.randn(30, 12))
        counts.append(len(calls))
    assert counts[2] - counts[1] == 2 * (counts[1] - counts[0])
    assert counts[2] < 16 * 8


def test_it_keeps_nothing_between_two_runs():
    x = torch.randn(40, 10)
    weights = []
    for _ in range(2):
        torch.manual_seed(1)
        net = mlp(10, 20, 5)
        scaled(net, x)
        weights.append([p.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


class Gated(nn.Module):
    """Branches that sleep: behind a small LayerScale, and behind a weight of zero."""

    def __init__(self):
        super().__init__()
        self.inner, self.end = nn.Linear(12, 24), nn.Linear(24, 12)
        self.scale = nn.Parameter(torch.full((12,), 1e-6))
        self.gate = nn.Parameter(torch.zeros(1))
        self.other = nn.Linear(12, 12)
        self.masked = nn.Linear(12, 12)

    def forward(self, x):
        x = x + self.scale * self.end(F.gelu(self.inner(x)))
        x = x + self.gate * self.other(x)
        return x + self.masked(self.gate * x)


def test_layers_behind_closed_gates_are_scaled_and_those_fed_by_one_are_told():
    net, x = Gated(), torch.randn(50, 12)
    with torch.no_grad():
        net.masked.bias.zero_()
    done = scaled(net, x)
    seen = variances(net, x)
    assert all(near(seen[name][0]) for name in ("inner", "end", "other"))
    assert told(done) == {"masked": "its input is zero"}
    assert bool(torch.isfinite(net.masked.weight).all())


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.drop, self.b = nn.Linear(10, 20), nn.BatchNorm1d(20), nn.Dropout(0.9), nn.Linear(20, 5)

    def forward(self, x):
        return self.b(self.drop(self.bn(self.a(x)).relu()))


def test_dropout_is_off_and_batch_norms_use_the_statistics_asked_for():
    net, x = Norms(), torch.randn(80, 10)
    net.bn.running_var.fill_(4.0)
    scaled(net, x)
    assert all(near(v[0]) for v in variances(net, x).values())
    scaled(net, x, norms="batch")
    assert all(near(v[0]) for v in variances(net.train().apply(_undropped), x).values())
    with pytest.raises(UsageError, match="file or batch"):
        scaled(net, x, norms="layer")


def _undropped(module):
    if isinstance(module, nn.Dropout):
        module.p = 0.0


def test_all_of_the_batch_counts_whatever_it_was_traced_with():
    net, x = mlp(10, 20, 5), torch.randn(33, 10)
    x[-1] *= 20
    scaled(net, x, examples=torch.randn(4, 10))
    assert all(near(v[0]) for v in variances(net, x).values())


def test_images_in_bytes_are_taken_as_numbers():
    net, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 4)), torch.randn(2, 3, 6, 6)
    pixels = torch.randint(0, 256, (20, 3, 6, 6), dtype=torch.uint8)
    scaled(net, pixels, examples=x)
    assert all(near(v[0]) for v in variances(net, pixels.float()).values())


def test_a_net_in_double_precision_is_computed_in_it():
    net, x = mlp(10, 20, 5).double(), torch.randn(40, 10)
    scaled(net, x, examples=x[:2].double())
    assert all(v[0] == pytest.approx(1, abs=1e-9) for v in variances(net, x.double()).values())


def test_a_net_that_cannot_be_run_is_refused_with_the_reason():
    model = reading.read(mlp(10, 20, 5).eval(), torch.randn(2, 10))
    with pytest.raises(UsageError, match="the graph takes"):
        calibrate(model, recipes(model), draw, data=torch.randn(8, 11))


def test_target_and_tries_are_settings():
    net, x = mlp(10, 20, 5), torch.randn(40, 10)
    scaled(net, x, target=2.0)
    assert all(v[0] == pytest.approx(2, abs=0.01) for v in variances(net, x).values())


def test_drawn_data_scale_for_fresh_data_too():
    net = mlp(32, 64, 64, 64, 10)
    scaled(net, None, examples=torch.randn(2, 32))
    assert all(near(v[0], 0.2) for v in variances(net, torch.randn(256, 32)).values())
