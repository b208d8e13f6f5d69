"""Attention and convolutions as they are written by different people."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks.symmetry_more import Made, linear_axes, made_parameter, norm_axes, some_act, vectors
from benchmarks.symmetry_plants import Net, Spec, Swap, joined, laid

# ---- attention


def heads(rng: np.random.Generator) -> Net:  # noqa: PLR0915  a list of kinds
    """Return attention in one of its many spellings."""
    kind = str(rng.choice(["mha", "layer", "unbind", "per head", "grouped", "rotary", "cross", "causal", "einsum"]))
    n, e = int(rng.choice([2, 3])), int(rng.choice([2, 4]))
    d = n * e
    net = Net(nn.Identity(), vectors(4, 3), fixed={"in", "out"}, units={"d": d, "q": d, "k": d, "v": d})
    net.swaps = [
        Swap(n, {"q": (1, 1), "k": (1, 1)}), Swap(n, {"v": (1, 1)}), Swap(1, {"d": (1, 1)}),
        Swap(1, {"q": (1, e), "k": (1, e), "v": (1, e)}),
    ]  # fmt: skip
    parts: dict[str, nn.Module | nn.Parameter] = {
        "stem": nn.Linear(3, d),
        "head": nn.Linear(d, 3),
        "act": some_act(rng),
    }
    linear_axes(net, "stem", "d", "in")
    linear_axes(net, "head", "out", "d")
    parts["place"] = made_parameter(4, d, scale=0.3)
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
        linear_axes(net, "att.linear1", "h", "d")
        linear_axes(net, "att.linear2", "d", "h")
        norm_axes(net, "att.norm1", "d")
        norm_axes(net, "att.norm2", "d")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            return m.head(m.att(begin(m, x)))
    elif kind in ("unbind", "per head"):
        parts["qkv"], parts["o"] = nn.Linear(d, 3 * d), nn.Linear(d, d)
        wide = qkv if kind == "unbind" else laid(qkv, (3, n, e), (1, 0, 2))
        linear_axes(net, "qkv", wide, "d")
        linear_axes(net, "o", "d", "v")
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
            linear_axes(net, name, name, "d")
        linear_axes(net, "o", "d", "o")
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
            linear_axes(net, name, name, "d")
        linear_axes(net, "o", "d", "v")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = begin(m, x)
            q, k, v = (f(x).unflatten(-1, (n, e)) for f in (m.q, m.k, m.v))
            odds = torch.softmax(torch.einsum("bqhd,bkhd->bhqk", q, k) / 2, -1)
            return m.head(x + m.o(torch.einsum("bhqk,bkhd->bqhd", odds, v).flatten(2)))
    else:
        parts |= {name: nn.Linear(d, d) for name in "qkvo"}
        for name in "qkv":
            linear_axes(net, name, name, "d")
        linear_axes(net, "o", "d", "v")
        if kind == "rotary":
            net.swaps = net.swaps[1:]
        if kind == "cross":
            parts["other"] = nn.Linear(3, d)
            net.units["c"] = d
            net.swaps.append(Swap(1, {"c": (1, 1)}))
            linear_axes(net, "other", "c", "in")
            for name in "kv":
                linear_axes(net, name, name, "c")
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


# ---- convolutions


def spatial(rng: np.random.Generator) -> Net:  # noqa: PLR0915  a list of kinds
    """Return convolutions of all kinds, and what may stand between them."""
    kinds = """one three multiplier turned groups instance excite layerscale shuffle pixels unpixels resize pool cat
        unfold block patches flat rows"""
    kind = str(rng.choice(kinds.split()))
    c, size = 6, 4
    act = some_act(rng)
    net = Net(nn.Identity(), vectors(2, size, size), fixed={"in", "out"}, units={"c": c, "d": c})
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
        norm_axes(net, "n", "c")
        conv("a", "d", "c")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(m.n(x)))
    elif kind == "excite":
        net.units["e"] = 4
        net.swaps.append(Swap(1, {"e": (1, 1)}))
        parts |= {"p": nn.Linear(c, 4), "q": nn.Conv2d(4, c, 1), "a": nn.Conv2d(c, c, 3)}
        linear_axes(net, "p", "e", "c")
        conv("q", "c", "e")
        conv("a", "d", "c")

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            gate = torch.sigmoid(m.q(F.silu(m.p(F.adaptive_avg_pool2d(x, 1).flatten(1)))[..., None, None]))
            return torch.tanh(m.a(x * gate))
    elif kind == "layerscale":
        head = "c"
        net.units["d"] = 7
        parts |= {"w": nn.Conv2d(c, c, 3, padding=1, groups=c), "n": nn.LayerNorm(c), "a": nn.Linear(c, 7)}
        parts |= {"b": nn.Linear(7, c), "g": made_parameter(c)}
        net.axes |= {"w.weight": ("c", "", "", ""), "w.bias": ("c",), "g": ("c",)}
        norm_axes(net, "n", "c")
        linear_axes(net, "a", "d", "c")
        linear_axes(net, "b", "c", "d")

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
        linear_axes(net, "a", "d", joined(("c", 1, 9)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(F.unfold(x, 3).transpose(1, 2))).transpose(1, 2)
    elif kind == "block":
        parts |= {"a": nn.Conv2d(c, 2 * c, 1), "b": nn.BatchNorm2d(c), "w": nn.Conv2d(c, c, 1, bias=False)}
        conv("a", joined("d", "d"), "c")
        norm_axes(net, "b", "d")
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
        linear_axes(net, "a", "d", joined(("c", 1, size * size)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x.flatten(1)))[..., None]
    else:
        parts["a"] = nn.Linear(size * c, c)
        linear_axes(net, "a", "d", joined(("c", size, 1)))

        def middle(m: Made, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(m.a(x.permute(0, 2, 3, 1).reshape(x.shape[0], size, -1))).transpose(1, 2)

    parts["head"] = nn.Linear(feed, 3)
    linear_axes(net, "head", "out", head)
    net.module = Made(lambda m, x: m.head(middle(m, m.act(m.stem(x))).flatten(2).mean(-1)), **parts)
    return net
