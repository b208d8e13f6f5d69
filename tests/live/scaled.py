"""LSUV on a live module, and what its modules make by hooks of torch's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from initaudit import layers
from initaudit.edits import Recipe
from initaudit.live import model as reading
from initaudit.live.lsuv import Calibrated, calibrate
from initaudit.live.lsuv.meetings import WEIGHTED
from initaudit.repair import drawing
from initaudit.types import Model
from tests.build import measured

PLAIN = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.Bilinear)


def recipes(model: Model, every: bool = False) -> list[Recipe]:
    """Return "lsuv" for all weights; `every`: for all parameters that are layers of their own too."""
    out: list[Recipe] = []
    for layer in layers.infer(model)[0]:
        if every or layer.kind in WEIGHTED:
            known = (t for t in model.tensors if (t.name, t.shape) == (layer.weight.name, layer.weight.shape))
            own = next(known, layer.weight)
            one = Recipe(measured(layer), own, "lsuv", "--all")
            out += [one, *drawing.companions(one)]
    return out


def draw(recipe: Recipe) -> Any:
    return drawing.draw(recipe, 0)


def scaled(net: nn.Module, data: Any, *, every: bool = False, examples: Any = None, **settings: Any) -> Calibrated:
    """Scale the weights of a module in place; `data` is by argument, or the only one."""
    net.eval()
    if examples is None:
        examples = {name: value[:2] for name, value in data.items()} if isinstance(data, dict) else data[:2]
    model = reading.read(net, examples)
    todo = recipes(model, every)
    done = calibrate(model, todo, draw, data=data, **settings)
    state = {**dict(net.named_parameters(remove_duplicate=False)), **dict(net.named_buffers())}
    with torch.no_grad():
        for at, values in done.values.items():
            state[todo[at].tensor.name].copy_(torch.from_numpy(np.ascontiguousarray(values())))
    return done


def variances(net: nn.Module, *args: Any) -> dict[str, list[float]]:
    """Return the variance of what each weighted module makes, call by call."""
    seen: dict[str, list[float]] = {}
    handles = [
        module.register_forward_hook(
            lambda m, i, o, name=name: seen.setdefault(name, []).append(float(o.double().var(correction=0)))
        )
        for name, module in net.named_modules(remove_duplicate=False)
        if isinstance(module, PLAIN)
    ]
    with torch.no_grad():
        net(*args)
    for handle in handles:
        handle.remove()
    return seen


def told(done: Calibrated) -> dict[str, str]:
    """Return why layers did not reach the target."""
    return {f"{row.layer} {row.part}".strip(): row.why for row in done.reached if row.why}
