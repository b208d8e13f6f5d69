"""Units are counted alike by the measures, by the analysis of ties and by a draw, in every layout."""

import io

import numpy as np
import pytest

import initaudit
from initaudit.edits import Recipe
from initaudit.repair.drawing import draw
from initaudit.repair.rows import Anew, again, copies, own_law, rows_of
from tests.build import he, layer, measured, rng
from tests.repair.test_drawing import LSTM

torch = pytest.importorskip("torch")
nn = torch.nn


class Turned(nn.Module):
    """GPT-2's way to store a matrix: (in, out)."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 10))
        self.head = nn.Linear(10, 3)

    def forward(self, x):
        return self.head(torch.tanh(x @ self.weight))


class Experts(nn.Module):
    """Three maps in one tensor, each unit read by all."""

    def __init__(self, turned):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 6, 8) if turned else torch.randn(3, 8, 6))
        self.down = nn.Parameter(torch.randn(3, 8, 5))
        self.router, self.turned = nn.Linear(6, 3), turned

    def forward(self, x):
        up = torch.einsum("bi,eio->beo" if self.turned else "bi,eoi->beo", x, self.weight)
        y = torch.einsum("bei,eio->beo", torch.tanh(up), self.down)
        return (y * torch.softmax(self.router(x), -1)[..., None]).sum(1)


class Heads(nn.Module):
    """Attention whose query, key and value lie in one tensor."""

    def __init__(self):
        super().__init__()
        self.into, self.qkv, self.out = nn.Linear(6, 8), nn.Linear(8, 24), nn.Linear(8, 3)

    def forward(self, x):
        b, t, _ = x.shape
        q, k, v = (y.view(b, t, 4, 2).transpose(1, 2) for y in self.qkv(torch.tanh(self.into(x))).chunk(3, -1))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, 8))


class Tokens(nn.Module):
    """A table, whose units are its columns."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(9, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.table(x)))


class Last(nn.Module):
    """A recurrent layer and a head on its last state."""

    def __init__(self, kind):
        super().__init__()
        self.cell, self.head = getattr(nn, kind)(4, 6, batch_first=True), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(self.cell(x)[0][:, -1])


def flat(*layers):
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


def seq(gates):
    """Tie hidden unit 4 of 6 to unit 1."""
    pairs = [(1 + 6 * k, 4 + 6 * k) for k in range(gates)]
    rows = [f"cell.{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
    sides = [*((name, 0, pairs) for name in rows), ("cell.weight_hh_l0", 1, [(1, 4)]), ("head.weight", 1, [(1, 4)])]
    return "cell.weight_ih_l0", sides, pairs


def spread(pairs, each):
    return [(a * each + k, b * each + k) for a, b in pairs for k in range(each)]


# the module, what it reads, the layer, what is tied along which axis of which tensor, the units that this ties
CASES = {
    "linear": lambda: (
        nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)), torch.randn(4, 5),
        "0.weight", [("0.weight", 0, [(2, 5)]), ("0.bias", 0, [(2, 5)]), ("2.weight", 1, [(2, 5)])], [(2, 5)],
    ),
    "conv": lambda: (
        flat(nn.Conv2d(3, 6, 3), nn.Tanh()), torch.randn(2, 3, 6, 6),
        "0.weight", [("0.weight", 0, [(1, 4)]), ("0.bias", 0, [(1, 4)]), ("3.weight", 1, spread([(1, 4)], 16))],
        [(1, 4)],
    ),
    "grouped": lambda: (
        flat(nn.Conv2d(4, 6, 3, groups=2), nn.Tanh()), torch.randn(2, 4, 5, 5),
        "0.weight", [("0.weight", 0, [(3, 5)]), ("0.bias", 0, [(3, 5)]), ("3.weight", 1, spread([(3, 5)], 9))],
        [(3, 5)],
    ),
    "transposed": lambda: (
        flat(nn.ConvTranspose2d(4, 5, 2), nn.Tanh()), torch.randn(2, 4, 3, 3),
        "0.weight", [("0.weight", 1, [(0, 3)]), ("0.bias", 0, [(0, 3)]), ("3.weight", 1, spread([(0, 3)], 16))],
        [(0, 3)],
    ),
    "transposed, grouped": lambda: (
        flat(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Tanh()), torch.randn(2, 4, 3, 3),
        "0.weight", [("0.weight[2:]", 1, [(0, 2)]), ("0.bias", 0, [(3, 5)]), ("3.weight", 1, spread([(3, 5)], 16))],
        [(3, 5)],
    ),
    "lstm": lambda: (Last("LSTM"), torch.randn(3, 5, 4), *seq(4)),
    "gru": lambda: (Last("GRU"), torch.randn(3, 5, 4), *seq(3)),
    "rnn": lambda: (Last("RNN"), torch.randn(3, 5, 4), *seq(1)),
    "query, key, value": lambda: (
        Heads(), torch.randn(2, 5, 6), "qkv.weight",
        [("qkv.weight", 0, spread([(1, 2), (5, 6), (9, 10)], 2)), ("qkv.bias", 0, spread([(1, 2), (5, 6), (9, 10)], 2)),
         ("out.weight", 1, spread([(1, 2)], 2))],
        spread([(1, 2), (5, 6), (9, 10)], 2),
    ),
    "experts": lambda: (
        Experts(turned=False), torch.randn(4, 6),
        "weight", [("weight[1]", 0, [(2, 7)]), ("down[1]", 0, [(2, 7)])], [(10, 15)],
    ),
    "experts (in, out)": lambda: (
        Experts(turned=True), torch.randn(4, 6),
        "weight", [("weight[1]", 1, [(2, 7)]), ("down[1]", 0, [(2, 7)])], [(10, 15)],
    ),
    "embedding": lambda: (
        Tokens(), torch.arange(6).view(2, 3),
        "table.weight", [("table.weight", 1, [(2, 6)]), ("head.weight", 1, [(2, 6)])], [(2, 6)],
    ),
    "Conv1D": lambda: (
        Turned(), torch.randn(4, 6),
        "weight", [("weight", 1, [(2, 9)]), ("head.weight", 1, [(2, 9)])], [(2, 9)],
    ),
}  # fmt: skip


def planted(case):
    torch.manual_seed(0)
    net, x, name, sides, pairs = CASES[case]()
    net = net.eval()
    net(x)
    own = dict(net.named_parameters())
    with torch.no_grad():
        for told, axis, same in sides:
            stem, _, part = told.partition("[")
            w = own[stem]
            if part:
                w = w[2:] if part.startswith("2:") else w[int(part[0])]
            for a, b in same:
                w.select(axis, b).copy_(w.select(axis, a))
    return net, x, name, sorted(pairs)


@pytest.mark.parametrize("case", CASES)
def test_measures_analysis_and_draw_count_units_alike(case):
    net, x, name, pairs = planted(case)
    report = initaudit.check(net, x, probe=False)
    (m,) = (m for m in report.measured if m.layer.weight.name == name)
    assert m.freedom is not None and list(m.freedom.classes) == pairs
    assert sorted(copies(m)) == pairs
    units = again(m, m.freedom.classes)
    assert units == tuple(b for _, b in pairs)
    stored = np.array(m.layer.weight.load())
    new = draw(Recipe(m, m.layer.weight, "normal:std=1", "INI512", units=units), 0)
    rows = rows_of(m)
    assert ((new != stored).sum() == rows[list(units)].size) and (Anew(m, m.layer.weight, units)() != stored).sum() > 0
    made = dict(net.named_parameters())[name]
    with torch.no_grad():
        made.copy_(torch.from_numpy(new))
    after = {m.layer.weight.name: m.freedom for m in initaudit.check(net, x, probe=False).measured}
    assert after[name].width == after[name].units


def test_gates_are_counted_as_stored_and_drawn_as_torch_has_them(tmp_path):
    """ONNX has other gates at the second and third place than torch."""
    pytest.importorskip("onnx")
    net, x, *_ = planted("lstm")
    with torch.no_grad():  # unlike in each gate
        net.cell.weight_ih_l0[6 + 2].copy_(net.cell.weight_ih_l0[6 + 0])
    data = io.BytesIO()
    torch.onnx.export(net, (x,), data, dynamo=False)
    (tmp_path / "net.onnx").write_bytes(data.getvalue())
    report = initaudit.check(tmp_path / "net.onnx")
    m = next(m for m in report.measured if m.layer.weight.shape == (1, 24, 4))
    found = {tuple(sorted(one)) for one in copies(m)}
    assert (12, 14) in found  # the forget gate is the third there
    old = np.asarray(m.layer.weight.load())[0]
    new = draw(Recipe(m, m.layer.weight, "normal:std=1", "INI201", units=(14,)), 0)[0]
    assert sorted(set(np.nonzero(new != old)[0].tolist())) == [14]


# ---- what stays


def test_the_first_fair_one_of_a_set_stays():
    w = he(12, 10)
    w[3] = 0.5
    w[5] = 100 * w[6]
    w[7] = 0
    m = measured(layer("w", w))
    assert again(m, [(1, 2), (9, 4)]) == (2, 9)
    assert again(m, [(3, 4)]) == (3,)  # all of its weights are one number
    assert again(m, [(5, 6, 7)]) == (5, 7)
    assert again(m, [(3, 7)]) == (3, 7)


def test_groups_and_zero_units_are_no_copies():
    w = he(8, 5)
    w[4:] = w[:4]
    w[0] = w[1] = 0
    assert copies(measured(layer("w", w, kind="conv", axes="oi", groups=2))) == []
    assert copies(measured(layer("w", w))) == [(2, 6), (3, 7)]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
@pytest.mark.parametrize(
    "shape, gain, fields",
    [
        ((24, 40), 1.0, {}),
        ((40, 24), 1.5, {}),
        ((40, 24), 1.0, {"axes": "io"}),
        ((40, 10), 1.0, {"kind": "lstm", "parts": LSTM}),
        ((32, 8, 3, 3), 1.2, {"kind": "conv", "axes": "oikk"}),
    ],
    ids=str,
)
def test_an_orthogonal_layer_with_copies_is_known_and_made_whole(shape, gain, fields, dtype):
    one = layer("w", np.zeros(shape, np.float32), **fields)
    w = draw(Recipe(measured(one), one.weight, f"orthogonal:gain={gain}", ""), 0).astype(dtype)
    m = measured(layer("w", w, **fields))
    rows = rows_of(m).copy()
    rows[[5, 9]] = rows[[4, 2]]
    form = m.layer
    back = rows if form.axes != "io" else rows.T
    spoiled = measured(layer("w", np.ascontiguousarray(back.reshape(shape)), **fields))
    scheme = own_law(spoiled, (5, 9))
    assert scheme.startswith("orthogonal") and (f"gain={gain}" in scheme or gain == 1)
    new = draw(Recipe(spoiled, spoiled.layer.weight, scheme, "INI201", units=(5, 9)), 0).astype(dtype)
    again_orthogonal = measured(layer("w", new, **fields))
    assert again_orthogonal.identified is not None and again_orthogonal.identified.law == "orthogonal"
    kept = np.delete(rows_of(again_orthogonal), [5, 9], 0)
    assert (kept == np.delete(rows, [5, 9], 0)).all()


def test_units_are_drawn_as_those_that_stay():
    w = (rng().uniform(-0.3, 0.3, (60, 40))).astype(np.float32)
    w[5:9] = w[1]
    assert own_law(measured(layer("w", w)), (5, 6, 7, 8)).startswith("uniform:bound=0.3")
    assert own_law(measured(layer("w", he(60, 40))), (1,)) == "he"
    assert own_law(measured(layer("w", he(4, 4))), (1, 2, 3)) == ""
