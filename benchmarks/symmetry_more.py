"""More random small networks: gates, recurrent layers in stacks, experts in one tensor or many, and what is odd."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks.symmetry_nets import ACTS
from benchmarks.symmetry_plants import Net, Spec, Swap, joined


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


def linear_axes(net: Net, name: str, out: str | Spec, inp: str | Spec) -> None:
    net.axes[f"{name}.weight"], net.axes[f"{name}.bias"] = (out, inp), (out,)


def norm_axes(net: Net, name: str, units: str | Spec) -> None:
    net.axes[f"{name}.weight"] = net.axes[f"{name}.bias"] = (units,)


def vectors(*shape: int) -> Callable[[torch.Generator, int], torch.Tensor]:
    return lambda g, n: torch.randn(n, *shape, generator=g, dtype=torch.float64)


def some_act(rng: np.random.Generator) -> nn.Module:
    return ACTS[str(rng.choice(["tanh", "gelu", "silu", "sigmoid", "elu", "softplus"]))]()


def made_parameter(*shape: int, scale: float = 1.0) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * scale)


# ---- perceptrons with gates


def gated(rng: np.random.Generator) -> Net:  # noqa: PLR0915  a list of kinds
    """Return a network with gates, or with weights that are computed from others."""
    kind = str(
        rng.choice(["swiglu", "geglu", "highway", "weight_norm", "bilinear", "prelu", "squeeze", "softmax", "scale"])
    )
    i, d, h = int(rng.integers(3, 6)), int(rng.integers(5, 9)), int(rng.integers(5, 9))
    act = some_act(rng)
    stem, head = nn.Linear(i, d), nn.Linear(d, 3)
    net = Net(stem, vectors(i), units={"d": d, "h": h}, fixed={"in", "out"})
    linear_axes(net, "stem", "d", "in")
    linear_axes(net, "head", "out", "d")
    if kind == "swiglu":
        parts = {"a": nn.Linear(d, h), "b": nn.Linear(d, h), "c": nn.Linear(h, d)}
        for name in "ab":
            linear_axes(net, name, "h", "d")
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(F.silu(m.a(x)) * m.b(x)))
    elif kind == "geglu":
        parts = {"a": nn.Linear(d, 2 * h), "c": nn.Linear(h, d)}
        linear_axes(net, "a", joined("h", "h"), "d")
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            a, b = m.a(x).chunk(2, -1)
            return m.head(x + m.c(a * F.gelu(b)))
    elif kind == "highway":
        del net.units["h"]
        parts = {"a": nn.Linear(d, d), "b": nn.Linear(d, d)}
        for name in "ab":
            linear_axes(net, name, "d", "d")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            gate = torch.sigmoid(m.b(x))
            return m.head(gate * torch.tanh(m.a(x)) + (1 - gate) * x)
    elif kind == "weight_norm":
        parts = {"a": nn.utils.parametrizations.weight_norm(nn.Linear(d, h)), "c": nn.Linear(h, d)}
        net.axes["a.parametrizations.weight.original0"] = ("h", "")
        net.axes["a.parametrizations.weight.original1"] = ("h", "d")
        net.axes["a.bias"] = ("h",)
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(torch.tanh(m.a(x))))
    elif kind == "bilinear":
        parts = {"a": nn.Bilinear(d, d, h), "c": nn.Linear(h, d)}
        net.axes["a.weight"], net.axes["a.bias"] = ("h", "d", "d"), ("h",)
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(torch.tanh(m.a(x, x))))
    elif kind == "prelu":
        parts = {"a": nn.Linear(d, h), "p": nn.PReLU(h), "n": nn.LayerNorm(h), "c": nn.Linear(h, d)}
        linear_axes(net, "a", "h", "d")
        norm_axes(net, "p", "h")
        norm_axes(net, "n", "h")
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.c(m.n(m.p(m.a(x)))))
    elif kind == "squeeze":
        parts = {"a": nn.Linear(d, h), "c": nn.Linear(h, d)}
        linear_axes(net, "a", "h", "d")
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x * torch.sigmoid(m.c(torch.relu(m.a(x)) + 0.1 * m.a(x))))
    elif kind == "softmax":
        parts = {"a": nn.Linear(d, h), "c": nn.Linear(h, d)}
        linear_axes(net, "a", "h", "d")
        linear_axes(net, "c", "d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            y = m.a(x)
            return m.head(x + m.c(y * torch.softmax(y, -1) + torch.logsumexp(y, -1, keepdim=True)))
    else:
        parts = {
            "a": nn.Linear(d, h),
            "s": made_parameter(h),
            "t": made_parameter(h),
            "c": nn.Linear(h, d),
            "u": made_parameter(d),
            "z": made_parameter(1),
        }
        linear_axes(net, "a", "h", "d")
        linear_axes(net, "c", "d", "h")
        net.axes["s"] = net.axes["t"] = ("h",)
        net.axes["u"] = ("d",)

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.act(m.stem(x))
            return m.head(x + m.z * m.u * m.c(torch.tanh(m.a(x) * m.s + m.t)))

    net.module = Made(run, stem=stem, act=act, head=head, **parts)
    return net


# ---- recurrent layers


def stacks(rng: np.random.Generator) -> Net:  # noqa: PLR0915  a list of kinds
    """Return recurrent layers one over the other, both ways, with projections or first states, or cells in a loop."""
    kind = str(rng.choice(["layers", "both", "both layers", "projected", "first", "cell", "last"]))
    cell = "lstm" if kind == "projected" else str(rng.choice(["lstm", "gru", "rnn"]))
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    i, h = int(rng.integers(3, 5)), int(rng.integers(4, 7))
    net = Net(nn.Identity(), vectors(4, i), fixed={"in", "out"})
    if kind == "cell":
        part = {"lstm": nn.LSTMCell, "gru": nn.GRUCell, "rnn": nn.RNNCell}[cell](i, h)
        net.units = {"h": h}
        net.swaps = [Swap(1, {"h": (1, 1)})]
        wide = joined(("h", gates, 1))
        net.axes = {
            "cell.weight_ih": (wide, "in"), "cell.weight_hh": (wide, "h"), "cell.bias_ih": (wide,),
            "cell.bias_hh": (wide,),
        }  # fmt: skip
        linear_axes(net, "head", "out", "h")

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
    linear_axes(net, "head", "out", below)
    if kind == "first":
        parts["start"] = made_parameter(1, 1, h, scale=0.5)
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


# ---- experts


def routed(rng: np.random.Generator) -> Net:
    """Return experts, in one tensor or many, with all of them at work or the best."""
    kind = str(rng.choice(["list", "einsum", "bmm", "slices", "unbind", "top", "top stacked", "one hot", "gates"]))
    i, d, h, e = int(rng.integers(3, 5)), int(rng.integers(4, 7)), int(rng.integers(4, 7)), int(rng.integers(3, 5))
    net = Net(nn.Identity(), vectors(i), fixed={"in", "out"}, units={"d": d, "e": e})
    parts: dict[str, nn.Module | nn.Parameter] = {
        "stem": nn.Linear(i, d), "head": nn.Linear(d, 3), "act": some_act(rng), "router": nn.Linear(d, e),
    }  # fmt: skip
    linear_axes(net, "stem", "d", "in")
    linear_axes(net, "head", "out", "d")
    linear_axes(net, "router", "e", "d")
    top = net.picks = kind in ("top", "top stacked", "one hot")
    if kind in ("list", "top", "one hot", "gates"):
        net.units |= {f"h{k}": h for k in range(e)}
        net.swaps = [Swap(1, {"d": (1, 1)}), *(Swap(1, {f"h{k}": (1, 1)}) for k in range(e))]
        for k in range(e):
            parts |= {f"up{k}": nn.Linear(d, h), f"down{k}": nn.Linear(h, d)}
            linear_axes(net, f"up{k}", f"h{k}", "d")
            linear_axes(net, f"down{k}", "d", f"h{k}")
    else:
        net.units["h"] = h * e
        net.swaps = [Swap(1, {"d": (1, 1)}), Swap(e, {"h": (1, 1)})]
        if not top:
            net.swaps.append(Swap(1, {"e": (1, 1), "h": (1, h)}))
        parts |= {"up": made_parameter(e, d, h, scale=0.4), "down": made_parameter(e, h, d, scale=0.4)}
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


# ---- along tokens, and what is odd


def odd(rng: np.random.Generator) -> Net:  # noqa: PLR0915  a list of kinds
    """Return what is seldom seen."""
    kind = str(rng.choice(["mixer", "three", "bags", "tied", "running", "written", "gathered", "two heads", "inplace"]))
    d, h, t = int(rng.integers(4, 7)), int(rng.integers(4, 7)), 4
    net = Net(nn.Identity(), vectors(t, 3), fixed={"in", "out"}, units={"d": d, "h": h})
    net.swaps = [Swap(1, {"d": (1, 1)}), Swap(1, {"h": (1, 1)})]
    parts: dict[str, nn.Module | nn.Parameter] = {"stem": nn.Linear(3, d), "head": nn.Linear(d, 3)}
    linear_axes(net, "stem", "d", "in")
    linear_axes(net, "head", "out", "d")
    parts |= {"a": nn.Linear(d, h), "b": nn.Linear(h, d)}
    linear_axes(net, "a", "h", "d")
    linear_axes(net, "b", "d", "h")
    if kind == "mixer":
        net.units["m"] = 5
        net.swaps.append(Swap(1, {"m": (1, 1)}))
        parts |= {"n": nn.LayerNorm(d), "p": nn.Linear(t, 5), "q": nn.Linear(5, t)}
        norm_axes(net, "n", "d")
        linear_axes(net, "p", "m", "")
        linear_axes(net, "q", "", "m")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = m.stem(x)
            x = x + m.q(F.gelu(m.p(m.n(x).transpose(1, 2)))).transpose(1, 2)
            return m.head(x + m.b(F.gelu(m.a(x))))
    elif kind == "three":
        parts |= {"w": made_parameter(d, h)}
        net.axes["w"] = ("d", "h")

        def run(m: Made, x: torch.Tensor) -> torch.Tensor:
            x = torch.tanh(m.stem(x))
            y = torch.sigmoid(m.a(x))
            return m.head(x + m.b(torch.einsum("btd,dh,bth->bth", x, m.w, y)))
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
        linear_axes(net, "other", "out", "h")

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
