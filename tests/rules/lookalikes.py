"""Modules that look broken and are not: what experts start so on purpose."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

Made = tuple[nn.Module, tuple[torch.Tensor, ...]]
MAKERS: dict[str, Callable[[], Made]] = {}


def _lookalike(make: Callable[[], Made]) -> Callable[[], Made]:
    MAKERS[make.__name__] = make
    return make


def _image() -> tuple[torch.Tensor, ...]:
    return (torch.randn(2, 3, 8, 8),)


def _chain(*parts: nn.Module) -> Any:
    return nn.Sequential(*parts)


class _Fixed(nn.Module):
    """A convolution with a kernel that is no parameter."""

    def __init__(self, kernel: torch.Tensor, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("kernel", kernel)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.kernel, padding=1, groups=self.groups)


@_lookalike
def icnr() -> Made:
    net = _chain(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.PixelShuffle(2), nn.ReLU(),
        nn.Conv2d(8, 3, 3, padding=1),
    )  # fmt: skip
    with torch.no_grad():
        for p in net[2].parameters():
            p.copy_(p[::4].repeat_interleave(4, 0))
    return net, _image()


@_lookalike
def bilinear_upsampling() -> Made:
    net = _chain(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 8, 4, 2, 1, groups=8, bias=False),
        nn.ConvTranspose2d(8, 8, 4, 2, 1, bias=False), nn.Conv2d(8, 3, 1),
    )  # fmt: skip
    line = torch.tensor([0.25, 0.75, 0.75, 0.25])
    with torch.no_grad():
        net[2].weight.copy_(line[:, None] * line)
        net[3].weight.zero_()
        for k in range(8):
            net[3].weight[k, k] = line[:, None] * line
    return net, _image()


@_lookalike
def blur_and_sobel() -> Made:
    line = torch.tensor([1.0, 2.0, 1.0])
    edge = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]])
    blur = (line[:, None] * line / 16).repeat(8, 1, 1, 1)
    sobel = torch.stack([edge, edge.T])[:, None].repeat(8, 1, 1, 1)
    held = nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False)
    nn.init.constant_(held.weight, 1 / 9)
    net = _chain(nn.Conv2d(3, 8, 3, padding=1), _Fixed(blur, 8), _Fixed(sobel, 8), held, nn.ReLU(), nn.Conv2d(16, 3, 3))
    return net, _image()


@_lookalike
def dirac() -> Made:
    net = _chain(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 3))
    nn.init.dirac_(net[2].weight)
    return net, _image()


@_lookalike
def identity() -> Made:
    net = _chain(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.eye_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    return net, (torch.randn(3, 16),)


class _Selective(nn.Module):
    """A state space whose rates start alike for all channels."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.dt, self.bc, self.head = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, 9.0)).repeat(16, 1))
        self.D = nn.Parameter(torch.ones(16))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        u = F.silu(self.inp(x))
        step = F.softplus(self.dt(u))
        b, c = self.bc(u).chunk(2, -1)
        rate = -torch.exp(self.A_log)
        state = torch.zeros(x.shape[0], 16, 8)
        out = []
        for t in range(x.shape[1]):
            state = torch.exp(step[:, t, :, None] * rate) * state + (step[:, t] * u[:, t])[:, :, None] * b[:, t, None]
            out.append((state * c[:, t, None]).sum(-1) + self.D * u[:, t])
        return self.head(torch.stack(out, 1))


@_lookalike
def rates_of_a_state_space() -> Made:
    return _Selective(), (torch.randn(2, 3, 6),)


class _Attention(nn.Module):
    """Self-attention of four heads with something added to its logits."""

    def __init__(self, *, table: bool = False, slopes: bool = False) -> None:
        super().__init__()
        self.inp, self.out, self.head = nn.Linear(6, 32), nn.Linear(32, 32), nn.Linear(32, 3)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(32, 32, bias=False) for _ in range(3))
        self.table = nn.Parameter(torch.zeros(9, 4)) if table else None
        places = torch.arange(5)
        self.register_buffer("index", places[:, None] - places + 4)
        self.register_buffer("slopes", 2.0 ** -torch.arange(1.0, 5.0) if slopes else torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        q, k, v = (f(x).unflatten(-1, (4, 8)).transpose(1, 2) for f in (self.q_proj, self.k_proj, self.v_proj))
        logits = q @ k.transpose(-1, -2) / 8**0.5 - self.slopes[:, None, None] * (self.index - 4).abs()
        if self.table is not None:
            logits = logits + self.table[self.index.view(-1)].view(5, 5, 4).permute(2, 0, 1)
        y = torch.softmax(logits, -1) @ v
        return self.head(x + self.out(y.transpose(1, 2).flatten(2)))


@_lookalike
def repeated_heads_of_keys_and_values() -> Made:
    net = _Attention()
    with torch.no_grad():
        for f in (net.k_proj, net.v_proj):
            f.weight.copy_(f.weight.view(4, 8, 32)[:2].repeat_interleave(2, 0).reshape(32, 32))
    return net, (torch.randn(2, 5, 6),)


@_lookalike
def zero_table_of_relative_positions() -> Made:
    return _Attention(table=True), (torch.randn(2, 5, 6),)


@_lookalike
def alibi() -> Made:
    return _Attention(slopes=True), (torch.randn(2, 5, 6),)


class _Tokens(nn.Module):
    """Rows of reserved tokens start at the mean of the others; the row of padding is zero."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 16, padding_idx=0)
        self.body, self.head = nn.Linear(16, 16), nn.Linear(16, 50, bias=False)
        with torch.no_grad():
            self.embed.weight[40:] = self.embed.weight[1:40].mean(0)
        if shared:
            self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.body(self.embed(ids))))


@_lookalike
def reserved_tokens() -> Made:
    return _Tokens(shared=False), (torch.randint(0, 50, (2, 5)),)


@_lookalike
def reserved_tokens_of_a_shared_table() -> Made:
    return _Tokens(shared=True), (torch.randint(0, 50, (2, 5)),)


class _Queries(nn.Module):
    """Contents of queries start at zero, their places differ, as in DETR."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.head = nn.Linear(6, 16), nn.Linear(16, 3)
        self.content, self.place = nn.Parameter(torch.zeros(7, 16)), nn.Parameter(torch.randn(7, 16))
        self.decoder = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.decoder((self.content + self.place).expand(x.shape[0], -1, -1), self.inp(x)))


@_lookalike
def queries_told_apart_by_their_places() -> Made:
    return _Queries(), (torch.randn(2, 5, 6),)


@_lookalike
def a_single_layer() -> Made:
    net = _chain(nn.Linear(16, 4))
    nn.init.constant_(net[0].weight, 0.1)
    return net, (torch.randn(3, 16),)


@_lookalike
def a_single_layer_of_zeros() -> Made:
    net = _chain(nn.Linear(16, 4))
    nn.init.zeros_(net[0].weight)
    return net, (torch.randn(3, 16),)


@_lookalike
def a_constant_head() -> Made:
    net = _chain(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    nn.init.constant_(net[2].weight, 0.05)
    return net, (torch.randn(3, 16),)


class _Modulated(nn.Module):
    """adaLN-Zero with a zero head, and a zero last scale of a residual branch."""

    def __init__(self) -> None:
        super().__init__()
        self.inp, self.cond, self.modulation = nn.Linear(6, 16), nn.Linear(4, 16), nn.Linear(16, 48)
        self.norm, self.last = nn.LayerNorm(16, elementwise_affine=False), nn.LayerNorm(16)
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)
        for p in (*self.modulation.parameters(), *self.head.parameters(), self.last.weight):
            nn.init.zeros_(p)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        x = self.inp(x)
        shift, scale, gate = self.modulation(F.silu(self.cond(c))).chunk(3, -1)
        x = x + gate * self.down(F.gelu(self.up(self.norm(x) * (1 + scale) + shift)))
        return self.head(x + self.last(x))


@_lookalike
def modulation_that_starts_at_zero() -> Made:
    return _Modulated(), (torch.randn(2, 6), torch.randn(2, 4))
