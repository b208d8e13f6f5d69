"""What moves, by kinds of operations: every step that is told, against the first step at which torch finds a gradient."""

import numpy as np
import pytest

from initaudit import symmetry

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


class Net(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def checked(net, shape, steps=4, floor=1e-14):
    """Compare, element by element; return what is told of the parameters."""
    from initaudit.audit import live

    net = net.double()
    graph = live(net, (torch.randn(3, *shape).double(),)).graph
    moving = symmetry.movements(graph)
    first = {name: np.zeros(p.shape, int) for name, p in net.named_parameters()}
    x = torch.randn(40, *shape).double()
    y = torch.randn_like(net(x))
    made = torch.optim.SGD(net.parameters(), 0.3)
    for step in range(1, steps + 1):
        made.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        for name, p in net.named_parameters():
            own = first[name]
            if p.grad is not None:
                own[(own == 0) & (p.grad.abs().numpy() > floor)] = step
        made.step()
    names = {t.name: value for value, t in graph.constants.items()}
    for name, own in first.items():
        assert (np.broadcast_to(moving[names[name]].step, own.shape) == own).all(), name
    return first


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("read", ["last", "first", "mean"])
@pytest.mark.parametrize("both", [False, True])
def test_recurrent_layers_by_what_is_read(kind, read, both):
    torch.manual_seed(0)
    pick = {"last": lambda y: y[:, -1], "first": lambda y: y[:, 0], "mean": lambda y: y.mean(1)}[read]
    net = Net(
        lambda s, x: s.head(pick(s.cell(x)[0])),
        cell=getattr(nn, kind)(3, 4, batch_first=True, bidirectional=both), head=nn.Linear(8 if both else 4, 2),
    )  # fmt: skip
    first = checked(net, (5, 3))
    stuck = not first["cell.weight_hh_l0"].any()
    assert stuck == (read == "first")
    if both:
        assert (not first["cell.weight_hh_l0_reverse"].any()) == (read == "last")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("zero", [("weight_hh_l0",), ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"), "all"])
def test_recurrent_layers_that_start_at_zero(kind, zero):
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(s.cell(x)[0][:, -1]), cell=getattr(nn, kind)(3, 4, batch_first=True), head=nn.Linear(4, 2)
    )
    for name, p in net.cell.named_parameters():
        if zero == "all" or name in zero:
            nn.init.zeros_(p)
    checked(net, (5, 3), 6, 1e-12)


def test_learned_first_states_that_are_zero():
    torch.manual_seed(0)

    def run(s, x):
        return s.head(s.cell(x, (s.h.expand(-1, x.shape[0], -1).contiguous(),) * 2)[0][:, -1])

    checked(
        Net(run, cell=nn.LSTM(3, 4, batch_first=True), h=nn.Parameter(torch.zeros(1, 1, 4)), head=nn.Linear(4, 2)),
        (1, 3),
    )


@pytest.mark.parametrize("act", [
    F.gelu, F.hardtanh, F.relu6, F.softshrink, F.tanhshrink, torch.cos, torch.abs, lambda x: x * x, lambda x: x.clamp(min=0),
    lambda x: torch.maximum(x, torch.zeros_like(x)), lambda x: x.masked_fill(x > 0, 1.0), lambda x: x.flip(-1),
    lambda x: x.roll(1, -1), lambda x: x.cumsum(-1), lambda x: x.repeat_interleave(2, 1)[:, :6],
    lambda x: x[:, [0, 0, 1, 2, 3, 4]], lambda x: F.pad(x[:, 1:5], (1, 1)), lambda x: x.sort(-1)[0],
    lambda x: torch.where(x > 0, x, torch.zeros_like(x)), lambda x: torch.einsum("bi,bi,bi->bi", x, x, x),
    lambda x: F.normalize(x, dim=-1), lambda x: F.layer_norm(x, (6,)),
])  # fmt: skip
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_functions_of_zero(act, zero):
    torch.manual_seed(1)
    net = Net(lambda s, x: s.head(act(s.first(x))), first=nn.Linear(4, 6), head=nn.Linear(6, 3))
    if zero & 1:
        nn.init.zeros_(net.first.weight)
        nn.init.zeros_(net.first.bias)
    if zero & 2:
        nn.init.zeros_(net.head.weight)
    checked(net, (4,), 2)


class Heads(nn.Module):
    def __init__(self, kv, how):
        super().__init__()
        self.q, self.k, self.v, self.o = nn.Linear(8, 8), nn.Linear(8, 2 * kv), nn.Linear(8, 2 * kv), nn.Linear(8, 8)
        self.kv, self.how = kv, how

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (f(x).view(b, t, -1, 2).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.how == "sdpa":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=self.kv != 4)
        else:
            k, v = (u.repeat_interleave(4 // self.kv, 1) for u in (k, v))
            hidden = torch.ones(t, t, dtype=torch.bool).triu(1)
            y = torch.softmax((q @ k.transpose(-1, -2)).masked_fill(hidden, -torch.inf), -1) @ v
        return x + self.o(y.transpose(1, 2).reshape(b, t, 8))


@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize("how", ["sdpa", "hand"])
@pytest.mark.parametrize("zero", ["", "q", "qk", "vo"])
def test_attention(kv, how, zero):
    torch.manual_seed(0)
    heads = Heads(kv, how)
    for name in zero:
        for p in getattr(heads, name).parameters():
            nn.init.zeros_(p)
    first = checked(nn.Sequential(heads, nn.Linear(8, 3)), (5, 8), 4, 1e-13)
    assert not first["0.k.bias"].any()


@pytest.mark.parametrize("tokens", [1, 4])
def test_attention_over_one_key_never_moves_queries_and_keys(tokens):
    torch.manual_seed(0)
    first = checked(nn.Sequential(Heads(4, "sdpa"), nn.Linear(8, 3)), (tokens, 8), 2, 1e-13)
    assert first["0.q.weight"].any() == (tokens > 1)


def test_places_of_a_kernel_that_only_ever_see_padding():
    torch.manual_seed(0)
    first = checked(Net(lambda s, x: s.head(torch.tanh(s.c(F.pad(x, (4, 0)))).mean(-1)),
                        c=nn.Conv1d(3, 5, 3, dilation=2), head=nn.Linear(5, 2)), (3, 4), 2)  # fmt: skip
    assert not first["c.weight"][..., 0].any()
    assert first["c.weight"][..., 1].all()


@pytest.mark.parametrize("between", [nn.Identity(), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Conv2d(4, 4, 2)])
def test_a_bias_that_a_batch_norm_takes_away_further_on(between):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), between, nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.LazyLinear(2))
    net(torch.randn(2, 3, 6, 6))
    assert not checked(net, (3, 6, 6), 2, 1e-13)["0.bias"].any()


def test_a_kernel_that_is_computed():
    torch.manual_seed(0)

    def run(s, x):
        return s.head(F.conv2d(x, s.made(x.mean((0, 2, 3))).view(4, 3, 2, 2)).mean((2, 3)))

    net = Net(run, made=nn.Linear(3, 48), head=nn.Linear(4, 2))
    nn.init.zeros_(net.made.weight)
    nn.init.zeros_(net.made.bias)
    checked(net, (3, 4, 4), 3)


def test_weight_norm_of_length_zero():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(4, 5))
    nn.init.zeros_(layer.parametrizations.weight.original0)
    checked(nn.Sequential(layer, nn.Tanh(), nn.Linear(5, 2)), (4,), 3)
