"""Small networks of convolutions and patches over images; `architecture` is read as `kind-WIDTHxDEPTH`."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as everyone calls it)

from benchmarks.trainability_more_dense import ACTIVATIONS, parsed


class Separable(nn.Module):
    """Depthwise 3 x 3 and pointwise convolutions (Howard et al. 2017) on digits; `act` or `act-norm`."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` pairs."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        act, _, norm = kind.partition("-")
        layers: list[nn.Module] = [nn.Conv2d(1, width, 4, stride=3, padding=1), ACTIVATIONS[act]()]
        for _ in range(depth):
            layers.append(nn.Conv2d(width, width, 3, padding=1, groups=width, bias=not norm))
            layers += [nn.BatchNorm2d(width), ACTIVATIONS[act]()] if norm else []
            layers.append(nn.Conv2d(width, width, 1, bias=not norm))
            layers += [nn.BatchNorm2d(width), ACTIVATIONS[act]()] if norm else [ACTIVATIONS[act]()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * 4, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of images (batch, 1, 16, 16)."""
        return self.classifier(F.adaptive_avg_pool2d(self.features(x), 2).flatten(1))


class Narrowing(nn.Module):
    """A bottleneck block 1 x 1, 3 x 3, 1 x 1, with GroupNorm or none."""

    def __init__(self, width: int, norm: bool) -> None:
        """Build a block that is a quarter as wide inside."""
        super().__init__()
        inner = width // 4
        self.reduce = nn.Conv2d(width, inner, 1, bias=not norm)
        self.mix = nn.Conv2d(inner, inner, 3, padding=1, bias=not norm)
        self.expand = nn.Conv2d(inner, width, 1, bias=not norm)
        self.gn1, self.gn2 = (nn.GroupNorm(2, inner) if norm else nn.Identity() for _ in range(2))
        self.gn3 = nn.GroupNorm(4, width) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the same shape."""
        y = F.relu(self.gn1(self.reduce(x)))
        return F.relu(x + self.gn3(self.expand(F.relu(self.gn2(self.mix(y))))))


def bottleneck(architecture: str) -> nn.Module:
    """Return `depth` bottleneck blocks; kind `group` or `none`."""
    kind, width, depth = parsed(architecture)
    blocks = [Narrowing(width, kind == "group") for _ in range(depth)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(nn.Conv2d(1, width, 5, stride=2, padding=2), nn.ReLU(), *blocks, *head)


class DenseNet(nn.Module):
    """Convolutions on the concatenation of all before (Huang et al. 2017), norm first; kind `bn` or `none`."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers that add `width` channels each."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        self.stem = nn.Conv2d(3, 16, 4, stride=2, padding=1)
        wide = [16 + k * width for k in range(depth + 1)]
        self.norms = nn.ModuleList([nn.BatchNorm2d(w) if kind == "bn" else nn.Identity() for w in wide])
        self.layers = nn.ModuleList([nn.Conv2d(w, width, 3, padding=1) for w in wide[:-1]])
        self.classifier = nn.Linear(wide[-1], 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 5) of images (batch, 3, 16, 16)."""
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            x = torch.cat([x, layer(F.relu(norm(x)))], dim=1)
        return self.classifier(F.relu(self.norms[-1](x)).mean((2, 3)))


class UNet(nn.Module):
    """Down twice, up twice, the two ways joined by concatenation (Ronneberger et al. 2015), then pooled."""

    def __init__(self, architecture: str) -> None:
        """Build with `depth` convolutions at each of the five stations."""
        super().__init__()
        act, width, depth = parsed(architecture)
        self.act = ACTIVATIONS[act]()

        def station(wide: int, out: int) -> nn.Module:
            rows = [[nn.Conv2d(wide if k == 0 else out, out, 3, padding=1), ACTIVATIONS[act]()] for k in range(depth)]
            return nn.Sequential(*[layer for row in rows for layer in row])

        self.enter = nn.Conv2d(3, width, 2, stride=2)
        self.down1, self.down2 = station(width, width), station(width, 2 * width)
        self.bottom = station(2 * width, 2 * width)
        self.up2, self.join2 = nn.ConvTranspose2d(2 * width, width, 2, stride=2), station(3 * width, width)
        self.up1, self.join1 = nn.ConvTranspose2d(width, width, 2, stride=2), station(2 * width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 5) of images (batch, 3, 16, 16)."""
        one = self.down1(self.enter(x))
        two = self.down2(F.max_pool2d(one, 2))
        x = self.bottom(F.max_pool2d(two, 2))
        x = self.join2(torch.cat([self.up2(x), two], dim=1))
        x = self.join1(torch.cat([self.up1(x), one], dim=1))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Excited(nn.Module):
    """A convolution whose channels are weighed by what its own average says (Hu et al. 2018)."""

    def __init__(self, width: int, residual: bool) -> None:
        """Build one layer."""
        super().__init__()
        self.residual = residual
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.squeeze, self.excite = nn.Conv2d(width, width // 4, 1), nn.Conv2d(width // 4, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return images of the same shape."""
        y = self.conv(F.silu(x))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + y if self.residual else y


def excited(architecture: str) -> nn.Module:
    """Return `depth` squeeze-and-excite layers; kind `plain` or `residual`."""
    kind, width, depth = parsed(architecture)
    blocks = [Excited(width, kind == "residual") for _ in range(depth)]
    head = [nn.SiLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * width, 10)]
    return nn.Sequential(nn.Conv2d(1, width, 3, stride=2, padding=1), *blocks, *head)


class MixerBlock(nn.Module):
    """Dense layers over the tokens, then over the channels (Tolstikhin et al. 2021)."""

    def __init__(self, tokens: int, width: int, norm: bool) -> None:
        """Build one block."""
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width) if norm else nn.Identity() for _ in range(2))
        self.tokens = nn.Sequential(nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Blocks of an MLP-Mixer over 16 patches; kind `norm` or `none`."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` blocks."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.blocks = nn.Sequential(*[MixerBlock(16, width, kind == "norm") for _ in range(depth)])
        self.final = nn.LayerNorm(width) if kind == "norm" else nn.Identity()
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 5) of images (batch, 3, 16, 16)."""
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.final(x).mean(1))


class ViTBlock(nn.Module):
    """A block of a vision transformer, queries, keys and values in one layer."""

    def __init__(self, width: int) -> None:
        """Build one block of 2 heads."""
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        batch, tokens, width = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(batch, tokens, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        weights = (q @ k.transpose(-2, -1) * (width // 2) ** -0.5).softmax(dim=-1)
        x = x + self.proj((weights @ v).transpose(1, 2).reshape(batch, tokens, width))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    """A vision transformer with a class token over 16 patches of a digit."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` blocks; the kind says how the answer is read, and is `cls`."""
        super().__init__()
        _, width, depth = parsed(architecture)
        self.patch_embed = nn.Conv2d(1, width, 4, stride=4)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.pos_embed = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.ModuleList([ViTBlock(width) for _ in range(depth)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of images (batch, 1, 16, 16)."""
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
