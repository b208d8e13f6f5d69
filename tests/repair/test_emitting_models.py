"""Emitted code on a fresh model of the same broken kind: the audit finds it healthy."""

import pytest

import initaudit
from initaudit.repair import emitting, planning

torch = pytest.importorskip("torch")
nn = torch.nn


class Residual(nn.Module):
    def __init__(self, *inner):
        super().__init__()
        self.inner = nn.Sequential(*inner)

    def forward(self, x):
        return x + self.inner(x)


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.embed = nn.Embedding(40, 32, padding_idx=0)
        self.rnn = kind(32, 32, batch_first=True, **options)
        self.head = nn.Linear(32 * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, x):
        return self.head(self.rnn(self.embed(x))[0][:, -1])


class Conv1D(nn.Module):
    """Linear with its weight stored (in, out), as GPT-2 has it."""

    def __init__(self, ins, outs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(ins, outs) * ins**-0.5)
        self.bias = nn.Parameter(torch.zeros(outs))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(16, 32)
        layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(32, 4)

    def forward(self, x):
        return self.head(self.layers(self.embed(x)).mean(1))


class AutoEncoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1, groups=4), nn.ReLU())
        self.up = nn.Sequential(
            nn.ConvTranspose2d(32, 16, 4, 2, 1, groups=2), nn.ReLU(), nn.ConvTranspose2d(16, 3, 4, 2, 1)
        )

    def forward(self, x):
        return self.up(self.down(x))


def mlp(depth, act, width=64):
    layers = [nn.Linear(20, width), act()]
    for _ in range(depth):
        layers += [nn.Linear(width, width), act()]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def deep_relu():
    return mlp(28, nn.ReLU), torch.randn(4, 20)


def symmetric():
    net = mlp(3, nn.Tanh)
    for p in net.parameters():
        nn.init.constant_(p, 0.05)
    return net, torch.randn(4, 20)


def zeroed_block():
    net = mlp(6, nn.GELU)
    nn.init.zeros_(net[4].weight)
    nn.init.zeros_(net[6].weight)
    return net, torch.randn(4, 20)


def broken_numbers():
    net = mlp(4, nn.SiLU)
    net[2].weight.data[3, 5] = float("nan")
    net[4].weight.data.mul_(1e4)
    return net, torch.randn(4, 20)


def copied_filters():
    net = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(10)
    )
    x = torch.randn(2, 3, 10, 10)
    net(x)
    net[2].weight.data[:] = net[2].weight.data[:1]
    return net, x


def dead_autoencoder():
    net = AutoEncoder()
    for p in net.parameters():
        p.data.mul_(1e-3)
    return net, torch.randn(2, 3, 16, 16)


def zero_lstm():
    net = Recurrent(nn.LSTM, bidirectional=True)
    for name, p in net.rnn.named_parameters():
        if "weight" in name:
            nn.init.constant_(p, 0.01)
    return net, torch.randint(1, 40, (3, 6))


def constant_gru():
    net = Recurrent(nn.GRU)
    nn.init.constant_(net.rnn.weight_ih_l0, 0.1)
    nn.init.constant_(net.head.weight, 0.3)
    return net, torch.randint(1, 40, (3, 6))


def constant_attention():
    net = Attention()
    for layer in net.layers.layers:
        nn.init.constant_(layer.self_attn.in_proj_weight, 0.02)
        nn.init.constant_(layer.linear1.weight, 0.02)
    return net, torch.randn(2, 5, 16)


def turned_round():
    net = nn.Sequential(*[m for _ in range(30) for m in (Conv1D(32, 32), nn.ReLU())], Conv1D(32, 4))
    for one in net:
        if isinstance(one, Conv1D):
            one.weight.data.mul_(0.3)
    return net, torch.randn(4, 32)


def residual():
    blocks = [Residual(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32)) for _ in range(12)]
    net = nn.Sequential(nn.Linear(20, 32), *blocks, nn.Linear(32, 4))
    for block in blocks:
        nn.init.constant_(block.inner[0].weight, 0.1)
    return net, torch.randn(4, 20)


def normalised():
    net = mlp(3, nn.ReLU)
    net[2] = nn.utils.parametrizations.weight_norm(net[2])
    net[4] = nn.utils.parametrizations.spectral_norm(net[4])
    nn.init.constant_(net[2].parametrizations.weight.original1, 0.1)
    nn.init.constant_(net[4].parametrizations.weight.original, 0.1)
    return net, torch.randn(4, 20)


BROKEN = [
    deep_relu, symmetric, zeroed_block, broken_numbers, copied_filters, dead_autoencoder, zero_lstm, constant_gru,
    constant_attention, turned_round, residual, normalised,
]  # fmt: skip


def mended(make):
    """Check a broken model, run what is emitted for it on another one as broken, check that."""
    torch.manual_seed(0)
    net, x = make()
    report = initaudit.check(net, example_inputs=(x,))
    assert report.verdict != "healthy"
    plan = planning.plan(report)
    text = emitting.emit(plan, source="broken.pt", names=[t.name for t in report.model.tensors])
    space = {}
    exec(compile(text, "initialize.py", "exec"), space)
    torch.manual_seed(1)
    fresh, x = make()
    space["initialize"](fresh)
    return initaudit.check(fresh, example_inputs=(x,)), text


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_fresh_model_is_healthy_after_the_code_ran(make):
    report, text = mended(make)
    assert report.verdict == "healthy", (report.findings, text)
