"""Roles on exports of small nets of each family, and that a planted fault changes none of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from initaudit.formats import onnx as onnx_format  # noqa: E402
from initaudit.layers.from_graph import infer  # noqa: E402
from initaudit.types import Evidence, Layer, Role  # noqa: E402

nn = torch.nn
F = torch.nn.functional
T, B, G, H, E, A, O = (  # noqa: E741
    Role.TRUNK, Role.BRANCH_END, Role.GATE, Role.HEAD, Role.EMBEDDING, Role.ADAPTER, Role.OTHER,
)  # fmt: skip


class Residual(nn.Module):
    """A ResNet's two blocks, the second with a projection on its shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.conv3, self.conv4 = nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.short = nn.Conv2d(8, 16, 1, stride=2)
        self.fc = nn.Linear(16, 4)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.stem(x))
        x = F.relu(x + self.conv2(F.relu(self.conv1(x))))
        x = F.relu(self.conv4(F.relu(self.conv3(x))) + self.short(x))
        return self.fc(x.mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.c_attn, self.c_proj = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Any) -> Any:
        q, k, v = (t.unflatten(-1, (2, 8)).transpose(1, 2) for t in self.c_attn(x).chunk(3, -1))
        y = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, -1) @ v
        return self.c_proj(y.transpose(1, 2).flatten(2))


class Gpt(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wte, self.ln_1, self.ln_2, self.ln_f = nn.Embedding(20, 16), *(nn.LayerNorm(16) for _ in range(3))
        self.wpe = nn.Parameter(torch.randn(1, 6, 16))
        self.attn = Attention()
        self.c_fc, self.c_out, self.lm_head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 20, bias=False)

    def forward(self, x: Any) -> Any:
        x = self.wte(x) + self.wpe
        x = x + self.attn(self.ln_1(x))
        x = x + self.c_out(F.gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))
        return self.lm_head(self.ln_f(x))


class Vit(nn.Module):
    """With a class token and LayerScale that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 4, stride=4)
        self.cls, self.pos = nn.Parameter(torch.randn(1, 1, 16)), nn.Parameter(torch.randn(1, 17, 16))
        self.ln_1, self.ln_2, self.attn = nn.LayerNorm(16), nn.LayerNorm(16), Attention()
        self.gamma = nn.Parameter(torch.full((16,), 1e-5))
        self.up, self.down, self.head = nn.Linear(16, 32), nn.Linear(32, 16), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.pos
        x = x + self.gamma * self.attn(self.ln_1(x))
        x = x + self.gamma * self.down(F.gelu(self.up(self.ln_2(x))))
        return self.head(x[:, 0])


class Squeeze(nn.Module):
    """MobileNetV3's inverted residual with squeeze-and-excitation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.expand, self.depth = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 16, 3, 1, 1, 1, 16)
        self.fc1, self.fc2, self.project = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1), nn.Conv2d(16, 8, 1)
        self.last, self.head = nn.Conv2d(8, 12, 1), nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        x = F.hardswish(self.stem(x))
        y = F.hardswish(self.depth(F.hardswish(self.expand(x))))
        y = y * F.hardsigmoid(self.fc2(F.relu(self.fc1(F.adaptive_avg_pool2d(y, 1)))))
        x = x + self.project(y)
        return self.head(F.hardswish(self.last(x)).mean((2, 3)))


class Unet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.deep = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 8, 3, 1, 1),
            nn.Conv2d(8, 16, 3, 1, 1),
        )
        self.deep2, self.up = nn.Conv2d(16, 16, 3, 1, 1), nn.ConvTranspose2d(16, 8, 2, 2)
        self.join1, self.join2, self.out = nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Any) -> Any:
        skip = F.relu(self.down2(F.relu(self.down1(x))))
        y = F.relu(self.deep2(F.relu(self.deep(F.max_pool2d(skip, 2)))))
        y = torch.cat([self.up(y), skip], 1)
        return self.out(F.relu(self.join2(F.relu(self.join1(y)))))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(20, 8), nn.LSTM(8, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Any) -> Any:
        return self.head(self.rnn(self.embed(x))[0][:, -1])


class Dit(nn.Module):
    """A diffusion transformer's block: modulation of a norm by a condition, closed at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.time1, self.time2 = nn.Linear(4, 16), nn.Linear(8, 16), nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16, elementwise_affine=False)
        self.modulate, self.attn, self.out = nn.Linear(16, 48), Attention(), nn.Linear(16, 4)

    def forward(self, x: Any, t: Any) -> Any:
        x = self.patch(x)
        shift, scale, gate = self.modulate(F.silu(self.time2(F.silu(self.time1(t)))))[:, None].chunk(3, -1)
        x = x + gate * self.attn(self.norm(x) * (1 + scale) + shift)
        return self.out(self.norm(x))


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.base = nn.Linear(8, 16), nn.Linear(16, 24)
        self.a, self.b = nn.Linear(16, 2, bias=False), nn.Linear(2, 24, bias=False)
        self.head = nn.Linear(24, 3)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.first(x))
        x = F.relu(self.base(x) + 0.5 * self.b(self.a(x)))
        return self.head(x)


class SpatialGate(nn.Module):
    """gMLP: half of the channels, mixed over positions, multiply the other half."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.norm = nn.Linear(4, 16), nn.Linear(16, 32), nn.LayerNorm(16)
        self.mix, self.down, self.head = nn.Linear(6, 6), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        u, v = F.gelu(self.up(x)).chunk(2, -1)
        v = self.mix(self.norm(v).transpose(1, 2)).transpose(1, 2)
        return self.head(x + self.down(u * v))


class Zero(nn.Module):
    """ControlNet: a copy of a block comes in through a convolution that starts at zero."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.copy = (nn.Conv2d(c, 8, 3, 1, 1) for c in (3, 8, 8))
        self.zero, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 3, 1)

    def forward(self, x: Any) -> Any:
        x = F.silu(self.stem(x))
        return self.last(F.silu(self.block(x)) + self.zero(F.silu(self.copy(x))))


class Dense(nn.Module):
    """DenseNet: what each layer makes is concatenated to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.grow1, self.grow2 = (
            nn.Conv2d(3, 8, 3, 1, 1),
            nn.Conv2d(8, 4, 3, 1, 1),
            nn.Conv2d(12, 4, 3, 1, 1),
        )
        self.head = nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = self.first(x)
        x = torch.cat([x, self.grow1(F.relu(x))], 1)
        x = torch.cat([x, self.grow2(F.relu(x))], 1)
        return self.head(F.relu(x).mean((2, 3)))


class Glu(nn.Module):
    """Gated linear units, of two projections and of one cut in halves."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.up, self.gate, self.down1 = nn.Linear(8, 16), *(nn.Linear(16, 16) for _ in range(3))
        self.both, self.down2, self.head = nn.Linear(16, 48), nn.Linear(24, 16), nn.Linear(16, 3)

    def forward(self, x: Any) -> Any:
        x = self.embed(x)
        x = x + self.down1(self.up(x) * F.silu(self.gate(x)))
        a, b = self.both(x).chunk(2, -1)
        return self.head(x + self.down2(a * F.gelu(b)))


class Cbam(nn.Module):
    """Attention to channels, of two poolings through the same weights, then to places."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.reduce, self.expand = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1), nn.Conv2d(2, 8, 1)
        self.place, self.next, self.head = nn.Conv2d(2, 1, 3, 1, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = F.relu(self.stem(x))
        pooled = (x.mean((2, 3), True), x.amax((2, 3), True))
        x = x * torch.sigmoid(sum(self.expand(F.relu(self.reduce(p))) for p in pooled))
        x = x * torch.sigmoid(self.place(torch.cat([x.mean(1, True), x.amax(1, True)], 1)))
        return self.head(F.relu(self.next(x)).mean((2, 3)))


class Mask(nn.Module):
    """A separator: a long gate that does the work is no side path."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.mask, self.decode = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 8)
        self.deep = nn.Sequential(*[m for _ in range(6) for m in (nn.Linear(16, 16), nn.ReLU())])

    def forward(self, x: Any) -> Any:
        x = F.relu(self.encode(x))
        return self.decode(x * torch.sigmoid(self.mask(self.deep(x))))


class Kernel(nn.Module):
    """Large-kernel attention: a bare product, which is zero where what makes its factor is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.depth = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 1, 1, 1, 8)
        self.wide, self.last, self.head = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8, 3)

    def forward(self, x: Any) -> Any:
        x = F.gelu(self.first(x))
        return self.head(F.relu(self.last(x * self.wide(self.depth(x)))).mean((2, 3)))


class Film(nn.Module):
    """A condition scales and shifts a layer's output."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.next, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
        self.time1, self.time2 = nn.Linear(4, 8), nn.Linear(8, 32)

    def forward(self, x: Any, t: Any) -> Any:
        scale, shift = self.time2(F.silu(self.time1(t))).chunk(2, -1)
        return self.head(F.relu(self.next(F.relu(self.first(x) * (1 + scale) + shift))))


class Queries(nn.Module):
    """Learned queries look at the input: the first branch is added to a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.queries, self.norm = nn.Parameter(torch.randn(1, 3, 16)), nn.LayerNorm(16)
        self.embed, self.up, self.down, self.head = (nn.Linear(a, b) for a, b in ((8, 16), (16, 24), (24, 16), (16, 3)))
        self.query, self.key, self.value, self.out = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x: Any) -> Any:
        x, q = self.embed(x), self.queries.expand(x.shape[0], -1, -1)
        weights = torch.softmax(self.query(self.norm(q)) @ self.key(x).transpose(1, 2), -1)
        q = q + self.out(weights @ self.value(x))
        q = q + self.down(F.gelu(self.up(q)))
        return self.head(q.mean(1))


class Refined(nn.Module):
    """A coarse output that a branch corrects: its layer is a head all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.coarse, self.fine1, self.fine2 = (
            nn.Linear(a, b) for a, b in ((8, 16), (16, 6), (6, 16), (16, 6))
        )

    def forward(self, x: Any) -> Any:
        x = self.coarse(F.relu(self.first(x)))
        return x + self.fine2(torch.tanh(self.fine1(x)))


def mlp() -> Any:
    widths = (8, 16, 12, 10, 3)
    steps = [(nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(widths)]
    return nn.Sequential(*[m for pair in steps for m in pair][:-1])


def image() -> tuple[Any, ...]:
    return (torch.randn(2, 3, 16, 16),)


def tokens() -> tuple[Any, ...]:
    return (torch.arange(12).reshape(2, 6),)


_NETS: dict[str, tuple[Callable[[], Any], tuple[Any, ...], dict[str, Role]]] = {
    "mlp": (mlp, (torch.randn(2, 8),), {"0": T, "2": T, "4": T, "6": H}),
    "resnet": (Residual, image(), {"stem": T, "conv1": T, "conv2": B, "conv3": T, "conv4": B, "short": B, "fc": H}),
    "gpt": (Gpt, tokens(), {"wte": E, "wpe": E, "attn.c_proj": B, "c_fc": T, "c_out": B, "lm_head": H}),
    "vit": (
        Vit,
        image(),
        {"patch": T, "cls": E, "pos": E, "attn.c_attn": O, "attn.c_proj": B, "gamma": G, "up": T, "down": B, "head": H},
    ),
    "squeeze": (
        Squeeze,
        image(),
        {"stem": T, "expand": T, "depth": T, "fc1": G, "fc2": G, "project": B, "last": T, "head": H},
    ),
    "unet": (Unet, image(), {"down1": T, "down2": T, "up": T, "deep": T, "deep2": T, "join1": T, "join2": T, "out": H}),
    "lstm": (Recurrent, tokens(), {"embed": E, "rnn.weight_ih": T, "rnn.weight_hh": O, "head": H}),
    "dit": (
        Dit,
        (torch.randn(2, 6, 4), torch.randn(2, 8)),
        {"patch": T, "time1": T, "time2": T, "modulate": G, "out": H},
    ),
    "lora": (Lora, (torch.randn(2, 5, 8),), {"base": T, "a": A, "b": A, "head": H}),
    "gmlp": (SpatialGate, (torch.randn(2, 6, 4),), {"embed": T, "up": O, "mix": G, "down": B, "head": H}),
    "dense": (Dense, image(), {"first": T, "grow1": T, "grow2": T, "head": H}),
    "glu": (Glu, (torch.randn(2, 6, 8),), {"embed": T, "up": O, "gate": G, "both": G, "down1": B, "down2": B}),
    "cbam": (Cbam, image(), {"stem": T, "reduce": G, "expand": G, "place": G, "next": T, "head": H}),
    "mask": (Mask, (torch.randn(2, 8),), {"encode": T, "deep.0": T, "deep.6": T, "mask": G, "decode": H}),
    "kernel": (Kernel, image(), {"first": T, "depth": T, "wide": G, "last": T, "head": H}),
    "film": (Film, (torch.randn(2, 8), torch.randn(2, 4)), {"first": O, "time1": T, "time2": G, "next": T, "head": H}),
    "queries": (Queries, (torch.randn(2, 6, 8),), {"embed": T, "value": O, "out": B, "up": T, "down": B, "head": H}),
    "refined": (Refined, (torch.randn(2, 8),), {"first": T, "coarse": O, "fine1": T, "fine2": B}),
    "controlnet": (Zero, image(), {"stem": T, "copy": T, "zero": B, "last": H}),
}


def rows(path: Path, name: str, plant: str = "", value: float = 0.0) -> dict[str, Layer]:
    """Export a net, one of its weights replaced by a constant; return its layers by name."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    made, arguments, _ = _NETS[name]
    net = made().eval()
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.ndim == 1 and parameter.unique().numel() == 1:
                parameter.normal_()  # the exporter merges equal tensors
        if plant:
            weight = net.get_parameter(plant)
            weight.fill_(value)
    torch.onnx.export(net, arguments, str(path / "net.onnx"), dynamo=False, opset_version=17)
    found, _ = infer(onnx_format.FORMAT.read(path / "net.onnx"))
    return {one.name.removesuffix("_l0"): one for one in found}


def _row(found: dict[str, Layer], name: str) -> Layer:
    (one,) = [one for key, one in found.items() if key in (name, f"{name}.0") or key.endswith(f".{name}")]
    return one


@pytest.mark.parametrize("name", _NETS)
def test_roles(name: str, tmp_path: Path) -> None:
    found = rows(tmp_path, name)
    wanted = _NETS[name][2]
    assert {key: _row(found, key).role for key in wanted} == wanted
    assert all(_row(found, key).role_evidence is Evidence.TRACED for key in wanted)


@pytest.mark.parametrize("value", [0.0, 0.3])
@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("mlp", "2.weight"), ("resnet", "conv1.weight"), ("resnet", "conv3.weight"), ("gpt", "c_fc.weight"),
        ("vit", "up.weight"), ("squeeze", "expand.weight"), ("unet", "deep.weight"), ("unet", "join1.weight"),
        ("lstm", "rnn.weight_ih_l0"), ("dit", "time1.weight"), ("lora", "base.weight"), ("controlnet", "copy.weight"),
        ("resnet", "stem.weight"), ("vit", "patch.weight"), ("unet", "down2.weight"), ("unet", "up.weight"),
        ("squeeze", "depth.weight"), ("dense", "grow1.weight"), ("dit", "patch.weight"), ("mask", "deep.2.weight"),
    ],
)  # fmt: skip
def test_a_fault_in_the_trunk_stays_in_the_trunk(name: str, weight: str, value: float, tmp_path: Path) -> None:
    one = _row(rows(tmp_path, name, weight, value), weight.removesuffix(".weight").removesuffix("_l0"))
    assert (one.role, one.role_evidence) == (Role.TRUNK, Evidence.TRACED)
    assert float(one.weight.load().max()) == float(one.weight.load().min()) == pytest.approx(value)


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        ("resnet", "conv2.weight"), ("gpt", "attn.c_proj.weight"), ("gpt", "c_out.weight"), ("gpt", "lm_head.weight"),
        ("vit", "down.weight"), ("dit", "modulate.weight"), ("dit", "out.weight"), ("lora", "b.weight"),
        ("gmlp", "mix.weight"), ("controlnet", "zero.weight"), ("squeeze", "fc1.weight"), ("squeeze", "fc2.weight"),
        ("vit", "attn.c_attn.weight"), ("glu", "up.weight"), ("glu", "gate.weight"), ("glu", "both.weight"),
        ("cbam", "reduce.weight"), ("film", "time2.weight"), ("queries", "out.weight"), ("refined", "coarse.weight"),
    ],
)  # fmt: skip
def test_what_is_born_zero_is_not_in_the_trunk(name: str, weight: str, tmp_path: Path) -> None:
    key = weight.removesuffix(".weight")
    one = _row(rows(tmp_path, name, weight), key)
    assert one.role is _NETS[name][2][key] is not Role.TRUNK


def test_a_tensor_that_the_exporter_merged_is_judged_where_it_matters_most(tmp_path: Path) -> None:
    class Net(Residual):
        def __init__(self) -> None:
            super().__init__()
            nn.init.zeros_(self.conv1.weight)
            nn.init.zeros_(self.conv2.weight)

    torch.onnx.export(Net().eval(), image(), str(tmp_path / "net.onnx"), dynamo=False, opset_version=17)
    found, _ = infer(onnx_format.FORMAT.read(tmp_path / "net.onnx"))
    zero = [one for one in found if one.kind == "conv" and not one.weight.load().any()]
    assert Role.TRUNK in {one.role for one in zero}


@pytest.mark.parametrize(
    ("name", "weight", "words"),
    [
        ("vit", "attn.c_attn", "attention logits"), ("queries", "value", "product of signals"),
        ("glu", "up", "multiplied by a gate"), ("refined", "coarse", "an output of the graph"),
        ("squeeze", "fc1", "inside a gate"), ("lstm", "rnn.weight_hh", "round from step to step"),
        ("resnet", "stem", "starts the stream"), ("dense", "grow1", "concatenated"),
        ("squeeze", "depth", "made from itself"),
    ],
)  # fmt: skip
def test_the_reason_for_a_role_is_told(name: str, weight: str, words: str, tmp_path: Path) -> None:
    assert words in _row(rows(tmp_path, name), weight).reasons[-1]
