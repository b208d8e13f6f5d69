"""Networks over tokens and time steps, drawn as the papers and repositories that they come from draw them."""

# ruff: noqa: D102  (forward is what torch calls it)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name that everybody knows


def _tokens(length: int = 12, size: int = 100, batch: int = 1) -> Tensor:
    return torch.randint(1, size, (batch, length))


class Copier(nn.Module):
    """nn.Transformer as torch draws it, norms first, the masks of training."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(100, 64)
        self.target = nn.Embedding(100, 64)
        self.transformer = nn.Transformer(64, 4, 3, 3, 128, norm_first=True, activation="gelu", batch_first=True)
        self.out = nn.Linear(64, 100)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1])
        return self.out(self.transformer(self.source(source), self.target(target), tgt_mask=mask))


class NanoGPT(nn.Module):
    """karpathy/nanoGPT: normal(0, 0.02), residual ends divided by sqrt(2 L), the head tied to the tokens."""

    class Block(nn.Module):
        """Attention and an MLP, norms first."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.ln_1 = nn.LayerNorm(width)
            self.c_attn = nn.Linear(width, 3 * width)
            self.c_proj = nn.Linear(width, width)
            self.ln_2 = nn.LayerNorm(width)
            self.c_fc = nn.Linear(width, 4 * width)
            self.mlp_c_proj = nn.Linear(4 * width, width)

        def forward(self, x: Tensor) -> Tensor:
            b, n, w = x.shape
            q, k, v = (part.view(b, n, 4, w // 4).transpose(1, 2) for part in self.c_attn(self.ln_1(x)).split(w, 2))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(b, n, w)
            x = x + self.c_proj(y)
            return x + self.mlp_c_proj(F.gelu(self.c_fc(self.ln_2(x))))

    def __init__(self, layers: int = 12, width: int = 96) -> None:
        super().__init__()
        self.wte = nn.Embedding(100, width)
        self.wpe = nn.Embedding(32, width)
        self.h = nn.ModuleList(NanoGPT.Block(width) for _ in range(layers))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = nn.Linear(width, 100, bias=False)
        self.wte.weight = self.lm_head.weight
        for name, p in self.named_parameters():
            if p.dim() > 1:
                nn.init.normal_(p, 0.0, 0.02 / math.sqrt(2 * layers) if name.endswith("c_proj.weight") else 0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(p)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1]))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


class WordModel(nn.Module):
    """pytorch/examples word_language_model: uniform(-0.1, 0.1) tables, a stacked LSTM, tied."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(100, 64)
        self.rnn = nn.LSTM(64, 64, 2, batch_first=True)
        self.decoder = nn.Linear(64, 100)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        self.decoder.weight = self.encoder.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.decoder(self.rnn(self.encoder(tokens))[0])


class Attender(nn.Module):
    """Bahdanau's translator: bidirectional GRU, additive attention, GRU on top."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(100, 48)
        self.target = nn.Embedding(100, 48)
        self.encoder = nn.GRU(48, 48, bidirectional=True, batch_first=True)
        self.decoder = nn.GRU(48, 64, batch_first=True)
        self.query = nn.Linear(64, 48)
        self.key = nn.Linear(96, 48)
        self.energy = nn.Linear(48, 1)
        self.out = nn.Linear(64 + 96, 100)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        memory, _ = self.encoder(self.source(source))
        states, _ = self.decoder(self.target(target))
        scores = self.energy(torch.tanh(self.query(states)[:, :, None] + self.key(memory)[:, None]))[..., 0]
        return self.out(torch.cat([states, torch.softmax(scores, -1) @ memory], -1))


class Tcn(nn.Module):
    """Bai et al. 2018: dilated causal convolutions in residual blocks, normal(0, 0.01)."""

    class Block(nn.Module):
        """Two dilated convolutions beside a way past them."""

        def __init__(self, a: int, b: int, dilation: int) -> None:
            super().__init__()
            self.pad = 2 * dilation
            self.conv1 = nn.Conv1d(a, b, 3, padding=self.pad, dilation=dilation)
            self.conv2 = nn.Conv1d(b, b, 3, padding=self.pad, dilation=dilation)
            self.past = nn.Conv1d(a, b, 1) if a != b else nn.Identity()
            for layer in (self.conv1, self.conv2, self.past):
                if isinstance(layer, nn.Conv1d):
                    nn.init.normal_(layer.weight, 0, 0.01)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.conv1(x)[..., : -self.pad])
            y = torch.relu(self.conv2(y)[..., : -self.pad])
            return torch.relu(y + self.past(x))

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(*(Tcn.Block(8 if k == 0 else 48, 48, 2**k) for k in range(4)))
        self.out = nn.Linear(48, 10)
        nn.init.normal_(self.out.weight, 0, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.body(x)[..., -1])


class WideAndDeep(nn.Module):
    """A click model: embeddings of categories beside numbers, a factorisation machine, an MLP, Xavier."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(50, 16) for _ in range(5))
        self.deep = nn.Sequential(nn.Linear(5 * 16 + 8, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))
        self.wide = nn.Linear(8, 1)
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.01)
            elif isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, categories: Tensor, numbers: Tensor) -> Tensor:
        found = [table(categories[:, k]) for k, table in enumerate(self.tables)]
        every = torch.stack(found, 1)
        crossed = (every.sum(1).square() - every.square().sum(1)).sum(1, keepdim=True) / 2
        return self.deep(torch.cat([*found, numbers], 1)) + self.wide(numbers) + crossed


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "copier": lambda: (Copier(), {"source": _tokens(), "target": _tokens(9)}),
    "nanogpt": lambda: (NanoGPT(), {"idx": _tokens(16)}),
    "word_model": lambda: (WordModel(), {"tokens": _tokens()}),
    "attender": lambda: (Attender(), {"source": _tokens(), "target": _tokens(9)}),
    "tcn": lambda: (Tcn(), {"x": torch.randn(2, 8, 64)}),
    "click_model": lambda: (WideAndDeep(), {"categories": _tokens(5, 50, 4), "numbers": torch.randn(4, 8)}),
}
