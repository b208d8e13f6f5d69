"""Batch norms that an exporter merged into convolutions leave traces; convolutions as they were written leave none."""

import numpy as np
import pytest

from initaudit.layers.merged import merged
from initaudit.types import Graph, Node
from tests.build import tensor


def graph(nodes, names):
    constants = {
        name: tensor(name, np.ones((4, 4, 3, 3) if k % 2 == 0 else (4,), np.float32)) for k, name in enumerate(names)
    }
    return Graph(tuple(nodes), {"x": (1, 4, 8, 8)}, (nodes[-1].outputs[0],), constants)


def chain(weights, biases, places, scopes, more=()):
    nodes, value = [], "x"
    for k, (weight, bias, place, scope) in enumerate(zip(weights, biases, places, scopes, strict=True)):
        attrs = {"@scope": scope} if scope else {}
        nodes.append(Node("conv", (value, weight, bias), (f"y{k}",), attrs, place))
        nodes.append(Node("relu", (f"y{k}",), (f"z{k}",)))
        value = f"z{k}"
    nodes += [Node(op, (value,), (f"{op}_out",)) for op in more]
    return graph(nodes, [name for pair in zip(weights, biases, strict=True) for name in pair])


LAYERS = [f"layer1.{k}.conv" for k in range(4)]
OWN = [f"{path}.weight" for path in LAYERS], [f"{path}.bias" for path in LAYERS]
PLACES = [f"/layer1/layer1.{k}/conv/Conv" for k in range(4)]
NAMELESS = [f"onnx::Conv_{k}" for k in range(4)]


def test_a_node_in_the_place_of_a_norm_says_so():
    assert merged(chain(*OWN, [""] * 4, [f"layer1.{k}.bn" for k in range(4)]))
    assert not merged(chain(*OWN, [""] * 4, LAYERS))
    assert not merged(chain(*OWN, [""] * 4, ["layer1", "layer1", "", ""]))  # called from the module that holds it


def test_three_in_the_place_of_norms_are_proof_whatever_else_there_is():
    scopes = [*(f"layer1.{k}.bn" for k in range(3)), "se.0", "se.1", "se.2", "se.3"]
    weights = [*OWN[0][:3], *(f"se.{k}.weight" for k in range(4))]
    biases = [*OWN[1][:3], *(f"se.{k}.bias" for k in range(4))]
    assert merged(chain(weights, biases, [""] * 7, scopes, more=("layer_norm",)))
    assert not merged(chain(weights, biases, [""] * 7, ["", *scopes[1:]], more=("layer_norm",)))


def test_a_weight_that_lost_its_name_says_so_unless_its_bias_kept_it():
    biases = [f"onnx::Conv_{k}" for k in range(10, 14)]
    assert merged(chain(NAMELESS, biases, PLACES, [""] * 4))
    assert not merged(chain(NAMELESS, OWN[1], PLACES, [""] * 4))  # a weight norm, say, was computed in advance
    assert not merged(chain(*OWN, PLACES, [""] * 4))


@pytest.mark.parametrize("norm", ["batch_norm", "group_norm"])
def test_where_a_norm_is_left_nothing_was_merged(norm):
    nameless = chain(NAMELESS, [f"b{k}" for k in range(4)], PLACES, [""] * 4, more=(norm,))
    assert not merged(nameless)


def test_two_convolutions_are_too_few():
    assert not merged(chain(NAMELESS[:2], ["b0", "b1"], PLACES[:2], [""] * 2))
