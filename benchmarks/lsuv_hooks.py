"""The variance of every weighted layer of a live module, by forward hooks that know nothing of initaudit.

What a module hands out is its pre-activation; a recurrent one is unrolled by hand, step by step, and an attention's
packed projections are worked out from what goes into it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

PLAIN = (nn.Linear, nn.modules.conv._ConvNd, nn.Embedding, nn.Bilinear)
ALSO = frozenset({"Conv1D", "GroupLinear"})  # foreign classes whose output is their pre-activation
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True)
class Seen:
    """One product: of which parameter, which part of it, at which call."""

    weight: str
    part: str
    use: int
    variance: float


class _Sum:
    """Gathers the variance of several tensors."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []

    def add(self, value: Tensor) -> None:
        self.values.append(value.detach().double().reshape(-1))

    @property
    def variance(self) -> float:
        return float(torch.cat(self.values).var(correction=0))


def look(model: nn.Module, inputs: Mapping[str, Any]) -> list[Seen]:
    """Run the model on a batch and return what each weighted module makes, in execution order."""
    seen: list[Seen] = []
    uses: dict[int, int] = {}
    names = {id(p): n for n, p in model.named_parameters()}
    handles = []

    def note(weight: Tensor, parts: Mapping[str, Tensor]) -> None:
        use = uses[id(weight)] = uses.get(id(weight), 0) + 1
        for part, value in parts.items():
            variance = float(value.detach().double().var(correction=0))
            seen.append(Seen(names.get(id(weight), "?"), part, use, variance))

    def hook(read: Callable[..., None]) -> Callable[..., None]:
        def run(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            with torch.no_grad():
                read(note, module, args, kwargs, output)

        return run

    for module in model.modules():
        read = _reader(module)
        if read is not None:
            handles.append(module.register_forward_hook(hook(read), with_kwargs=True))
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            model(**inputs)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()
    return seen


def _reader(module: nn.Module) -> Callable[..., None] | None:
    if isinstance(module, nn.MultiheadAttention):
        return _attention
    if isinstance(module, nn.RNNBase):
        return _recurrent
    if isinstance(module, PLAIN) or type(module).__name__ in ALSO:
        return _plain
    return None


def _plain(note: Any, module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
    note(getattr(module, "weight", None), {"": output})


def _attention(note: Any, module: nn.MultiheadAttention, args: Any, kwargs: Any, output: Any) -> None:
    given = {**dict(zip(("query", "key", "value"), args, strict=False)), **kwargs}
    sources = [given[name] for name in ("query", "key", "value")]
    if module.in_proj_weight is not None:
        weights = module.in_proj_weight.chunk(3)
        biases = module.in_proj_bias.chunk(3) if module.in_proj_bias is not None else (None,) * 3
        parts = {
            name: F.linear(x, w, b) for name, x, w, b in zip(("q", "k", "v"), sources, weights, biases, strict=True)
        }
        note(module.in_proj_weight, parts)
    else:
        for name, x in zip(("q", "k", "v"), sources, strict=True):
            note(getattr(module, f"{name}_proj_weight"), {"": F.linear(x, getattr(module, f"{name}_proj_weight"))})
    note(module.out_proj.weight, {"": output[0]})


def _recurrent(note: Any, module: nn.RNNBase, args: Any, kwargs: Any, output: Any) -> None:
    x = args[0].transpose(0, 1) if module.batch_first else args[0]
    kind = module.mode.partition("_")[0]
    for layer in range(module.num_layers):
        outs = []
        for suffix in ("", "_reverse")[: 1 + module.bidirectional]:
            get = lambda name, s=f"l{layer}{suffix}": getattr(module, f"{name}_{s}", None)  # noqa: E731
            out, given, own = _unrolled(module, kind, x, get, bool(suffix))
            note(get("weight_ih"), _gates(kind, given))
            note(get("weight_hh"), _gates(kind, own))
            if get("weight_hr") is not None:
                note(get("weight_hr"), {"": out})
            outs.append(out)
        x = torch.cat(outs, -1)
    made = output[0].transpose(0, 1) if module.batch_first else output[0]
    assert torch.allclose(x, made, atol=1e-3), "unrolled by hand, it makes something else"


def _gates(kind: str, products: Tensor) -> dict[str, Tensor]:
    return {str(k) if GATES[kind] > 1 else "": part for k, part in enumerate(products.chunk(GATES[kind], -1))}


def _unrolled(module: nn.RNNBase, kind: str, x: Tensor, get: Any, back: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the outputs, and the products of both matrices, of all steps."""
    zero = torch.zeros(())
    b_ih, b_hh = (zero if get(n) is None else get(n) for n in ("bias_ih", "bias_hh"))
    given = x @ get("weight_ih").T
    hidden = get("weight_hh").shape[1]
    h, c = x.new_zeros(x.shape[1], hidden), x.new_zeros(x.shape[1], module.hidden_size)
    outs: dict[int, Tensor] = {}
    own: dict[int, Tensor] = {}
    for t in reversed(range(len(x))) if back else range(len(x)):
        own[t] = h @ get("weight_hh").T
        a, r = given[t] + b_ih, own[t] + b_hh
        if kind == "LSTM":
            i, f, g, o = (a + r).chunk(4, -1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            h = h if get("weight_hr") is None else h @ get("weight_hr").T
        elif kind == "GRU":
            (ar, az, an), (rr, rz, rn) = a.chunk(3, -1), r.chunk(3, -1)
            z = (az + rz).sigmoid()
            h = (1 - z) * (an + (ar + rr).sigmoid() * rn).tanh() + z * h
        else:
            h = (a + r).tanh() if module.mode == "RNN_TANH" else (a + r).relu()
        outs[t] = h
    steps = range(len(x))
    return torch.stack([outs[t] for t in steps]), given, torch.stack([own[t] for t in steps])
