import numpy as np
import pytest

from initaudit import formats

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx.helper")

R = np.random.default_rng(0)


def f(*shape):
    return R.standard_normal(shape).astype(np.float32)


def i(*values):
    return np.array(values, np.int64)


def both(folder, nodes, feeds, stored=None, *, outputs=("y",), opset=17, **options):
    """What ONNX Runtime and the executor make of the same nodes."""
    kinds = {name: onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in feeds.items()}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kinds[name], a.shape) for name, a in feeds.items()],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(a, name) for name, a in (stored or {}).items()],
    )  # fmt: skip
    domains = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path = folder / "m.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=domains, ir_version=4).SerializeToString())
    wanted = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, feeds)
    from initaudit.live.execute import Executor

    ex = Executor(formats.read(path).graph, **options)
    assert ex.missing == ()
    made = ex.run({name: torch.from_numpy(a) for name, a in feeds.items()})
    return [made[name].detach().numpy() for name in ex.graph.outputs], wanted


def agree(*arguments, close=1e-5, **options):
    for made, wanted in zip(*both(*arguments, **options), strict=True):
        assert made.shape == wanted.shape
        np.testing.assert_allclose(made.astype(np.float64), wanted.astype(np.float64), rtol=close, atol=close)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def own(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, outputs, domain="com.microsoft", **attributes)


@pytest.mark.parametrize("opset", [7, 11, 12, 13, 17])
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [None, 0, 1, 2, -1])
def test_softmax_before_and_after_13(tmp_path, op, opset, axis):
    if axis == -1 and opset < 11:
        pytest.skip("no negative axes before opset 11")
    attributes = {} if axis is None else {"axis": axis}
    agree(tmp_path, [node(op, ["x"], **attributes)], {"x": f(2, 3, 4)}, opset=opset)


OLD = {
    "clip": (6, node("Clip", ["x"], min=-0.3, max=0.4), ()),
    "clip min only": (11, node("Clip", ["x", "a"]), (np.float32(-0.2),)),
    "clip max only": (12, node("Clip", ["x", "", "a"]), (np.float32(0.2),)),
    "dropout": (7, node("Dropout", ["x"], ratio=0.7), ()),
    "dropout 12": (12, node("Dropout", ["x"]), ()),
    "pad": (2, node("Pad", ["x"], pads=[0, 1, 0, 2, 0, 0, 1, 3], mode="reflect"), ()),
    "pad edge": (11, node("Pad", ["x", "a"], mode="edge"), (i(0, 0, 1, 2, 0, 0, 3, 0),)),
    "pad cut": (11, node("Pad", ["x", "a"]), (i(0, 0, -1, 2, 0, 0, 1, -2),)),
    "unsqueeze": (11, node("Unsqueeze", ["x"], axes=[0, -1]), ()),
    "squeeze 13": (13, node("Squeeze", ["x", "a"]), (i(0),)),
    "reduce": (11, node("ReduceSum", ["x"], axes=[-1, 1], keepdims=0), ()),
    "reduce 18": (18, node("ReduceMax", ["x", "a"], keepdims=0), (i(1, 3),)),
    "reduce none": (18, node("ReduceMean", ["x"], noop_with_empty_axes=1), ()),
    "batch norm": (
        9, node("BatchNormalization", ["x", "a", "b", "c", "d"], epsilon=1e-3), (f(4), f(4), f(4), f(4) ** 2)
    ),
    "instance norm": (6, node("InstanceNormalization", ["x", "a", "b"]), (f(4), f(4))),
    "layer norm": (17, node("LayerNormalization", ["x", "a", "b"], axis=2), (f(6, 5), f(6, 5))),
    "prelu": (9, node("PRelu", ["x", "a"]), (f(4, 1, 1),)),
    "slice": (9, node("Slice", ["x"], starts=[1, -3], ends=[9, -1], axes=[1, 3]), ()),
    "slice back": (10, node("Slice", ["x", "a", "b", "c", "d"]), (i(-1, 4), i(-9, 0), i(1, 3), i(-2, -1))),
    "upsample": (9, node("Upsample", ["x", "a"], mode="linear"), (np.array([1, 1, 2, 2], np.float32),)),
    "upsample nearest": (9, node("Upsample", ["x", "a"]), (np.array([1, 1, 3, 2], np.float32),)),
    "resize 10": (10, node("Resize", ["x", "a"], mode="linear"), (np.array([1, 1, 2.5, 1.5], np.float32),)),
    "resize 11": (11, node("Resize", ["x", "e", "a"], mode="cubic"), (np.array([1, 1, 2.5, 1.5], np.float32),)),
    "flatten": (9, node("Flatten", ["x"], axis=2), ()),
    "conv auto": (11, node("Conv", ["x", "a"], auto_pad="SAME_LOWER", strides=[2, 3]), (f(2, 4, 3, 2),)),
    "conv uneven": (11, node("Conv", ["x", "a", "b"], pads=[0, 1, 2, 0], group=2), (f(6, 2, 3, 2), f(6))),
    "transposed": (
        11, node("ConvTranspose", ["x", "a", "b"], strides=[2, 3], output_padding=[1, 2], pads=[1, 0, 0, 2], group=2),
        (f(4, 3, 3, 4), f(6)),
    ),
    "transposed to a shape": (
        11, node("ConvTranspose", ["x", "a"], strides=[2, 2], output_shape=[11, 10]), (f(4, 3, 3, 3),)
    ),
    "max pool": (12, node("MaxPool", ["x"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, pads=[1, 0, 0, 1]), ()),
    "average": (
        11, node("AveragePool", ["x"], kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1, pads=[1, 0, 1, 0]), ()
    ),
    "average all": (
        11, node("AveragePool", ["x"], kernel_shape=[3, 3], strides=[2, 1], pads=[1, 1, 1, 1], count_include_pad=1), ()
    ),
    "lrn": (13, node("LRN", ["x"], size=3, alpha=0.1), ()),
    "depth": (11, node("DepthToSpace", ["x"], blocksize=2, mode="CRD"), ()),
    "top k": (11, node("TopK", ["x", "a"], ("y", "z"), axis=1, largest=0), (i(2),)),
    "einsum": (12, node("Einsum", ["x", "a"], equation="bchw,cd->bhwd"), (f(4, 3),)),
    "arg max": (12, node("ArgMax", ["x"], axis=2, select_last_index=1), ()),
    "gather": (11, node("Gather", ["x", "a"], axis=2), (np.array([[0, -1], [2, 1]], np.int64),)),
    "gather nd": (12, node("GatherND", ["x", "a"], batch_dims=1), (np.array([[[0, -1]], [[2, 1]]], np.int64),)),
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_operator_sets(tmp_path, name):
    opset, made, more = OLD[name]
    stored = dict(zip("abcd", more, strict=False)) | ({"e": np.zeros(0, np.float32)} if "e" in made.input else {})
    x = f(1, 4, 6, 5) if name == "squeeze 13" else f(2, 4, 6, 5)
    agree(tmp_path, [made], {"x": x}, stored, opset=max(opset, 7), outputs=tuple(made.output))


RECURRENT = {"LSTM": 4, "GRU": 3, "RNN": 1}


@pytest.mark.parametrize("op", RECURRENT)
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("lengths", [False, True])
def test_recurrent(tmp_path, op, direction, lengths):
    d, g, hidden = 2 if direction == "bidirectional" else 1, RECURRENT[op], 3
    stored = {"w": f(d, g * hidden, 4), "r": f(d, g * hidden, hidden), "b": f(d, 2 * g * hidden), "h": f(d, 2, hidden)}
    inputs = ["x", "w", "r", "b", "n" if lengths else "", "h"]
    attributes = {"hidden_size": hidden, "direction": direction}
    if lengths:
        stored["n"] = np.array([5, 2], np.int32)
    if op == "LSTM":
        inputs += ["c", "p"]
        stored |= {"c": f(d, 2, hidden), "p": f(d, 3 * hidden)}
    if op == "GRU":
        attributes["linear_before_reset"] = int(lengths)
    outputs = ("y", "z", "s")[: 3 if op == "LSTM" else 2]
    agree(tmp_path, [node(op, inputs, outputs, **attributes)], {"x": f(5, 2, 4)}, stored, outputs=outputs)


T = f(6, 3)  # angles of rotary positions
MICROSOFT = {
    "FastGelu": (own("FastGelu", ["x", "a"]), (f(8),)),
    "BiasGelu": (own("BiasGelu", ["x", "a"]), (f(8),)),
    "QuickGelu": (own("QuickGelu", ["x"], alpha=1.3), ()),
    "FusedMatMul": (own("FusedMatMul", ["x", "a"], transB=1, alpha=0.3), (f(5, 8),)),
    "SkipLayerNormalization": (
        own("SkipLayerNormalization", ["x", "a", "b", "c", "d"]), (f(2, 6, 8), f(8), f(8), f(8))
    ),
    "SkipSimplifiedLayerNormalization": (
        own("SkipSimplifiedLayerNormalization", ["x", "a", "b"], epsilon=1e-5), (f(2, 6, 8), f(8))
    ),
    "Attention": (own("Attention", ["x", "a", "b"], num_heads=2), (f(8, 24), f(24))),
    "Attention, causal": (own("Attention", ["x", "a", "b"], num_heads=2, unidirectional=1), (f(8, 24), f(24))),
    "Attention, masked": (
        own("Attention", ["x", "a", "b", "c"], num_heads=2),
        (f(8, 24), f(24), np.array([[1] * 6, [1] * 4 + [0] * 2], np.int32)),
    ),
    "MultiHeadAttention": (
        own("MultiHeadAttention", ["x", "a", "b", "c"], num_heads=4), (f(2, 3, 8), f(2, 3, 8), f(24))
    ),
    "RotaryEmbedding": (
        own("RotaryEmbedding", ["x", "p", "a", "b"], num_heads=2), (np.cos(T)[:, :2], np.sin(T)[:, :2])
    ),
    "RotaryEmbedding, interleaved": (
        own("RotaryEmbedding", ["x", "p", "a", "b"], num_heads=2, interleaved=1), (np.cos(T)[:, :2], np.sin(T)[:, :2])
    ),
    "DynamicQuantizeMatMul": (
        own("DynamicQuantizeMatMul", ["x", "a", "b", "c"]),
        (R.integers(0, 255, (8, 5)).astype(np.uint8), np.float32(0.02), np.uint8(120)),
    ),

}  # fmt: skip


@pytest.mark.parametrize("name", MICROSOFT)
def test_operators_of_onnx_runtime(tmp_path, name):
    made, more = MICROSOFT[name]
    stored = dict(zip("abcd", more, strict=False))
    if "p" in made.input:
        stored["p"] = np.arange(12, dtype=np.int64).reshape(2, 6) % 6
    # rounding falls to the other side where a value lies between two integers
    agree(tmp_path, [made], {"x": f(2, 6, 8)}, stored, close=8e-2 if "Quantize" in name else 2e-5)


@pytest.mark.parametrize("past", [0, 3])
@pytest.mark.parametrize("rotary", [0, 1])
@pytest.mark.parametrize("packed", [False, True])
def test_grouped_attention_of_onnx_runtime(tmp_path, past, rotary, packed):
    length, width = (5, 16) if not past else (1, 16)
    total = past + length
    stored = {"p": f(1, 2, past, width), "q": f(1, 2, past, width), "n": np.array([[total - 1]], np.int32)}
    stored |= {"t": np.array([total], np.int32), "c": np.cos(f(9, width // 2)), "s": np.sin(f(9, width // 2))}
    feeds = {"x": f(1, length, 8 * width)} if packed else {"x": f(1, length, 4 * width)}
    feeds |= {} if packed else {"k": f(1, length, 2 * width), "v": f(1, length, 2 * width)}
    inputs = ["x", "", "" if packed else "v", "p", "q", "n", "t", *(["c", "s"] if rotary else [])]
    inputs[1] = "" if packed else "k"
    made = own(
        "GroupQueryAttention", inputs, ("y", "pk", "pv"), num_heads=4, kv_num_heads=2, do_rotary=rotary,
        local_window_size=4 if packed else -1,
    )  # fmt: skip
    agree(tmp_path, [made], feeds, stored, outputs=("y", "pk", "pv"))


def test_quantised_convolution_is_close_and_has_a_gradient(tmp_path):
    nodes = [
        node("DynamicQuantizeLinear", ["x"], ("q", "s", "z")), node("ConvInteger", ["q", "w", "z", "o"], ("h",)),
        node("Cast", ["h"], ("g",), to=1), node("Mul", ["g", "s"]),
    ]  # fmt: skip
    stored = {"w": R.integers(0, 255, (3, 2, 3, 3)).astype(np.uint8), "o": np.array(128, np.uint8)}
    x = f(1, 2, 6, 6)
    agree(tmp_path, nodes, {"x": x}, stored, close=1e-3)
    from initaudit.live.execute import Executor

    given = torch.from_numpy(x).requires_grad_()
    Executor(formats.read(tmp_path / "m.onnx").graph).run({"x": given})["y"].square().sum().backward()
    assert given.grad.abs().mean() > 0


def test_gradients_of_operators_are_those_of_differences(tmp_path):
    nodes = [
        node("Conv", ["x", "w"], ("a",), pads=[1, 0, 0, 1], strides=[1, 2]),
        node("Resize", ["a", "e", "k"], ("b",), mode="cubic"),
        node("AveragePool", ["b"], ("c",), kernel_shape=[2, 2], ceil_mode=1, strides=[2, 2]),
        node("InstanceNormalization", ["c", "g", "h"], ("d",)), node("LpNormalization", ["d"], ("y",), axis=1),
    ]  # fmt: skip
    stored = {
        "w": f(3, 2, 2, 2), "e": np.zeros(0, np.float32), "k": np.array([1, 1, 1.5, 2], np.float32),
        "g": f(3), "h": f(3),
    }  # fmt: skip
    agree(tmp_path, nodes, {"x": f(1, 2, 5, 6)}, stored)
    from initaudit.live.execute import Executor

    ex = Executor(formats.read(tmp_path / "m.onnx").graph, dtype=torch.float64)
    x = torch.randn(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: ex.run({"x": v})["y"], (x,))
    assert {"w", "g", "h"} <= set(ex.parameters)
