"""Ties through recurrent nodes of ONNX, experts in one tensor, choices by value, and weights that are joined."""

import numpy as np
import pytest

from initaudit import layers, symmetry
from initaudit.types import Graph, Layer, Node, Tensor

torch = pytest.importorskip("torch")
nn = torch.nn
F = nn.functional


def told(module, *examples):
    from initaudit.audit import live

    model = live(module, examples)
    found, _ = layers.infer(model)
    freedom = symmetry.analyse(model.graph, found)
    assert not freedom.why
    assert not freedom.unread
    return {layer.name: own for layer, own in zip(found, freedom.layers, strict=True) if own is not None}


class Run(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, *x):
        return self.run(self, *x)


def units(layer, into, a, b):
    """Tie two units, by what comes in and what goes out."""
    with torch.no_grad():
        layer.weight[a], layer.bias[a] = layer.weight[b], layer.bias[b]
        into.weight[:, a] = into.weight[:, b]


# ---- recurrent nodes as ONNX has them


def recurrent(kind, gates, ways, *, apart=None, **attrs):
    """A graph of one node, units 0 and 2 of the first direction tied; `apart` names an operand that parts them."""
    rng = np.random.default_rng(0)
    i, h = 3, 4
    w, r = rng.standard_normal((ways, gates * h, i)), rng.standard_normal((ways, gates * h, h))
    b, head = rng.standard_normal((ways, 2 * gates * h)), rng.standard_normal((h * ways, 2))
    for gate in range(gates):
        for array in (w, r):
            array[0, gate * h] = array[0, gate * h + 2]
    b = b.reshape(ways, 2 * gates, h)
    b[0, :, 0] = b[0, :, 2]
    b = b.reshape(ways, -1)
    r[0, :, 0] = r[0, :, 2]
    head[0] = head[2]
    arrays = {"w": w, "r": r, "b": b, "head": head}
    if apart is not None:
        arrays[apart][(0,) * arrays[apart].ndim] += 1
    tensors = {n: Tensor(n, a.shape, "float64", lambda a=a: a, storage=n) for n, a in arrays.items()}
    tensors["shape"] = Tensor("shape", (3,), "int64", lambda: np.array([5, 2, h * ways]))
    nodes = (
        Node(kind, ("x", "w", "r", "b"), ("y",), {"hidden_size": h, **attrs}),
        Node("transpose", ("y",), ("t",), {"perm": (0, 2, 1, 3)}), Node("reshape", ("t", "shape"), ("s",)),
        Node("matmul", ("s", "head"), ("z",)),
    )  # fmt: skip
    graph = Graph(nodes, {"x": (5, 2, i)}, ("z",), tensors, {})
    own = [Layer(n, kind, tensors[n], "soi") for n in "wr"]
    freedom = symmetry.analyse(graph, own)
    assert not freedom.unread
    return [one.width for one in freedom.layers]


@pytest.mark.parametrize(("kind", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
@pytest.mark.parametrize("ways", [1, 2])
@pytest.mark.parametrize("first", [0, 1])
def test_onnx_recurrent_units_are_tied_by_all_their_gates(kind, gates, ways, first):
    whole = 4 * gates * ways
    options = {"linear_before_reset": first} if kind == "gru" else {}
    assert recurrent(kind, gates, ways, **options) == [whole - gates, whole - gates]
    for apart in ("w", "r", "b", "head"):
        assert recurrent(kind, gates, ways, apart=apart, **options) == [whole, whole]


def test_a_projection_has_units_of_its_own():
    torch.manual_seed(0)
    cell, head = nn.LSTM(3, 5, proj_size=4, batch_first=True), nn.Linear(4, 2)
    with torch.no_grad():
        for p in (cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0):
            for gate in range(4):
                p[5 * gate] = p[5 * gate + 3]
        cell.weight_hr_l0[:, 0] = cell.weight_hr_l0[:, 3]
    own = told(Run(lambda m, x: m.head(m.cell(x)[0]), cell=cell, head=head), torch.randn(2, 4, 3))
    assert own["cell.weight_hh_l0"].width == 16
    assert own["cell.weight_hr_l0"].width == 4


def test_cells_in_a_loop_from_no_state():
    torch.manual_seed(0)
    cell, head = nn.GRUCell(3, 5), nn.Linear(5, 2)

    def run(m, x):
        h = None
        for t in range(x.shape[1]):
            h = m.cell(x[:, t], h)
        return m.head(h)

    with torch.no_grad():
        for p in cell.parameters():
            for gate in range(3):
                p[5 * gate] = p[5 * gate + 3]
        cell.weight_hh[:, 0], head.weight[:, 0] = cell.weight_hh[:, 3], head.weight[:, 3]
    net = Run(run, cell=cell, head=head)
    assert told(net, torch.randn(2, 3, 3))["cell.weight_hh"].width == 12
    assert told(net, torch.randn(2, 1, 3))["cell.weight_ih"].width == 12


# ---- experts


def experts(how):
    torch.manual_seed(1)
    up = nn.Parameter(torch.randn(3, 4, 5))

    def run(m, x):
        odds = torch.softmax(m.router(x), -1)
        if how == "slices":
            wide = torch.stack([x @ m.up[k] for k in range(3)], 1)
        elif how == "bmm":
            wide = torch.bmm(x[None].expand(3, -1, -1), m.up).transpose(0, 1)
        else:
            wide = torch.einsum("bd,edh->beh", x, m.up)
        if how == "top":
            best, index = odds.topk(2, -1)
            odds = torch.zeros_like(odds).scatter(-1, index, best)
        return torch.einsum("beh,eho,be->bo", torch.tanh(wide), m.down, odds)

    return Run(run, up=up, down=nn.Parameter(torch.randn(3, 5, 2)), router=nn.Linear(4, 3))


@pytest.mark.parametrize("how", ["slices", "bmm", "einsum", "top"])
def test_units_inside_an_expert_are_tied_whatever_the_routing(how):
    net = experts(how)
    x = torch.randn(3, 4)
    name = "up"
    assert sum(own.width for n, own in told(net, x).items() if n.startswith(name)) == 15
    with torch.no_grad():
        net.up[1, :, 0], net.down[1, 0] = net.up[1, :, 3], net.down[1, 3]
    assert sum(own.width for n, own in told(net, x).items() if n.startswith(name)) == 14


@pytest.mark.parametrize("how", ["bmm", "einsum", "top"])
def test_whole_experts_are_tied_if_the_routing_cannot_part_them(how):
    net = experts(how)
    with torch.no_grad():
        for p in (net.up, net.down, net.router.weight, net.router.bias):
            p[2] = p[0]
    own = told(net, torch.randn(3, 4))
    # The best of equal ones are picked by their place.
    assert (own["up"].width, own["router"].width) == ((15, 3) if how == "top" else (10, 2))


def test_experts_that_a_product_sums_over_are_not_called_equal():
    own = told(experts("einsum"), torch.randn(3, 4))["down"]
    assert own.width == own.units == 6


# ---- what the walk must see


def test_a_maximum_over_units_parts_them_and_all_that_reads_them():
    """One of equal units is picked, and only it learns: the walk must not stop in the round that finds it out."""
    torch.manual_seed(2)
    stem, a, b, head = nn.Linear(3, 4), nn.Linear(4, 5), nn.Linear(5, 4), nn.Linear(4, 2)
    with torch.no_grad():
        for p in (stem, b):
            p.weight[:], p.bias[:] = p.weight[:1].clone(), p.bias[:1].clone()
        for p in (a, head):
            p.weight[:] = p.weight[:, :1].clone()

    def run(m, x):
        x = torch.tanh(m.stem(x))
        x = x + x.max(-1, keepdim=True).values
        return m.head(x + m.b(torch.tanh(m.a(x))))

    own = told(Run(run, stem=stem, a=a, b=b, head=head), torch.randn(3, 3))
    assert (own["stem"].width, own["b"].width) == (4, 4)


def test_padding_that_moves_units_is_no_identity():
    torch.manual_seed(3)
    a, b = nn.Linear(3, 4), nn.Linear(4, 2)
    units(a, b, 0, 1)
    net = Run(lambda m, x: m.b(F.pad(torch.tanh(m.a(x)), (1, -1))), a=a, b=b)
    from initaudit.audit import live

    model = live(net, (torch.randn(3, 3),))
    found, _ = layers.infer(model)
    freedom = symmetry.analyse(model.graph, found)
    assert freedom.layers[0].width == 4


def test_rolled_units_keep_their_ties():
    torch.manual_seed(3)
    a, b = nn.Linear(3, 4), nn.Linear(4, 2)
    with torch.no_grad():
        a.weight[0], a.bias[0] = a.weight[1], a.bias[1]
        b.weight[:, 1] = b.weight[:, 2]  # where they are rolled to
    own = told(Run(lambda m, x: m.b(torch.tanh(m.a(x)).roll(1, -1)), a=a, b=b), torch.randn(3, 3))
    assert own["a"].classes == ((0, 1),)


def test_units_written_into_a_value():
    torch.manual_seed(4)
    a, b, head = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(8, 2)

    def run(m, x):
        y = torch.zeros(x.shape[0], 8)
        y[:, :4], y[:, 4:] = torch.tanh(m.a(x)), torch.tanh(m.b(x))
        return m.head(y)

    with torch.no_grad():
        a.weight[1], a.bias[1] = b.weight[2], b.bias[2]
        b.weight[0], b.bias[0] = b.weight[3], b.bias[3]
        head.weight[:, 4] = head.weight[:, 7]
    own = told(Run(run, a=a, b=b, head=head), torch.randn(3, 3))
    assert (own["a"].width, own["b"].classes) == (4, ((0, 3),))


@pytest.mark.parametrize("how", ["bilinear", "unfold", "bag", "joined", "shuffled"])
def test_ties_through(how):
    torch.manual_seed(5)
    a, x = nn.Linear(3, 4), torch.randn(2, 3)
    wide = {"bilinear": nn.Bilinear(4, 4, 3), "joined": nn.Linear(4, 3)}.get(how, nn.Linear(36, 3))
    parts = {"a": a, "wide": wide}
    if how == "bilinear":
        run = lambda m, x: m.wide(m.a(x), torch.tanh(m.a(x)))  # noqa: E731
        columns = [wide.weight[:, :, k] for k in range(4)], [wide.weight[:, k] for k in range(4)]
    elif how == "joined":
        other = parts["other"] = nn.Parameter(torch.randn(2, 4))
        run = lambda m, x: F.linear(torch.tanh(m.a(x)), torch.cat([m.wide.weight, m.other]))  # noqa: E731
        columns = [wide.weight[:, k] for k in range(4)], [other[:, k] for k in range(4)]
    elif how == "bag":
        x, parts["a"] = torch.randint(0, 5, (2, 3)), nn.EmbeddingBag(5, 4, mode="sum")
        parts["wide"] = nn.Linear(4, 3)
        run = lambda m, x: m.wide(torch.tanh(m.a(x)))  # noqa: E731
        columns = ([parts["wide"].weight[:, k] for k in range(4)], [parts["a"].weight[:, k] for k in range(4)])
    elif how == "unfold":
        x, parts["a"] = torch.randn(2, 3, 4, 4), nn.Conv2d(3, 4, 1)
        run = lambda m, x: m.wide(F.unfold(torch.tanh(m.a(x)), 3).transpose(1, 2))  # noqa: E731
        columns = ([wide.weight[:, 9 * k : 9 * k + 9] for k in range(4)],)
    else:
        x, parts["a"] = torch.randn(2, 3, 2, 2), nn.Conv2d(3, 4, 1)
        parts["wide"] = nn.Conv2d(1, 3, 1)
        run = lambda m, x: m.wide(F.pixel_shuffle(torch.tanh(m.a(x)), 2))  # noqa: E731
        columns = ()
    with torch.no_grad():
        if how != "bag":
            parts["a"].weight[0], parts["a"].bias[0] = parts["a"].weight[2], parts["a"].bias[2]
        for group in columns:
            group[0].copy_(group[2])
    net = Run(run, **parts)
    assert told(net, x)["a"].width == (4 if how == "shuffled" else 3)


def test_positions_and_embeddings_have_units_in_a_file_too():
    rng = np.random.default_rng(0)
    arrays = {"table": rng.standard_normal((5, 4)), "place": rng.standard_normal((1, 3, 4)), "head": np.ones((4, 2))}
    for name in ("table", "place"):
        arrays[name][..., 1] = arrays[name][..., 2]
    tensors = {n: Tensor(n, a.shape, "float64", lambda a=a: a, storage=n) for n, a in arrays.items()}
    nodes = (
        Node("gather", ("table", "ids"), ("e",), {"axis": 0}), Node("add", ("e", "place"), ("s",)),
        Node("tanh", ("s",), ("t",)), Node("matmul", ("t", "head"), ("y",)),
    )  # fmt: skip
    graph = Graph(nodes, {"ids": (2, 3)}, ("y",), tensors, {})
    own = [Layer("table", "embedding", tensors["table"], "io"), Layer("place", "parameter", tensors["place"], "ooo")]
    table, place = symmetry.analyse(graph, own).layers
    assert (table.classes, place.width) == (((1, 2),), 9)


@pytest.mark.parametrize("tied", [2, 6])
def test_the_root_of_a_spread_that_is_zero_has_no_slope_but_rounding(tied):
    def run(net, x):
        h = net.a(x).tanh()
        return net.b(h / (h.std(-1, keepdim=True) + 0.1))

    net = Run(run, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    for k in range(1, tied):
        units(net.a, net.b, k, 0)
    assert told(net, torch.randn(2, 4))["a"].width == (5 if tied == 2 else 6)
