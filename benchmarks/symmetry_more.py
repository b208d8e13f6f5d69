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
    kind = str(
        rng.choice(["swiglu", "geglu", "highway", "weight_norm", "bilinear", "prelu", "squeeze", "softmax", "scale"])
    )
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
        parts |= {
            "q": nn.Linear(d, d * times),
            "k": nn.Linear(d, d),
            "v": nn.Linear(d, d),
            "o": nn.Linear(d * times, d),
        }
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


# ---- convolutions


def spatial(rng: np.random.Generator) -> Net:
    """Return convolutions of all kinds, and what may stand between them."""
    kind = str(
        rng.choice(
            [
                "one",
                "three",
                "multiplier",
                "turned",
                "groups",
                "instance",
                "excite",
                "layerscale",
                "shuffle",
                "pixels",
                "unpixels",
                "resize",
                "pool",
                "cat",
                "unfold",
                "block",
                "patches",
                "flat",
                "rows",
            ]
        )  # fmt: skip
    )
    c, size = 6, 4
    act = _act(rng)
    net = Net(nn.Identity(), _rows(2, size, size), fixed={"in", "out"}, units={"c": c, "d": c})
    net.swaps = [Swap(1, {"c": (1, 1)}), Swap(1, {"d": (1, 1)})]
    parts: dict[str, nn.Module | nn.Parameter] = {"stem": nn.Conv2d(2, c, 3, padding=1), "act": act}
    net.axes |= {"stem.weight": ("c", "in", "", ""), "stem.bias": ("c",)}
    head, feed = "d", c

    def conv(name: str, out: str | Spec, inp: str | Spec, space: int = 2, groups: int = 1) -> None:
        net.axes |= {f"{name}.weight": (out, inp, *[""] * space), f"{name}.bias": (out,)}
        if groups > 1:
            net.groups[f"{name}.weight"] = groups

    middle: Callable[[Made, torch.Tensor], torch.Tensor]
    if kind == "one":
        parts["a"] = nn.Conv1d(c, c, 3, stride=2, padding=2, dilation=2)
        conv("a", "d", "c", 1)

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x.flatten(2)))
    elif kind == "three":
        parts["a"] = nn.Conv3d(c, c, 2, padding=1)
        conv("a", "d", "c", 3)

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x.unflatten(-1, (2, 2))))
    elif kind == "multiplier":
        parts |= {"a": nn.Conv2d(c, 2 * c, 3, padding=1, groups=c), "b": nn.Conv2d(2 * c, c, 1)}
        net.units["e"] = 2 * c
        net.swaps = [Swap(1, {"c": (1, 1), "e": (1, 2)}), Swap(c, {"e": (1, 1)}), Swap(1, {"d": (1, 1)})]
        net.axes |= {"a.weight": ("e", "", "", ""), "a.bias": ("e",)}
        conv("b", "d", "e")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return m.b(torch.tanh(m.a(x)))
    elif kind == "turned":
        parts["a"] = nn.ConvTranspose2d(c, c, 3, stride=2, groups=2, output_padding=1)
        net.units["d"] = c
        half = c // 2
        net.swaps = [Swap(2, {"c": (1, 1)}), Swap(2, {"d": (1, 1)}), Swap(1, {"c": (1, half), "d": (1, half)})]
        net.axes |= {"a.weight": ("c", "d", "", ""), "a.bias": ("d",)}
        net.groups["a.weight"] = 2

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x))
    elif kind in ("groups", "instance"):
        parts |= {"n": nn.GroupNorm(3, c) if kind == "groups" else nn.InstanceNorm2d(c, affine=True)}
        parts["a"] = nn.Conv2d(c, c, 3, padding=1)
        if kind == "groups":
            net.swaps[0] = Swap(3, {"c": (1, 1)})
            net.swaps.append(Swap(1, {"c": (1, c // 3)}))
        _norm(net, "n", "c")
        conv("a", "d", "c")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(m.n(x)))
    elif kind == "excite":
        net.units["e"] = 4
        net.swaps.append(Swap(1, {"e": (1, 1)}))
        parts |= {"p": nn.Linear(c, 4), "q": nn.Conv2d(4, c, 1), "a": nn.Conv2d(c, c, 3)}
        _linear(net, "p", "e", "c")
        conv("q", "c", "e")
        conv("a", "d", "c")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            gate = torch.sigmoid(m.q(F.silu(m.p(F.adaptive_avg_pool2d(x, 1).flatten(1)))[..., None, None]))
            return torch.tanh(m.a(x * gate))
    elif kind == "layerscale":
        head = "c"
        net.units["d"] = 7
        parts |= {"w": nn.Conv2d(c, c, 3, padding=1, groups=c), "n": nn.LayerNorm(c), "a": nn.Linear(c, 7)}
        parts |= {"b": nn.Linear(7, c), "g": _par(c)}
        net.axes |= {"w.weight": ("c", "", "", ""), "w.bias": ("c",), "g": ("c",)}
        _norm(net, "n", "c")
        _linear(net, "a", "d", "c")
        _linear(net, "b", "c", "d")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            y = m.g * m.b(F.gelu(m.a(m.n(m.w(x).permute(0, 2, 3, 1)))))
            return x + y.permute(0, 3, 1, 2)
    elif kind == "shuffle":
        parts |= {"a": nn.Conv2d(c, c, 3, padding=1, groups=2)}
        half = c // 2
        net.swaps = [Swap(2, {"c": (1, 1)}), Swap(2, {"d": (1, 1)}), Swap(1, {"c": (1, half), "d": (1, half)})]
        conv("a", "d", "c", groups=2)

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            y = torch.tanh(m.a(x))
            b, n, h, w = y.shape
            return y.view(b, 2, n // 2, h, w).transpose(1, 2).reshape(b, n, h, w)

        head = laid(joined("d"), (2, half), (1, 0))
    elif kind == "pixels":
        parts |= {"a": nn.Conv2d(c, 4 * c, 1)}
        conv("a", joined(("d", 1, 4)), "c")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return F.pixel_shuffle(torch.tanh(m.a(x)), 2)
    elif kind == "unpixels":
        parts |= {"a": nn.Conv2d(4 * c, c, 1)}
        conv("a", "d", joined(("c", 1, 4)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(F.pixel_unshuffle(x, 2)))
    elif kind == "resize":
        parts["a"] = nn.Conv2d(c, c, 3, padding=1, padding_mode=str(rng.choice(["zeros", "reflect", "circular"])))
        conv("a", "d", "c")
        how = str(rng.choice(["nearest", "bilinear"]))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(F.interpolate(x, scale_factor=2, mode=how)))
    elif kind == "pool":
        parts["a"] = nn.Conv2d(c, c, 3, padding=1)
        conv("a", "d", "c")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            y = m.a(F.max_pool2d(x, 3, 2, 1, ceil_mode=True))
            return F.avg_pool2d(F.pad(torch.tanh(y), (1, 0, 1, 0)), 2, 1) + y.amax((2, 3), keepdim=True)
    elif kind == "cat":
        parts |= {"a": nn.Conv2d(c, c, 1), "b": nn.Conv2d(2 * c, c, 3)}
        net.units["e"] = c
        net.swaps.append(Swap(1, {"e": (1, 1)}))
        conv("a", "e", "c")
        conv("b", "d", joined("c", "e"))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.b(torch.cat([x, F.silu(m.a(x))], 1)))
    elif kind == "unfold":
        parts |= {"a": nn.Linear(9 * c, c)}
        _linear(net, "a", "d", joined(("c", 1, 9)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(F.unfold(x, 3).transpose(1, 2))).transpose(1, 2)
    elif kind == "block":
        parts |= {"a": nn.Conv2d(c, 2 * c, 1), "b": nn.BatchNorm2d(c), "w": nn.Conv2d(c, c, 1, bias=False)}
        conv("a", joined("d", "d"), "c")
        _norm(net, "b", "d")
        net.axes["w.weight"] = ("d", "d", "", "")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            a, b = m.a(x).chunk(2, 1)
            y = m.b(a * torch.sigmoid(b))
            return y + torch.tanh(m.w(y))
    elif kind == "patches":
        parts |= {"a": nn.Conv2d(c, c, 2, stride=2), "n": nn.LayerNorm([c, 2, 2])}
        conv("a", "d", "c")
        net.axes |= {"n.weight": ("d", "", ""), "n.bias": ("d", "", "")}

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.n(m.a(x)))
    elif kind == "flat":
        parts["a"] = nn.Linear(c * size * size, c)
        _linear(net, "a", "d", joined(("c", 1, size * size)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x.flatten(1)))[..., None]
    else:
        parts["a"] = nn.Linear(size * c, c)
        _linear(net, "a", "d", joined(("c", size, 1)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x.permute(0, 2, 3, 1).reshape(x.shape[0], size, -1))).transpose(1, 2)

    parts["head"] = nn.Linear(feed, 3)
    _linear(net, "head", "out", head)
    net.module = Made(lambda m, x: m.head(middle(m, m.act(m.stem(x))).flatten(2).mean(-1)), **parts)
    return net


# ---- along tokens, and what is odd


def odd(rng: np.random.Generator) -> Net:
    """Return what is seldom seen."""
    kind = str(rng.choice(["mixer", "three", "bags", "tied", "running", "written", "gathered", "two heads", "inplace"]))
    d, h, t = int(rng.integers(4, 7)), int(rng.integers(4, 7)), 4
    net = Net(nn.Identity(), _rows(t, 3), fixed={"in", "out"}, units={"d": d, "h": h})
    net.swaps = [Swap(1, {"d": (1, 1)}), Swap(1, {"h": (1, 1)})]
    parts: dict[str, nn.Module | nn.Parameter] = {"stem": nn.Linear(3, d), "head": nn.Linear(d, 3)}
    _linear(net, "stem", "d", "in")
    _linear(net, "head", "out", "d")
    parts |= {"a": nn.Linear(d, h), "b": nn.Linear(h, d)}
    _linear(net, "a", "h", "d")
    _linear(net, "b", "d", "h")
    if kind == "mixer":
        net.units["m"] = 5
        net.swaps.append(Swap(1, {"m": (1, 1)}))
        parts |= {"n": nn.LayerNorm(d), "p": nn.Linear(t, 5), "q": nn.Linear(5, t)}
        _norm(net, "n", "d")
        _linear(net, "p", "m", "")
        _linear(net, "q", "", "m")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.stem(x)
            x = x + m.q(F.gelu(m.p(m.n(x).transpose(1, 2)))).transpose(1, 2)
            return m.head(x + m.b(F.gelu(m.a(x))))
    elif kind == "three":
        parts |= {"w": _par(d, h), "w_tap": Tap("w", -1)}
        net.axes["w"] = ("d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(m.stem(x))
            y = torch.sigmoid(m.a(x))
            return m.head(x + m.b(m.w_tap(torch.einsum("btd,dh,bth->bth", x, m.w, y))))
    elif kind == "bags":
        net.inputs = lambda g, n: torch.randint(0, 7, (n, t), generator=g)
        parts |= {"stem": nn.EmbeddingBag(7, d, mode=str(rng.choice(["mean", "sum"])))}
        del net.axes["stem.bias"]
        net.axes["stem.weight"] = ("in", "d")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.stem(x)
            return m.head(x + m.b(torch.tanh(m.a(x))))
    elif kind == "tied":
        net.inputs = lambda g, n: torch.randint(0, 7, (n, t), generator=g)
        parts |= {"stem": nn.Embedding(7, d, padding_idx=0)}
        del parts["head"], net.axes["stem.bias"], net.axes["head.weight"], net.axes["head.bias"]
        net.axes["stem.weight"] = ("in", "d")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.stem(x)
            return F.linear(x + m.b(torch.tanh(m.a(x))), m.stem.weight)
    elif kind == "running":

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.cumsum(torch.tanh(m.stem(x)), 1)
            return m.head(x + m.b(torch.tanh(m.a(x)).flip(1)))
    elif kind == "written":

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(m.stem(x))
            y = torch.zeros_like(x)
            y[:, 1:] = x[:, :-1]
            y.add_(m.b(torch.tanh(m.a(x))))
            return m.head(y)
    elif kind == "gathered":
        where = torch.tensor([2, 0, 3, 1])

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(m.stem(x))
            best = x.abs().sum(-1).argmax(1)
            first = x[torch.arange(x.shape[0]), best]
            x = x.index_select(1, where) + first[:, None] + x.max(-1, keepdim=True).values
            return m.head(x + m.b(torch.tanh(m.a(x))))
    elif kind == "two heads":
        parts |= {"other": nn.Linear(h, 2)}
        _linear(net, "other", "out", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(m.stem(x))
            y = torch.tanh(m.a(x))
            return torch.cat([m.head(x + m.b(y)), m.other(y)], -1)
    else:

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(m.stem(x))
            for _ in range(2):  # one layer, used twice
                x = F.layer_norm(x, x.shape[-1:]) + m.b(F.elu_(m.a(x)))
            return m.head(x)

    net.module = Made(run, **parts)
    return net


MORE: dict[str, Callable[[np.random.Generator], Net]] = {
    "gated": gated, "stacks": stacks, "heads": heads, "routed": routed, "spatial": spatial, "odd": odd,
}  # fmt: skip
