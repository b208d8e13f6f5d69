"""The tangent kernel's two parts against gradients taken input by input, and units that are copies of each other."""

import math

import pytest

from initaudit import audit, layers
from tests.live.test_probe import Plain, probed

torch = pytest.importorskip("torch")
nn = torch.nn


def kernel(module, data, draws=300):
    """Return |E g|^2 and the spread of g about it by weight, of gradients of single inputs."""
    torch.manual_seed(11)
    y = module.double()(data.double())
    names, leaves = zip(*module.named_parameters(), strict=True)
    common, contrast = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    jacobian = [  # weight -> (inputs, outputs, elements)
        torch.stack([torch.stack([g.flatten() for g in row]) for row in rows])
        for rows in zip(
            *[
                list(zip(*[torch.autograd.grad(y[a, k], leaves, retain_graph=True) for k in range(y.shape[1])],
                         strict=True))
                for a in range(len(y))
            ],
            strict=True,
        )
    ]  # fmt: skip
    for _ in range(draws):
        u = torch.randn(y.shape[1], dtype=torch.float64)
        u /= u.norm()
        for name, j in zip(names, jacobian, strict=True):
            g = torch.einsum("akp,k->ap", j, u)
            apart = float((g - g.mean(0)).square().sum()) / (len(g) - 1)
            common[name] += (float(g.mean(0).square().sum()) - apart / len(g)) / draws
            contrast[name] += apart / draws
    return common, contrast


def test_common_and_contrast_are_parts_of_the_tangent_kernel(monkeypatch):
    from initaudit.live.probe import cost

    monkeypatch.setattr(cost, "MOST_DRAWS", 300)
    torch.manual_seed(0)
    module = Plain(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    rows, _, data = probed(module, torch.randn(2, 6))
    common, contrast = kernel(module, data["x"])
    for name, row in rows.items():
        assert row.common == pytest.approx(max(0.0, common[name]), rel=0.25, abs=contrast[name] / 16), name
        assert row.contrast == pytest.approx(contrast[name], rel=0.25), name


def test_common_does_not_depend_on_how_many_inputs_there_are():
    """Weights of mean 0 before a linear head: nothing is common, however few inputs there are."""
    from initaudit.live.probe import probe

    torch.manual_seed(0)
    module = Plain(nn.Linear(200, 50, bias=False), nn.Linear(50, 3, bias=False))
    ratios = []
    for count in (8, 64):
        model = audit.live(module, torch.randn(2, 200))
        rows = layers.infer(model)[0]
        data = {"x": torch.randn(count, 200)}
        made = [probe(model.graph, rows, data, seed=seed) for seed in range(6)]
        ratios.append(sum(m.layers[0].common for m in made) / sum(m.layers[0].contrast for m in made))
    assert all(ratio < 0.04 for ratio in ratios), ratios  # 1/8 with what a batch of 8 finds by chance


def test_what_is_the_same_for_all_inputs_has_no_contrast():
    """Of a net that no longer tells its inputs apart, and of one that does."""
    deep = Plain(*(part for _ in range(25) for part in (nn.Linear(8, 8), nn.ReLU())), nn.Linear(8, 3))
    flat = Plain(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    for module, least, most in ((deep, 0, 1e-6), (flat, 0.1, 100)):
        rows, _, _ = probed(module, torch.randn(2, 8))
        told = [row for row in rows.values() if row.common]
        ratio = sum(row.contrast for row in told) / sum(row.common for row in told)
        assert least <= ratio <= most


def test_contrast_survives_where_gradients_differ_by_little():
    """Differences of 1e-9 between inputs: squares of 1e-18 of what they share."""
    module = Plain(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        module.parts[0].weight.mul_(1e-9)
        module.parts[0].bias.fill_(0.3)
    rows, _, data = probed(module, torch.randn(2, 6))
    _, contrast = kernel(module, data["x"])
    assert rows["parts.2.weight"].contrast == pytest.approx(contrast["parts.2.weight"], rel=0.9, abs=0)
    assert rows["parts.2.weight"].contrast < 1e-16 * rows["parts.2.weight"].common


def test_tied_units():
    net = Plain(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    rows, _, _ = probed(net, torch.randn(2, 6))
    assert [row.tied for row in rows.values()] == [0, 0, 0]
    with torch.no_grad():  # two units alike in what comes in and in what goes out
        net.parts[0].weight[3] = net.parts[0].weight[1]
        net.parts[0].bias[3] = net.parts[0].bias[1]
        net.parts[2].weight[:, 3] = net.parts[2].weight[:, 1]
    rows, _, _ = probed(net, torch.randn(2, 6))
    assert [row.tied for row in rows.values()] == [0.25, 0, 0]
    with torch.no_grad():  # what goes out differs: the next step parts them
        net.parts[2].weight[0, 3] += 0.1
    rows, _, _ = probed(net, torch.randn(2, 6))
    assert [row.tied for row in rows.values()] == [0, 0, 0]


def test_units_of_a_constant_net_are_tied_and_those_of_a_zero_head_are_not():
    net = Plain(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    for part in net.parts[0::2]:
        nn.init.constant_(part.weight, 0.1)
    rows, _, _ = probed(net, torch.randn(2, 6))
    assert rows["parts.2.weight"].tied == 0  # random biases
    for part in net.parts[0::2]:
        nn.init.constant_(part.bias, 0.1)
    rows, _, _ = probed(net, torch.randn(2, 6))
    assert [row.tied for row in rows.values()] == [1, 1, 0]
    zero = Plain(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    nn.init.zeros_(zero.parts[2].weight)
    rows, _, _ = probed(zero, torch.randn(2, 6))
    assert [row.tied for row in rows.values()] == [0, 0]


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn = kind(6, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_tied_units_of_recurrent_layers(kind):
    net = Recurrent(kind)
    rows, _, _ = probed(net, torch.randn(2, 5, 6))
    assert all(row.tied == 0 for row in rows.values())
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    rows, _, _ = probed(net, torch.randn(2, 5, 6))
    assert {rows[name].tied for name in rows if name.startswith("rnn")} == {1.0}


def test_tied_channels_of_convolutions_and_columns_of_tables():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(30, 4)
            self.up = nn.ConvTranspose1d(4, 6, 3)
            self.depth = nn.Conv1d(6, 6, 3, groups=6)
            self.head = nn.Linear(6, 3)

        def forward(self, ids):
            x = self.up(self.table(ids).transpose(1, 2))
            return self.head(torch.relu(self.depth(x)).mean(-1))

    net = Net()
    rows, _, _ = probed(net, torch.randint(0, 30, (2, 7)))
    assert all(row.tied == 0 for row in rows.values())
    with torch.no_grad():
        net.table.weight[:, 1] = net.table.weight[:, 0]
        net.up.weight[1] = net.up.weight[0]
        net.depth.weight.fill_(0.3)
    rows, _, _ = probed(net, torch.randint(0, 30, (2, 7)))
    assert rows["table.weight"].tied == 0.5
    assert rows["up.weight"].tied == 0
    assert rows["depth.weight"].tied == 0  # equal, but each sees its own channel


def test_several_heads_get_a_vector_each_and_outputs_without_a_batch_are_one_input():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(6, 4), nn.Linear(6, 5)

        def forward(self, x):
            return self.a(x), self.b(x).mean(0)

    rows, _, data = probed(Two(), torch.randn(2, 6))
    x = data["x"].double()
    # the second output belongs to a run of two inputs: so do unit vectors, and there are four runs of norm 1
    moment = float(x.unflatten(0, (4, 2)).mean(1).square().sum(-1).mean())
    assert rows["b.weight"].gradient == pytest.approx(math.sqrt(moment), rel=0.5)
    assert rows["a.weight"].gradient > 0
