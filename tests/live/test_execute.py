import math

import numpy as np
import pytest

from initaudit.errors import UnsupportedError, UsageError
from initaudit.types import Call, Graph, Node, Ref, Tensor

torch = pytest.importorskip("torch")


def tensor(name, values, dtype="float32", **options):
    array = np.asarray(values, dtype=dtype)
    return Tensor(name, array.shape, str(array.dtype), lambda: array, **options)


def graph(*nodes, inputs=None, outputs=("y",), constants=()):
    return Graph(nodes, inputs or {"x": (2, 3)}, outputs, {t.name: t for t in constants})


def executor(*args, **options):
    from initaudit.live.execute import Executor

    return Executor(graph(*args, **options))


def called(target, *args, outputs=("y",), op="other", **kwargs):
    inputs = tuple(a.name for a in args if isinstance(a, Ref))
    return Node(op, inputs, outputs, call=Call(target, args, kwargs))


def traced(module, **inputs):
    from initaudit.live import model
    from initaudit.live.execute import Executor

    return Executor(model.read(module, inputs).graph)


# ---- plan and values


def test_only_what_is_wanted_runs():
    ex = executor(Node("relu", ("x",), ("a",)), Node("nonsense", ("x",), ("b",)), outputs=("a", "b"))
    assert ex.missing == ("nonsense: not implemented",)
    assert ex.lacking(["a"]) == ()
    assert ex.run({"x": -torch.ones(2, 3)}, ["a"])["a"].eq(0).all()
    with pytest.raises(UnsupportedError, match="nonsense cannot be run"):
        ex.run({"x": torch.ones(2, 3)})


def test_values_die_after_their_last_use():
    import weakref

    seen, alive = [], []

    def watch(name, value):
        alive.append(sum(ref() is not None for ref in seen))
        seen.append(weakref.ref(value))

    chain = [Node("neg", (f"v{k}" if k else "x",), (f"v{k + 1}",)) for k in range(20)]
    ex = executor(*chain, outputs=("v20",))
    with torch.no_grad():
        out = ex.run({"x": torch.ones(2, 3)}, watch=watch)
    assert list(out) == ["v20"]
    assert max(alive) <= 2


def test_kept_and_replaced_values():
    ex = executor(Node("neg", ("x",), ("a",)), Node("neg", ("a",), ("y",)))
    out = ex.run({"x": torch.ones(2, 3)}, keep=lambda name: name == "a", watch=lambda n, v: v * 2 if n == "a" else None)
    assert out["a"].eq(-2).all()
    assert out["y"].eq(2).all()


def test_inputs_must_be_there_and_fit():
    ex = executor(Node("neg", ("x",), ("y",)))
    with pytest.raises(UsageError, match="no value for the input x"):
        ex.run({})
    with pytest.raises(UsageError, match="shape"):
        ex.run({"x": torch.ones(4, 3)})


def test_tied_weights_are_one_leaf_and_buffers_none():
    one = tensor("a", np.ones((3, 3)), storage="s")
    other = tensor("b", np.ones((3, 3)), storage="s")
    fixed = tensor("c", np.ones(3), buffer=True)
    ex = executor(
        Node("matmul", ("x", "a"), ("h",)), Node("matmul", ("h", "b"), ("g",)), Node("add", ("g", "c"), ("y",)),
        constants=(one, other, fixed),
    )  # fmt: skip
    assert set(ex.parameters) == {"a", "b"}
    assert ex.parameters["a"] is ex.parameters["b"]
    ex.run({"x": torch.ones(2, 3)})["y"].sum().backward()
    assert ex.parameters["a"].grad.ne(0).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_computed_in_single(dtype):
    import ml_dtypes

    array = np.full((3, 3), 0.1).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)
    weight = Tensor("w", (3, 3), dtype, lambda: array)
    ex = executor(Node("matmul", ("x", "w"), ("h",)), Node("cast", ("h",), ("y",), {"to": 10}), constants=(weight,))
    out = ex.run({"x": torch.ones(2, 3, dtype=torch.float16)})["y"]
    assert out.dtype == torch.float32
    assert float(out[0, 0].detach()) == float(array.astype(np.float32)[0, 0] * 3)


def test_double_precision_where_asked_for():
    from initaudit.live.execute import Executor

    made = graph(Node("matmul", ("x", "w"), ("y",)), constants=(tensor("w", np.eye(3)),))
    ex = Executor(made, dtype=torch.float64)
    x = torch.rand(2, 3, dtype=torch.float64)
    assert torch.equal(ex.run({"x": x})["y"], x)


def test_condition_chooses_and_the_other_branch_may_fail():
    nodes = (
        Node("reshape", ("x", "wrong"), ("a",)), Node("neg", ("x",), ("b",)),
        Node("phi", ("a", "b"), ("y",), {"condition": "c"}),
    )  # fmt: skip
    made = executor(*nodes, inputs={"x": (2, 3), "c": ()}, constants=(tensor("wrong", [5, 7], "int64"),))
    assert made.run({"x": torch.ones(2, 3), "c": torch.tensor(False)})["y"].eq(-1).all()
    with pytest.raises(UnsupportedError, match="reshape"):
        made.run({"x": torch.ones(2, 3), "c": torch.tensor(True)})


def test_values_that_a_loop_joins_are_told():
    ex = executor(Node("phi", ("x", "x"), ("y",)))
    assert "loop" in ex.missing[0]


def test_runs_repeat_to_the_bit():
    ex = executor(Node("random_normal_like", ("x",), ("r",)), Node("add", ("r", "x"), ("y",)))
    state = torch.random.get_rng_state()
    first, second = (ex.run({"x": torch.ones(2, 3)})["y"] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.random.get_rng_state())


# ---- recorded calls


@pytest.mark.parametrize(
    "target",
    ["os.system", "system", "__class__", "__init__", "load", "save", "jit.load", "hub.load", "set_", "from_file",
     "Tensor.__reduce__", "_C._jit_init", "resize_", "frombuffer", "compile", "classes.load_library", "__getattr__",
     "_unsafe_index_put_impl", "Tensor.storage", "register_hook", "numpy", "utils.checkpoint", "ops.load_library"],
)  # fmt: skip
@pytest.mark.parametrize("prefix", ["", "aten.", "aten::", "torch."])
def test_no_name_leads_out_of_the_table(prefix, target):
    from initaudit.live.execute.functions import candidates

    assert candidates(prefix + target) == ()


def test_every_name_of_the_table_is_a_function_of_torch_or_missing():
    from initaudit.live.execute.functions import candidates
    from initaudit.torch_ops.builder import TABLES

    for dialect, table in TABLES.items():
        found = [name for name in table if candidates(("aten." if dialect == "aten" else "") + name)]
        assert len(found) > 0.8 * len(table)
        for name in found:
            for function in candidates(name):
                assert callable(function)
                assert not isinstance(function, type)


def test_writes_leave_the_value_before_them_alone():
    ex = executor(
        called("add_", Ref("x"), 1.0, outputs=("a",)),
        called("__setitem__", Ref("a"), (0, slice(None)), 5.0, outputs=("b",)),
        called("add", Ref("x"), Ref("b")),
        outputs=("a", "b", "y"),
    )
    x = torch.zeros(2, 3)
    out = ex.run({"x": x})
    assert x.eq(0).all()
    assert out["a"].eq(1).all()
    assert out["b"].tolist() == [[5.0] * 3, [1.0] * 3]
    assert torch.equal(out["y"], out["b"])


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (("to", Ref("x"), "float16"), lambda x: x),
        (("where", Ref("x"), Ref("m"), 0.0), lambda x: x * (x > 0)),
        (("__rsub__", Ref("x"), 1.0), lambda x: 1 - x),
        (("T.__get__", Ref("x")), lambda x: x.T),
        (("unfold", Ref("x"), 1, 2, 1), lambda x: torch.stack([x[:, :2], x[:, 1:]], 1)),
        (("repeat", Ref("x"), 2, 1), lambda x: torch.cat([x, x])),
        (("permute", Ref("x"), 1, 0), lambda x: x.T),
        (("softmax", Ref("x"), 1, "float32"), lambda x: torch.softmax(x, 1)),
        (("dropout", Ref("x"), 0.5, True), lambda x: x),
        (("zeros_like", Ref("x")), torch.zeros_like),
        (("empty", (2, 3)), torch.zeros_like),
    ],
)
def test_calls(call, wanted):
    shapes = {"y": (2, 2, 2)} if call[0] == "unfold" else {}
    op = "dropout" if call[0] == "dropout" else "other"
    made = graph(called("gt", Ref("x"), 0, outputs=("m",)), called(*call, op=op))
    from initaudit.live.execute import Executor

    ex = Executor(Graph(made.nodes, made.inputs, made.outputs, made.constants, shapes))
    x = torch.randn(2, 3)
    assert torch.equal(ex.run({"x": x})["y"], wanted(x))


class Net(torch.nn.Module):
    """A little of everything: a norm, dropout, writes in place, views, a recurrent layer."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)
        self.rnn = torch.nn.LSTM(4, 5, num_layers=2, dropout=0.3, bidirectional=True, batch_first=True)
        self.head = torch.nn.Linear(10, 7)

    def forward(self, x):
        x = torch.nn.functional.dropout(self.norm(self.conv(x)), 0.5, self.training)
        x[:, 0] += 1.0
        x.relu_()
        x = x.flatten(2).transpose(1, 2)
        y, (h, _) = self.rnn(x)
        return self.head(y).mean(1), h


def test_module_and_graph_agree_with_gradients():
    torch.manual_seed(0)
    net = Net().eval()
    net.norm.running_mean.normal_()
    x = torch.randn(4, 3, 5, 5)
    ex = traced(net, x=x)
    assert ex.missing == ()
    made, wanted = ex.run({"x": x}), net(x)
    for name, value in zip(ex.graph.outputs, wanted, strict=True):
        torch.testing.assert_close(made[name], value)
    sum(made[name].square().sum() for name in ex.graph.outputs).backward()
    sum(value.square().sum() for value in wanted).backward()
    own = dict(net.named_parameters())
    assert set(ex.parameters) == set(own)
    for name, leaf in ex.parameters.items():
        torch.testing.assert_close(leaf.grad, own[name].grad)


def test_a_detached_value_passes_no_gradient():
    ex = executor(called("detach", Ref("x"), outputs=("d",)), called("mul", Ref("x"), Ref("d")))
    x = torch.full((2, 3), 3.0, requires_grad=True)
    ex.run({"x": x})["y"].sum().backward()
    assert x.grad.eq(3).all()


def test_training_norms_use_the_batch():
    from initaudit.live import model
    from initaudit.live.execute import Executor

    torch.manual_seed(0)
    net = Net().eval()
    x = torch.randn(4, 3, 5, 5) * 7 + 3
    made = model.read(net, {"x": x}).graph
    name = next(node.outputs[0] for node in made.nodes if node.op == "batch_norm")
    value = Executor(made, training_norms=True).run({"x": x}, [name])[name]
    assert value.mean((0, 2, 3)).abs().max() < 1e-5
    assert (value.var((0, 2, 3), unbiased=False) - 1).abs().max() < 1e-3
    still = Executor(made).run({"x": x}, [name])[name]
    torch.testing.assert_close(still, net.norm(net.conv(x)))


def test_a_failing_call_says_where():
    ex = executor(called("matmul", Ref("x"), Ref("x")))
    with pytest.raises(UnsupportedError, match=r"other y: matmul: mat1 and mat2"):
        ex.run({"x": torch.ones(2, 3)})


def test_gradients_of_rounding_pass():
    scale, zero = tensor("s", 0.5), tensor("z", 3, "uint8")
    ex = executor(
        Node("quantize_linear", ("x", "s", "z"), ("q",)), Node("dequantize_linear", ("q", "s", "z"), ("y",)),
        constants=(scale, zero),
    )  # fmt: skip
    x = torch.tensor([[0.6, 1.2, -0.4], [2.0, 0.0, 1e9]], requires_grad=True)
    out = ex.run({"x": x})["y"]
    assert out.tolist() == [[0.5, 1.0, -0.5], [2.0, 0.0, 126.0]]
    out.sum().backward()
    assert x.grad.tolist() == [[1, 1, 1], [1, 1, 0]]


def test_gradient_of_a_power_at_zero_is_finite():
    ex = executor(Node("pow", ("x", "two"), ("y",)), constants=(tensor("two", 2.0),))
    x = torch.zeros(2, 3, requires_grad=True)
    ex.run({"x": x})["y"].sum().backward()
    assert x.grad.eq(0).all()
    assert math.isfinite(float(x.grad.sum()))
