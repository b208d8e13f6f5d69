"""What moves, by kinds of operations: the steps that are told, against those at which torch first finds a gradient."""

import pytest

from tests.symmetry.steps import Net, checked

torch = pytest.importorskip("torch")
nn, F = torch.nn, torch.nn.functional


SMOOTH = {
    "gelu": F.gelu, "tanhshrink": F.tanhshrink, "cos": torch.cos, "abs": torch.abs, "square": lambda x: x * x,
    "flip": lambda x: x.flip(-1), "roll": lambda x: x.roll(1, -1), "cumsum": lambda x: x.cumsum(-1),
    "repeat": lambda x: x.repeat_interleave(2, 1)[:, :6], "gather": lambda x: x[:, [0, 0, 1, 2, 3, 4]],
    "pad": lambda x: F.pad(x[:, 1:5], (1, 1)), "sort": lambda x: x.sort(-1)[0],
    "einsum": lambda x: torch.einsum("bi,bi,bi->bi", x, x, x), "normalize": lambda x: F.normalize(x, dim=-1),
    "layer_norm": lambda x: F.layer_norm(x, (6,)),
}  # fmt: skip
ONE_SIDED = {  # whether a unit is ever on is a matter of chance
    "hardtanh": F.hardtanh, "relu6": F.relu6, "softshrink": F.softshrink, "clamp": lambda x: x.clamp(min=0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)), "filled": lambda x: x.masked_fill(x > 0, 1.0),
    "where": lambda x: torch.where(x > 0, x, torch.zeros_like(x)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "zero"),
    [
        *((n, z) for n in SMOOTH for z in ((1, 2) if n in ("flip", "einsum", "gather") else (1,))),
        *((n, 3) for n in ONE_SIDED),
    ],
)
def test_functions_of_zero(name, zero):
    torch.manual_seed(1)
    act = {**SMOOTH, **ONE_SIDED}[name]
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


@pytest.mark.parametrize(
    ("kv", "how", "zero"), [(2, "sdpa", ""), (2, "hand", ""), (4, "hand", "qk"), (1, "sdpa", "qk"), (4, "sdpa", "vo")]
)
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
