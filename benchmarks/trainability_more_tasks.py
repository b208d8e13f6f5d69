"""Small tasks that need learning: inputs and classes drawn from a seed, each learnt by a sound network in seconds.

The accuracy from which a network *trains* lies 0.9 of the way from chance (the share of the commonest class) to `top`,
what well-initialised networks reach; the one below which it *fails*, half of the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor

from benchmarks.trainability_labels import FAILS, IGNORED, TRAINS, Task

SIZE = 960
LETTERS = 4  # ids 1 to 4 in `first`; the rest is filler
VOCABULARY = {"majority": 16, "first": 12, "recall": 6, "periodic": 8}
LENGTH = {"majority": 12, "first": 12, "recall": 12, "periodic": 16}


def _draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _task(x: Tensor, y: Tensor, top: float = 1.0) -> Task:
    """Return a task, floating inputs standardised as one."""
    if x.is_floating_point():
        x = (x - x.mean()) / x.std()
    counted = y[y != IGNORED]
    chance = float(counted.bincount().max()) / len(counted)
    return Task(x, y, chance + TRAINS * (top - chance), chance + FAILS * (top - chance))


def teacher() -> Task:
    """Return which of 5 a random network of 12 tanh units says of points in 20 dimensions, where it is clear."""
    draws = _draws(1)
    x = torch.randn(3 * SIZE, 20, generator=draws)
    hidden = torch.tanh(x @ torch.randn(20, 12, generator=draws) / math.sqrt(20) * 2)
    said = hidden @ torch.randn(12, 5, generator=draws)
    said = (said - said.mean(0)) / said.std(0)
    two = said.topk(2)
    clear = two.values[:, 0] > two.values[:, 1] + 0.5
    return _task(x[clear][:SIZE], two.indices[clear, 0][:SIZE])


def spirals() -> Task:
    """Return three spirals of a plane that is turned into 24 dimensions, with a little noise in all of them."""
    draws = _draws(2)
    y = torch.arange(SIZE) % 3
    radius = 0.15 + 0.85 * torch.rand(SIZE, generator=draws)
    angle = 2 * math.pi * (y / 3 + 0.8 * radius)
    plane = torch.stack([radius * angle.cos(), radius * angle.sin()], 1)
    turn = torch.linalg.qr(torch.randn(24, 24, generator=draws)).Q[:2]
    return _task(plane @ turn + 0.02 * torch.randn(SIZE, 24, generator=draws), y)


def bins() -> Task:
    """Return a smooth function of 10 uniform numbers, cut into 4 classes of one size with gaps between."""
    draws = _draws(3)
    x = 2 * torch.rand(3 * SIZE, 10, generator=draws) - 1
    value = torch.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + 0.5 * x[:, 4]
    rank = value.argsort().argsort() / len(value) * 4
    clear = (rank - rank.floor() - 0.5).abs() < 0.35
    return _task(x[clear][:SIZE], rank.long()[clear][:SIZE])


def gratings() -> Task:
    """Return images (3, 16, 16) of a coloured grating in one of 5 orientations, at any phase, with noise."""
    draws = _draws(4)
    y = torch.arange(SIZE) % 5
    across = torch.linspace(-1, 1, 16)
    angle = (math.pi * y / 5)[:, None, None]
    along = across[None, None, :] * angle.cos() + across[None, :, None] * angle.sin()
    pitch = math.pi * (1.5 + 1.5 * torch.rand(SIZE, 1, 1, generator=draws))
    wave = torch.sin(pitch * along + 2 * math.pi * torch.rand(SIZE, 1, 1, generator=draws))
    tint = 0.5 + torch.rand(SIZE, 3, 1, 1, generator=draws)
    return _task(tint * wave[:, None] + 0.3 * torch.randn(SIZE, 3, 16, 16, generator=draws), y)


def images() -> Task:
    """Return scikit-learn's digits as images (1, 16, 16), twice their size."""
    data = load_digits()
    x = torch.tensor(data.images[:SIZE], dtype=torch.float32)[:, None]
    x = torch.nn.functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    return _task(x, torch.tensor(data.target[:SIZE]))


def waves() -> Task:
    """Return signals (2, 32) of one of 4 shapes, at any phase and pitch; the second channel is the first, delayed."""
    draws = _draws(5)
    y = torch.arange(SIZE) % 4
    pitch, phase = (torch.rand(2, SIZE, 1, 1, generator=draws)).unbind()
    time = torch.linspace(0, 1, 32) - torch.tensor([[0.0], [0.1]])
    turns = (2 + 1.5 * pitch) * time + phase
    shapes = torch.stack([
        torch.sin(2 * math.pi * turns) * 1.4,
        torch.sin(2 * math.pi * turns).sign(),
        3.4 * (turns % 1 - 0.5),
        3.0 * torch.exp(-60 * (turns % 1 - 0.5) ** 2) - 1,
    ])  # fmt: skip
    return _task(shapes[y, torch.arange(SIZE)] + 0.1 * torch.randn(SIZE, 2, 32, generator=draws), y)


def sets() -> Task:
    """Return sets of 12 points in 3 dimensions, whose spread has one of 4 forms."""
    draws = _draws(6)
    y = torch.arange(SIZE) % 4
    forms = torch.stack([
        torch.diag(torch.tensor([1.0, 1.0, 0.1])),
        torch.diag(torch.tensor([0.1, 1.0, 1.0])),
        torch.tensor([[0.7, 0.7, 0.0], [0.7, 0.7, 0.0], [0.0, 0.0, 1.0]]),
        torch.tensor([[0.7, -0.7, 0.0], [-0.7, 0.7, 0.0], [0.0, 0.0, 1.0]]),
    ])  # fmt: skip
    return _task(torch.randn(SIZE, 12, 3, generator=draws) @ forms[y], y)


def majority() -> Task:
    """Return ids (12): which of 4 groups of 4 ids has the most."""
    draws = _draws(7)
    size = 3 * SIZE
    theme = torch.randint(4, (size, 1), generator=draws)
    group = torch.where(
        torch.rand(size, 12, generator=draws) < 0.4, theme, torch.randint(4, (size, 12), generator=draws)
    )
    ids = 4 * group + torch.randint(4, (size, 12), generator=draws)
    most = torch.nn.functional.one_hot(group, 4).sum(1).topk(2)
    clear = most.values[:, 0] > most.values[:, 1]
    return _task(ids[clear][:SIZE], most.indices[clear, 0][:SIZE])


def first() -> Task:
    """Return ids (12), fillers with 3 letters among them: which letter comes first."""
    draws = _draws(8)
    ids = torch.randint(LETTERS + 1, VOCABULARY["first"], (SIZE, 12), generator=draws)
    places = torch.rand(SIZE, 12, generator=draws).argsort(1)[:, :3].sort(1).values
    letters = torch.rand(SIZE, LETTERS, generator=draws).argsort(1)[:, :3]
    return _task(ids.scatter(1, places, letters + 1), letters[:, 0])


def recall() -> Task:
    """Return ids (12): what the first one was."""
    ids = torch.randint(VOCABULARY["recall"], (SIZE, 12), generator=_draws(9))
    return _task(ids, ids[:, 0])


def periodic() -> Task:
    """Return ids (16) that repeat themselves every 4: for each position the next one, where it can be known."""
    ids = torch.randint(VOCABULARY["periodic"], (SIZE, 4), generator=_draws(10)).repeat(1, 5)[:, :17]
    following = ids[:, 1:].clone()
    following[:, :3] = IGNORED
    return _task(ids[:, :-1].contiguous(), following)


TASKS: dict[str, Callable[[], Task]] = {
    made.__name__: cache(made)
    for made in (teacher, spirals, bins, gratings, images, waves, sets, majority, first, recall, periodic)
}
