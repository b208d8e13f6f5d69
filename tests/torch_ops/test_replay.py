"""What a node says it does against what torch does: its call replayed, and its operation on numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from initaudit.graph.evaluate import POINTWISE
from initaudit.torch_ops import Builder
from initaudit.types import Graph, Ref, Tensor

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def function(target: str) -> Any:
    name = target.removeprefix("aten.")
    if name.endswith(".__get__"):
        return getattr(torch.Tensor, name.partition(".")[0]).__get__
    for home in (torch.Tensor, functional, torch, torch._C._VariableFunctions):
        if hasattr(home, name):
            return getattr(home, name)
    raise AssertionError(target)


def replayed(graph: Graph, values: dict[str, Any]) -> dict[str, Any]:
    """Return all values of a graph, by running the calls behind its nodes."""

    def real(value: Any) -> Any:
        if isinstance(value, Ref):
            return values[value.name]
        if isinstance(value, tuple):
            return tuple(real(v) for v in value)
        return value

    for name, tensor in graph.constants.items():
        values.setdefault(name, torch.as_tensor(np.asarray(tensor.load())))
    for node in graph.nodes:
        assert node.call is not None
        args = [list(a) if isinstance(a, tuple) and a and isinstance(a[0], Ref) else a for a in node.call.args]
        args = [[real(v) for v in a] if isinstance(a, list) else real(a) for a in args]
        out = function(node.call.target)(*args, **{k: real(v) for k, v in node.call.kwargs.items()})
        several = out if isinstance(out, (tuple, list)) else (out,)
        values.update({name: one for name, one in zip(node.outputs, several, strict=False) if name})
    return values


def recorded(target: str, args: tuple[Any, ...], outputs: int = 1, dialect: str = "function", **kwargs: Any) -> Any:
    """Return the graph of one call and its arguments by name; tensors become inputs."""
    b = Builder(dialect)
    values: dict[str, Any] = {}

    def named(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            name = next((n for n, v in values.items() if v is value), f"x{len(values)}")
            values[name] = value
            b.input(name, tuple(value.shape))
            return Ref(name)
        if isinstance(value, (tuple, list)):
            return type(value)(named(v) for v in value)
        return value

    names = [f"%{k}" for k in range(outputs)]
    b.call(target, tuple(named(a) for a in args), {k: named(v) for k, v in kwargs.items()}, names)
    return b.graph(names), values


def r(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


LSTM = (r(16, 5), r(16, 4), r(16), r(16))
PROJECTED = (r(16, 5), r(16, 3), r(16), r(16), r(3, 4))
MHA = {"in_proj_weight": r(24, 8), "in_proj_bias": r(24), "out": r(8, 8), "out_bias": r(8)}


def heads(q: Any, k: Any, v: Any) -> tuple[Any, ...]:
    """The arguments of multi_head_attention_forward."""
    return (
        q, k, v, 8, 2, MHA["in_proj_weight"], MHA["in_proj_bias"], None, None, False, 0.0, MHA["out"], MHA["out_bias"],
        False, None, False,
    )  # fmt: skip


CALLS = [
    ("add", (r(2, 3), r(2, 3)), {"alpha": 3}),
    ("sub", (r(2, 3), r(3)), {"alpha": 2}),
    ("__rsub__", (r(2, 3), 1.5), {}),
    ("rsub", (r(2, 3), r(2, 3)), {"alpha": 2}),
    ("addcmul", (r(2, 3), r(2, 3), r(3)), {"value": 0.5}),
    ("addcdiv", (r(2, 3), r(2, 3), r(3)), {"value": 0.5}),
    ("lerp", (r(2, 3), r(2, 3), 0.3), {}),
    ("baddbmm", (r(2, 3, 5), r(2, 3, 4), r(2, 4, 5)), {"beta": 0.5, "alpha": 2}),
    ("baddbmm", (r(2, 3, 5),), {"batch1": r(2, 3, 4), "batch2": r(2, 4, 5), "beta": 0}),
    ("addmv", (r(3), r(3, 4), r(4)), {"alpha": 2}),
    ("ne", (r(2, 3), r(2, 3)), {}),
    ("cosine_similarity", (r(2, 3), r(2, 3)), {"dim": -1}),
    ("std_mean", (r(4, 5), 1), {}),
    ("linear_cross_entropy", (r(4, 5), r(3, 5), torch.tensor([0, 2, 1, 1])), {"linear_bias": r(3)}),
    ("lstm", (r(2, 7, 5), (r(1, 2, 4), r(1, 2, 4)), LSTM, True, 1, 0.0, False, False, True), {}),
    ("lstm", (r(2, 7, 5), (r(1, 2, 3), r(1, 2, 4)), PROJECTED, True, 1, 0.0, False, False, True), {}),
    ("gru", (r(7, 2, 4), r(2, 2, 4), (r(12, 4), r(12, 4)) * 2, False, 2, 0.0, False, False, False), {}),
    ("gru", (r(7, 2, 4), r(2, 2, 4), (r(12, 4), r(12, 4)) * 2, False, 1, 0.0, False, True, False), {}),
    ("rnn_tanh", (r(7, 2, 5), r(1, 2, 4), (r(4, 5), r(4, 4), r(4), r(4)), True, 1, 0.0, False, False, False), {}),
    ("lstm_cell", (r(2, 5), (r(2, 4), r(2, 4)), *LSTM), {}),
    ("gru_cell", (r(2, 4), r(2, 4), r(12, 4), r(12, 4)), {}),
    ("multi_head_attention_forward", heads(*(r(3, 2, 8),) * 3), {}),
    ("multi_head_attention_forward", heads(r(3, 2, 8), r(5, 2, 8), r(5, 2, 8)), {}),
    ("__getitem__", (r(4, 5, 6), (slice(1, 3), None, Ellipsis, 2)), {}),
    ("__getitem__", (r(4, 5), torch.tensor([1, 0, 3])), {}),
    ("__getitem__", (r(4, 5), [1, 3]), {}),
    ("movedim", (r(2, 3, 4), 0, -1), {}),
    ("T.__get__", (r(2, 3),), {}),
]


@pytest.mark.parametrize(("target", "args", "kwargs"), CALLS, ids=lambda v: v if isinstance(v, str) else "")
def test_the_calls_behind_the_nodes_do_what_the_call_did(target, args, kwargs):
    wanted = function(target)(*args, **kwargs)
    wanted = wanted if isinstance(wanted, (tuple, list)) else (wanted,)
    wanted = [one for one in wanted if one is not None]
    graph, values = recorded(target, args, len(wanted), **kwargs)
    got = replayed(graph, values)
    for place, one in enumerate(wanted):
        torch.testing.assert_close(got[f"%{place}"], one, rtol=1e-4, atol=1e-5)


def test_a_fused_encoder_layer_is_taken_apart_into_what_it_does():
    layer = torch.nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=False).eval()
    x, attention = r(2, 5, 8), layer.self_attn
    args = (
        x, 8, 2, attention.in_proj_weight, attention.in_proj_bias, attention.out_proj.weight, attention.out_proj.bias,
        False, False, 1e-5, layer.norm1.weight, layer.norm1.bias, layer.norm2.weight, layer.norm2.bias,
        layer.linear1.weight, layer.linear1.bias, layer.linear2.weight, layer.linear2.bias,
    )  # fmt: skip
    with torch.no_grad():
        graph, values = recorded("_transformer_encoder_layer_fwd", args, dialect="aten")
        got = replayed(graph, values)["%0"]
        torch.testing.assert_close(got, torch._transformer_encoder_layer_fwd(*args), rtol=1e-4, atol=1e-5)
    assert [node.op for node in graph.nodes if node.op in ("linear", "relu", "layer_norm")] == [
        "linear", "linear", "layer_norm", "linear", "relu", "linear", "layer_norm",
    ]  # fmt: skip


X = np.array([-7.0, -3.1, -1.0, -0.4, 0.0, 0.3, 1.0, 2.5, 6.5])
ALONE = [
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "sigmoid", "tanh", "hardsigmoid",
    "hardswish", "hardtanh", "softplus", "softsign", "logsigmoid", "softshrink", "hardshrink", "tanhshrink", "neg",
    "abs", "exp", "expm1", "exp2", "square", "erf", "erfc", "sign", "floor", "ceil", "round", "trunc", "sin", "cos",
    "atan", "sinh", "cosh", "asinh", "sinc",
]  # fmt: skip
WITH = [
    ("leaky_relu", (0.2,)), ("elu", (0.5,)), ("celu", (0.5,)), ("hardtanh", (-2.0, 0.5)),
    ("softplus", (2.0, 50.0)), ("softshrink", (1.5,)), ("hardshrink", (1.5,)), ("threshold", (0.5, -3.0)),
    ("rrelu", (0.1, 0.5)), ("clamp", (-1.0, 2.0)), ("clamp_min", (0.25,)), ("clamp_max", (0.25,)), ("maximum", (0.3,)),
    ("pow", (2,)), ("__rpow__", (2.0,)), ("__rtruediv__", (3.0,)), ("__rsub__", (3.0,)), ("__radd__", (3.0,)),
    ("__gt__", (0.1,)), ("__le__", (0.3,)), ("div", (3.0,)), ("__floordiv__", (3.0,)), ("rsub", (3.0,)),
]  # fmt: skip


@pytest.mark.parametrize(("target", "rest"), [*((name, ()) for name in ALONE), *WITH])
def test_an_elementwise_operation_does_to_numbers_what_the_function_does(target, rest):
    x = torch.tensor(X)
    tensor_only = target == "maximum"
    wanted = function(target)(x, *(torch.tensor(v) for v in rest) if tensor_only else rest)
    b = Builder()
    b.input("x", (9,))
    b.call(target, (Ref("x"), *rest), {}, ["y"])
    graph = b.graph(["y"])
    assert len(graph.nodes) == 1
    node = graph.nodes[0]
    values = [X if n == "x" else np.asarray(graph.constants[n].load()) if n else np.zeros(0) for n in node.inputs]
    np.testing.assert_allclose(POINTWISE[node.op](values, node.attrs), wanted.numpy(), rtol=2e-3, atol=2e-3)


def test_both_forms_of_gelu_are_told_apart():
    for form in ("none", "tanh"):
        wanted = functional.gelu(torch.tensor(X), approximate=form)
        graph, _ = recorded("gelu", (torch.tensor(X),), approximate=form)
        assert np.abs(POINTWISE["gelu"]([X], graph.nodes[0].attrs) - wanted.numpy()).max() < 1e-6


def test_arguments_that_do_not_fit_make_a_node_of_the_functions_own_name():
    for target, args in (
        ("conv2d", (Ref("x"),)), ("add", (Ref("x"),)), ("lstm", (Ref("x"), 3)), ("einsum", (Ref("x"), 1)),
        ("permute", (Ref("x"), "a")), ("__getitem__", (Ref("x"), {})), ("no_such_function", (Ref("x"), [Ref("y")])),
        ("_transformer_encoder_layer_fwd", (Ref("x"), 1, 2)), ("linear", (Ref("x"), Ref("y"), Ref("z"), 1)),
    ):  # fmt: skip
        b = Builder("aten")
        b.input("x", (1, 2))
        b.call(target, args, {}, ["out"])
        (node,) = b.graph(["out"]).nodes
        assert node.inputs[0] == "x" and node.outputs == ("out",)
        assert node.op == target or target in ("permute",)


def test_numbers_become_constants_and_equal_ones_one():
    b = Builder()
    b.input("x", (2,))
    b.call("mul", (Ref("x"), 2.0), {}, ["%1"])
    b.call("add", (Ref("%1"), 2.0), {}, ["%2"])
    b.call("tensor", (0.5,), {}, ["half"])
    graph = b.graph(["%2"])
    assert [node.inputs for node in graph.nodes] == [("x", "%c1"), ("%1", "%c1")]
    assert graph.constants["%c1"].buffer and float(graph.constants["half"].load()) == 0.5


def test_a_call_without_results_adds_nothing():
    b = Builder()
    b.call("size", (Ref("x"),), {}, [])
    b.call("relu", (Ref("x"),), {}, [""])
    assert not b.graph([]).nodes


def test_scope_and_shapes_are_kept():
    b = Builder()
    b.input("x", (1, 2))
    b.tensor("w", Tensor("w", (3, 2), "float32", lambda: np.zeros((3, 2), np.float32)))
    b.call("linear", (Ref("x"), Ref("w")), {}, ["y"], [(1, 3)], scope="head")
    graph = b.graph(["y"])
    assert graph.shapes["y"] == (1, 3) and graph.nodes[0].attrs["@scope"] == "head"
    assert graph.nodes[0].inputs == ("x", "w")


def test_a_shape_that_the_graph_works_out_is_an_operand_too():
    for target in ("view", "reshape", "expand"):
        for args in ((Ref("x"), (Ref("n"), 3)), (Ref("x"), Ref("n"), 3)):
            b = Builder("aten")
            b.input("x", (2, 3))
            b.call("size", (Ref("x"), 0), {}, ["n"])
            b.call(target, args, {}, ["y"])
            node = b.graph(["y"]).nodes[1]
            assert (node.op, node.inputs) == ("expand" if target == "expand" else "reshape", ("x", "n"))
            assert node.attrs["shape"] == (Ref("n"), 3)
