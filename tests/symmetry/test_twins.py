import copy
import itertools

import pytest

from initaudit import layers, symmetry
from initaudit.graph.view import View, sound
from initaudit.symmetry.gauge import Gauge
from initaudit.symmetry.shapes import shaped

torch = pytest.importorskip("torch")
nn = torch.nn


def told(module, *examples):
    from initaudit.audit import live

    model = live(module, examples)
    found, _ = layers.infer(model)
    return {own.name: own for own in symmetry.analyse(model.graph, found).layers if own is not None}


def mlp(act, *sizes, dtype=torch.float64, between=()):
    torch.manual_seed(0)
    parts = []
    for a, b in itertools.pairwise(sizes):
        parts += [nn.Linear(a, b), *(copy.deepcopy(make)(b) for make in between), act()]
    while not isinstance(parts[-1], nn.Linear):
        parts.pop()
    return nn.Sequential(*parts).to(dtype)


def twinned(first, into, j, k, c, out=None):
    """Make unit k the twin of unit j by c."""
    with torch.no_grad():
        first.weight[k] = c * first.weight[j]
        if first.bias is not None:
            first.bias[k] = c * first.bias[j]
        into.weight[:, k] = (c if out is None else out) * into.weight[:, j]


def trained(net, adam, x, y, steps=50):
    net = copy.deepcopy(net)
    opt = torch.optim.Adam(net.parameters(), 0.01) if adam else torch.optim.SGD(net.parameters(), 0.05, momentum=0.9)
    weigh = torch.rand(y.shape[1:], dtype=y.dtype) + 0.5
    for _ in range(steps):
        opt.zero_grad()
        (weigh * (net(x) - y) ** 2).mean().backward()
        opt.step()
    return net


def still(net, adam, j, k, c, at=0):
    """Whether unit k is still c times unit j after training."""
    torch.manual_seed(1)
    x = torch.randn(32, net[0].weight.shape[1], dtype=torch.float64)
    after = trained(net, adam, x, torch.randn(32, net[-1].weight.shape[0], dtype=torch.float64))
    h = after[: at + 1](x)
    return torch.allclose(h[:, k], c * h[:, j], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("act", "c", "adam"),
    [
        (nn.Tanh, -1.0, True), (nn.Softsign, -1.0, True), (nn.ReLU, 2.0, False), (nn.ReLU, 0.37, False),
        (lambda: nn.LeakyReLU(0.1), 3.0, False), (nn.Identity, -1.3, False), (nn.Hardtanh, -1.0, True),
        (nn.Tanhshrink, -1.0, True),
    ],
)  # fmt: skip
def test_twins_are_told_and_stay(act, c, adam):
    net = mlp(act, 6, 16, 12, 3)
    twinned(net[0], net[2], 1, 4, c)
    twinned(net[2], net[4], 0, 7, c)
    own = told(net, torch.randn(3, 6, dtype=torch.float64))
    assert own["0"].twins == ((1, 4),)
    assert own["2"].twins == ((0, 7),)
    assert own["0"].classes == own["0"].nearly == ()
    assert own["0"].twin_width == 15
    assert still(net, False, 1, 4, c)
    assert still(net, True, 1, 4, c) == adam


@pytest.mark.parametrize(
    ("act", "c", "out"),
    [
        (nn.GELU, -1.0, None), (nn.Sigmoid, -1.0, None), (nn.ReLU, -1.0, None), (nn.Tanh, 2.0, None),
        (nn.Tanh, -1.0, 1.0), (nn.ReLU, 2.0, 0.5), (nn.ReLU, 2.0, 3.0),
    ],
)  # fmt: skip
def test_what_training_parts_is_no_twin(act, c, out):
    net = mlp(act, 6, 16, 12, 3)
    twinned(net[0], net[2], 1, 4, c, out)
    assert all(own.twins == () for own in told(net, torch.randn(3, 6, dtype=torch.float64)).values())
    assert not still(net, False, 1, 4, c)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("act", "c"), [(nn.Tanh, -1.0), (nn.ReLU, 1.7)])
def test_twins_are_told_in_every_dtype(act, c, dtype):
    net = mlp(act, 8, 32, 12, 3, dtype=dtype)
    twinned(net[0], net[2], 1, 4, c)
    assert told(net, torch.randn(3, 8, dtype=dtype))["0"].twins == ((1, 4),)


def test_random_networks_have_no_twins():
    for act in (nn.Tanh, nn.ReLU, nn.Identity):
        assert all(own.twins == () for own in told(mlp(act, 6, 64, 64, 3), torch.randn(3, 6).double()).values())


def test_a_twin_of_a_tied_pair_is_one_set():
    net = mlp(nn.Tanh, 6, 16, 12, 3)
    twinned(net[0], net[2], 1, 4, 1.0)
    twinned(net[0], net[2], 1, 9, -1.0)
    own = told(net, torch.randn(3, 6, dtype=torch.float64))["0"]
    assert own.classes == ((1, 4),)
    assert own.twins == ((1, 4, 9),)
    assert own.twin_width == 14


def test_channels_through_norm_and_pooling():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(8, 6, 3), nn.Flatten(),
        nn.Linear(6, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5], net[1].bias[5] = -net[0].weight[2], -net[0].bias[2], -net[1].bias[2]
        net[4].weight[:, 5] = -net[4].weight[:, 2]
    own = told(net, torch.randn(2, 3, 8, 8, dtype=torch.float64))
    assert own["0"].twins == own["1"].twins == ((2, 5),)


def test_channels_through_max_pooling_and_a_flat_head():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 3)).double()
    with torch.no_grad():
        net[0].weight[5], net[0].bias[5] = 2 * net[0].weight[2], 2 * net[0].bias[2]
        net[4].weight[:, 45:54] = 2 * net[4].weight[:, 18:27]
    assert told(net, torch.randn(2, 3, 8, 8, dtype=torch.float64))["0"].twins == ((2, 5),)


def test_a_mean_over_units_lets_no_sign_through():
    net = mlp(nn.Tanh, 6, 16, 12, 3, between=(nn.LayerNorm,))
    twinned(net[0], net[3], 1, 4, -1.0)
    assert all(own.twins == () for own in told(net, torch.randn(3, 6, dtype=torch.float64)).values())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.b(torch.tanh(self.a(x)))
        return self.head(torch.tanh(x))


def test_units_of_a_residual_stream_share_one_sign():
    torch.manual_seed(0)
    net = Residual().double()
    with torch.no_grad():
        for p in (net.stem.weight, net.stem.bias, net.b.weight, net.b.bias):
            p[5] = -p[2]
        for p in (net.a.weight, net.head.weight):
            p[:, 5] = -p[:, 2]
    own = told(net, torch.randn(3, 5, dtype=torch.float64))
    assert own["stem"].twins == own["b"].twins == ((2, 5),)
    with torch.no_grad():
        net.b.weight[5] *= -1
    assert told(net, torch.randn(3, 5, dtype=torch.float64))["stem"].twins == ()


def test_outputs_keep_their_own_sign():
    from initaudit.audit import live

    model = live(mlp(nn.Tanh, 6, 16, 3), (torch.randn(3, 6, dtype=torch.float64),))
    graph = shaped(sound(model.graph))
    gauge = Gauge(View(graph))
    assert set(gauge.changes) == {"0.weight", "2.weight"}
    assert gauge.of(graph.outputs[0]) is None


class Branches(nn.Module):
    """Two branches, one of which is the other with all inner units scaled."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 6), nn.Linear(5, 6)
        self.c, self.d = nn.Linear(6, 7), nn.Linear(6, 7)
        self.head = nn.Linear(14, 3)

    def forward(self, x):
        y = torch.cat([torch.relu(self.c(torch.relu(self.a(x)))), torch.relu(self.d(torch.relu(self.b(x))))], 1)
        return self.head(y)


def test_rows_that_learn_at_another_pace_are_no_twins():
    torch.manual_seed(0)
    net = Branches().double()
    with torch.no_grad():
        for one, other in ((net.a.weight, net.b.weight), (net.a.bias, net.b.bias), (net.c.weight, net.d.weight)):
            other.copy_(2 * one)
        net.d.bias.copy_(4 * net.c.bias)
        net.d.weight.copy_(2 * net.c.weight)
        net.head.weight[:, 7:] = net.head.weight[:, :7]
    own = told(net, torch.randn(3, 5, dtype=torch.float64))
    assert all(one.twins == () for one in own.values())
