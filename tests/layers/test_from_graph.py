from __future__ import annotations

import numpy as np
import pytest

from initaudit.layers.from_graph import infer
from initaudit.types import Evidence, Layer, Model, Role
from tests.graph.build import constant, model, w


def layers(made: Model) -> dict[str, Layer]:
    found, _ = infer(made)
    assert len({one.name for one in found}) == len(found)
    return {one.name: one for one in found}


def skips(made: Model) -> dict[str, str]:
    return {skip.name: skip.why for skip in infer(made)[1]}


@pytest.mark.parametrize(
    ("line", "shape", "axes", "fans"),
    [
        ("y = gemm x w {transB=1}", (8, 4), "oi", (4, 8)),
        ("y = gemm x w", (4, 8), "io", (4, 8)),
        ("y = gemm w x", (8, 4), "oi", (4, 8)),
        ("y = gemm w x {transA=1}", (4, 8), "io", (4, 8)),
        ("y = matmul x w", (4, 8), "io", (4, 8)),
        ("y = matmul w x", (8, 4), "oi", (4, 8)),
        ("y = matmul x w", (3, 4, 8), "sio", (4, 8)),
        ("y = conv x w {group=2}", (8, 4, 3, 3), "oikk", (36, 36)),
        ("y = conv x w {group=8}", (8, 1, 5), "oik", (5, 5)),
        ("y = conv x w", (8, 4, 3, 3, 3), "oikkk", (108, 216)),
        ("y = conv_transpose x w {strides=[2,2]}", (8, 4, 4, 4), "iokk", (32, 64)),
        ("y = einsum x w {equation='btd,df->btf'}", (4, 8), "io", (4, 8)),
        ("y = einsum x w {equation='bd,dhk->bhk'}", (4, 2, 3), "ioo", (4, 6)),
        ("y = einsum x w {equation='ebd,edf->ebf'}", (3, 4, 8), "sio", (4, 8)),
    ],
)
def test_weight_of_each_op(line: str, shape: tuple[int, ...], axes: str, fans: tuple[float, float]) -> None:
    (one,) = layers(model(line, w=w(*shape))).values()
    assert (one.axes, one.fan_in, one.fan_out) == (axes, *fans)
    assert one.fan_evidence is Evidence.TRACED
    assert one.role is Role.HEAD
    assert one.reasons


def test_bias_is_the_vector_added_next() -> None:
    found = layers(model("a = matmul x a_w\nb = add a_b a\nc = relu b\ny = gemm c b_w b_b {transB=1}",
                         a_w=w(4, 8), a_b=w(8), b_w=w(2, 8), b_b=w(2)))  # fmt: skip
    assert [one.bias.name if one.bias else None for one in found.values()] == ["a_b", "b_b"]
    assert found["a_w"].activation == "relu"
    assert found["a_w"].role is Role.TRUNK
    assert found["b_w"].role is Role.HEAD


def test_activation_is_found_past_norm_pool_and_reshape() -> None:
    text = """
    a = conv x w1 b1
    n = batch_norm a s o m v
    p = max_pool n
    r = relu p
    f = flatten r
    y = gemm f w2
    """
    found = layers(model(text, w1=w(8, 3, 3, 3), b1=w(8), s=w(8), o=w(8), m=w(8), v=w(8), w2=w(8, 2)))
    assert found["w1"].activation == "relu"
    assert found["w1"].normed is True
    assert found["w1"].role is Role.TRUNK
    assert [t.name for t in found["s"].extra] == ["m", "v"]
    assert (found["s"].kind, found["s"].role) == ("norm", Role.NORM)
    assert found["w2"].normed is False


RESIDUAL = """
s = conv x w0
a = conv s w1
r = relu a
b = conv r w2
t = add b s
q = relu t
y = conv q w3
"""


def test_residual_add_ends_a_branch_and_the_skip_decides_nothing() -> None:
    found = layers(model(RESIDUAL, w0=w(4, 3, 1, 1), w1=w(4, 4, 1, 1), w2=w(4, 4, 1, 1), w3=w(2, 4, 1, 1)))
    assert [one.activation for one in found.values()] == [None, "relu", "relu", None]
    assert [one.role for one in found.values()] == [Role.TRUNK, Role.TRUNK, Role.BRANCH_END, Role.HEAD]


def test_disagreeing_readers_lower_the_evidence() -> None:
    found = layers(model("h = gemm x w0\na = relu h\nb = tanh h\ny = gemm a w1\nz = gemm b w2", "y z",
                         w0=w(4, 4), w1=w(4, 4), w2=w(4, 4)))  # fmt: skip
    assert found["w0"].activation == "relu"
    assert found["w0"].activation_evidence is Evidence.NAMED
    assert any("tanh" in why for why in found["w0"].reasons)


def test_squeeze_excitation_gates_and_does_not_decide() -> None:
    text = """
    a = conv x w0
    p = global_average_pool a
    d = conv p w1
    r = relu d
    u = conv r w2
    g = sigmoid u
    m = mul a g
    h = hardswish m
    y = conv h w3
    """
    found = layers(model(text, w0=w(8, 3, 1, 1), w1=w(2, 8, 1, 1), w2=w(8, 2, 1, 1), w3=w(2, 8, 1, 1)))
    assert [one.activation for one in found.values()] == ["hardswish", "relu", "sigmoid", None]
    assert found["w1"].role is found["w2"].role is Role.GATE
    assert found["w0"].role is Role.TRUNK


def test_gated_unit_of_two_projections() -> None:
    text = "g = matmul x w0\nu = matmul x w1\ns = sigmoid g\na = mul g s\nm = mul a u\ny = matmul m w2"
    found = layers(model(text, w0=w(4, 8), w1=w(4, 8), w2=w(8, 4)))
    assert [one.activation for one in found.values()] == ["silu", None, None]
    assert [one.role for one in found.values()] == [Role.GATE, Role.OTHER, Role.HEAD]


def test_gated_unit_by_split() -> None:
    found = layers(
        model("a = matmul x w0\nu g = split a\ns = gelu g\nm = mul u s\ny = matmul m w1", w0=w(4, 16), w1=w(8, 4))
    )
    assert found["w0"].activation == "gelu"
    assert found["w0"].parts == ()


ATTENTION = """
a = matmul x w0
q k v = split a
kt = transpose k
l = matmul q kt
s = mul l scale
p = softmax s
o = matmul p v
y = matmul o w1
"""


def test_fused_query_key_value() -> None:
    found = layers(model(ATTENTION, w0=w(4, 12), w1=w(4, 4), scale=0.5))
    assert found["w0"].parts == ("query", "key", "value")
    assert (found["w0"].fan_in, found["w0"].fan_out) == (4, 4)
    assert found["w0"].activation is None
    assert found["w0"].activation_evidence is Evidence.TRACED
    assert found["w0"].role is Role.OTHER


def test_rotary_halves_are_no_projections() -> None:
    text = """
    q = matmul x w0
    a b = split q
    n = neg b
    h = concat n a
    c = mul q cos
    s = mul h sin
    r = add c s
    k = matmul x w1
    l = matmul r k
    p = softmax l
    y = matmul p w2
    """
    found = layers(model(text, w0=w(4, 4), w1=w(4, 4), w2=w(4, 4), cos=w(6, 4), sin=w(6, 4, seed=1)))
    assert found["w0"].parts == ()
    assert found["w0"].role is Role.OTHER


def test_final_sigmoid_counts_and_softmax_does_not() -> None:
    assert layers(model("a = gemm x w0\ny = sigmoid a", w0=w(4, 4)))["w0"].activation == "sigmoid"
    head = layers(model("a = gemm x w0\ny = softmax a", w0=w(4, 4)))["w0"]
    assert (head.activation, head.role) == (None, Role.HEAD)


def test_op_that_is_not_understood_leaves_the_activation_open() -> None:
    one = layers(model("a = gemm x w0\nb = mystery a\ny = gemm b w1", w0=w(4, 4), w1=w(4, 4)))["w0"]
    assert one.activation is None
    assert one.activation_evidence is Evidence.ASSUMED
    assert any("mystery" in why for why in one.reasons)


def test_embedding_and_positions() -> None:
    text = "e = gather wte ids\np = add e pos\nn = layer_norm p g b\ny = matmul n w0"
    found = layers(model(text, inputs="ids", wte=w(50, 8), pos=w(1, 6, 8), g=w(8), b=w(8), w0=w(8, 2)))
    assert (found["wte"].kind, found["wte"].fan_in, found["wte"].fan_out) == ("embedding", 1, 8)
    assert found["wte"].role is Role.EMBEDDING
    assert (found["pos"].kind, found["pos"].role) == ("parameter", Role.EMBEDDING)


def test_layer_scale_token_and_slope() -> None:
    text = """
    c = concat cls x
    a = matmul c w0
    g = mul a gamma
    r = add c g
    p = prelu r slope
    y = matmul p w1
    """
    found = layers(model(text, cls=w(1, 1, 8), w0=w(8, 8), gamma=w(8), slope=w(8), w1=w(8, 2)))
    assert found["cls"].role is Role.EMBEDDING
    assert found["gamma"].role is Role.GATE
    assert found["slope"].kind == "prelu"
    assert (found["w0"].activation, found["w0"].role) == ("prelu", Role.BRANCH_END)


def test_low_rank_adapter() -> None:
    text = "b = matmul x w\nh = matmul x a_w\nu = matmul h b_w\ns = mul u two\nz = add b s\nr = relu z\ny = matmul r v"
    found = layers(model(text, w=w(16, 16), a_w=w(16, 2), b_w=w(2, 16), two=2.0, v=w(16, 4)))
    assert [found[n].role for n in ("a_w", "b_w")] == [Role.ADAPTER, Role.ADAPTER]
    assert found["w"].role is not Role.ADAPTER
    assert found["w"].activation == "relu"


def test_router() -> None:
    text = """
    l = matmul x w0
    p = softmax l
    v i = top_k p k
    e = gather experts i
    m = matmul e x
    q = mul m v
    y = matmul q w1
    """
    found = layers(model(text, w0=w(8, 4), k=np.asarray([2]), experts=w(4, 6, 8), w1=w(6, 2)))
    assert found["w0"].role is Role.ROUTER
    assert (found["experts"].axes, found["experts"].fan_in, found["experts"].fan_out) == ("soi", 8, 6)


def test_group_norm_written_as_instance_norm() -> None:
    text = """
    a = conv x w0
    r = reshape a s
    i = instance_norm r ones zeros
    b = reshape i t
    m = mul b g
    n = add m o
    y = relu n
    """
    shapes = {"s": np.asarray([0, 2, -1]), "t": np.asarray([0, 8, 4, 4])}
    ones, zeros = np.ones(2, np.float32), np.zeros(2, np.float32)
    made = model(text, w0=w(8, 3, 1, 1), ones=ones, zeros=zeros, g=w(8, 1, 1), o=w(8, 1, 1), **shapes)
    found = layers(made)
    assert set(found) == {"w0", "g"}
    assert found["g"].bias is not None
    assert found["g"].bias.name == "o"
    assert found["w0"].activation == "relu"
    assert found["w0"].normed is True


def test_recurrent_directions_and_gates() -> None:
    made = model("h = lstm x W R B", "h", W=w(2, 24, 8), R=w(2, 24, 6), B=w(2, 48))
    found, _ = infer(made)
    assert [one.parts for one in found] == [("input", "output", "forget", "cell")] * 4
    assert [(one.fan_in, one.fan_out) for one in found] == [(8, 6), (8, 6), (6, 6), (6, 6)]
    assert np.array_equal(found[1].weight.load(), made.tensors[0].load()[1])
    assert found[3].bias is not None
    assert np.array_equal(found[3].bias.load(), made.tensors[2].load()[1, 24:])
    gru, _ = infer(model("h = gru x W R", "h", W=w(1, 18, 8), R=w(1, 18, 6)))
    assert gru[0].parts == ("update", "reset", "new")


def test_integers_are_read_as_the_numbers_they_stand_for() -> None:
    raw = np.arange(-8, 8, dtype=np.int8).reshape(4, 4)
    text = "a = matmul_integer x w\nb = cast a {to=1}\nc = mul b scale\ny = relu c"
    (one,) = layers(model(text, w=constant("w", raw), scale=w(4))).values()
    assert one.weight.is_float
    assert np.allclose(one.weight.load(), raw * w(4))
    assert one.activation == "relu"


def test_weight_used_twice_is_one_row_and_a_transposed_twin_is_tied() -> None:
    values = w(50, 8)
    table = constant("wte", values, storage="wte")
    twin = constant("wte", values.T, storage="wte", strides=(1, 8))
    text = "e = gather wte ids\na = matmul e w0\nb = relu a\nc = matmul b w0\ny = matmul c head"
    found, _ = infer(model(text, inputs="ids", wte=table, head=twin, w0=w(8, 8)))
    assert [one.weight.name for one in found] == ["wte", "w0", "wte"]
    assert found[2].tied == found[0].name
    assert any("2 times" in why for why in found[1].reasons)


def test_tables_and_masks_are_no_layers() -> None:
    mask = np.triu(np.full((6, 6), -np.inf, np.float32), 1)
    text = "q = matmul x w0\nt = transpose q\nl = matmul q t\nm = add l mask\np = softmax m\ny = matmul p q"
    made = model(text, w0=w(4, 4), mask=constant("onnx::Add_9", mask), unused=w(3, 3))
    assert set(layers(made)) == {"w0"}
    assert skips(made) == {"onnx::Add_9": "a mask", "unused": "no node reads it"}


def test_anonymous_weights_are_named_after_node_or_bias() -> None:
    made = model("a = matmul x w0\nb = add a bias\ny = matmul b w1", w0=constant("onnx::MatMul_7", w(4, 4)),
                 bias=constant("encoder.fc.bias", w(4)), w1=constant("val_3", w(4, 4)))  # fmt: skip
    assert list(layers(made)) == ["encoder.fc", "val_3"]


def test_cycles_of_loops_end() -> None:
    text = "p = phi x back\na = matmul p w0\nback = relu a\ny = matmul back w1"
    assert layers(model(text, w0=w(4, 4), w1=w(4, 4)))["w0"].activation == "relu"


@pytest.mark.parametrize(
    "line", ["a = gemm x", "a = conv x", "a = layer_norm", "a = gather x", "a = lstm x", "a = where x"]
)
def test_ops_without_their_inputs_are_not_understood(line: str) -> None:
    one = layers(model(f"h = gemm x w0\n{line.replace('x', 'h')}\ny = gemm a w1", w0=w(4, 4), w1=w(4, 4)))["w0"]
    assert one.activation is None


def test_chain_that_leads_back_to_itself_ends() -> None:
    text = "a = matmul x w0\nb = reshape a2 s\na2 = transpose b\ny = add a b"
    assert layers(model(text, w0=w(4, 4), s=np.asarray([1])))["w0"].axes == "io"


@pytest.mark.parametrize(
    ("text", "axes", "fans"),
    [
        ("e = gather_nd w k\nu = unsqueeze x\nb = matmul e u\ns = squeeze b", "soi", (8, 6)),
        ("e = gather w k\nt = transpose e {perm=[0,2,1]}\ns = matmul x t", "soi", (8, 6)),
        ("e = gather w k\nq = squeeze e\ns = gemm x q {transB=1}", "soi", (8, 6)),
        ("e = gather w k\ns = matmul x e", "sio", (6, 8)),
    ],
)
def test_experts_looked_up_in_any_way(text: str, axes: str, fans: tuple[float, float]) -> None:
    found = layers(model(f"l = matmul x w0\nv i = top_k l n\nk = unsqueeze i\n{text}\ny = relu s",
                         w0=w(8, 4), n=np.asarray([1]), w=w(4, 6, 8)))  # fmt: skip
    assert (found["w"].axes, found["w"].fan_in, found["w"].fan_out) == (axes, *fans)
    assert found["w"].activation == "relu"


def test_what_becomes_of_learned_queries_is_a_signal_and_no_weight() -> None:
    text = """
    q0 = add queries pos
    n = layer_norm q0 s b
    q1 = matmul n wq
    q = reshape q1 heads
    k1 = matmul x wk
    k = transpose k1
    l = matmul q k
    p = softmax l
    y = matmul p x
    """
    shape = np.asarray([5, 2, 2])
    found = layers(
        model(text, queries=w(5, 4), pos=w(5, 4, seed=1), s=w(4), b=w(4), wq=w(4, 4), wk=w(4, 4), heads=shape)
    )
    assert {"queries", "pos", "s", "wq", "wk"} == set(found)
    assert (found["wq"].kind, found["wq"].axes, found["queries"].kind) == ("linear", "io", "parameter")


def test_a_product_that_makes_a_weight_is_no_layer() -> None:
    text = "m = matmul b a\nn = add m w0\nt = transpose n\ny = matmul x t"
    found = layers(model(text, a=w(2, 4), b=w(6, 2), w0=w(6, 4)))
    assert set(found) == {"w0"}


def test_directions_of_unequal_shape_are_guessed() -> None:
    text = "w = concat w0 w1\nr = concat r0 r1\nh = lstm x w r {hidden_size=6}"
    shapes = {"w0": w(1, 24, 8), "w1": w(1, 6, 16), "r0": w(1, 24, 6), "r1": w(1, 24, 8)}
    found = layers(model(text, "h", **shapes))
    assert {one.weight.name: (one.fan_in, one.fan_out) for one in found.values() if one.kind == "lstm"} == {
        "w0": (8, 6), "r0": (6, 6), "r1": (8, 6),
    }  # fmt: skip
    assert all(one.fan_evidence is Evidence.ASSUMED for one in found.values() if one.kind == "lstm")


def test_first_states_and_filling_are_no_parameters() -> None:
    state = constant("sub_3", np.full((1, 4), -1e38, np.float32))
    text = "a = matmul x w0\nm = max state a\nd = sub state m\ne = exp d\ny = mul e a"
    made = model(text, w0=w(4, 4), state=state)
    assert set(layers(made)) == {"w0"}
    assert "-1e+38 throughout" in skips(made)["sub_3"]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("factor", ["constant", "product"])
def test_dynamically_quantised_convolution(bias: bool, factor: str) -> None:
    raw = np.arange(-54, 54, dtype=np.int8).reshape(4, 3, 3, 3)
    lines = ["q qs qz = dynamic_quantize_linear x", "c = conv_integer q w qz zero"]
    at = "c"
    if bias:
        lines += ["s0 = mul qs scale", "d = div b s0", "f = floor d", "i = cast f {to=6}", "j = reshape i shape"]
        lines += ["k = add c j"]
        at = "k"
    lines += [f"r = cast {at} {{to=1}}", "s = mul qs scale" if factor == "product" else "s = mul one scale"]
    lines += ["o = mul r s", "y = relu o"]
    scale, zero = np.asarray(0.5, np.float32), np.asarray(3, np.int8)
    made = model("\n".join(lines), w=raw, scale=scale, zero=zero, b=w(4), shape=np.asarray([1, -1, 1, 1]), one=1.0)
    found = layers(made)
    assert list(found) == ["w"]
    assert np.allclose(found["w"].weight.load(), (raw - 3.0) * 0.5)
    assert set(found["w"].weight.parts) == {"w", "scale", "zero"}
    assert found["w"].activation == "relu"
    assert (found["w"].bias is not None) is bias


def test_operators_on_integers_are_read_as_plain_ones() -> None:
    text = """
    q = quantize_linear x s z
    a = qlinear_conv q s z w0 s0 z0 s z b0
    b = qlinear_conv a s z w1 s1 z1 s zi
    c = q_linear_add b s zi a s z s zi
    f = q_linear_sigmoid c s zi s z
    g = q_linear_mul c s zi f s z s zi
    p = qlinear_global_average_pool g s zi s zi
    h = reshape p shape
    o = qgemm h s zi w2 s2 z2 b2 s zi {transB=1}
    y = dequantize_linear o s zi
    """
    one = {"s": np.asarray(0.5, np.float32), "z": np.asarray(0, np.uint8), "zi": np.asarray(9, np.uint8)}
    weights: dict[str, object] = {"s0": np.asarray([0.1, 0.2], np.float32), "z0": np.zeros(2, np.int8)}
    weights |= {"w0": np.ones((2, 3, 3, 3), np.int8), "b0": np.asarray([10, 20], np.int32)}
    weights |= {"w1": np.ones((2, 2, 1, 1), np.int8), "s1": np.asarray(0.5, np.float32), "z1": np.asarray(0, np.int8)}
    weights |= {"w2": np.full((5, 2), 3, np.int8), "s2": np.full(5, 0.5, np.float32), "z2": np.zeros(5, np.int8)}
    weights |= {"b2": np.arange(5, dtype=np.int32), "shape": np.asarray([0, -1])}
    made = model(text, **one, **weights)
    found = layers(made)
    assert {name: (row.activation, row.role) for name, row in found.items()} == {
        "w0": ("relu", Role.TRUNK), "w1": ("silu", Role.BRANCH_END), "w2": (None, Role.HEAD),
    }  # fmt: skip
    assert np.allclose(found["w0"].weight.load()[:, 0, 0, 0], [0.1, 0.2])
    assert found["w0"].bias is not None
    assert np.allclose(found["w0"].bias.load(), [10 * 0.5 * 0.1, 20 * 0.5 * 0.2])
    assert (found["w2"].fan_in, found["w2"].fan_out) == (2, 5)
    assert skips(made) == {}


def test_an_adapter_does_not_change_the_role_of_its_base() -> None:
    text = """
    h = gemm x w0
    r = relu h
    base = gemm r w1
    a = gemm r wa
    b = gemm a wb
    s = mul b two
    t = add {order}
    u = relu t
    y = gemm u w2
    """
    shapes = {"w0": w(6, 8), "w1": w(8, 8), "wa": w(8, 2), "wb": w(2, 8), "w2": w(8, 3), "two": 2.0}
    for order in ("base s", "s base"):
        found = layers(model(text.replace("{order}", order), **shapes))
        roles = [found[name].role for name in ("w1", "wa", "wb", "w2")]
        assert roles == [Role.TRUNK, Role.ADAPTER, Role.ADAPTER, Role.HEAD]
        assert found["w1"].activation == "relu"


def test_an_embedding_added_to_another_signal_has_the_activation_after_the_sum() -> None:
    found = layers(model("e = gather wte ids\nt = gemm x w0\ns = add e t\na = silu s\ny = gemm a w1", inputs="x ids",
                         wte=w(10, 4), w0=w(4, 4), w1=w(4, 2)))  # fmt: skip
    assert found["wte"].activation == found["w0"].activation == "silu"
