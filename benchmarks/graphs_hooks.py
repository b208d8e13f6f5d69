"""What follows each weight module, seen by hooks that match tensors by identity.

Only for models whose activations are all modules. A hook notes which tensor objects enter and leave each weight,
activation, norm, pool, dropout and identity module, together with the version of their values, so that an in-place
module is one step and not a loop. A weight's output is followed where the very same tensor enters the next module.
Where functional code lies in between (a sum, a reshape) the truth is not told, and the layer is not counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

ACTIVATIONS = {  # class of an activation module -> name of the function
    "ReLU": "relu", "ReLU6": "relu6", "LeakyReLU": "leaky_relu", "PReLU": "prelu", "ELU": "elu", "SELU": "selu",
    "CELU": "celu", "GELU": "gelu", "SiLU": "silu", "Mish": "mish", "Hardswish": "hardswish", "Tanh": "tanh",
    "Sigmoid": "sigmoid", "Hardsigmoid": "hardsigmoid", "Softplus": "softplus", "Softsign": "softsign",
    "Hardtanh": "hardtanh", "GLU": "glu", "LogSigmoid": "logsigmoid",
    "Swish": "silu", "SiLUActivation": "silu", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid",
    "GELUActivation": "gelu", "NewGELUActivation": "gelu", "FastGELUActivation": "gelu", "GELUTanh": "gelu",
    "PytorchGELUTanh": "gelu", "BloomGelu": "gelu", "QuickGELU": "quick_gelu", "QuickGELUActivation": "quick_gelu",
    "ReLUSquaredActivation": "relu2", "SquaredReLU": "relu2", "MishActivation": "mish",
    "StarReLU": "star_relu|relu2",  # the same up to a scale and a shift that are learned
}  # fmt: skip
_PASSES = re.compile(r"Norm|Dropout|DropPath|StochasticDepth|Pool|^Identity$|^Flatten$|^Permute$|^LayerScale|Pad\dd$")
_WEIGHTS = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.Bilinear)
_FUNCTIONS = frozenset({
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "gelu", "silu", "mish",
    "hardswish", "tanh", "tanh_", "sigmoid", "sigmoid_", "hardsigmoid", "softplus", "prelu", "rrelu", "glu", "hardtanh",
    "logsigmoid", "softsign", "erf",
})  # fmt: skip
Key = tuple[int, int]  # a tensor object and the version of its values


@dataclass(slots=True)
class Step:
    """One call of a module: what it is to the signal, and what it gives."""

    what: str  # "activation", "weight" or "pass"
    name: str | None = None
    out: Key | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What hooks tell of a model."""

    answers: dict[str, str | None]  # parameter -> activation, None where the next thing is linear
    untold: tuple[str, ...]  # parameters of weight modules that the hooks cannot follow
    functions: tuple[str, ...]  # activations called outside of modules: then the answers prove nothing


def look(model: nn.Module, inputs: dict[str, Any]) -> Seen:
    """Run the model once and follow the output of each weight module."""
    log = _Log()
    hooks = []
    paths: dict[nn.Module, list[str]] = defaultdict(list)
    for path, module in model.named_modules(remove_duplicate=False):
        paths[module].append(path)
        step = _kind(module)
        if step is not None and len(paths[module]) == 1:
            hooks.append(module.register_forward_pre_hook(log.enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(log.leave, with_kwargs=True))
    try:
        with torch.no_grad(), _Functions(log):
            log.ends = {(id(t), t._version) for t in _tensors(model(**inputs))}
    finally:
        for hook in hooks:
            hook.remove()
    answers: dict[str, str | None] = {}
    untold: list[str] = []
    named = {id(p): name for name, p in model.named_parameters()}
    for module in paths:
        for parameter, follows in _weights(module):
            found = {log.after(out) for out in log.outputs[id(module)]} if follows else {(0, None, True)}
            said = {(name, told) for _, name, told in found}
            name = named[id(parameter)]
            answer, known = next(iter(said), (None, False))
            if len(said) != 1 or not known or answers.setdefault(name, answer) != answer:
                untold.append(name)
    told = {name: answer for name, answer in answers.items() if name not in untold}  # a tie is told of both or of none
    return Seen(told, tuple(dict.fromkeys(untold)), tuple(sorted(log.functions)))


class _Log:
    """The calls so far, by the tensors that enter them."""

    def __init__(self) -> None:
        self.readers: dict[Key, list[tuple[int, Step]]] = defaultdict(list)
        self.outputs: dict[int, list[Key]] = defaultdict(list)  # of a weight module, a call each
        self.inside: list[tuple[Step, list[Any]]] = []
        self.kept: list[Any] = []  # so that an id names one tensor for the whole pass
        self.ends: set[Key] = set()
        self.functions: set[str] = set()
        self.time = 0

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        step = _kind(module) or Step("pass")
        tensors = _tensors((args, kwargs))
        self.kept.append(tensors)
        self.time += 1
        for tensor in tensors if step.what == "weight" else tensors[:1]:
            self.readers[id(tensor), tensor._version].append((self.time, step))
        self.inside.append((step, tensors))

    def leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        step, _ = self.inside.pop()
        tensors = _tensors(output)
        self.kept.append(tensors)
        if tensors:
            step.out = (id(tensors[0]), tensors[0]._version)
            self.outputs[id(module)].append(step.out)

    def after(self, key: Key, since: int = 0) -> tuple[int, str | None, bool]:
        """When the first activation or weight reads a value, which activation it is, and whether that is told.

        Only readers later than `since` count: a module that hands on the tensor it was given does not read it again.
        """
        later = [(time, step) for time, step in self.readers.get(key, ()) if time > since]
        for time, step in later:
            if step.what != "pass":
                return time, step.name, True
            found = self.after(step.out, time) if step.out else (time, None, False)
            if step.out == key or not found[2]:
                return found  # all later readers are among those of the same tensor, or the way is lost
            rest = self.after(key, time)
            return min(found, rest, key=lambda f: f[0]) if rest[2] else found
        return 1 << 60, None, key in self.ends


class _Functions(TorchFunctionMode):
    """Notes activations that are called outside of activation modules."""

    def __init__(self, log: _Log) -> None:
        super().__init__()
        self.log = log

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _FUNCTIONS and not any(step.what != "weight" for step, _ in self.log.inside):
            self.log.functions.add(name)
        return function(*args, **(kwargs or {}))


def _kind(module: nn.Module) -> Step | None:
    """What a module is to the signal; None for containers and whatever else has a forward of its own."""
    name = type(module).__name__
    if name in ACTIVATIONS:
        return Step("activation", ACTIVATIONS[name])
    if _weights(module):
        return Step("weight")
    if _PASSES.search(name) and all(p.dim() < 2 or p.numel() == max(p.shape) for p in module.parameters()):
        inner = [ACTIVATIONS[type(m).__name__] for m in module.modules() if type(m).__name__ in ACTIVATIONS]
        if inner:  # a norm and its activation in one module
            return Step("activation", inner[0]) if len(inner) == 1 else None
        return Step("pass")
    return None


def _weights(module: nn.Module) -> list[tuple[Tensor, bool]]:
    """The matrices of a weight module, and whether its output is theirs to follow."""
    if isinstance(module, nn.RNNBase | nn.RNNCellBase):
        own = not (getattr(module, "mode", "").startswith("RNN") or isinstance(module, nn.RNNCell))
        return [(p, False) for p in module.parameters(recurse=False) if p.dim() > 1 and own]
    if isinstance(module, nn.MultiheadAttention):
        inner = [p for n, p in module.named_parameters(recurse=False) if p.dim() > 1 and n.endswith("_weight")]
        return [(module.out_proj.weight, True), *((p, False) for p in inner)]
    if isinstance(module, nn.modules.linear.NonDynamicallyQuantizableLinear):
        return []  # out_proj of the above, which is never called
    if isinstance(module, _WEIGHTS) or type(module).__name__ == "Conv1D":
        for name in ("weight_v", "weight_orig", "weight"):
            if isinstance(module._parameters.get(name), Tensor):
                return [(module._parameters[name], True)]  # type: ignore[list-item]
        inner = [p for n, p in module.named_parameters() if n.startswith("parametrizations.weight") and p.dim() > 1]
        return [(inner[-1], True)] if inner else []
    return []


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
