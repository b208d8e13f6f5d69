"""Small networks of torch's own layers, as people write them."""

# ruff: noqa: D102  (forward is what torch calls it)

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm, weight_norm


class Recurrent(nn.Module):
    """Token classifier: embedding, a recurrent net, a linear head on the last step."""

    def __init__(self, cell: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.embed = nn.Embedding(120, 48, padding_idx=0)
        self.rnn = cell(48, 64, batch_first=True, **options)
        both = 2 if options.get("bidirectional") else 1
        self.head = nn.Linear((options.get("proj_size") or 64) * both, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.rnn(self.embed(tokens))
        return self.head(out[:, -1])


class Encoder(nn.Module):
    """nn.TransformerEncoder with learned positions."""

    def __init__(self, *, norm_first: bool, activation: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(150, 64)
        self.positions = nn.Parameter(torch.randn(1, 32, 64) * 0.02)
        layer = nn.TransformerEncoderLayer(64, 4, 160, activation=activation, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.head = nn.Linear(64, 7)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[:, : tokens.shape[1]]
        return self.head(self.encoder(x).mean(1))


class Translator(nn.Module):
    """nn.Transformer between two embeddings, the output tied to the target's."""

    def __init__(self) -> None:
        super().__init__()
        self.source = nn.Embedding(90, 48)
        self.target = nn.Embedding(110, 48)
        self.transformer = nn.Transformer(48, 4, 2, 2, 128, batch_first=True)
        self.out = nn.Linear(48, 110, bias=False)
        self.out.weight = self.target.weight

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        return self.out(self.transformer(self.source(source), self.target(target)))


class Generator(nn.Module):
    """DCGAN's generator with its normal(0, 0.02)."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(64, 128, 4, 1, 0, bias=False),
            nn.BatchNorm2d(128),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(128, 64, 4, 2, 1, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(64, 32, 4, 2, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.ReLU(inplace=True),
            nn.ConvTranspose2d(32, 3, 4, 2, 1, bias=False),
            nn.Tanh(),
        )
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)
                nn.init.zeros_(module.bias)

    def forward(self, z: Tensor) -> Tensor:
        return self.main(z)


class Discriminator(nn.Module):
    """DCGAN's discriminator, every convolution under the old spectral_norm hook."""

    def __init__(self) -> None:
        super().__init__()
        self.main = nn.Sequential(
            spectral_norm(nn.Conv2d(3, 32, 4, 2, 1)),
            nn.LeakyReLU(0.2, inplace=True),
            spectral_norm(nn.Conv2d(32, 64, 4, 2, 1)),
            nn.LeakyReLU(0.2, inplace=True),
            spectral_norm(nn.Conv2d(64, 1, 4, 1, 0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)


class Double(nn.Module):
    """Two convolutions of a U-Net."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(channels, out, 3, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
            nn.Conv2d(out, out, 3, padding=1),
            nn.BatchNorm2d(out),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class UNet(nn.Module):
    """U-Net with transposed convolutions on the way up."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = Double(3, 16), Double(16, 32), Double(32, 64)
        self.pool = nn.MaxPool2d(2)
        self.up1, self.join1 = nn.ConvTranspose2d(64, 32, 2, stride=2), Double(64, 32)
        self.up2, self.join2 = nn.ConvTranspose2d(32, 16, 2, stride=2), Double(32, 16)
        self.out = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x)
        b = self.down2(self.pool(a))
        c = self.middle(self.pool(b))
        d = self.join1(torch.cat([self.up1(c), b], 1))
        return self.out(self.join2(torch.cat([self.up2(d), a], 1)))


class WaveStack(nn.Module):
    """Dilated 1-d convolutions under weight_norm and a gated unit, as in WaveNet."""

    def __init__(self, norm: Callable[..., Any]) -> None:
        super().__init__()
        self.inp = norm(nn.Conv1d(8, 32, 1))
        self.gates = nn.ModuleList(norm(nn.Conv1d(32, 64, 3, padding=2**i, dilation=2**i)) for i in range(4))
        self.ends = nn.ModuleList(norm(nn.Conv1d(32, 32, 1)) for _ in range(4))
        self.up = norm(nn.ConvTranspose1d(32, 16, 4, stride=2, padding=1))
        self.out = nn.Conv1d(16, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inp(x)
        for gate, end in zip(self.gates, self.ends, strict=True):
            a, b = gate(x).chunk(2, 1)
            x = x + end(torch.tanh(a) * torch.sigmoid(b))
        return self.out(nn.functional.leaky_relu(self.up(x), 0.1))


class SpectralNet(nn.Module):
    """Linear and convolutional layers under spectral_norm and orthogonal parametrizations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = parametrizations.spectral_norm(nn.Conv2d(3, 32, 3, 2, 1))
        self.conv2 = parametrizations.spectral_norm(nn.Conv2d(32, 48, 3, 2, 1))
        self.mix = parametrizations.orthogonal(nn.Linear(48, 48))
        self.head = parametrizations.spectral_norm(nn.Linear(48, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.leaky_relu(self.conv1(x), 0.2)
        x = nn.functional.leaky_relu(self.conv2(x), 0.2).mean((2, 3))
        return self.head(torch.relu(self.mix(x)))


class Experts(nn.Module):
    """A dense mixture of experts: weights of all experts stacked in one parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(24, 48)
        self.gate = nn.Linear(48, 6, bias=False)
        self.w1 = nn.Parameter(torch.empty(6, 48, 96))
        self.w2 = nn.Parameter(torch.empty(6, 96, 48))
        self.head = nn.Linear(48, 3)
        for weight in (self.w1, self.w2):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.inp(x))
        share = self.gate(x).softmax(-1)
        hidden = nn.functional.silu(torch.einsum("bi,eih->beh", x, self.w1))
        return self.head(torch.einsum("beh,eho,be->bo", hidden, self.w2, share))


class Mixed3d(nn.Module):
    """3-d, depthwise, grouped and grouped transposed convolutions, PReLU, group and instance norm."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(1, 16, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.act = nn.PReLU(16)
        self.deep = nn.Conv3d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv3d(16, 32, 1)
        self.flat = nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.inorm = nn.InstanceNorm2d(32, affine=True)
        self.up = nn.ConvTranspose2d(32, 32, 4, 2, 1, groups=8)
        self.out = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = nn.functional.elu(self.point(self.deep(x))).mean(2)
        x = nn.functional.mish(self.inorm(self.flat(x)))
        return self.out(nn.functional.softplus(self.up(x)))


class Autoencoder(nn.Module):
    """A variational autoencoder on vectors; two heads leave the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Sequential(nn.Linear(100, 64), nn.Tanh(), nn.Linear(64, 32), nn.Tanh())
        self.mean, self.logvar = nn.Linear(32, 8), nn.Linear(32, 8)
        self.decode = nn.Sequential(nn.Linear(8, 32), nn.SELU(), nn.Linear(32, 100), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        h = self.encode(x)
        return self.decode(self.mean(h) + torch.exp(0.5 * self.logvar(h)))


class TwoTowers(nn.Module):
    """A bilinear score of two embedded inputs, bags of words among them."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(80, 24, mode="mean")
        self.left = nn.Sequential(nn.Linear(24, 32), nn.LayerNorm(32), nn.GELU())
        self.right = nn.Sequential(nn.Linear(10, 32), nn.BatchNorm1d(32), nn.Hardswish())
        self.score = nn.Bilinear(32, 32, 3)

    def forward(self, words: Tensor, x: Tensor) -> Tensor:
        return self.score(self.left(self.bag(words)), self.right(x))


def _mlp() -> Any:
    layers: list[nn.Module] = [nn.Linear(64, 128), nn.ReLU()]
    for _ in range(4):
        layers += [nn.Linear(128, 128), nn.ReLU(), nn.Dropout(0.1)]
    return nn.Sequential(*layers, nn.Linear(128, 10))


def _tokens(length: int = 12, most: int = 80) -> Tensor:
    return torch.randint(1, most, (2, length))


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "mlp": lambda: (_mlp(), {"input": torch.randn(4, 64)}),
    "lstm": lambda: (Recurrent(nn.LSTM, num_layers=2), {"tokens": _tokens()}),
    "lstm_bi_proj": lambda: (Recurrent(nn.LSTM, bidirectional=True, proj_size=24), {"tokens": _tokens()}),
    "gru_bi": lambda: (Recurrent(nn.GRU, num_layers=2, bidirectional=True), {"tokens": _tokens()}),
    "rnn_relu": lambda: (Recurrent(nn.RNN, nonlinearity="relu", bias=False), {"tokens": _tokens()}),
    "transformer_encoder": lambda: (Encoder(norm_first=False, activation="relu"), {"tokens": _tokens()}),
    "transformer_encoder_prenorm": lambda: (Encoder(norm_first=True, activation="gelu"), {"tokens": _tokens()}),
    "transformer": lambda: (Translator(), {"source": _tokens(), "target": _tokens(9)}),
    "dcgan_generator": lambda: (Generator(), {"z": torch.randn(2, 64, 1, 1)}),
    "dcgan_discriminator": lambda: (Discriminator(), {"x": torch.randn(2, 3, 16, 16)}),
    "unet": lambda: (UNet(), {"x": torch.randn(1, 3, 32, 32)}),
    "wavenet_weight_norm": lambda: (WaveStack(weight_norm), {"x": torch.randn(2, 8, 40)}),
    "wavenet_parametrized": lambda: (WaveStack(parametrizations.weight_norm), {"x": torch.randn(2, 8, 40)}),
    "spectral_parametrized": lambda: (SpectralNet(), {"x": torch.randn(2, 3, 16, 16)}),
    "experts_stacked": lambda: (Experts(), {"x": torch.randn(4, 24)}),
    "mixed_3d": lambda: (Mixed3d(), {"x": torch.randn(1, 1, 6, 12, 12)}),
    "vae": lambda: (Autoencoder(), {"x": torch.randn(4, 100)}),
    "two_towers": lambda: (TwoTowers(), {"words": _tokens(6, 70), "x": torch.randn(2, 10)}),
}
