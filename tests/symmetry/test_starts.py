"""Where ties are said to begin: at the first of tied layers that read one another, not the first of the list."""

import numpy as np

from initaudit import symmetry
from initaudit.types import Graph, Layer, Node, Tensor


def test_branches_that_read_the_input_begin_at_themselves():
    rng = np.random.default_rng(0)
    constants, layers = {}, []

    def held(name, values):
        constants[name] = Tensor(name, values.shape, "float64", lambda: values)
        layers.append(Layer(name, "linear", constants[name], "oi"))
        return name

    def tied(rows, terms, before=False):
        w = rng.standard_normal((rows, terms))
        w[1] = w[0]
        if before:
            w[:, 1] = w[:, 0]
        return w

    a = held("a", tied(4, 5))
    b = held("b", tied(4, 4, before=True))
    side = held("side", tied(4, 5))
    head = rng.standard_normal((3, 4))
    head[:, 1] = head[:, 0]
    held("head", head)
    nodes = (
        Node("linear", ("x", a, ""), ("v1",)),
        Node("relu", ("v1",), ("v2",)),
        Node("linear", ("v2", b, ""), ("v3",)),
        Node("linear", ("x", side, ""), ("v4",)),
        Node("add", ("v3", "v4"), ("v5",)),
        Node("linear", ("v5", "head", ""), ("y",)),
    )
    shapes = dict.fromkeys(("v1", "v2", "v3", "v4", "v5"), (2, 4)) | {"y": (2, 3)}
    told = symmetry.analyse(Graph(nodes, {"x": (2, 5)}, ("y",), constants, shapes), layers)
    assert [one.width for one in told.layers] == [3, 3, 3, 3]
    assert [one.start for one in told.layers] == ["a", "a", "side", ""]
