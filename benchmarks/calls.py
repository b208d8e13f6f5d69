"""Which activation follows each parameter, seen by recording every torch function of one forward pass.

The recorder keeps every tensor that passes by alive, so that an object's id names it for the whole pass. A call is
an activation, a weighted operation, an end, or transparent; from the operation that uses a parameter the walk goes on
through transparent calls. Whole activation modules (a library's own GELU, say) count as one call.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import Any

ACTIVATIONS = {  # torch function, without a trailing underscore -> its name; "?": part of some formula
    **{name: name for name in (
        "relu", "gelu", "silu", "hardswish", "leaky_relu", "elu", "selu", "celu", "prelu", "tanh", "sigmoid", "mish",
        "hardsigmoid", "softplus", "relu6", "hardtanh", "logsigmoid", "softsign", "glu", "rrelu", "softshrink",
        "hardshrink", "tanhshrink",
    )},
    **dict.fromkeys(("clamp_min", "clamp", "erf", "exp", "sin", "cos", "square", "pow", "abs", "log", "rsqrt"), "?"),
}  # fmt: skip
MODULES = {  # classes of activation modules whose forward may be several calls
    "gelu": (
        "NewGELUActivation", "FastGELUActivation", "GELUActivation", "GELUTanh", "PytorchGELUTanh", "BloomGelu",
        "AccurateGELUActivation",
    ),
    "quick_gelu": ("QuickGELUActivation", "QuickGELU"),
    "silu": ("SiLUActivation", "Swish", "GammaAct"),
    "mish": ("MishActivation", "Mish"),
    "hardswish": ("HardSwish", "Hardswish"),
    "hardsigmoid": ("HardSigmoid",),
    "hard_mish": ("HardMish",),
    "relu_squared": ("ReLUSquaredActivation", "SquaredReLU"),
    "star_relu": ("StarReLU",),
    "sigmoid": ("Sigmoid",),
    "tanh": ("Tanh",),
    "relu6": ("ReLU6",),
}  # fmt: skip
CLASSES = {kind: name for name, kinds in MODULES.items() for kind in kinds}
LAYERS = (  # functions that take a signal and the weights for it
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "embedding",
    "embedding_bag", "bilinear", "multi_head_attention_forward", "lstm", "gru", "rnn_tanh", "rnn_relu",
)  # fmt: skip
PRODUCTS = (  # of a signal and a weight, or of two signals
    "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "baddbmm", "addmm", "einsum", "scaled_dot_product_attention",
    "_grouped_mm", "grouped_mm",
)  # fmt: skip
WEIGHTED = (*LAYERS, *PRODUCTS)
ENDS = ("softmax", "log_softmax", "argmax", "topk", "cross_entropy", "gt", "lt", "ge", "le", "eq", "ne", "any", "all")
SILENT = (  # calls that carry no signal on: questions about a tensor, and new tensors of its likeness
    "size", "dim", "shape", "__get__", "numel", "item", "type", "get_device", "stride", "is_floating_point",
    "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "zeros_like", "ones_like", "full_like",
    "empty_like",
)  # fmt: skip
CHOICES = ("__getitem__", "index_select")
RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
ATTENTION = "multi_head_attention_forward"


@dataclass(frozen=True, slots=True)
class Answer:
    """The activation after a parameter; `sure` is false where the source leaves the question open."""

    name: str | None
    sure: bool
    joined: bool = False  # used together with another matrix, as one weight


@dataclass(slots=True)
class Call:
    """One recorded call: what it is, which earlier calls feed it, which parameters it uses."""

    name: str
    feeds: set[int] = field(default_factory=set)
    parameters: set[str] = field(default_factory=set)  # reached through calls on parameters alone


def activations(model: Any, inputs: dict[str, Any]) -> dict[str, Answer]:
    """Return an answer for each parameter that a weighted operation of the forward pass uses."""
    recorded = record(model, inputs)
    matrices = {name for name, p in model.named_parameters() if max(p.shape, default=1) < p.numel()}
    consumers: dict[int, list[int]] = defaultdict(list)
    for index, call in enumerate(recorded):
        for feed in call.feeds:
            consumers[feed].append(index)
    found: dict[str, set[Answer]] = defaultdict(set)
    for index, call in enumerate(recorded):
        if call.name not in WEIGHTED or not call.parameters:
            continue
        answer = Answer(None, False) if call.name in RECURRENT else _follow(index, recorded, consumers)
        for name in call.parameters:
            inner = call.name == ATTENTION and not name.endswith("out_proj.weight")
            joined = call.name not in (*RECURRENT, ATTENTION) and len(call.parameters & matrices) > 1
            found[name].add(Answer(None, True) if inner else replace(answer, joined=joined))
    return {name: answers.pop() if len(answers) == 1 else Answer(None, False) for name, answers in found.items()}


def _follow(start: int, recorded: list[Call], consumers: dict[int, list[int]]) -> Answer:
    seen: set[int] = set()
    reached: set[str | None] = set()
    pending = list(consumers[start])
    while pending:
        index = pending.pop()
        if index in seen:
            continue
        seen.add(index)
        call = recorded[index]
        name = call.name.removeprefix("module:")
        if call.name.startswith("module:"):
            reached.add(name)
        elif name.removesuffix("_") in ACTIVATIONS:
            after = {recorded[consumer].name for consumer in consumers[index]}
            squared = name == "relu" and after and after <= {"square", "pow", "__pow__"}
            reached.add("relu_squared" if squared else ACTIVATIONS[name.removesuffix("_")])
        elif name in WEIGHTED:
            reached.add(None)
        elif name in ENDS:
            reached.add("?" if name.endswith("softmax") else None)
        else:
            pending.extend(consumers[index])
    reached = reached or {None}
    if len(reached) > 1 or "?" in reached:
        return Answer(None, False)
    return Answer(reached.pop(), True)


def record(model: Any, inputs: dict[str, Any]) -> list[Call]:
    """Run the model once and return its calls in order."""
    import torch
    from torch.overrides import TorchFunctionMode

    log = _Log(model, inputs)

    class Recorder(TorchFunctionMode):
        """Hands every call to the log."""

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            name = getattr(function, "__name__", str(function))
            if not log.inside and name not in SILENT:
                log.note(name, _tensors((args, kwargs or {})), [args[0]] if name == "__setitem__" else _tensors(result))
            return result

    hooks = []
    for module in model.modules():
        if _is_one_call(module):
            hooks.append(module.register_forward_pre_hook(log.enter))
            hooks.append(module.register_forward_hook(log.leave, with_kwargs=True))
    try:
        with Recorder(), torch.enable_grad():
            model(**inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return log.calls


def _is_one_call(module: Any) -> bool:
    """Whether a module is an activation or a norm, whatever its forward is made of."""
    kind = type(module).__name__
    norm = "norm" in kind.lower() and not any(module.children()) and all(p.dim() < 2 for p in module.parameters())
    return kind in CLASSES or norm


class _Log:
    """The calls so far, and where each living tensor comes from."""

    def __init__(self, model: Any, inputs: dict[str, Any]) -> None:
        self.calls: list[Call] = []
        self.inside: list[str] = []  # one-call modules being run
        self.origin: dict[int, set[str]] = {id(b): set() for b in model.buffers()}  # made of these parameters alone
        self.origin.update({id(p): {name} for name, p in model.named_parameters()})
        self.producer: dict[int, int] = {}  # tensor -> index of the call that returned it
        self.data = {id(t) for t in _tensors(inputs)}
        self.kept: list[Any] = [inputs]

    def enter(self, module: Any, args: Any) -> None:
        self.inside.append(type(module).__name__)

    def leave(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        kind = self.inside.pop()
        if not self.inside:
            self.note(
                f"module:{CLASSES[kind]}" if kind in CLASSES else "norm", _tensors((args, kwargs)), _tensors(output)
            )

    def note(self, name: str, arguments: list[Any], results: list[Any]) -> None:
        """Record a call, unless all it takes are parameters and constants: then its results count as such."""
        keys = [id(tensor) for tensor in arguments]
        call = Call(name)
        call.feeds = {self.producer[key] for key in keys if key in self.producer}
        takes = keys[1:] if name in LAYERS and len(keys) > 1 else keys  # the first is the signal, whatever made it
        call.parameters = {p for key in takes if key not in self.data for p in self.origin.get(key, ())}
        self.kept.append((arguments, results))
        weighted = name in LAYERS and call.parameters
        chosen = name in CHOICES and keys[0] not in self.data  # which rows of a parameter, told by data
        if not weighted and (chosen or not self.data.intersection(keys)):
            for tensor in results:
                self.origin[id(tensor)] = call.parameters
            return
        self.calls.append(call)
        for tensor in results:
            self.producer[id(tensor)] = len(self.calls) - 1
            self.data.add(id(tensor))


def _tensors(value: Any) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in _tensors(item)]
    if isinstance(value, tuple | list):
        return [tensor for item in value for tensor in _tensors(item)]
    return []
