from __future__ import annotations

import math
import time

import numpy as np
import pytest

from initaudit.graph.fuse import fuse
from tests.graph.build import graph, w

S = {"half": 0.5, "one": 1.0, "two": 2.0, "three": 3.0, "six": 6.0, "zero": 0.0, "r2": math.sqrt(2), "eps": 1e-5}
GELU_TANH = """
a = pow x three
b = mul a k
c = add x b
d = mul s c
e = tanh d
f = add e one
g = mul x half
y = mul g f
"""


def ops(text: str, **constants: object) -> list[str]:
    return [node.op for node in fuse(graph(text, **{**S, **constants})).nodes]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a = div x r2\nb = erf a\nc = add b one\nd = mul x c\ny = mul d half", "gelu"),
        ("a = mul x half\nb = div x r2\nc = erf b\nd = add one c\ny = mul a d", "gelu"),
        (GELU_TANH, "gelu"),
        ("a = sigmoid x\ny = mul a x", "silu"),
        ("n = neg x\ne = exp n\na = add e one\ny = div x a", "silu"),
        ("a = mul x q\nb = sigmoid a\ny = mul x b", "quick_gelu"),
        ("a = softplus x\nb = tanh a\ny = mul x b", "mish"),
        ("e = exp x\na = add e one\nl = log a\nb = tanh l\ny = mul x b", "mish"),
        ("a = add x three\nb = clip a zero six\nc = div b six\ny = mul x c", "hardswish"),
        ("a = hardsigmoid x {alpha=0.16666667, beta=0.5}\ny = mul x a", "hardswish"),
        ("e = exp x\na = add e one\ny = log a", "softplus"),
        ("r = relu x\ny = mul r r", "relu2"),
        ("r = relu x\ny = pow r two", "relu2"),
        ("y = max x zero", "relu"),
        ("y = clip x zero six", "relu6"),
        ("m = mul x tenth\ny = max x m", "leaky_relu"),
        ("g = greater x zero\nm = mul x tenth\ny = where g x m", "leaky_relu"),
        ("g = greater x zero\ne = exp x\nm = sub e one\ny = where g x m", "elu"),
        ("a = cast x {to=1}\nb = sigmoid a\nc = mul a b\ny = cast c {to=10}", "silu"),
    ],
)
def test_activation_is_found_by_effect(text: str, name: str) -> None:
    assert ops(text, k=0.044715, s=math.sqrt(2 / math.pi), q=1.702, tenth=0.1) == [name]


LAYER_NORM = """
m = reduce_mean x {axes=[-1]}
c = sub x m
p = pow c two
v = reduce_mean p {axes=[-1]}
e = add v eps
s = sqrt e
n = div c s
h = mul n w
y = add h b
"""
RMS_NORM = """
p = mul x x
v = reduce_mean p {axes=[-1]}
e = add v eps
s = sqrt e
r = reciprocal s
n = mul r x
y = mul w n
"""
SOFTMAX = """
m = reduce_max x {axes=[-1]}
d = sub x m
e = exp d
s = reduce_sum e {axes=[-1]}
y = div e s
"""


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (LAYER_NORM, ["layer_norm", "mul", "add"]),
        (RMS_NORM, ["rms_norm", "mul"]),
        ("n = reduce_l2 x {axes=[-1]}\nc = max n eps\ny = div x c", ["l2_norm"]),
        (SOFTMAX, ["softmax"]),
        ("g = sigmoid x\na = mul x g" + LAYER_NORM.replace(" x", " a"), ["silu", "layer_norm", "mul", "add"]),
    ],
)
def test_norm_is_found_by_effect(text: str, names: list[str]) -> None:
    assert ops(text, w=w(8), b=w(8)) == names


def test_residual_keeps_its_sum() -> None:
    assert ops("r = relu x\ny = add x r") == ["relu", "add"]
    assert ops("g = sigmoid x\nr = mul x g\ny = add r x") == ["silu", "add"]


def test_scaled_activation_keeps_its_name() -> None:
    found = fuse(graph("a = mul x k\nb = tanh a\ny = mul b c", k=2 / 3, c=1.7159)).nodes
    assert [node.op for node in found] == ["mul", "tanh", "mul"]


@pytest.mark.parametrize("tail", ["", "z = mul k y\nz = add z c"])
@pytest.mark.parametrize("head", ["r = identity x", "q = mul x k\nr = add q c"])
@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("s = add r three\nt = clip s zero six\nu = mul r t\ny = div u six", "hardswish"),
        ("s = add r three\nt = clip s zero six\nu = mul r t\ny = mul k u", "hardswish"),
        ("g = sigmoid r\ny = mul r g", "silu"),
        ("s = relu r\ny = mul s s", "relu2"),
    ],
)
def test_learned_scalars_are_no_part_of_the_function(head: str, body: str, tail: str, name: str) -> None:
    tail = tail.replace("z = mul", "v = mul").replace("add z", "add v")
    made = graph(f"{head}\n{body}\n{tail}", "z" if tail else "y", k=1.3, c=[0.2], three=3.0, zero=0.0, six=6.0)
    assert {name, "star_relu" if name == "relu2" else name} & {node.op for node in fuse(made).nodes}
    assert "composite" not in [node.op for node in fuse(made).nodes]


def test_unknown_function_is_not_given_a_part_of_its_name() -> None:
    assert ops("a = softplus x\nb = atan a\ny = mul x b") == ["composite"]


def test_affine_steps_are_left_alone() -> None:
    text = "a = mul x two\ny = add a one"
    assert ops(text) == ["mul", "add"]


def test_mean_pooling_is_no_function_of_elements() -> None:
    assert ops("m = reduce_mean x {axes=[2,3]}\ny = mul m two") == ["reduce_mean", "mul"]


def test_vector_constants_end_a_region() -> None:
    assert ops("a = add x b\ng = sigmoid a\ny = mul a g", b=w(8)) == ["add", "silu"]


def test_inner_value_that_is_read_elsewhere_stays() -> None:
    text = "g = sigmoid x\nz = mul x g\ny = matmul z m\nq = matmul g m"
    found = fuse(graph(text, "y q", m=w(4, 4))).nodes
    assert [node.op for node in found] == ["sigmoid", "silu", "matmul", "matmul"]


def test_long_graphs_are_fused_quickly() -> None:
    lines, at = [], "x"
    for k in range(300):
        lines += [f"d{k} = div {at} r2", f"e{k} = erf d{k}", f"f{k} = add e{k} one", f"g{k} = mul {at} f{k}"]
        lines += [f"h{k} = mul g{k} half", f"z{k} = matmul h{k} m"]
        at = f"z{k}"
    built = graph("\n".join(lines), at, m=np.eye(4, dtype=np.float32), **S)
    start = time.process_time()
    found = fuse(built)
    assert time.process_time() - start < 1.0
    assert sum(node.op == "gelu" for node in found.nodes) == 300


def test_a_copy_of_an_activation_is_not_a_second_one() -> None:
    found = fuse(graph("r = relu x\nq = identity r\na = matmul q m\ny = add r a", m=w(4, 4))).nodes
    assert [node.op for node in found] == ["relu", "identity", "matmul", "add"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("z = source {value=0.0}\ny = max x z", "relu"),
        ("z = source {value=0.0}\ng = greater x z\ny = where g x z", "relu"),
        ("z = expand zero size\ny = max x z", "relu"),
        ("z = constant_of_shape size\ny = max x z", "relu"),
        ("y = max x zeros", "relu"),
        ("o = source {value=1.0}\nq = div x r2\ne = erf q\ns = add e o\nh = mul x half\ny = mul h s", "gelu"),
        ("l = less x zero\nb = cast l {to=9}\ny = where b zero x", "relu"),
        (
            "l = less x zero\nn = non_zero l\np = transpose n\nv = expand zero size\ny = scatter_nd x p v",
            "relu",
        ),
    ],
)  # fmt: skip
def test_what_is_one_number_throughout_counts_as_that_number(text: str, name: str) -> None:
    assert ops(text, zeros=w(2, 8) * 0, size=np.array([2, 8]))[-1] == name


@pytest.mark.parametrize("other", ["b", "s"])
def test_a_bound_that_is_not_known_is_no_activation(other: str) -> None:
    assert ops(f"s = source\ny = max x {other}", b=w(8))[-1] == "max"


def test_a_bound_beyond_all_values_hands_them_on() -> None:
    assert ops("y = max x low", low=-1e30) == ["identity"]
    assert ops("s = sub low x\nl = exp s\ny = add x l", low=-1e38)[-1] == "add"


HALVES = "a b = split x {axis=1}\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (HALVES + "g = sigmoid b\ny = mul a g", ["glu"]),
        (HALVES + "g = sigmoid b\ny = mul g a", ["glu"]),
        (HALVES + "g = sigmoid a\ny = mul g b", ["split", "sigmoid", "mul"]),
        (HALVES + "g = sigmoid b\nt = tanh a\ny = mul t g", ["split", "sigmoid", "tanh", "mul"]),
        (HALVES + "g = sigmoid b\nm = mul a g\ny = add m g", ["split", "sigmoid", "mul", "add"]),
        ("a b = split x {axis=1, split=[2, 6]}\ng = sigmoid b\ny = mul a g", ["split", "sigmoid", "mul"]),
        ("a b c = split x {axis=1}\ng = sigmoid b\nm = mul a g\ny = add m c", ["split", "sigmoid", "mul", "add"]),
        ("a = slice x i0 i4 i1\nb = slice x i4 i8 i1\ng = sigmoid b\ny = mul a g", ["glu"]),
        (
            "a = slice x i0 i4 i1\nb = slice x i0 i4 i1\ng = sigmoid b\ny = mul a g",
            ["slice", "slice", "sigmoid", "mul"],
        ),
    ],
)  # fmt: skip
def test_a_gated_linear_unit_that_was_written_out(text: str, found: list[str]) -> None:
    ends = {f"i{k}": np.array([k]) for k in (0, 1, 4, 8)}
    assert ops(text, **ends) == found
