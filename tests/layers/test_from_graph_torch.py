"""Layers of graphs that torch calls make: what ONNX has no operator for, or another order of arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from initaudit.layers import infer
from initaudit.torch_ops import Builder
from initaudit.types import Evidence, Layer, Model, Ref, Tensor

Shape = tuple[int, ...]


class Net:
    """Calls written down by hand."""

    def __init__(self, dialect: str = "function", **tensors: Shape) -> None:
        self.b = Builder(dialect)
        self.tensors: list[Tensor] = []
        self.count = 0
        self.b.input("x", (2, 8))
        for name, shape in tensors.items():
            self.add(name, shape)

    def add(self, name: str, shape: Shape) -> Ref:
        values = np.random.default_rng(len(name)).standard_normal(shape).astype(np.float32)
        self.tensors.append(Tensor(name, shape, "float32", lambda: values))
        self.b.tensor(name, self.tensors[-1])
        return Ref(name)

    def __call__(self, target: str, *args: Any, outputs: int = 1, shape: Any = None, **kwargs: Any) -> Any:
        names = [f"%{self.count + k}" for k in range(outputs)]
        self.count += outputs
        self.b.call(target, args, kwargs, names, [shape] * outputs)
        return Ref(names[0]) if outputs == 1 else [Ref(n) for n in names]

    def rows(self, *outputs: Ref) -> dict[str, Layer]:
        graph = self.b.graph([ref.name for ref in outputs])
        layers, _ = infer(Model("m", "torch", "", tuple(self.tensors), graph, source="traced"))
        return {layer.name: layer for layer in layers}


X = Ref("x")


@pytest.mark.parametrize(
    ("target", "args", "axes", "shape"),
    [
        ("linear", (X, Ref("w")), "oi", (5, 8)),
        ("matmul", (X, Ref("w")), "io", (8, 5)),
        ("__matmul__", (X, Ref("w")), "io", (8, 5)),
        ("__rmatmul__", (Ref("w"), X), "io", (8, 5)),
        ("addmm", (Ref("b"), X, Ref("w")), "io", (8, 5)),
        ("einsum", ("bi,io->bo", X, Ref("w")), "io", (8, 5)),
        ("einsum", ("bi,oi->bo", [X, Ref("w")]), "oi", (5, 8)),
        ("_grouped_mm", (X, Ref("w"), X), "sio", (3, 8, 5)),
        ("bmm", (X, Ref("w")), "sio", (3, 8, 5)),
    ],
)
def test_products(target, args, axes, shape):
    net = Net(w=shape, b=(5,))
    layer = net.rows(net("relu", net(target, *args)))["w"]
    assert (layer.kind, layer.axes, layer.weight.shape) == ("linear", axes, shape)
    assert (layer.fan_in, layer.fan_out) == (8.0, 5.0)
    assert (layer.activation, layer.activation_evidence) == ("relu", Evidence.TRACED)


def test_a_weight_turned_on_the_way_is_read_as_it_is_stored():
    net = Net(w=(5, 8))
    layer = net.rows(net("matmul", X, net("t", Ref("w"))))["w"]
    assert (layer.axes, layer.weight.shape, layer.fan_in, layer.fan_out) == ("oi", (5, 8), 8.0, 5.0)


def test_experts_turned_for_a_grouped_product():
    net = Net(w=(3, 5, 8))
    turned = net("transpose", Ref("w"), -2, -1)
    layer = net.rows(net("_grouped_mm", X, turned, X))["w"]
    assert (layer.axes, layer.weight.shape, layer.fan_in, layer.fan_out) == ("sio", (3, 8, 5), 8.0, 5.0)


def test_bilinear():
    net = Net(w=(3, 8, 6), b=(3,))
    layer = net.rows(net("bilinear", X, X, Ref("w"), Ref("b")))["w"]
    assert (layer.kind, layer.axes, layer.bias and layer.bias.name) == ("bilinear", "oik", "b")


def test_embeddings_in_both_orders():
    for dialect, args in (("function", (X, Ref("w"), 1)), ("aten", (Ref("w"), X, 1))):
        net = Net(dialect, w=(9, 4))
        layer = net.rows(net("embedding", *args))["w"]
        assert (layer.kind, layer.axes) == ("embedding", "io")


def test_batch_norm_in_both_orders():
    for dialect, order in (("function", "mvsb"), ("aten", "sbmv")):
        net = Net(dialect, w=(4, 3, 3, 3), s=(4,), b=(4,), m=(4,), v=(4,))
        out = net("batch_norm", net("conv2d", X, Ref("w")), *(Ref(n) for n in order), False, 0.1, 1e-5)
        rows = net.rows(net("relu_", out))
        assert rows["s"].kind == "norm" and rows["s"].bias is not None and rows["s"].bias.name == "b"
        assert [t.name for t in rows["s"].extra] == ["m", "v"]
        assert rows["w"].activation == "relu" and rows["w"].normed


def test_a_norm_without_scale_is_still_a_norm():
    net = Net(w=(4, 3, 3, 3), m=(4,), v=(4,))
    out = net("batch_norm", net("conv2d", X, Ref("w")), Ref("m"), Ref("v"), None, None)
    assert net.rows(net("relu", out))["w"].normed


def test_recurrent_weights_in_torch_s_layout():
    shapes = {
        "rnn.weight_ih_l0": (16, 8),
        "rnn.weight_hh_l0": (16, 3),
        "rnn.bias_ih_l0": (16,),
        "rnn.bias_hh_l0": (16,),
    }
    shapes["rnn.weight_hr_l0"] = (3, 4)
    shapes |= {f"{name}_reverse": shape for name, shape in shapes.items()}
    net = Net(**shapes)
    states = (net("zeros", 2), net("zeros", 2))
    y, *_ = net("lstm", X, states, [Ref(n) for n in shapes], True, 1, 0.0, False, True, True, outputs=3)
    rows = net.rows(y)
    assert [n for n in rows if "weight" not in n] == []
    assert list(rows) == [n for n in shapes if "weight" in n]
    row = rows["rnn.weight_ih_l0_reverse"]
    assert (row.kind, row.axes, row.parts, row.fan_out) == ("lstm", "oi", ("input", "forget", "cell", "output"), 4.0)
    assert row.bias is not None and row.bias.name == "rnn.bias_ih_l0_reverse"
    assert (rows["rnn.weight_hr_l0"].parts, rows["rnn.weight_hr_l0"].fan_in) == ((), 4.0)


def test_every_layer_of_a_stack_of_recurrent_ones():
    shapes = {f"weight_{w}_l{k}": (4, 8 if w == "ih" and not k else 4) for k in range(3) for w in ("ih", "hh")}
    net = Net(**shapes)
    y, _ = net("rnn_relu", X, net("zeros", 3), [Ref(n) for n in shapes], False, 3, 0.0, False, False, True, outputs=2)
    rows = net.rows(y)
    assert {n: (r.kind, r.activation) for n, r in rows.items()} == dict.fromkeys(shapes, ("rnn", "relu"))


def test_query_key_and_value_cut_from_one_weight_are_one_row():
    net = Net(w=(24, 8), b=(24,))
    q = net("linear", X, net("__getitem__", Ref("w"), slice(0, 8)), net("__getitem__", Ref("b"), slice(0, 8)))
    rest = net("__getitem__", Ref("w"), slice(8, None)), net("__getitem__", Ref("b"), slice(8, None))
    k, v = net("chunk", net("linear", net("tanh", X), *rest), 2, -1, outputs=2)
    (row,) = net.rows(net("scaled_dot_product_attention", q, k, v)).values()
    assert (row.weight.shape, row.parts, row.fan_out) == ((24, 8), ("query", "key", "value"), 8.0)
    assert row.bias is not None and row.bias.shape == (24,)


def test_pieces_of_a_weight_that_do_not_attend_stay_apart():
    net = Net(w=(24, 8))
    parts = [net("linear", X, one) for one in net("chunk", Ref("w"), 3, 0, outputs=3)]
    out = net("add", net("relu", parts[0]), net("mul", net("tanh", parts[1]), parts[2]))
    rows = net.rows(out)
    assert [r.weight.shape for r in rows.values()] == [(8, 8)] * 3
    assert [r.activation for r in rows.values()][:2] == ["relu", "tanh"]


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (lambda net, x: net("clamp", x, min=0), "relu"),
        (lambda net, x: net("clamp_min_", x, 0.0), "relu"),
        (lambda net, x: net("__mul__", x, net("sigmoid", x)), "silu"),
        (lambda net, x: net("pow", net("relu", x), 2), "relu2"),
        (lambda net, x: net("mul", net("mul", x, net("add", net("erf", net("div", x, 2**0.5)), 1)), 0.5), "gelu"),
        (lambda net, x: net("where", net("__gt__", x, 0), x, net("mul", x, 0.2)), "leaky_relu"),
        (lambda net, x: net("masked_fill", x, net("lt", x, 0.0), 0.0), "relu"),
        (lambda net, x: net("hardtanh_", x, 0.0, 6.0), "relu6"),
        (lambda net, x: net("sin", x), "sin"),
        (lambda net, x: net("sin", net("__mul__", x, 30.0)), "sin"),
        (lambda net, x: net("softshrink", x, 0.7), "softshrink"),
    ],
)  # fmt: skip
def test_activations_spelled_in_torch(write, name):
    net = Net(w=(5, 8))
    layer = net.rows(write(net, net("linear", X, Ref("w"))))["w"]
    assert (layer.activation, layer.activation_evidence) == (name, Evidence.TRACED)


def test_gemma_s_norm_with_one_plus_its_weight():
    net = Net(w=(8, 8), g=(8,), v=(3, 8))
    x = net("linear", X, Ref("w"), shape=(2, 8))
    mean = net("mean", net("pow", x, 2, shape=(2, 8)), -1, keepdim=True, shape=(2, 1))
    root = net("rsqrt", net("__add__", mean, 1e-6, shape=(2, 1)), shape=(2, 1))
    normed = net("__mul__", x, root, shape=(2, 8))
    scaled = net("__mul__", normed, net("__radd__", Ref("g"), 1.0, shape=(8,)), shape=(2, 8))
    rows = net.rows(net("linear", scaled, Ref("v")))
    assert rows["g"].kind == "norm" and "applied as 1 + weight" in rows["g"].reasons
    assert rows["w"].normed and rows["w"].activation is None


def test_a_weight_computed_from_two():
    net = Net(v=(5, 8), g=(5, 1))
    weight = net("_weight_norm", Ref("v"), Ref("g"), 0)
    layer = net.rows(net("relu", net("linear", X, weight)))["v"]
    assert (layer.kind, layer.fan_in, [t.name for t in layer.extra], layer.activation) == ("linear", 8.0, ["g"], "relu")


NOT_TOLD = [
    lambda net, x: net("maximum", x, Ref("v")),
    lambda net, x: net("min", x, Ref("v")),
    lambda net, x: net("maximum", x, net("rand_like", x)),
    lambda net, x: net("maximum", x, net("mul", x, Ref("v"))),
    lambda net, x: net("where", net("gt", x, Ref("v")), x, net("zeros_like", x)),
    lambda net, x: net("where", net("gt", x, 0), x, net("mul", x, Ref("v"))),
    lambda net, x: net("mul", x, net("sigmoid", net("mul", x, Ref("v")))),
    lambda net, x: net("pow", x, Ref("v")),
    lambda net, x: net("div", Ref("v"), x),
]


@pytest.mark.parametrize("write", NOT_TOLD)
def test_a_function_with_an_operand_that_is_not_known_is_not_said_to_be_none(write):
    net = Net(w=(5, 8), v=(5,), u=(3, 5))
    layer = net.rows(net("linear", write(net, net("linear", X, Ref("w"))), Ref("u")))["w"]
    assert (layer.activation, layer.activation_evidence) == (None, Evidence.ASSUMED)


@pytest.mark.parametrize(
    "write",
    [
        lambda net, x: net("maximum", x, net("zeros_like", x)),
        lambda net, x: net("max", x, net("full", (2, 5), 0.0)),
        lambda net, x: net("where", net("gt", x, 0), x, net("new_zeros", x, (2, 5))),
        lambda net, x: net("__setitem__", x, net("lt", x, 0), 0.0),
        lambda net, x: net("mul", net("relu", x), net("ones_like", x)),
        lambda net, x: net("clamp", net("relu", x), -65504.0, 65504.0),
    ],
)
def test_tensors_of_one_known_number(write):
    net = Net(w=(5, 8), u=(3, 5))
    layer = net.rows(net("linear", write(net, net("linear", X, Ref("w"))), Ref("u")))["w"]
    assert (layer.activation, layer.activation_evidence) == ("relu", Evidence.TRACED)


def test_what_another_weight_makes_as_a_bound_is_not_sure():
    net = Net(w=(5, 8), t=(5, 5), u=(3, 5))
    x = net("linear", X, Ref("w"))
    layer = net.rows(net("linear", net("maximum", x, net("linear", x, Ref("t"))), Ref("u")))["w"]
    assert layer.activation_evidence < Evidence.TRACED


def test_a_first_state_of_zeros_is_no_weight():
    net = Net("aten", w=(8, 8), u=(3, 8))
    state = net("mm", net("zeros", (2, 8)), net("t", Ref("w")))
    rows = net.rows(net("linear", net("tanh", net("add", state, X)), Ref("u")))
    assert (rows["w"].axes, rows["w"].weight.shape) == ("oi", (8, 8))


def test_a_weight_joined_from_two_has_the_fans_of_both():
    net = Net(a=(3, 6), b=(5, 6))
    joined = net("cat", [Ref("a"), Ref("b")], 0)
    rows = net.rows(net("matmul", X, joined))
    assert list(rows) == ["b"]
    assert (rows["b"].weight.shape, rows["b"].fan_in, rows["b"].weight.parts) == ((8, 6), 8.0, ("a", "b"))
    assert rows["b"].weight.load().shape == (8, 6)


def test_a_weight_as_a_batch_of_copies():
    net = Net("aten", w=(5, 8), b=(5,))
    turned = net("permute", Ref("w"), [1, 0], shape=(8, 5))
    copies = net("view", net("expand", turned, [4, 8, 5]), [4, 8, 5])
    out = net("view", net("bmm", X, copies), [4, 2, 5])
    layer = net.rows(net("relu", net("add", out, Ref("b"))))["w"]
    assert (layer.axes, layer.fan_in, layer.fan_out) == ("oi", 8.0, 5.0)
    assert layer.bias is not None and layer.bias.name == "b"


def test_a_head_tied_by_a_turned_table_is_the_table():
    net = Net("aten", table=(9, 8))
    x = net("embedding", Ref("table"), X)
    rows = net.rows(net("mm", net("tanh", x), net("permute", Ref("table"), [1, 0])))
    assert list(rows) == ["table"]
    assert "used 2 times" in rows["table"].reasons[-1]


def test_a_computed_weight_that_is_turned_afterwards():
    net = Net("aten", w=(5, 8), s=(5, 1))
    scaled = net("div", Ref("w"), net("exp", Ref("s")))
    layer = net.rows(net("relu", net("mm", X, net("permute", scaled, [1, 0]))))["w"]
    assert (layer.fan_in, layer.fan_out) == (8.0, 5.0)
