"""More random small networks with tied units: other ways to write the same layers, and other layers.

Recurrent layers in stacks and both ways, attention in all spellings, experts in one tensor or many, convolutions of all
kinds, gates, token mixers, and products of three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.symmetry_nets import _ACTS, Net, Spec, Swap, joined, laid


class Tap(nn.Identity):
    """What a parameter makes that is no module: for the truth alone."""

    def __init__(self, of: str, *axes: int) -> None:
        super().__init__()
        self.of, self.axes = of, axes


class Made(nn.Module):
    """A network written as a function of its parts."""

    def __init__(self, run: Callable[[Made, torch.Tensor], torch.Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        return self.run(self, x)


def _linear(net: Net, name: str, out: str | Spec, inp: str | Spec) -> None:
    net.axes[f"{name}.weight"], net.axes[f"{name}.bias"] = (out, inp), (out,)


def _norm(net: Net, name: str, units: str | Spec) -> None:
    net.axes[f"{name}.weight"] = net.axes[f"{name}.bias"] = (units,)


def _rows(*shape: int) -> Callable[[torch.Generator, int], torch.Tensor]:
    return lambda g, n: torch.randn(n, *shape, generator=g, dtype=torch.float64)


def _act(rng: np.random.Generator) -> nn.Module:
    return _ACTS[str(rng.choice(["tanh", "gelu", "silu", "sigmoid", "elu", "softplus"]))]()


def _par(*shape: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * scale)


# ---- perceptrons with gates


def gated(rng: np.random.Generator) -> Net:
    """Return a network with gates, or with weights that are computed from others."""
    kind = str(rng.choice(["swiglu", "geglu", "highway", "weight_norm", "bilinear", "prelu", "squeeze", "softmax", "scale"]))
    i, d, h = int(rng.integers(3, 6)), int(rng.integers(5, 9)), int(rng.integers(5, 9))
    act = _act(rng)
    stem, head = nn.Linear(i, d), nn.Linear(d, 3)
    net = Net(stem, _rows(i), units={"d": d, "h": h}, fixed={"in", "out"})
    _linear(net, "stem", "d", "in")
    _linear(net, "head", "out", "d")
    if kind == "swiglu":
        parts = {"a": nn.Linear(d, h), "b": nn.Linear(d, h), "c": nn.Linear(h, d)}
        for name in "ab":
            _linear(net, name, "h", "d")
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(F.silu(m.a(x)) * m.b(x)))
    elif kind == "geglu":
        parts = {"a": nn.Linear(d, 2 * h), "c": nn.Linear(h, d)}
        _linear(net, "a", joined("h", "h"), "d")
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            a, b = m.a(x).chunk(2, -1)
            return m.head(x + m.c(a * F.gelu(b)))
    elif kind == "highway":
        del net.units["h"]
        parts = {"a": nn.Linear(d, d), "b": nn.Linear(d, d)}
        for name in "ab":
            _linear(net, name, "d", "d")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            gate = torch.sigmoid(m.b(x))
            return m.head(gate * torch.tanh(m.a(x)) + (1 - gate) * x)
    elif kind == "weight_norm":
        parts = {"a": nn.utils.parametrizations.weight_norm(nn.Linear(d, h)), "c": nn.Linear(h, d)}
        net.axes["a.parametrizations.weight.original0"] = ("h", "")
        net.axes["a.parametrizations.weight.original1"] = ("h", "d")
        net.axes["a.bias"] = ("h",)
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(torch.tanh(m.a(x))))
    elif kind == "bilinear":
        parts = {"a": nn.Bilinear(d, d, h), "c": nn.Linear(h, d)}
        net.axes["a.weight"], net.axes["a.bias"] = ("h", "d", "d"), ("h",)
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(torch.tanh(m.a(x, x))))
    elif kind == "prelu":
        parts = {"a": nn.Linear(d, h), "p": nn.PReLU(h), "n": nn.LayerNorm(h), "c": nn.Linear(h, d)}
        _linear(net, "a", "h", "d")
        _norm(net, "p", "h")
        _norm(net, "n", "h")
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(m.n(m.p(m.a(x)))))
    elif kind == "squeeze":
        parts = {"a": nn.Linear(d, h), "c": nn.Linear(h, d)}
        _linear(net, "a", "h", "d")
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x * torch.sigmoid(m.c(torch.relu(m.a(x)) + 0.1 * m.a(x))))
    elif kind == "softmax":
        parts = {"a": nn.Linear(d, h), "c": nn.Linear(h, d)}
        _linear(net, "a", "h", "d")
        _linear(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            y = m.a(x)
            return m.head(x + m.c(y * torch.softmax(y, -1) + torch.logsumexp(y, -1, keepdim=True)))
    else:
        parts = {"a": nn.Linear(d, h), "s": _par(h), "t": _par(h), "c": nn.Linear(h, d), "u": _par(d), "z": _par(1)}
        _linear(net, "a", "h", "d")
        _linear(net, "c", "d", "h")
        net.axes["s"] = net.axes["t"] = ("h",)
        net.axes["u"] = ("d",)

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.z * m.u * m.c(torch.tanh(m.a(x) * m.s + m.t)))

    net.module = Made(run, stem=stem, act=act, head=head, **parts)
    return net


# ---- recurrent layers


def stacks(rng: np.random.Generator) -> Net:
    """Return recurrent layers one over the other, both ways, with projections or first states, or cells in a loop."""
    kind = str(rng.choice(["layers", "both", "both layers", "projected", "first", "cell", "last"]))
    cell = "lstm" if kind == "projected" else str(rng.choice(["lstm", "gru", "rnn"]))
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    i, h = int(rng.integers(3, 5)), int(rng.integers(4, 7))
    net = Net(nn.Identity(), _rows(4, i), fixed={"in", "out"})
    if kind == "cell":
        part = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[cell](i, h)
        net.units = {"h": h}
        net.swaps = [Swap(1, {"h": (1, 1)})]
        wide = joined(("h", gates, 1))
        net.axes = {
            "cell.weight_ih": (wide, "in"), "cell.weight_hh": (wide, "h"), "cell.bias_ih": (wide,),
            "cell.bias_hh": (wide,),
        }  # fmt: skip
        _linear(net, "head", "out", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            state = None
            for t in range(x.shape[1]):
                state = m.cell(x[:, t], state)
            return m.head(m.tap(state[0] if isinstance(state, tuple) else state))

        net.module = Made(run, cell=part, head=nn.Linear(h, 3), tap=Tap(f"{gates} cell.weight_ih cell.weight_hh", -1))
        return net
    layers = 2 if "layers" in kind else 1
    both = "both" in kind
    options = {"num_layers": layers, "bidirectional": both, "batch_first": bool(rng.random() < 0.5)}
    size = h
    if kind == "projected":
        size = options["proj_size"] = int(rng.integers(3, h))
    part = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[cell](i, h, **options)
    below: str | Spec = "in"
    for layer in range(layers):
        names = []
        for way in ("", "_reverse") if both else ("",):
            units = f"h{layer}{way}"
            net.units[units] = h
            net.swaps.append(Swap(1, {units: (1, 1)}))
            wide = joined((units, gates, 1))
            state = units
            if kind == "projected":
                state = f"p{layer}{way}"
                net.units[state] = size
                net.swaps.append(Swap(1, {state: (1, 1)}))
                net.axes[f"cell.weight_hr_l{layer}{way}"] = (state, units)
            net.axes[f"cell.weight_ih_l{layer}{way}"] = (wide, below)
            net.axes[f"cell.weight_hh_l{layer}{way}"] = (wide, state)
            net.axes[f"cell.bias_ih_l{layer}{way}"] = net.axes[f"cell.bias_hh_l{layer}{way}"] = (wide,)
            names.append(state)
        below = joined(*names)
    parts: dict[str, nn.Module | nn.Parameter] = {"cell": part, "head": nn.Linear(size * (1 + both), 3)}
    _linear(net, "head", "out", below)
    if kind == "first":
        parts["start"] = _par(1, 1, h, scale=0.5)
        net.axes["start"] = ("", "", "h0")

    def run(m: Made, x: torch.Tensor) -> torch.Tensor:
        y = x if m.cell.batch_first else x.transpose(0, 1)
        if kind == "first":
            start = m.start.expand(1, x.shape[0], h)
            y, last = m.cell(y, (start, torch.tanh(start)) if cell == "lstm" else start)
        else:
            y, last = m.cell(y)
        if kind == "last":
            return m.head(last[0][-1] + last[1][-1] if cell == "lstm" else last[-1])
        y = y if m.cell.batch_first else y.transpose(0, 1)
        return m.head(y[:, -1] + y[:, 0] if both else y[:, -1])

    net.module = Made(run, **parts)
    return net


# ---- attention


def heads(rng: np.random.Generator) -> Net:
    """Return attention in one of its many spellings."""
    kind = str(rng.choice(["mha", "layer", "unbind", "per head", "grouped", "rotary", "cross", "causal", "einsum"]))
    n, e = int(rng.choice([2, 3])), int(rng.choice([2, 4]))
    d = n * e
    net = Net(nn.Identity(), _rows(4, 3), fixed={"in", "out"}, units={"d": d, "q": d, "k": d, "v": d})
    net.swaps = [
        Swap(n, {"q": (1, 1), "k": (1, 1)}), Swap(n, {"v": (1, 1)}), Swap(1, {"d": (1, 1)}),
        Swap(1, {"q": (1, e), "k": (1, e), "v": (1, e)}),
    ]  # fmt: skip
    parts: dict[str, nn.Module | nn.Parameter] = {"stem": nn.Linear(3, d), "head": nn.Linear(d, 3), "act": _act(rng)}
    _linear(net, "stem", "d", "in")
    _linear(net, "head", "out", "d")
    parts["place"] = _par(4, d, scale=0.3)
    net.axes["place"] = ("", "d")
    qkv = joined("q", "k", "v")

    def begin(m: Made, x: torch.Tensor) -> torch.Tensor:
        return m.act(m.stem(x) + m.place)

    def apart(y: torch.Tensor, count: int = n) -> torch.Tensor:
        return y.unflatten(-1, (count, e)).transpose(1, 2)

    if kind == "mha":
        parts["att"] = nn.MultiheadAttention(d, n, batch_first=True)
        net.axes |= {
            "att.in_proj_weight": (qkv, "d"), "att.in_proj_bias": (qkv,), "att.out_proj.weight": ("d", "v"),
            "att.out_proj.bias": ("d",),
        }  # fmt: skip
        weights = bool(rng.random() < 0.5)

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = begin(m, x)
            return m.head(x + m.att(x, x, x, need_weights=weights)[0])
    elif kind == "layer":
        h = int(rng.integers(5, 9))
        net.units["h"] = h
        net.swaps.append(Swap(1, {"h": (1, 1)}))
        parts["att"] = nn.TransformerEncoderLayer(
            d, n, h, 0.0, str(rng.choice(["relu", "gelu"])), batch_first=True, norm_first=bool(rng.random() < 0.5)
        )
        net.axes |= {
            "att.self_attn.in_proj_weight": (qkv, "d"), "att.self_attn.in_proj_bias": (qkv,),
            "att.self_attn.out_proj.weight": ("d", "v"), "att.self_attn.out_proj.bias": ("d",),
        }  # fmt: skip
        _linear(net, "att.linear1", "h", "d")
        _linear(net, "att.linear2", "d", "h")
        _norm(net, "att.norm1", "d")
        _norm(net, "att.norm2", "d")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            return m.head(m.att(begin(m, x)))
    elif kind in ("unbind", "per head"):
        parts["qkv"], parts["o"] = nn.Linear(d, 3 * d), nn.Linear(d, d)
        wide = qkv if kind == "unbind" else laid(qkv, (3, n, e), (1, 0, 2))
        _linear(net, "qkv", wide, "d")
        _linear(net, "o", "d", "v")
        fused = bool(rng.random() < 0.5)

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = begin(m, x)
            b, t, _ = x.shape
            if kind == "unbind":
                q, k, v = m.qkv(x).reshape(b, t, 3, n, e).permute(2, 0, 3, 1, 4).unbind(0)
            else:
                q, k, v = m.qkv(x).view(b, t, n, 3 * e).transpose(1, 2).split(e, -1)
            if fused:
                y = F.scaled_dot_product_attention(q, k, v)
            else:
                y = ((q * e**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
            return m.head(x + m.o(y.transpose(1, 2).reshape(b, t, d)))
    elif kind == "grouped":
        times = 2
        net.units["q"] = net.units["o"] = d * times
        net.swaps = [
            Swap(n, {"k": (1, 1), "q": (times, 1)}), Swap(1, {"d": (1, 1)}), Swap(n, {"q": (1, e), "o": (1, e)}),
            Swap(n, {"v": (1, 1), "o": (times, 1)}),
            Swap(1, {"q": (1, times * e), "o": (1, times * e), "k": (1, e), "v": (1, e)}),
        ]  # fmt: skip
        parts |= {"q": nn.Linear(d, d * times), "k": nn.Linear(d, d), "v": nn.Linear(d, d), "o": nn.Linear(d * times, d)}
        for name in "qkv":
            _linear(net, name, name, "d")
        _linear(net, "o", "d", "o")
        own = bool(rng.random() < 0.5)

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = begin(m, x)
            q, k, v = apart(m.q(x), n * times), apart(m.k(x)), apart(m.v(x))
            if own:
                y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
            else:
                k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
                y = torch.softmax(q @ k.mT, -1) @ v
            return m.head(x + m.o(y.transpose(1, 2).flatten(2)))
    elif kind == "einsum":
        parts |= {name: nn.Linear(d, d) for name in "qkvo"}
        for name in "qkv":
            _linear(net, name, name, "d")
        _linear(net, "o", "d", "v")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = begin(m, x)
            q, k, v = (f(x).unflatten(-1, (n, e)) for f in (m.q, m.k, m.v))
            odds = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2, -1)
            return m.head(x + m.o(torch.einsum("bhqk,bkhd->bqhd", odds, v).flatten(2)))
    else:
        parts |= {name: nn.Linear(d, d) for name in "qkvo"}
        for name in "qkv":
            _linear(net, name, name, "d")
        _linear(net, "o", "d", "v")
        if kind == "rotary":
            net.swaps = net.swaps[1:]
        if kind == "cross":
            parts["other"] = nn.Linear(3, d)
            net.units["c"] = d
            net.swaps.append(Swap(1, {"c": (1, 1)}))
            _linear(net, "other", "c", "in")
            for name in "kv":
                _linear(net, name, name, "c")
        angle = torch.arange(4)[:, None] * torch.tensor([1.0, 0.3])[: e // 2][None]
        turn = torch.cat([angle, angle], -1).double()

        def rotate(y: torch.Tensor) -> torch.Tensor:
            a, b = y.chunk(2, -1)
            cos, sin = turn.cos().to(y.dtype), turn.sin().to(y.dtype)
            return y * cos + torch.cat([-b, a], -1) * sin

        masked = bool(rng.random() < 0.5)

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            c = torch.tanh(m.other(x)) if kind == "cross" else None
            x = begin(m, x)
            c = x if c is None else c
            q, k, v = apart(m.q(x)), apart(m.k(c)), apart(m.v(c))
            if kind == "rotary":
                q, k = rotate(q), rotate(k)
            if kind == "causal" and masked:
                odds = q @ k.mT / e**0.5
                odds = odds.masked_fill(torch.ones(4, 4, dtype=torch.bool).triu(1), float("-inf"))
                y = torch.softmax(odds, -1) @ v
            else:
                y = F.scaled_dot_product_attention(q, k, v, is_causal=kind == "causal")
            return m.head(x + m.o(y.transpose(1, 2).flatten(2)))

    net.module = Made(run, **parts)
    return net


# ---- experts


def routed(rng: np.random.Generator) -> Net:
    """Return experts, in one tensor or many, with all of them at work or the best."""
    kind = str(rng.choice(["list", "einsum", "bmm", "slices", "unbind", "top", "top stacked", "one hot", "gates"]))
    i, d, h, e = int(rng.integers(3, 5)), int(rng.integers(4, 7)), int(rng.integers(4, 7)), int(rng.integers(3, 5))
    net = Net(nn.Identity(), _rows(i), fixed={"in", "out"}, units={"d": d, "e": e})
    parts: dict[str, nn.Module | nn.Parameter] = {
        "stem": nn.Linear(i, d), "head": nn.Linear(d, 3), "act": _act(rng), "router": nn.Linear(d, e),
    }  # fmt: skip
    _linear(net, "stem", "d", "in")
    _linear(net, "head", "out", "d")
    _linear(net, "router", "e", "d")
    top = kind in ("top", "top stacked", "one hot")
    if kind in ("list", "top", "one hot", "gates"):
        net.units |= {f"h{k}": h for k in range(e)}
        net.swaps = [Swap(1, {"d": (1, 1)}), *(Swap(1, {f"h{k}": (1, 1)}) for k in range(e))]
        for k in range(e):
            parts |= {f"up{k}": nn.Linear(d, h), f"down{k}": nn.Linear(h, d)}
            _linear(net, f"up{k}", f"h{k}", "d")
            _linear(net, f"down{k}", "d", f"h{k}")
    else:
        net.units["h"] = h * e
        net.swaps = [Swap(1, {"d": (1, 1)}), Swap(e, {"h": (1, 1)})]
        if not top:
            net.swaps.append(Swap(1, {"e": (1, 1), "h": (1, h)}))
        parts |= {"up": _par(e, d, h, scale=0.4), "down": _par(e, h, d, scale=0.4)}
        parts |= {"up_tap": Tap("up", 1, 2), "down_tap": Tap("down", 1, 2)}
        net.axes |= {"up": ("h", "d"), "down": ("h", "d")}
        net.views = {"up": ((0, 2, 1), (e * h, d)), "down": ((0, 1, 2), (e * h, d))}

    def run(m: Made, x: torch.Tensor) -> torch.Tensor:
        x = m.act(m.stem(x))
        odds = torch.softmax(m.router(x), -1)
        if top:
            best, index = odds.topk(2, -1)
            if kind == "one hot":
                odds = (F.one_hot(index, e).to(odds.dtype) * best[..., None]).sum(1)
            else:
                odds = torch.zeros_like(odds).scatter(-1, index, best)
        if kind in ("list", "top", "one hot", "gates"):
            y = 0
            for k in range(e):
                own = getattr(m, f"down{k}")(torch.tanh(getattr(m, f"up{k}")(x)))
                y = y + (odds[:, k : k + 1] if kind != "gates" else torch.sigmoid(odds[:, k, None])) * own
            return m.head(x + y)
        if kind == "bmm":
            wide = torch.bmm(x[None].expand(e, -1, -1), m.up)
            wide = m.up_tap(wide.transpose(0, 1)).transpose(0, 1)
            out = m.down_tap(torch.bmm(torch.tanh(wide), m.down).transpose(0, 1))
        elif kind in ("slices", "unbind"):
            ups = m.up.unbind(0) if kind == "unbind" else [m.up[k] for k in range(e)]
            downs = m.down.unbind(0) if kind == "unbind" else [m.down[k] for k in range(e)]
            wide = m.up_tap(torch.stack([x @ w for w in ups], 1))
            out = m.down_tap(torch.stack([torch.tanh(wide[:, k]) @ w for k, w in enumerate(downs)], 1))
        else:
            wide = m.up_tap(torch.einsum("bd,edh->beh", x, m.up))
            out = m.down_tap(torch.einsum("beh,ehd->bed", torch.tanh(wide), m.down))
        return m.head(x + torch.einsum("bed,be->bd", out, odds))

    net.module = Made(run, **parts)
    return net


MORE: dict[str, Callable[[np.random.Generator], Net]] = {
    "gated": gated, "stacks": stacks, "heads": heads, "routed": routed,
}  # fmt: skip
