"""Random nets of torch's own modules, drawn well or badly."""

from __future__ import annotations

from typing import Any


def drawn(rng: Any) -> Any:
    """Return a net, half of the time with a fault planted."""
    net = rng.choice([_dense, _dense, _convolutional, _generator])(rng)
    _spoiled(net, rng)
    return net


def _activation(rng: Any) -> Any:
    from torch import nn

    kinds = [nn.ReLU, nn.Tanh, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Sigmoid, nn.Hardswish, nn.PReLU,
             nn.Softplus, nn.ReLU6]  # fmt: skip
    return rng.choice(kinds)


def _dense(rng: Any) -> Any:
    from torch import nn

    width, depth, activation = rng.choice([16, 32]), rng.choice([2, 4, 10]), _activation(rng)
    norm = rng.choice([None, None, nn.BatchNorm1d, nn.LayerNorm, nn.RMSNorm, lambda n: nn.GroupNorm(4, n)])
    steps: list[Any] = [nn.Flatten()] if rng.random() < 0.3 else []
    fed = rng.choice([3, 20, width])
    for _ in range(depth):
        block = [nn.Linear(fed, width, bias=rng.random() < 0.8), *([norm(width)] if norm else []), activation()]
        block += [nn.Dropout(0.1)] if rng.random() < 0.3 else []
        steps += [nn.Sequential(*block)] if rng.random() < 0.3 else block
        fed = width
    return nn.Sequential(*steps, nn.Linear(width, rng.choice([1, 10])))


def _convolutional(rng: Any) -> Any:
    from torch import nn

    n = rng.choice([1, 2, 2])
    kinds = {name: getattr(nn, f"{name}{n}d") for name in ("Conv", "BatchNorm", "InstanceNorm", "MaxPool", "AvgPool")}
    norm = rng.choice([None, kinds["BatchNorm"], kinds["InstanceNorm"]])
    steps: list[Any] = []
    fed, width, activation = rng.choice([1, 3]), 8, _activation(rng)
    for _ in range(rng.choice([1, 2])):
        for _ in range(rng.choice([1, 3])):
            mode = rng.choice(["zeros", "zeros", "circular"])
            steps.append(kinds["Conv"](fed, width, 3, padding=rng.choice([1, "same"]), padding_mode=mode))
            steps += [norm(width)] if norm else []
            steps.append(activation())
            fed = width
        steps.append(rng.choice([kinds["MaxPool"], kinds["AvgPool"]])(2))
        width *= 2
    if rng.random() < 0.5:
        return nn.Sequential(*steps, kinds["Conv"](fed, 10, 1))
    return nn.Sequential(*steps, getattr(nn, f"AdaptiveAvgPool{n}d")(1), nn.Flatten(), nn.Linear(fed, 10))


def _generator(rng: Any) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(20, 128), nn.ReLU(), nn.Unflatten(1, (32, 2, 2)), nn.ConvTranspose2d(32, 16, 4, 2, 1),
        nn.BatchNorm2d(16), nn.LeakyReLU(0.2), nn.ConvTranspose2d(16, 16, 4, 2, 1, output_padding=rng.choice([0, 1])),
        nn.PixelShuffle(2), nn.Conv2d(4, 3, 3), nn.Tanh(),
    )  # fmt: skip


def _spoiled(net: Any, rng: Any) -> None:
    import torch

    weights = [m.weight for m in net.modules() if getattr(m, "weight", None) is not None and m.weight.dim() > 1]
    with torch.no_grad():
        match rng.choice(["", "", "", "small", "large", "zero", "constant"]):
            case "small":
                for weight in weights:
                    weight.normal_(0, 1e-3)
            case "large":
                for weight in weights:
                    weight.normal_(0, 1)
            case "zero":
                rng.choice(weights).zero_()
            case "constant":
                rng.choice(weights).fill_(0.1)
