import numpy as np
import pytest

from initaudit.graph.settled import settled
from initaudit.types import Graph, Node, Tensor

W = np.random.default_rng(0).standard_normal((6, 10)).astype(np.float32)


def graph(u_length=6, op="matmul"):
    rng = np.random.default_rng(1)
    held = {"w": W, "u": rng.standard_normal(u_length), "v": rng.standard_normal(10)}
    constants = {
        name: Tensor(name, value.shape, "float32", lambda value=value: value.astype(np.float32))
        for name, value in held.items()
    }
    nodes = (
        Node("matmul", ("w", "v"), ("wv",)),
        Node(op, ("u", "wv"), ("sigma",)),
        Node("div", ("w", "sigma"), ("normed",)),
        Node("linear", ("x", "normed"), ("y",)),
    )
    return Graph(nodes, {"x": (2, 10)}, ("y",), constants)


def test_the_product_becomes_the_largest_singular_value():
    now = settled(graph()).constants
    u, v = now["u"].load(), now["v"].load()
    assert u.dtype == np.float32
    assert float(u @ W @ v) == pytest.approx(np.linalg.svd(W, compute_uv=False)[0], rel=0.05)
    assert now["w"] == graph().constants["w"]


@pytest.mark.parametrize("other", [graph(u_length=5), graph(op="add")])
def test_other_products_stay_as_they_are(other):
    assert settled(other) is other


def test_old_and_new_spectral_norm_of_torch_give_weights_of_norm_one():
    torch = pytest.importorskip("torch")
    from torch import nn

    from initaudit.live import model as live
    from initaudit.live.execute.executor import Executor

    for put in (nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm):
        torch.manual_seed(0)
        one = live.read(put(nn.Linear(32, 16, bias=False)).eval(), torch.randn(32, 32)).graph
        x = torch.eye(32)
        made = Executor(settled(one)).run({next(iter(one.inputs)): x}, one.outputs)
        matrix = next(iter(made.values())).detach().numpy()
        assert np.linalg.svd(matrix, compute_uv=False)[0] == pytest.approx(1, rel=0.05)
