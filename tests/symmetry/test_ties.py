import itertools

import numpy as np
import pytest

from initaudit import layers, symmetry
from initaudit.types import Graph, Layer, Model, Node, Tensor

torch = pytest.importorskip("torch")
nn = torch.nn


def told(module, *examples):
    from initaudit.audit import live

    model = live(module, examples)
    found, _ = layers.infer(model)
    freedom = symmetry.analyse(model.graph, found)
    assert not freedom.why
    return {layer.name: own for layer, own in zip(found, freedom.layers, strict=True) if own is not None}


def copied(linear, into, a, b):
    with torch.no_grad():
        linear.weight[a] = linear.weight[b]
        linear.bias[a] = linear.bias[b]
        into.weight[:, a] = into.weight[:, b]


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def test_random_units_are_all_different():
    assert [own.width for own in told(mlp(), torch.randn(3, 4)).values()] == [6, 5, 2]


def test_copies_with_equal_outgoing_weights_stay_tied():
    net = mlp()
    copied(net[0], net[2], 1, 4)
    own = told(net, torch.randn(3, 4))
    assert own["0"].width == 5
    assert own["0"].classes == ((1, 4),)
    assert own["0"].start == "0"
    assert own["2"].width == 5


def test_copies_with_other_outgoing_weights_part():
    net = mlp()
    copied(net[0], net[2], 1, 4)
    with torch.no_grad():
        net[2].weight[0, 1] += 0.5
    assert told(net, torch.randn(3, 4))["0"].width == 6


def test_sums_over_tied_units_must_agree_not_weights():
    net = mlp()
    copied(net[0], net[2], 0, 1)
    copied(net[2], net[4], 0, 1)
    with torch.no_grad():
        net[2].weight[:2, :2] = torch.tensor([[0.5, 0.75], [0.75, 0.5]])
    own = told(net, torch.randn(3, 4))
    assert (own["0"].width, own["2"].width) == (5, 4)
    with torch.no_grad():
        net[2].weight[:2, :2] = torch.tensor([[0.5, 0.75], [0.75, 0.25]])
    own = told(net, torch.randn(3, 4))
    assert (own["0"].width, own["2"].width) == (6, 5)


def test_constant_layers_act_as_one_unit():
    net = mlp()
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    assert [own.width for own in told(net, torch.randn(3, 4)).values()] == [1, 1, 2]


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (4, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        y = torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.head(torch.tanh(self.o(y.transpose(1, 2).flatten(2))))


def test_whole_heads_can_be_tied():
    net = Attention()
    with torch.no_grad():
        for f in (net.q, net.k, net.v):
            f.weight[2:4], f.bias[2:4] = f.weight[4:6], f.bias[4:6]
        net.o.weight[:, 2:4] = net.o.weight[:, 4:6]
    own = told(net, torch.randn(2, 5, 8))
    assert [own[name].classes for name in "qkv"] == [((2, 4), (3, 5))] * 3


def test_queries_are_never_called_equal_to_keys():
    torch.manual_seed(0)
    net = nn.MultiheadAttention(8, 2, batch_first=True)
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    x = torch.randn(2, 5, 8)

    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.head = net, nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.net(x, x, x, need_weights=False)[0])

    around = Around()
    nn.init.constant_(around.head.weight, 0.5)
    own = told(around, x)
    assert own["net.in_proj_weight"].width == 3


class Sliced(nn.Module):
    """Experts that are slices of one tensor, each at work on its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((3, 4, 4), 0.25))
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))

    def forward(self, x):
        return sum(head(torch.tanh(x @ self.weight[k])) for k, head in enumerate(self.heads))


def test_slices_of_one_tensor_have_gradients_of_their_own():
    from initaudit.audit import live

    net = Sliced()
    for k, head in enumerate(net.heads):
        nn.init.constant_(head.weight, 0.1 * (k + 1))
    graph = live(net, (torch.randn(3, 4),)).graph
    own = Layer("weight", "linear", graph.constants["weight"], "sio")
    (freedom,) = symmetry.analyse(graph, [own]).layers
    assert freedom.classes == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11))


def test_channels_through_batch_norm_residual_and_flatten():
    class Image(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(3)
            self.a, self.norm, self.b = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3, padding=1)
            self.head = nn.Linear(6 * 16, 3)

        def forward(self, x):
            x = torch.relu(self.norm(self.a(x)))
            return self.head((x + self.b(x)).flatten(1))

    net = Image()
    with torch.no_grad():
        for conv in (net.a, net.b):
            conv.weight[2], conv.bias[2] = conv.weight[5], conv.bias[5]
        net.b.weight[:, 2] = net.b.weight[:, 5]
        net.head.weight.view(3, 6, 16)[:, 2] = net.head.weight.view(3, 6, 16)[:, 5]
    x = torch.randn(2, 3, 4, 4)
    assert [own.width for own in told(net, x).values()] == [5, 5, 5, 3]
    with torch.no_grad():
        net.head.weight.view(3, 6, 16)[0, 2, 7] += 1
    assert [own.width for own in told(net, x).values()] == [6, 6, 6, 3]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_units_are_tied_by_all_their_gates(kind):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.cell, self.head = kind(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    net = Last()
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    with torch.no_grad():
        for p in (net.cell.weight_ih_l0, net.cell.weight_hh_l0, net.cell.bias_ih_l0, net.cell.bias_hh_l0):
            for g in range(gates):
                p[5 * g] = p[5 * g + 3]
        net.cell.weight_hh_l0[:, 0] = net.cell.weight_hh_l0[:, 3]
        net.head.weight[:, 0] = net.head.weight[:, 3]
    x = torch.randn(2, 4, 3)
    assert told(net, x)["cell.weight_hh_l0"].width == 4 * gates
    with torch.no_grad():
        net.cell.bias_ih_l0[5 * (gates - 1)] += 0.5
    assert told(net, x)["cell.weight_hh_l0"].width == 5 * gates


def test_one_tensor_used_twice_must_agree_in_both_places():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(4)
            self.tokens, self.inner = nn.Embedding(7, 6), nn.Linear(6, 6)

        def forward(self, ids):
            return torch.tanh(self.inner(self.tokens(ids))) @ self.tokens.weight.T

    net = Tied()
    ids = torch.arange(7).view(1, 7)
    with torch.no_grad():
        net.tokens.weight[:, 1] = net.tokens.weight[:, 2]
        net.inner.weight[:, 1] = net.inner.weight[:, 2]
    assert told(net, ids)["tokens"].width == 6  # as the head's columns, they meet units that differ
    with torch.no_grad():
        net.inner.weight[1], net.inner.bias[1] = net.inner.weight[2], net.inner.bias[2]
    assert told(net, ids)["tokens"].width == 5


def test_an_unknown_operation_makes_all_differ():
    weight = np.full((4, 4), 0.5)
    tensors = {n: Tensor(n, (4, 4), "float64", lambda: weight, storage=n) for n in ("a", "b")}
    nodes = (
        Node("linear", ("x", "a", ""), ("h",)), Node("mystery", ("h",), ("m",)), Node("linear", ("m", "b", ""), ("y",)),
    )  # fmt: skip
    shapes = dict.fromkeys("hmy", (2, 4))
    graph = Graph(nodes, {"x": (2, 4)}, ("y",), tensors, shapes)
    own = [Layer(n, "linear", tensors[n], "oi") for n in ("a", "b")]
    freedom = symmetry.analyse(graph, own)
    assert freedom.unread == ("mystery",)
    assert [one.width for one in freedom.layers] == [4, 4]
    known = Graph(tuple(Node("relu", n.inputs, n.outputs) if n.op == "mystery" else n for n in nodes), *(
        graph.inputs, graph.outputs, graph.constants, graph.shapes))  # fmt: skip
    assert [one.width for one in symmetry.analyse(known, own).layers] == [1, 4]


def test_a_value_without_a_shape_hides_nothing():
    """Where a shape is missing, what comes back is not known: it is not zero."""
    weight = np.full((4, 4), 0.5)
    tensors = {n: Tensor(n, (4, 4), "float64", lambda: weight, storage=n) for n in ("a", "b")}
    nodes = (
        Node("linear", ("x", "a", ""), ("h",)), Node("mystery", ("h",), ("m",)), Node("mystery", ("m",), ("n",)),
        Node("linear", ("n", "b", ""), ("y",)),
    )  # fmt: skip
    graph = Graph(nodes, {"x": (2, 4)}, ("y",), tensors, dict.fromkeys("hny", (2, 4)))
    own = [Layer("a", "linear", tensors["a"], "oi")]
    freedom = symmetry.analyse(graph, own)
    assert freedom.layers[0].width == 4
    assert not freedom.parameters


def test_layers_of_a_model_without_weights_to_tell():
    graph = Graph((), {"x": (1, 2)}, ("x",), {}, {})
    assert symmetry.analyse(graph, []).layers == ()
    assert Model("", "", "", ()).graph is None


def test_equal_kernels_on_different_channels_are_no_tie():
    """Blur and bilinear kernels, Dirac, A_log rows, ICNR."""
    blur = nn.Conv2d(4, 4, 3, groups=4, padding=1)
    nn.init.constant_(blur.weight, 1 / 9)
    nn.init.zeros_(blur.bias)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), blur, nn.Conv2d(4, 3, 1))
    assert [own.width for own in told(net, torch.randn(1, 3, 6, 6)).values()] == [4, 4, 3]
    shuffle = nn.Sequential(nn.Conv2d(3, 8, 1), nn.PixelShuffle(2), nn.Conv2d(2, 3, 1))
    with torch.no_grad():
        for k, j in itertools.product(range(2), range(1, 4)):
            shuffle[0].weight[4 * k + j], shuffle[0].bias[4 * k + j] = shuffle[0].weight[4 * k], shuffle[0].bias[4 * k]
    assert told(shuffle, torch.randn(1, 3, 4, 4))["0"].width == 8
