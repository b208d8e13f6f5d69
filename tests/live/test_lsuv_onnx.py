"""LSUV on ONNX files: variances as onnxruntime computes them in the file that was written."""

import numpy as np
import pytest

from initaudit import formats
from initaudit.edits import Edit
from initaudit.formats import writing

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
helper = pytest.importorskip("onnx.helper")

from initaudit.live.lsuv import calibrate  # noqa: E402
from tests.live.scaled import draw, recipes  # noqa: E402

R = np.random.default_rng(0)


def f(*shape, dtype=np.float32):
    return R.standard_normal(shape).astype(dtype)


def node(op, inputs, outputs=("y",), **attributes):
    return helper.make_node(op, inputs, outputs, **attributes)


def repaired(folder, nodes, feeds, stored, *, outputs=("y",), opset=17, open_batch=True):
    """Scale all weights of a file; return what came of it, and what onnxruntime makes of the result."""
    kinds = {name: helper.np_dtype_to_tensor_dtype(a.dtype) for name, a in feeds.items()}
    shapes = {name: ["n" if open_batch else a.shape[0], *a.shape[1:]] for name, a in feeds.items()}
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info(name, kinds[name], shapes[name]) for name in feeds],
        [onnx.helper.make_empty_tensor_value_info(name) for name in outputs],
        [onnx.numpy_helper.from_array(a, name) for name, a in stored.items()],
    )  # fmt: skip
    path = folder / "m.onnx"
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    model = formats.read(path)
    todo = recipes(model)
    done = calibrate(model, todo, draw, data=dict(feeds))
    edits = [Edit(todo[at].tensor, values) for at, values in done.values.items()]
    with writing.stage(path, edits, folder / "out.onnx") as staged:
        staged.commit()
    session = runtime.InferenceSession(str(folder / "out.onnx"), providers=["CPUExecutionProvider"])
    return done, dict(zip(outputs, session.run(list(outputs), feeds), strict=True)), weights(folder / "out.onnx")


def weights(path):
    return {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(str(path)).graph.initializer}


def near(value, tol=2e-3):
    return float(np.asarray(value, np.float64).var()) == pytest.approx(1, abs=tol)


def test_products_in_every_spelling(tmp_path):
    x = f(64, 3, 10) * 2
    stored = {
        "w1": f(10, 12),
        "b1": f(12) * 0.3,
        "w2": f(8, 12),
        "b2": f(8) * 0.1,
        "w3": f(8, 5),
        "rows": np.array([-1, 12], np.int64),
    }
    nodes = [
        node("MatMul", ["x", "w1"], ["p"]), node("Add", ["p", "b1"], ["h1"]), node("Relu", ["h1"], ["r1"]),
        node("Reshape", ["r1", "rows"], ["flat"]),
        node("Gemm", ["flat", "w2", "b2"], ["h2"], transB=1, alpha=0.5, beta=2.0), node("Tanh", ["h2"], ["r2"]),
        node("Einsum", ["r2", "w3"], ["y"], equation="ni,io->no"),
    ]  # fmt: skip
    done, made, _ = repaired(tmp_path, nodes, {"x": x}, stored, outputs=("h1", "h2", "y"))
    assert all(near(value) for value in made.values())
    assert not any(row.why for row in done.reached)


def test_convolutions_with_folded_norms_and_a_fixed_batch(tmp_path):
    x = f(2, 4, 9, 9)
    stored = {"w1": f(8, 2, 3, 3), "b1": f(8) * 0.2, "w2": f(8, 3, 4, 4)}
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["h1"], group=2, pads=[1, 1, 1, 1]), node("Clip", ["h1"], ["r1"]),
        node("ConvTranspose", ["r1", "w2"], ["y"], strides=[2, 2]),
    ]  # fmt: skip
    _, made, _ = repaired(tmp_path, nodes, {"x": x}, stored, outputs=("h1", "y"), open_batch=False)
    assert all(near(value) for value in made.values())


def test_a_table_tied_to_the_head_by_a_transpose_is_decided_by_its_look_up(tmp_path):
    ids = R.integers(0, 20, (40, 6))
    stored = {"table": f(20, 8), "w": f(8, 8)}
    nodes = [
        node("Gather", ["table", "ids"], ["e"]), node("MatMul", ["e", "w"], ["h"]),
        node("Transpose", ["table"], ["t"], perm=[1, 0]), node("MatMul", ["h", "t"], ["y"]),
    ]  # fmt: skip
    done, made, after = repaired(tmp_path, nodes, {"ids": ids}, stored, outputs=("e", "h", "y"))
    assert near(made["e"])
    assert near(made["h"])
    assert any(row.why and row.variance == pytest.approx(float(made["y"].var()), rel=1e-3) for row in done.reached)
    np.testing.assert_allclose(made["y"], made["h"] @ after["table"].T, rtol=1e-3, atol=1e-3)


def test_projections_inside_of_onnx_runtimes_attention(tmp_path):
    x = f(24, 5, 8) * 2
    stored = {"w": f(8, 24), "b": f(24) * 0.3, "out": f(8, 6)}
    attention = node("Attention", ["x", "w", "b"], ["a"], domain="com.microsoft", num_heads=2)
    nodes = [attention, node("MatMul", ["a", "out"], ["y"])]
    _, made, after = repaired(tmp_path, nodes, {"x": x}, stored)
    assert near(made["y"])
    assert all(near(part) for part in np.split(x @ after["w"] + after["b"], 3, -1))


def test_half_precision_behind_a_cast(tmp_path):
    x = f(64, 10)
    nodes = [node("Cast", ["w"], ["v"], to=1), node("MatMul", ["x", "v"], ["y"])]
    done, made, after = repaired(tmp_path, nodes, {"x": x}, {"w": f(10, 24, dtype=np.float16)})
    assert near(made["y"], 0.01)
    assert after["w"].dtype == np.float16
    assert done.reached[0].variance == pytest.approx(float(made["y"].var()), rel=1e-4)


def steps(op, x, w, r, b, *, back=False, before=False):
    """The recurrent matrix's own products, as ONNX defines them, and the outputs."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    hidden = r.shape[1]
    h = c = np.zeros((x.shape[1], hidden))
    bi, bh = np.split(b, 2)
    own, outs = {}, {}
    for t in reversed(range(len(x))) if back else range(len(x)):
        product = h @ r.T
        a = x[t] @ w.T + bi
        if op == "LSTM":
            i, o, g, n = np.split(a + product + bh, 4, -1)
            c = sigmoid(g) * c + sigmoid(i) * np.tanh(n)
            h = sigmoid(o) * np.tanh(c)
        elif op == "GRU":
            z, reset = sigmoid((a + product + bh)[:, :hidden]), sigmoid((a + product + bh)[:, hidden : 2 * hidden])
            if before:
                last = (reset * h) @ r[2 * hidden :].T
                product = np.concatenate([product[:, : 2 * hidden], last], -1)
                n = np.tanh(a[:, 2 * hidden :] + last + bh[2 * hidden :])
            else:
                n = np.tanh(a[:, 2 * hidden :] + reset * (product + bh)[:, 2 * hidden :])
            h = (1 - z) * n + z * h
        else:
            h = np.tanh(a + product + bh)
        own[t], outs[t] = product, h
    return np.stack([own[t] for t in range(len(x))]), np.stack([outs[t] for t in range(len(x))])


@pytest.mark.parametrize(
    ("op", "options"),
    [
        ("LSTM", {"direction": "bidirectional"}),
        ("GRU", {"linear_before_reset": 0}),
        ("GRU", {"linear_before_reset": 1, "direction": "reverse"}),
        ("RNN", {}),
    ],
)
def test_recurrent_nodes_gate_by_gate(tmp_path, op, options):
    gates, hidden = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], 9
    both = options.get("direction") == "bidirectional"
    d = 1 + both
    x = f(18, 24, 7)
    stored = {"w": f(d, gates * hidden, 7), "r": f(d, gates * hidden, hidden), "b": f(d, 2 * gates * hidden) * 0.3}
    nodes = [node(op, ["x", "w", "r", "b"], ["y"], hidden_size=hidden, **options)]
    done, made, after = repaired(tmp_path, nodes, {"x": x}, stored, open_batch=False)
    assert not any(row.why for row in done.reached)
    np.testing.assert_array_equal(after["b"], stored["b"])
    for k in range(d):
        back = k == 1 or options.get("direction") == "reverse"
        before = options.get("linear_before_reset") == 0
        own, outs = steps(op, x, after["w"][k], after["r"][k], after["b"][k], back=back, before=before)
        np.testing.assert_allclose(outs, made["y"][:, k], rtol=1e-3, atol=1e-3)
        assert all(near(part) for part in np.split(x @ after["w"][k].T, gates, -1))
        assert all(near(part, 0.05) for part in np.split(own, gates, -1))


def test_gates_that_an_exporter_put_in_another_order_are_written_back(tmp_path):
    """As torch's exporter does: the matrix of the file is cut and joined anew before the node takes it."""
    hidden, x = 6, f(16, 20, 5)
    stored = {
        "w": f(4 * hidden, 5),
        "r": f(1, 4 * hidden, hidden),
        "sizes": np.full(4, hidden, np.int64),
        "zero": np.array([0], np.int64),
    }
    nodes = [
        node("Split", ["w", "sizes"], ["wi", "wf", "wg", "wo"], axis=0),
        node("Concat", ["wi", "wo", "wf", "wg"], ["c"], axis=0),
        node("Unsqueeze", ["c", "zero"], ["w1"]), node("LSTM", ["x", "w1", "r"], ["y"], hidden_size=hidden),
    ]  # fmt: skip
    done, _, after = repaired(tmp_path, nodes, {"x": x}, stored, open_batch=False)
    assert not any(row.why for row in done.reached)
    assert all(near(part) for part in np.split(x @ after["w"].T, 4, -1))
