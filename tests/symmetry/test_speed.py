"""What makes the analysis cheap on ordinary models: no second round, no second walk, each weight read few times."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from initaudit import symmetry
from initaudit.graph.view import View
from initaudit.symmetry.engine import Walk
from initaudit.types import Graph, Layer, Node, Tensor


def chain(weights, biases=False):
    """A chain of linear layers and ReLUs, what is read of it, and what is let go of."""
    nodes, constants, shapes, layers = [], {}, {}, []
    read, gone = Counter(), Counter()
    at = "x"
    for k, w in enumerate(weights):
        name = f"{k}.weight"

        def load(name=name, w=w):
            read[name] += 1
            return w

        constants[name] = Tensor(name, w.shape, "float32", load, release=lambda name=name: gone.update([name]))
        bias = ""
        if biases:
            bias = f"{k}.bias"
            constants[bias] = Tensor(bias, w.shape[:1], "float32", lambda w=w: np.zeros(len(w), np.float32))
        nodes += [Node("linear", (at, name, bias), (f"h{k}",)), Node("relu", (f"h{k}",), (f"r{k}",))]
        shapes |= dict.fromkeys((f"h{k}", f"r{k}"), (2, len(w)))
        layers.append(Layer(str(k), "linear", constants[name], "oi"))
        at = f"r{k}"
    return Graph(tuple(nodes), {"x": (2, weights[0].shape[1])}, (at,), constants, shapes), layers, read, gone


def drawn(*widths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((b, a)).astype(np.float32) for a, b in pairwise(widths)]


def test_what_differs_at_once_needs_one_way_up_and_one_step():
    graph, layers, read, gone = chain(drawn(200, 150, 160, 140), biases=True)
    told = symmetry.analyse(graph, layers)
    assert told.rounds == 1
    assert [one.width for one in told.layers] == [150, 160, 140]
    assert told.parameters == ()
    assert max(read.values()) <= 6
    assert set(gone) == set(read)  # all are larger than what is kept


def test_a_zero_layer_needs_its_gradient_to_differ():
    weights = drawn(30, 20, 10)
    weights[1][:] = 0
    told = symmetry.analyse(*chain(weights)[:2])
    assert told.rounds == 2
    assert [one.width for one in told.layers] == [20, 10]


@pytest.mark.parametrize("seed", range(6))
def test_stopping_early_tells_what_all_rounds_tell(seed):
    rng = np.random.default_rng(seed)
    weights = drawn(8, 12, 12, 6, seed=seed)
    if seed % 3:  # ties that go through, in some
        weights[0][1] = weights[0][0]
        weights[1][:, 1] = weights[1][:, 0]
    if seed % 2:  # and some that do not
        weights[1][3] = weights[1][4]
        weights[2][:, 3] += rng.standard_normal(6).astype(np.float32)
    graph, layers, *_ = chain(weights)
    walk = Walk(View(graph), lambda tensor: False)
    walk.run()
    assert walk.stable
    whole = symmetry.analysis.told(walk, layers)
    told = symmetry.analyse(graph, layers)
    assert [one.classes for one in told.layers] == [one.classes for one in whole]
    assert told.rounds <= walk.rounds


def test_labels_only_split_from_round_to_round():
    rng = np.random.default_rng(0)
    weights = drawn(6, 9, 9, 4)
    for k in (0, 1):
        weights[k][5:] = weights[k][:4]
    weights[2][:, 5:] = weights[2][:, :4]
    weights[1][:, 5:] = weights[1][:, :4]
    weights[1][8] += rng.standard_normal(9).astype(np.float32)
    graph, layers, *_ = chain(weights)
    seen = []

    def look(walk):
        seen.append(symmetry.analysis.told(walk, layers))
        return False

    Walk(View(graph), lambda tensor: False).run(look)
    assert len(seen) > 1
    for before, after in pairwise(seen):
        for old, new in zip(before, after, strict=True):
            assert new.width >= old.width
            for one in new.classes:
                assert any(set(one) <= set(other) for other in old.classes)


def test_equal_gradients_of_units_that_differ_are_not_passed_over():
    rng = np.random.default_rng(0)
    weights = {
        "a": rng.standard_normal((12, 8)),
        "scale": np.ones(12),
        "b": np.full((1, 12), 0.25),
    }
    constants = {k: Tensor(k, w.shape, "float64", lambda w=w: w) for k, w in weights.items()}
    nodes = (
        Node("linear", ("x", "a", ""), ("h",)),
        Node("layer_norm", ("h", "scale", ""), ("n",), {"normalized_shape": (12,), "epsilon": 1e-5}),
        Node("linear", ("n", "b", ""), ("y",)),
    )
    graph = Graph(nodes, {"x": (2, 8)}, ("y",), constants, {"h": (2, 12), "n": (2, 12), "y": (2, 1)})
    layers = [Layer(k, "linear", constants[k], "oi") for k in ("a", "b")]
    told = {p.name: p for p in symmetry.analyse(graph, layers).parameters}
    assert told["a"].wake == 2  # the norm takes the mean from a gradient that is the same for all its units
