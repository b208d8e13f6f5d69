"""What is multiplied and what bends: the activation behind a product, conditional norms, bounds, torn readers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from initaudit.formats import onnx as onnx_format  # noqa: E402
from initaudit.layers.from_graph import infer  # noqa: E402
from initaudit.layers.from_graph_tags import Tag  # noqa: E402
from initaudit.live.spec import Feed  # noqa: E402
from initaudit.live.trace import trace  # noqa: E402
from initaudit.types import Evidence, Layer, Model, Role  # noqa: E402
from tests.layers.tag_nets import L, Net, weight  # noqa: E402

nn, F = torch.nn, torch.nn.functional
X, Z, IMAGE, MAP = torch.randn(2, 8), torch.randn(2, 6), torch.randn(2, 3, 8, 8), torch.randn(2, 2, 8, 8)
MASK = (torch.rand(2, 16) > 0.3).float()


def conv(a: int, b: int) -> Any:
    return nn.Conv2d(a, b, 3, padding=1)


def live(net: Any, args: tuple[Any, ...]) -> dict[str, Layer]:
    graph = trace(net.eval(), Feed(args, {}, ())).graph
    layers, _ = infer(Model("m", "torch", "", tuple(graph.constants.values()), graph, source="traced"))
    return {layer.name: layer for layer in layers}


def exported(net: Any, args: tuple[Any, ...], folder: Path) -> dict[str, Layer]:
    torch.onnx.export(net.eval(), args, str(folder / "net.onnx"), dynamo=False, opset_version=17)
    layers, _ = infer(onnx_format.FORMAT.read(folder / "net.onnx"))
    return {layer.weight.name.removesuffix(".weight"): layer for layer in layers}


def film(s: Any, x: Any, z: Any) -> Any:
    scale, shift = s.film(F.relu(s.cond(z)))[:, :, None, None].chunk(2, 1)
    return s.head(F.relu(s.norm(s.inp(x)) * (1 + scale) + shift).mean((2, 3)))


def spade(s: Any, x: Any, z: Any) -> Any:
    a = F.relu(s.cond(z))
    return s.head(F.elu(s.norm(s.inp(x)) * (1 + s.scale(a)) + s.shift(a)).mean((2, 3)))


def plain_scale(s: Any, x: Any, z: Any) -> Any:
    """The scale of a norm, of the size of the signal and not around one."""
    return s.head(F.relu(s.norm(s.inp(x)) * s.scale(z)).mean((2, 3)))


def gated(s: Any, x: Any) -> Any:
    return s.head(F.elu(s.value(x) * torch.sigmoid(s.gate(x))))


def swiglu(s: Any, x: Any) -> Any:
    return s.head(s.value(x) * F.silu(s.gate(x)))


def masked(s: Any, x: Any, mask: Any) -> Any:
    x = F.relu(s.inp(x) * mask)
    return s.head(torch.tanh(s.mid(x) * mask))


def multiplied(s: Any, x: Any) -> Any:
    return s.head(F.relu(s.value(x) * s.other(x)))


T, O, G = Role.TRUNK, Role.OTHER, Role.GATE  # noqa: E741
NETS: dict[str, tuple[Callable[[], Any], tuple[Any, ...], dict[str, tuple[str | None, Role]]]] = {
    "FiLM": (
        lambda: Net(film, cond=L(6, 6), film=L(6, 32), inp=conv(3, 16), head=L(16, 2),
                    norm=nn.InstanceNorm2d(16)),
        (IMAGE, Z), {"inp": ("relu", T), "cond": ("relu", T)},
    ),
    "SPADE": (
        lambda: Net(spade, cond=conv(2, 4), scale=conv(4, 8), shift=conv(4, 8), inp=conv(3, 8), head=L(8, 2),
                    norm=nn.InstanceNorm2d(8)),
        (IMAGE, MAP), {"inp": ("elu", T), "scale": (None, G), "shift": ("elu", Role.BRANCH_END), "cond": ("relu", T)},
    ),
    "a scale that is not around one": (
        lambda: Net(plain_scale, scale=conv(2, 8), inp=conv(3, 8), head=L(8, 2), norm=nn.InstanceNorm2d(8)),
        (IMAGE, MAP), {"inp": ("relu", T), "scale": (None, G)},
    ),
    "gated, then activated": (
        lambda: Net(gated, value=L(8, 16), gate=L(8, 16), head=L(16, 2)),
        (X,), {"value": ("elu", O), "gate": ("sigmoid", G)},
    ),
    "SwiGLU": (
        lambda: Net(swiglu, value=L(8, 16), gate=L(8, 16), head=L(16, 2)),
        (X,), {"value": (None, O), "gate": ("silu", G)},
    ),
    "the same mask twice": (
        lambda: Net(masked, inp=L(8, 16), mid=L(16, 16), head=L(16, 2)),
        (X, MASK), {"inp": ("relu", T), "mid": ("tanh", T)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETS)
def test_a_product_hands_the_signal_on(name: str, tmp_path: Path):
    net, args, expected = NETS[name]
    for rows in (live(net(), args), exported(net(), args, tmp_path)):
        told = {key: (rows[key].activation, rows[key].role) for key in expected}
        assert told == expected
        assert {rows[key].activation_evidence for key in expected} == {Evidence.TRACED}


def test_of_two_factors_that_are_alike_neither_is_sure():
    rows = live(Net(multiplied, value=L(8, 16), other=L(8, 16), head=L(16, 2)), (X,))
    for name in ("value", "other"):
        assert (rows[name].activation, rows[name].activation_evidence) == ("relu", Evidence.NAMED)


def test_a_scale_and_a_shift_of_one_source_are_no_residual():
    net, args, _ = NETS["SPADE"]
    rows = live(net(), args)
    both = {Tag.RESIDUAL_CLOSING.value, Tag.SHORTCUT.value}
    assert not any(both & set(layer.tags) for layer in rows.values())
    assert Tag.ADAPTIVE_NORM.value in rows["scale"].tags


def followed(function: Callable[[Any], Any]) -> Layer:
    return live(Net(lambda s, x: s.head(function(s.inp(x))), inp=L(8, 16), head=L(16, 2)), (X,))["inp"]


@pytest.mark.parametrize(
    ("function", "said", "evidence"),
    [
        (lambda h: h.clamp(0, 6), "relu6", Evidence.TRACED),
        (lambda h: F.hardtanh(h, 0.0, 20.0), "relu", Evidence.TRACED),
        (lambda h: h.clamp(-1, 1), "hardtanh", Evidence.TRACED),
        (lambda h: F.hardtanh(h, -2.0, 2.0), "hardtanh", Evidence.NAMED),
        (lambda h: h.clamp(max=0), "relu", Evidence.TRACED),
        (lambda h: -torch.relu(-h), "relu", Evidence.TRACED),
        (lambda h: h.clamp(-20, 2), None, Evidence.ASSUMED),
        (lambda h: F.hardtanh(h, -20.0, 2.0), None, Evidence.ASSUMED),
        (lambda h: h.clamp(0, 1), None, Evidence.ASSUMED),
        (lambda h: h.clamp(min=-5), None, Evidence.ASSUMED),
        (lambda h: h.clamp(max=5), None, Evidence.ASSUMED),
        (lambda h: h.clamp(-1e4, 1e4), None, Evidence.TRACED),  # never met
        (lambda h: torch.logsumexp(torch.stack([h, torch.zeros_like(h)]), 0), None, Evidence.ASSUMED),
        (lambda h: torch.stack([h, torch.zeros_like(h)]).amax(0), None, Evidence.ASSUMED),
        (lambda h: h.sort(-1)[0], None, Evidence.ASSUMED),
        (lambda h: h.unflatten(-1, (4, 4)).amax(-1).repeat(1, 4), None, Evidence.TRACED),  # a pool
    ],
)
def test_bounds_and_reductions(function: Callable[[Any], Any], said: str | None, evidence: Evidence):
    layer = followed(function)
    assert (layer.activation, layer.activation_evidence) == (said, evidence)
    assert layer.role is not Role.ROUTER


def test_readers_and_uses_that_differ_lower_the_evidence():
    def three(s: Any, x: Any) -> Any:
        h = s.inp(x)
        inner = h.unsqueeze(-1).squeeze(-1)  # two of the readers are behind one value
        return s.head(torch.cat([torch.relu(h), torch.tanh(inner), torch.sigmoid(inner)], 1))

    torn = live(Net(three, inp=L(8, 16), head=L(48, 2)), (X,))["inp"]
    assert (torn.activation, torn.activation_evidence) == ("relu", Evidence.NAMED)
    twice = live(Net(lambda s, x: s.head(torch.tanh(s.one(F.relu(s.one(x))))), one=L(8, 8), head=L(8, 2)), (X,))["one"]
    assert (twice.activation, twice.activation_evidence) == ("relu", Evidence.NAMED)
    assert any("tanh" in reason for reason in twice.reasons)
    same = live(Net(lambda s, x: s.head(F.relu(s.one(F.relu(s.one(x))))), one=L(8, 8), head=L(8, 2)), (X,))["one"]
    assert same.activation_evidence is Evidence.TRACED


def test_heads_that_make_an_output_together():
    def duelling(s: Any, x: Any) -> Any:
        h = F.relu(s.inp(x))
        a = s.action(h)
        return s.state(h) + a - a.mean(1, keepdim=True)

    rows = live(Net(duelling, inp=L(8, 16), state=L(16, 1), action=L(16, 4)), (X,))
    assert {rows[name].role for name in ("state", "action")} == {Role.HEAD}
    closing = live(Net(lambda s, x: x + s.two(F.relu(s.one(x))), one=L(8, 16), two=L(16, 8)), (X,))
    assert closing["two"].role is Role.BRANCH_END


def test_statistics_of_the_input_put_back_are_no_residual():
    def forecast(s: Any, x: Any) -> Any:
        mean, std = x.mean(1, keepdim=True), x.std(1, keepdim=True)
        return s.out(F.relu(s.inp((x - mean) / std))) * std + mean

    out = live(Net(forecast, inp=L(8, 16), out=L(16, 8)), (X,))["out"]
    assert (out.role, set(out.tags)) == (Role.HEAD, {Tag.OUTPUT_HEAD.value})


def test_experts_that_a_choice_of_written_shares_weighs():
    def stacked(s: Any, x: Any) -> Any:
        x = torch.relu(s.inp(x))
        logits = s.router(x)
        best, chosen = logits.topk(2)
        share = torch.zeros_like(logits).scatter(1, chosen, best.softmax(-1))
        y = torch.bmm(torch.einsum("nd,edf->enf", x, s.up).relu(), s.down)
        return s.head(x + torch.einsum("enf,ne->nf", y, share))

    parts = {"inp": L(8, 16), "router": L(16, 4), "up": weight(4, 16, 32), "down": weight(4, 32, 16), "head": L(16, 2)}
    rows = live(Net(stacked, **parts), (torch.randn(5, 8),))
    assert Tag.ROUTER.value in rows["router"].tags
    assert all(Tag.EXPERT.value in rows[name].tags for name in ("up", "down"))


def test_what_is_added_to_scales_to_queries_and_to_logits():
    def adapted(s: Any, x: Any, z: Any) -> Any:
        scale, shift = (s.table + s.cond(z).view(2, 2, 16)).chunk(2, 1)
        h = s.norm(s.inp(x)) * (1 + scale) + shift
        q = s.q(h).view(2, 4, 2, 8) + s.bias
        logits = torch.einsum("bind,bjnd->bnij", q, s.k(h).view(2, 4, 2, 8))
        places = 16 * torch.sigmoid(s.place(s.grid)).view(4, 4, 2).permute(2, 0, 1)
        y = torch.einsum("bnij,bjnd->bind", (logits + places).softmax(-1), s.v(h).view(2, 4, 2, 8))
        return s.head(h + s.o(y.reshape(2, 4, 16)))

    net = Net(adapted, table=weight(2, 16), cond=L(6, 32), inp=L(8, 16), q=L(16, 16), k=L(16, 16), v=L(16, 16),
              o=L(16, 16), bias=weight(2, 8), place=L(2, 2), head=L(16, 2), norm=nn.LayerNorm(16))  # fmt: skip
    net.register_buffer("grid", torch.randn(16, 2))
    rows = live(net, (torch.randn(2, 4, 8), Z))
    assert rows["table"].role is Role.GATE
    assert (rows["bias"].role, rows["bias"].tags) == (Role.OTHER, ())
    assert (rows["place"].role, rows["place"].tags) == (Role.OTHER, (Tag.RELATIVE_BIAS.value,))
