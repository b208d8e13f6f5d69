"""Ties and silent parameters of real architectures, against their own gradients.

    python -m benchmarks.symmetry_zoo [--only NAME ...] [--most MILLIONS]

Every model is looked at twice. As its experts initialised it: all that is told to sleep, to be dead or to be cancelled
must get no gradient at the first step. And with most of its weights set constant, the others with a few equal rows and
columns: what is told tied must still be equal after three steps.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.zoo import ZOO, build
from initaudit import layers, symmetry
from initaudit.audit import live

SMALL = 1e-9  # of the largest gradient, and of a value: below it rounding is all there is
APART = 1e-8
_LAST, _FIRST = (nn.Linear, nn.Embedding), (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)


def tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield what a model returns."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value))


def learning(module: nn.Module) -> nn.Module:
    """Return a module whose batch norms train, and which drops nothing."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()
    return module


def descend(module: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Leave a gradient of a loss that is invariant to nothing."""
    g = torch.Generator().manual_seed(1)
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for y in tensors(module(**inputs)):
        if y.is_floating_point() and y.requires_grad:
            total = total + (torch.randn(y.shape, generator=g, dtype=torch.float64) * y).mean()
            total = total + (torch.rand(y.shape, generator=g, dtype=torch.float64) * y**2).mean()
    total.backward()


def silent(module: nn.Module, inputs: Mapping[str, Any]) -> tuple[str, list[str]]:
    """Return what is told of a model as it is, and what of that is wrong."""
    model = live(module, dict(inputs))
    assert model.graph is not None
    found, _ = layers.infer(model)
    told = symmetry.analyse(model.graph, found)
    moving = symmetry.movements(model.graph)
    own = dict(learning(module).named_parameters())
    descend(module, inputs)
    top = max(float(p.grad.abs().max()) for p in own.values() if p.grad is not None)
    wrong = []
    for value, m in moving.items():
        p = own.get(model.graph.constants[value].name)
        if p is None or p.grad is None or tuple(p.shape) != model.graph.constants[value].shape:
            continue
        quiet = np.broadcast_to(m.reach & (m.step != 1), p.shape)
        if bool((p.grad.abs().numpy()[quiet] > SMALL * top).any()):
            wrong.append(f"{model.graph.constants[value].name} moves at the first step")
    ties = [f"{one.name} {one.width} of {one.units}" for one in told.layers if one is not None and one.classes]
    dead = [f"{p.name} {p.dead} of {p.size}" for p in told.parameters if p.dead]
    cancelled = [p.name for p in told.parameters if p.cancelled]
    asleep = sorted({p.wake for p in told.parameters if p.asleep})
    return (
        f"tied: {', '.join(ties) or '-'}; dead: {', '.join(dead) or '-'}; cancelled: {len(cancelled)}; "
        f"wake at: {asleep or '-'}; not understood: {', '.join(told.unread) or '-'}"
    ), wrong


def planted(module: nn.Module, inputs: Mapping[str, Any], seed: int) -> tuple[int, list[str]]:
    """Return how many units are told tied once weights are set constant, and which of them part."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() > 1 and rng.random() < 0.8:
                p.fill_(0.03125)
            elif p.dim() > 1 and p.shape[0] > 2:
                p[1] = p[0]
                p[:, min(1, p.shape[1] - 1)] = p[:, 0]
    model = live(module.eval(), dict(inputs))
    assert model.graph is not None
    found, _ = layers.infer(model)
    told = symmetry.analyse(model.graph, found)
    learning(module)
    made = torch.optim.SGD(module.parameters(), 1e-3)
    for _ in range(3):
        descend(module, inputs)
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        made.step()
    seen: dict[str, list[torch.Tensor]] = {}
    for name, part in module.named_modules():
        axis = -1 if isinstance(part, _LAST) else 1 if isinstance(part, _FIRST) else None
        if axis is not None:

            def hook(_m: object, _x: object, out: torch.Tensor, name: str = name, axis: int = axis) -> None:
                seen.setdefault(name, []).append(out.detach().movedim(axis, 0).flatten(1))

            part.register_forward_hook(hook)
    with torch.no_grad():
        module(**inputs)
    tied, wrong = 0, []
    for layer, own in zip(found, told.layers, strict=True):
        for units in own.classes if own is not None and layer.name in seen else ():
            tied += len(units) - 1
            for y in seen[layer.name]:
                size = float(y.abs().max())
                if (
                    max(units) < len(y)
                    and float((y[list(units)] - y[units[0]]).abs().max()) > APART * size > APART * SMALL
                ):
                    wrong.append(f"{layer.name} parts")
    return tied, wrong


def main() -> None:
    """Run all of it and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--most", type=float, default=2.0)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    models = told = bad = 0
    for row in ZOO:
        if chosen.only and row.name not in chosen.only:
            continue
        module, inputs = build(row)
        if sum(p.numel() for p in module.parameters()) > chosen.most * 1e6:
            continue
        module.double()
        inputs = {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}
        try:
            line, wrong = silent(copy.deepcopy(module), inputs)
            tied, parted = planted(module, inputs, models)
        except (RuntimeError, ValueError) as fault:
            print(f"{row.name}: cannot be trained so: {str(fault)[:80]}", flush=True)
            continue
        models, told, bad = models + 1, told + tied, bad + len(wrong) + len(parted)
        print(
            f"{row.name}: {line}; planted: {tied} tied{''.join(f'; WRONG: {w}' for w in (*wrong, *parted))}", flush=True
        )
    print(f"{models} models, {told} units told tied after planting, {bad} wrong")


if __name__ == "__main__":
    main()
