"""Attention, embeddings and moves of tokens: theory against the probe on modules, and attention found where it is
written out."""

import math

import numpy as np
import pytest

from initaudit import audit, theory
from initaudit.theory.attention_softmax import softmax

torch = pytest.importorskip("torch")
nn = torch.nn
functional = nn.functional


@pytest.mark.parametrize("keys", [2, 8, 64])
@pytest.mark.parametrize("std", [0.3, 1.0, 3.0, 10.0, 100.0])
def test_softmax_of_normal_logits(keys, std):
    logits = np.random.default_rng(0).normal(size=(20000, keys)) * std
    w = np.exp(logits - logits.max(1, keepdims=True))
    w /= w.sum(1, keepdims=True)
    shares = (w**2).sum(1)
    made = softmax(keys, std)
    assert made.shares == pytest.approx(shares.mean(), rel=0.01)
    assert made.slope == pytest.approx((w**2 * (1 - 2 * w + shares[:, None])).sum(1).mean(), rel=0.2)
    entropy = -(w * np.log(np.clip(w, 1e-300, 1))).sum(1).mean() / math.log(keys)
    assert made.entropy == pytest.approx(entropy, rel=0.15, abs=0.003)


class Block(nn.Module):
    """Attention and a dense block; how attention is spelled out is up to `kind`."""

    def __init__(self, width, kind, causal=False):
        super().__init__()
        self.kind, self.causal, self.heads = kind, causal, 4
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.bias = nn.Parameter(torch.randn(4, 12, 12) * 0.02)

    def attend(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        if self.kind == "whole":
            y = functional.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        elif self.kind == "einsum":
            logits = torch.einsum("bhqd,bhkd->bhqk", q, k) / math.sqrt(q.shape[-1])
            y = torch.einsum("bhqk,bhkd->bhqd", logits.softmax(-1), v)
        else:
            logits = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5 + self.bias
            if self.causal:
                logits = logits.masked_fill(torch.ones(n, n, dtype=torch.bool).triu(1), -torch.inf)
            y = logits.softmax(-1) @ v
        return self.out(y.transpose(1, 2).reshape(b, n, c))

    def forward(self, x):
        x = x + self.attend(self.norm1(x))
        return x + self.down(functional.gelu(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """A language model: embeddings, blocks, a head at every token, at a class token or at their mean."""

    def __init__(self, kind, end="each", causal=False, scale=1.0):
        super().__init__()
        self.end = end
        self.embed, self.place = nn.Embedding(50, 64), nn.Embedding(12, 64)
        self.first = nn.Parameter(torch.randn(1, 1, 64) * 0.02)
        self.blocks = nn.ModuleList(Block(64, kind, causal) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(64), nn.Linear(64, 50)
        with torch.no_grad():
            for block in self.blocks:
                block.qkv.weight *= scale

    def forward(self, ids):
        x = self.embed(ids) + self.place(torch.arange(ids.shape[1]))
        if self.end == "class":
            x = torch.cat([self.first.expand(len(x), -1, -1), x[:, 1:]], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, 0] if self.end == "class" else x.mean(1) if self.end == "mean" else x)


class Windows(nn.Module):
    """Image tokens in windows, as Swin has them, with patches merged afterwards."""

    def __init__(self):
        super().__init__()
        self.patch, self.norm = nn.Conv2d(3, 48, 2, 2), nn.LayerNorm(48)
        self.qkv, self.out = nn.Linear(48, 144), nn.Linear(48, 48)
        self.merge, self.head = nn.Linear(192, 96), nn.Linear(96, 10)

    def forward(self, x):
        x = self.patch(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-2, -2), (1, 2)).view(b, h // 4, 4, w // 4, 4, c)
        y = y.permute(0, 1, 3, 2, 4, 5).reshape(-1, 16, c)
        q, k, v = self.qkv(y).reshape(len(y), 16, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        y = ((q @ k.transpose(-1, -2)) / math.sqrt(c // 4)).softmax(-1) @ v
        y = self.out(y.transpose(1, 2).reshape(-1, 16, c)).view(b, h // 4, w // 4, 4, 4, c)
        x = x + torch.roll(y.permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c), (2, 2), (1, 2))
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.head(self.merge(x).mean((1, 2)))


class Experts(nn.Module):
    """A router, the two best experts of it, and their stacked weights."""

    def __init__(self):
        super().__init__()
        self.inp, self.gate = nn.Linear(24, 64), nn.Linear(64, 6)
        self.up = nn.Parameter(torch.randn(6, 96, 64) / 8)
        self.down = nn.Parameter(torch.randn(6, 64, 96) / 9)
        self.head = nn.Linear(64, 8)

    def forward(self, x):
        x = self.inp(x)
        flat = x.reshape(-1, 64)
        share, which = self.gate(flat).softmax(-1).topk(2, -1)
        each = flat.repeat_interleave(2, 0)
        one = which.reshape(-1)
        y = functional.silu((self.up[one] @ each.unsqueeze(-1)).squeeze(-1))
        y = (self.down[one] @ y.unsqueeze(-1)).squeeze(-1) * share.reshape(-1, 1)
        return self.head(x + y.view(-1, 2, 64).sum(1).view_as(x))


class Channels(nn.Module):
    """Attention over channels (XCiT)."""

    def __init__(self):
        super().__init__()
        self.inp, self.qkv, self.out = nn.Linear(24, 64), nn.Linear(64, 192), nn.Linear(64, 10)

    def forward(self, x):
        x = self.inp(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 4, 1)
        y = (functional.normalize(q, dim=-1) @ functional.normalize(k, dim=-1).transpose(-1, -2)).softmax(-1) @ v
        return self.out((x + y.permute(0, 3, 1, 2).reshape(b, n, c)).mean(1))


class Linear(nn.Module):
    """Attention without a softmax: relu features, keys times values first."""

    def __init__(self):
        super().__init__()
        self.inp, self.qkv, self.out = nn.Linear(24, 64), nn.Linear(64, 192, bias=False), nn.Linear(64, 10)

    def forward(self, x):
        x = self.inp(x)
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        q, k = torch.relu(q), torch.relu(k)
        y = (q @ (k.transpose(-1, -2) @ v)) / (q @ k.sum(-2, keepdim=True).transpose(-1, -2) + 1e-6)
        return self.out((x + y.transpose(1, 2).reshape(b, n, c)).mean(1))


def ids():
    return torch.randint(0, 50, (2, 12))


def tokens():
    return torch.randn(2, 20, 24)


NETS = {
    "whole": (lambda: Tokens("whole"), ids),
    "written out": (lambda: Tokens("written"), ids),
    "einsum": (lambda: Tokens("einsum", "mean"), ids),
    "causal": (lambda: Tokens("whole", causal=True), ids),
    "causal mask": (lambda: Tokens("written", causal=True), ids),
    "class token": (lambda: Tokens("whole", "class"), ids),
    "large logits": (lambda: Tokens("whole", "mean", scale=3.0), ids),
    "windows": (Windows, lambda: torch.randn(2, 3, 16, 16)),
    "experts": (Experts, tokens),
    "channels": (Channels, tokens),
}


def report_on(name):
    build, feed = NETS[name]
    torch.manual_seed(0)
    report = audit.audit_model(audit.live(build().eval(), (feed(),)), probe=True, jobs=1)
    assert not report.probe.why
    assert not report.theory.unread
    return report


def factor(found, wanted):
    if not wanted:
        return 0.0 if not found else math.inf
    return abs(math.log2(found / wanted)) if found else math.inf


@pytest.mark.parametrize("name", NETS)
def test_within_a_factor_two(name):
    report = report_on(name)
    for field in ("forward_variance", "relative_gradient"):
        off = [
            factor(getattr(m.predicted, field), getattr(m.probed, field))
            for m in report.measured
            if getattr(m.probed, field) is not None and m.layer.name != "place"
        ]
        assert np.mean(np.array(off) < 1) >= 0.85, (field, off)


@pytest.mark.parametrize(
    "name", ["whole", "written out", "einsum", "causal", "causal mask", "large logits", "channels"]
)
def test_logits_before_training(name):
    report = report_on(name)
    assert len(report.theory.attention) == len(report.probe.attention) > 0
    for said, seen in zip(report.theory.attention, report.probe.attention, strict=True):
        assert said.spread == pytest.approx(seen.spread, rel=0.25)
        assert said.entropy == pytest.approx(seen.entropy, abs=0.06)


def test_linear_attention_is_of_the_right_size():
    torch.manual_seed(0)
    report = audit.audit_model(audit.live(Linear().eval(), (tokens(),)), probe=True, jobs=1)
    assert not report.theory.unread
    for m in report.measured:
        assert factor(m.predicted.forward_variance, m.probed.forward_variance) < 1.5, m.layer.name
        assert factor(m.predicted.relative_gradient, m.probed.relative_gradient) < 1.5, m.layer.name


def test_positions_do_not_tell_inputs_apart():
    report = report_on("whole")
    rows = {m.layer.name: m.predicted for m in report.measured}
    assert rows["place"].forward_variance == 0
    assert rows["embed"].forward_variance == pytest.approx(1.0, rel=0.1)


def test_queries_of_a_frozen_attention_get_no_gradient():
    """Where one key takes all, only values learn."""
    torch.manual_seed(0)
    net = nn.Module()
    net.q, net.k, net.v = (nn.Linear(24, 24, bias=False) for _ in range(3))
    net.forward = lambda x: functional.scaled_dot_product_attention(net.q(x), net.k(x), net.v(x))
    with torch.no_grad():
        net.q.weight *= 1e4
        net.k.weight *= 1e4
    made = audit.live(net.eval(), (tokens(),))
    said = {m.layer.name: m.predicted for m in audit.audit_model(made, jobs=1).measured}
    assert said["q"].gradient * 1e4 < 1e-3 * said["v"].gradient


def test_a_token_beyond_the_table_is_no_crash():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            y = torch.softmax(self.a(x) @ self.b(x).transpose(-1, -2), -2)
            return y.transpose(-1, -2).flatten(1)[:, ::3]

    torch.manual_seed(0)
    made = audit.live(Odd().eval(), (torch.randn(2, 6, 8),))
    said = theory.predict(made.graph, audit.audit_model(made, jobs=1).measured)
    assert len(said.layers) == 2
