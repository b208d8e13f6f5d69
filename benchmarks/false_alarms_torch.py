"""Networks of torch's own layers, drawn as the papers and repositories that they come from draw them."""

# ruff: noqa: D102  (forward is what torch calls it)

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  the name that everybody knows


class LeNet(nn.Module):
    """pytorch/examples mnist, torch's default draw."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3, 1)
        self.conv2 = nn.Conv2d(32, 64, 3, 1)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2)
        return F.log_softmax(self.fc2(F.relu(self.fc1(torch.flatten(x, 1)))), 1)


def _orthogonal(layer: nn.Module, gain: float = math.sqrt(2)) -> nn.Module:
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


class AtariAgent(nn.Module):
    """cleanrl's PPO for Atari: orthogonal with gain sqrt(2), 0.01 for the policy, 1 for the value."""

    def __init__(self) -> None:
        super().__init__()
        self.network = nn.Sequential(
            _orthogonal(nn.Conv2d(4, 32, 8, stride=4)), nn.ReLU(),
            _orthogonal(nn.Conv2d(32, 64, 4, stride=2)), nn.ReLU(),
            _orthogonal(nn.Conv2d(64, 64, 3, stride=1)), nn.ReLU(),
            nn.Flatten(), _orthogonal(nn.Linear(64 * 7 * 7, 512)), nn.ReLU(),
        )  # fmt: skip
        self.actor = _orthogonal(nn.Linear(512, 6), 0.01)
        self.critic = _orthogonal(nn.Linear(512, 1), 1.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.network(x / 255.0)
        return self.actor(hidden), self.critic(hidden)


def _ppo_continuous() -> nn.Module:
    return nn.Sequential(
        _orthogonal(nn.Linear(17, 64)), nn.Tanh(), _orthogonal(nn.Linear(64, 64)), nn.Tanh(),
        _orthogonal(nn.Linear(64, 6), 0.01),
    )  # fmt: skip


class Siren(nn.Module):
    """Sitzmann et al. 2020: sin(30 x), first layer uniform 1/n, the others uniform sqrt(6/n)/30."""

    def __init__(self, width: int = 128, layers: int = 5) -> None:
        super().__init__()
        sizes = [2, *[width] * layers, 3]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        with torch.no_grad():
            for k, layer in enumerate(self.layers):
                bound = 1 / layer.in_features if k == 0 else math.sqrt(6 / layer.in_features) / 30
                layer.weight.uniform_(-bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.sin(30 * layer(x))
        return self.layers[-1](x)


class Nerf(nn.Module):
    """NeRF's MLP: positions and directions in sines, a skip in the middle, torch's default draw."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.first = nn.ModuleList(nn.Linear(63 if k == 0 else width, width) for k in range(5))
        self.second = nn.ModuleList(nn.Linear(width + 63 if k == 0 else width, width) for k in range(3))
        self.density = nn.Linear(width, 1)
        self.feature = nn.Linear(width, width)
        self.direction = nn.Linear(width + 27, width // 2)
        self.colour = nn.Linear(width // 2, 3)

    @staticmethod
    def _waves(x: Tensor, count: int) -> Tensor:
        parts = [x]
        for k in range(count):
            parts += [torch.sin(2.0**k * x), torch.cos(2.0**k * x)]
        return torch.cat(parts, -1)

    def forward(self, position: Tensor, direction: Tensor) -> Tensor:
        given = self._waves(position, 10)
        x = given
        for layer in self.first:
            x = F.relu(layer(x))
        x = torch.cat([given, x], -1)
        for layer in self.second:
            x = F.relu(layer(x))
        density = self.density(x)
        x = torch.cat([self.feature(x), self._waves(direction, 4)], -1)
        return torch.cat([torch.sigmoid(self.colour(F.relu(self.direction(x)))), density], -1)


class SelfNormalizing(nn.Module):
    """Klambauer et al. 2017: 16 SELU layers, LeCun normal, zero biases."""

    def __init__(self, depth: int = 16) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for k in range(depth):
            layers += [nn.Linear(64 if k == 0 else 128, 128), nn.SELU(), nn.AlphaDropout(0.05)]
        self.body = nn.Sequential(*layers, nn.Linear(128, 10))
        for layer in self.body:
            if isinstance(layer, nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class Fixup(nn.Module):
    """hongyi-zhang/Fixup for CIFAR: no norms, He times L^(-1/2) in each branch, its last weight zero, scalar biases."""

    class Block(nn.Module):
        """Two convolutions between scalar biases."""

        def __init__(self, a: int, b: int, stride: int, count: int) -> None:
            super().__init__()
            self.bias1a, self.bias1b, self.bias2a, self.bias2b = (nn.Parameter(torch.zeros(1)) for _ in range(4))
            self.conv1 = nn.Conv2d(a, b, 3, stride, padding=1, bias=False)
            self.conv2 = nn.Conv2d(b, b, 3, padding=1, bias=False)
            self.scale = nn.Parameter(torch.ones(1))
            self.down = nn.AvgPool2d(1, stride) if stride > 1 else None
            nn.init.normal_(self.conv1.weight, 0.0, math.sqrt(2 / (b * 9)) * count**-0.5)
            nn.init.zeros_(self.conv2.weight)

        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.conv1(x + self.bias1a) + self.bias1b)
            y = self.conv2(y + self.bias2a) * self.scale + self.bias2b
            if self.down is not None:
                x = self.down(x + self.bias1a)
                x = torch.cat([x, torch.zeros_like(x)], 1)
            return torch.relu(x + y)

    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bias1, self.bias2 = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
        self.blocks = nn.Sequential(
            *(
                Fixup.Block(w if k or w == 16 else w // 2, w, 1 if k or w == 16 else 2, 3 * blocks)
                for w in (16, 32, 64)
                for k in range(blocks)
            )
        )
        self.fc = nn.Linear(64, 10)
        nn.init.normal_(self.conv.weight, 0.0, math.sqrt(2 / (16 * 9)))
        nn.init.zeros_(self.fc.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(torch.relu(self.conv(x) + self.bias1))
        return self.fc(x.mean((2, 3)) + self.bias2)


class ReZero(nn.Module):
    """Bachlechner et al. 2020: 32 layers, each behind a zero scalar."""

    def __init__(self, depth: int = 32) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 96)
        self.layers = nn.ModuleList(nn.Linear(96, 96) for _ in range(depth))
        self.alphas = nn.ParameterList(nn.Parameter(torch.zeros(1)) for _ in range(depth))
        self.head = nn.Linear(96, 10)
        for layer in self.layers:
            nn.init.xavier_normal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, alpha in zip(self.layers, self.alphas, strict=True):
            x = x + alpha * torch.relu(layer(x))
        return self.head(x)


class EqualizedMapping(nn.Module):
    """StyleGAN's mapping network: weights of std 1 / 0.01, scaled by gain * 0.01 / sqrt(n) as they are used."""

    def __init__(self, depth: int = 8, width: int = 128) -> None:
        super().__init__()
        self.weights = nn.ParameterList(nn.Parameter(torch.randn(width, width) / 0.01) for _ in range(depth))
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(width)) for _ in range(depth))

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        for weight, bias in zip(self.weights, self.biases, strict=True):
            x = F.leaky_relu(F.linear(x, weight * (0.01 / math.sqrt(x.shape[1])), bias * 0.01), 0.2) * math.sqrt(2)
        return x


class PointNet(nn.Module):
    """Qi et al. 2017: shared MLPs, a maximum over points, a transform that starts as the identity."""

    def __init__(self) -> None:
        super().__init__()
        self.local = nn.Sequential(*self._shared(3, 64), *self._shared(64, 128))
        self.turn = nn.Linear(128, 9)
        self.first = nn.Sequential(*self._shared(3, 64), *self._shared(64, 128), *self._shared(128, 256))
        self.head = nn.Sequential(
            nn.Linear(256, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.3), nn.Linear(128, 10)
        )
        nn.init.zeros_(self.turn.weight)
        with torch.no_grad():
            self.turn.bias.copy_(torch.eye(3).flatten())

    @staticmethod
    def _shared(a: int, b: int) -> tuple[nn.Module, ...]:
        return nn.Conv1d(a, b, 1), nn.BatchNorm1d(b), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn(self.local(x).amax(2)).view(-1, 3, 3)
        return self.head(self.first(turn @ x).amax(2))


class CycleGenerator(nn.Module):
    """CycleGAN's generator: instance norms, residual blocks, normal(0, 0.02)."""

    class Block(nn.Module):
        """Two padded convolutions beside the identity."""

        def __init__(self, width: int) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width), nn.ReLU(True),
                nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width),
            )  # fmt: skip

        def forward(self, x: Tensor) -> Tensor:
            return x + self.body(x)

    def __init__(self, blocks: int = 6) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3), nn.Conv2d(3, 16, 7), nn.InstanceNorm2d(16), nn.ReLU(True),
            nn.Conv2d(16, 32, 3, 2, 1), nn.InstanceNorm2d(32), nn.ReLU(True),
            nn.Conv2d(32, 64, 3, 2, 1), nn.InstanceNorm2d(64), nn.ReLU(True),
            *(CycleGenerator.Block(64) for _ in range(blocks)),
            nn.ConvTranspose2d(64, 32, 3, 2, 1, 1), nn.InstanceNorm2d(32), nn.ReLU(True),
            nn.ConvTranspose2d(32, 16, 3, 2, 1, 1), nn.InstanceNorm2d(16), nn.ReLU(True),
            nn.ReflectionPad2d(3), nn.Conv2d(16, 3, 7), nn.Tanh(),
        )  # fmt: skip
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(layer.weight, 0.0, 0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class Gcn(nn.Module):
    """Kipf and Welling 2017: two graph convolutions over a dense adjacency, Glorot uniform."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(64, 32))
        self.w2 = nn.Parameter(torch.empty(32, 7))
        self.b1, self.b2 = nn.Parameter(torch.zeros(32)), nn.Parameter(torch.zeros(7))
        nn.init.xavier_uniform_(self.w1)
        nn.init.xavier_uniform_(self.w2)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ (torch.relu(adjacency @ (x @ self.w1) + self.b1) @ self.w2) + self.b2


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "lenet": lambda: (LeNet(), {"x": torch.randn(2, 1, 28, 28)}),
    "atari_agent": lambda: (AtariAgent(), {"x": torch.rand(1, 4, 84, 84) * 255}),
    "ppo_continuous": lambda: (_ppo_continuous(), {"input": torch.randn(4, 17)}),
    "siren": lambda: (Siren(), {"x": torch.rand(16, 2) * 2 - 1}),
    "nerf": lambda: (Nerf(), {"position": torch.rand(16, 3) * 2 - 1, "direction": torch.randn(16, 3)}),
    "self_normalizing": lambda: (SelfNormalizing(), {"x": torch.randn(4, 64)}),
    "fixup": lambda: (Fixup(), {"x": torch.randn(1, 3, 32, 32)}),
    "rezero": lambda: (ReZero(), {"x": torch.randn(4, 64)}),
    "equalized_mapping": lambda: (EqualizedMapping(), {"z": torch.randn(4, 128)}),
    "pointnet": lambda: (PointNet(), {"x": torch.randn(4, 3, 64)}),
    "cycle_generator": lambda: (CycleGenerator(), {"x": torch.randn(1, 3, 32, 32)}),
    "gcn": lambda: (Gcn(), {"x": torch.randn(12, 64), "adjacency": torch.softmax(torch.randn(12, 12), 1)}),
}
