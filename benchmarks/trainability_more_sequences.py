"""Small networks over ids, signals and sets; `architecture` is read as `kind-WIDTHxDEPTH`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as everyone calls it)

from benchmarks.trainability_more_dense import parsed
from benchmarks.trainability_more_tasks import LENGTH, LETTERS, VOCABULARY


class RMSNorm(nn.Module):
    """A norm without mean and shift, as Llama writes it."""

    def __init__(self, width: int) -> None:
        """Start at 1."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens of the same shape."""
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class LlamaBlock(nn.Module):
    """Attention and SwiGLU, RMSNorm before each, no biases."""

    def __init__(self, width: int) -> None:
        """Build one block of 4 heads."""
        super().__init__()
        self.input_norm, self.post_norm = RMSNorm(width), RMSNorm(width)
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.gate_proj, self.up_proj = (nn.Linear(width, 2 * width, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        y = self.input_norm(x)
        q, k, v = (p(y).unflatten(-1, (4, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        x = x + self.o_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        y = self.post_norm(x)
        return x + self.down_proj(F.silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    """Blocks like Llama's with learnt positions; which letter came first is read from their mean."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` blocks."""
        super().__init__()
        _, width, depth = parsed(architecture)
        self.embed_tokens = nn.Embedding(VOCABULARY["first"], width)
        self.embed_positions = nn.Embedding(LENGTH["first"], width)
        self.layers = nn.ModuleList([LlamaBlock(width) for _ in range(depth)])
        self.norm = RMSNorm(width)
        self.score = nn.Linear(width, LETTERS, bias=False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, letters) of ids (batch, 12)."""
        x = self.embed_tokens(ids) + self.embed_positions.weight
        for layer in self.layers:
            x = layer(x)
        return self.score(self.norm(x).mean(1))


class GPTBlock(nn.Module):
    """Causal attention and a dense block, LayerNorm before each."""

    def __init__(self, width: int, length: int) -> None:
        """Build one block of 4 heads."""
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.register_buffer("later", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        batch, tokens, width = x.shape
        q, k, v = self.c_attn(self.ln_1(x)).split(width, dim=2)
        q, k, v = (t.view(batch, tokens, 4, width // 4).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) / math.sqrt(width // 4)
        weights = F.softmax(scores.masked_fill(self.later, float("-inf")), dim=-1)
        x = x + self.c_proj((weights @ v).transpose(1, 2).contiguous().view(batch, tokens, width))
        return x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """A causal language model; kind `tied` reads its logits with the embedding, `free` with a head of its own."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` blocks."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        vocabulary, length = VOCABULARY["periodic"], LENGTH["periodic"]
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.h = nn.ModuleList([GPTBlock(width, length) for _ in range(depth)])
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, vocabulary, bias=False)
        if kind == "tied":
            self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, 16, ids) of ids (batch, 16)."""
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class Encoder(nn.Module):
    """torch's own encoder over ids; kind `pre` or `post` says where its norms are."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        self.tokens = nn.Embedding(VOCABULARY["majority"], width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=kind == "pre"
        )
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.answer = nn.Linear(width, 4)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, 4) of ids (batch, 12)."""
        return self.answer(self.encoder(self.tokens(ids)).mean(1))


class Stacked(nn.Module):
    """Recurrent layers over embedded ids, read at the last step."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers of kind `lstm`, `gru` or `rnn`."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        self.embedding = nn.Embedding(VOCABULARY["recall"], width)
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
        self.cells = kinds[kind](width, width, depth, batch_first=True)
        self.decoder = nn.Linear(width, VOCABULARY["recall"])

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, ids) of ids (batch, 12)."""
        states, _ = self.cells(self.embedding(ids))
        return self.decoder(states[:, -1])


class Bidirectional(nn.Module):
    """Recurrent layers that read both ways, the largest over time taken."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers of kind `lstm` or `gru`."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        self.embedding = nn.Embedding(VOCABULARY["first"], width)
        kinds = {"lstm": nn.LSTM, "gru": nn.GRU}
        self.both = kinds[kind](width, width // 2, depth, batch_first=True, bidirectional=True)
        self.decoder = nn.Linear(width, LETTERS)

    def forward(self, ids: Tensor) -> Tensor:
        """Return logits (batch, letters) of ids (batch, 12)."""
        states, _ = self.both(self.embedding(ids))
        return self.decoder(states.max(dim=1).values)


class Dilated(nn.Module):
    """A causal convolution with a gap that grows, twice, and a residual sum or none."""

    def __init__(self, width: int, gap: int, residual: bool) -> None:
        """Build one block."""
        super().__init__()
        self.left, self.residual = 2 * gap, residual
        self.conv1, self.conv2 = (nn.Conv1d(width, width, 3, dilation=gap) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return signals of the same shape."""
        y = F.relu(self.conv1(F.pad(x, (self.left, 0))))
        y = self.conv2(F.pad(y, (self.left, 0)))
        return F.relu(x + y) if self.residual else F.relu(y)


def tcn(architecture: str) -> nn.Module:
    """Return `depth` blocks of a temporal convolutional network (Bai et al. 2018); kind `residual` or `plain`."""
    kind, width, depth = parsed(architecture)
    blocks = [Dilated(width, 2 ** (k % 3), kind == "residual") for k in range(depth)]
    return nn.Sequential(
        nn.Conv1d(2, width, 1), *blocks, nn.AdaptiveAvgPool1d(2), nn.Flatten(), nn.Linear(2 * width, 4)
    )


class SetBlock(nn.Module):
    """Attention between points without positions (Lee et al. 2019), norm after, or none."""

    def __init__(self, width: int, norm: bool) -> None:
        """Build one block from torch's own attention."""
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.feed = nn.Linear(width, width)
        self.ln0, self.ln1 = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))

    def forward(self, queries: Tensor, points: Tensor) -> Tensor:
        """Return as many points as there are queries."""
        x = self.ln0(queries + self.attention(queries, points, points, need_weights=False)[0])
        return self.ln1(x + F.relu(self.feed(x)))


class SetTransformer(nn.Module):
    """Points looked at together and pooled by two learnt queries; kind `norm` or `none`."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` blocks and the pooling."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        self.lift = nn.Linear(3, width)
        self.encode = nn.ModuleList([SetBlock(width, kind == "norm") for _ in range(depth)])
        self.seeds = nn.Parameter(torch.randn(1, 2, width) / math.sqrt(width))
        self.pool = SetBlock(width, kind == "norm")
        self.decode = nn.Linear(2 * width, 4)

    def forward(self, points: Tensor) -> Tensor:
        """Return logits (batch, 4) of sets (batch, 12, 3)."""
        x = self.lift(points)
        for block in self.encode:
            x = block(x, x)
        return self.decode(self.pool(self.seeds.expand(x.shape[0], -1, -1), x).flatten(1))
