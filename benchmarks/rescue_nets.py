"""Networks that cannot learn as they start, for benchmarks.rescue: deep nets with one usual fault each.

Every one takes digits of 8 x 8 pixels as (batch, 64) and gives 10 logits.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from benchmarks.trainability_nets import Convolutions, Plain, Recurrent, Residual, Tokens


def _drawn(net: nn.Module, draw: Callable[[torch.Tensor], object]) -> nn.Module:
    """Draw the matrices of a network, and start its biases at zero."""
    for name, p in net.named_parameters():
        if "norm" not in name and p.dim() != 3:
            draw(p) if p.dim() > 1 else nn.init.zeros_(p)
    return net


def _he(net: nn.Module) -> nn.Module:
    return _drawn(net, nn.init.kaiming_normal_)


def _xavier(net: nn.Module) -> nn.Module:
    return _drawn(net, nn.init.xavier_normal_)


def _zeroed(net: nn.Module, *names: str) -> nn.Module:
    for name in names:
        nn.init.zeros_(net.get_parameter(name))
    return net


def _scaled(net: nn.Module, times: float, *words: str) -> nn.Module:
    for name, p in net.named_parameters():
        if any(word in name for word in words) and p.dim() > 1:
            p.mul_(times)
    return net


def _copied(net: nn.Module) -> nn.Module:
    """Make the units of every hidden layer copies of its first."""
    for name, p in net.named_parameters():
        if p.dim() > 1 and "head" not in name:
            p.copy_(p[:1].expand_as(p).clone())
    return net


def _broken(net: nn.Module) -> nn.Module:
    """Leave a piece of a weight as memory that nobody filled."""
    net.get_parameter("layers.3.weight")[:4] = float("nan")
    return net


def _constant(net: nn.Module) -> nn.Module:
    return _drawn(net, lambda p: nn.init.constant_(p, 0.05))


NETS: dict[str, Callable[[], nn.Module]] = {
    "ReLU MLP, 30 layers, torch's default": lambda: Plain("relu", 30),
    "GELU MLP, 24 layers, torch's default": lambda: Plain("gelu", 24),
    "ReLU MLP, 8 layers, all weights 0.05": lambda: _constant(Plain("relu", 8)),
    "ReLU MLP, 10 layers, a zeroed block of 3": lambda: _zeroed(
        _he(Plain("relu", 10)), "layers.3.weight", "layers.4.weight", "layers.5.weight"
    ),
    "ReLU MLP, 10 layers, std 1": lambda: _drawn(Plain("relu", 10), nn.init.normal_),
    "ReLU MLP, 10 layers, all biases -3": lambda: _biased(_he(Plain("relu", 10)), -3.0),
    "ReLU MLP, 8 layers, copied units": lambda: _copied(_he(Plain("relu", 8))),
    "ReLU MLP, 8 layers, NaN in a weight": lambda: _broken(_he(Plain("relu", 8))),
    "sigmoid MLP, 8 layers, Xavier": lambda: _xavier(Plain("sigmoid", 8)),
    "sigmoid MLP, 20 layers, Xavier": lambda: _xavier(Plain("sigmoid", 20)),
    "tanh MLP, 24 layers, std 1": lambda: _drawn(Plain("tanh", 24), nn.init.normal_),
    "CNN, 16 layers, torch's default": lambda: Convolutions("relu", 16),
    "CNN, 12 layers, two zeroed convolutions": lambda: _zeroed(
        _he(Convolutions("relu", 12)), "convs.5.weight", "convs.6.weight"
    ),
    "residual MLP, 24 blocks, no norm, He": lambda: _he(Residual("relu", 24)),
    "residual MLP, 12 blocks, no norm, dead": lambda: _scaled(_he(Residual("relu", 12)), 0.0, "first", "last"),
    "LSTM, 8 steps, all weights 0.05": lambda: _constant(Recurrent("lstm", 8)),
    "transformer, 6 blocks, queries and keys x30": lambda: _scaled(
        _xavier(Tokens("pre", "gelu", 6)), 30.0, "query", "key"
    ),
    "transformer, 6 blocks, no norm, std 0.3": lambda: _drawn(
        Tokens("none", "gelu", 6), lambda p: nn.init.normal_(p, 0, 0.3)
    ),
}


def _biased(net: nn.Module, value: float) -> nn.Module:
    for name, p in net.named_parameters():
        if name.endswith("bias") and "head" not in name:
            nn.init.constant_(p, value)
    return net


def build(name: str) -> nn.Module:
    """Return a network, the same to the bit at every call."""
    torch.manual_seed(0)
    with torch.no_grad():
        return NETS[name]()
