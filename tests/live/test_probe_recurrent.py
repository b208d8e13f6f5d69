"""Gates of recurrent layers against gates worked out step by step by torch's own cells."""

import pytest

from tests.live.test_probe import probed

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(6, 8, **options)
        self.head = nn.Linear(8 * (1 + options.get("bidirectional", False)), 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def slopes(rnn, x):
    """Return (steps and inputs, gates) of relative slopes, by cells; x is (time, batch, inputs)."""
    w, r, b, c = (getattr(rnn, f"{name}_l0").detach().double() for name in
                  ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))  # fmt: skip
    h = state = torch.zeros(x.shape[1], 8, dtype=torch.float64)
    out = []
    for step in x.double():
        a, e = step @ w.T + b, h @ r.T + c
        if isinstance(rnn, nn.LSTM):
            i, f, g, o = (a + e).chunk(4, -1)
            state = torch.sigmoid(f) * state + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(state)
            gates = [(i, 0), (f, 0), (g, 1), (o, 0)]
        elif isinstance(rnn, nn.GRU):
            (ar, az, an), (er, ez, en) = a.chunk(3, -1), e.chunk(3, -1)
            n = an + torch.sigmoid(ar + er) * en
            h = (1 - torch.sigmoid(az + ez)) * torch.tanh(n) + torch.sigmoid(az + ez) * h
            gates = [(ar + er, 0), (az + ez, 0), (n, 1)]
        else:
            h = torch.tanh(a + e)
            gates = [(a + e, 1)]
        z = [(v.tanh().square().neg() + 1) if tanh else 4 * v.sigmoid() * v.neg().sigmoid() for v, tanh in gates]
        out.append(torch.cat(z, -1))
    return torch.cat(out)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_saturated_gates_are_those_of_cells(kind, first):
    torch.manual_seed(0)
    net = Net(kind, batch_first=first)
    with torch.no_grad():
        for p in net.rnn.parameters():
            p.mul_(60)
    x = torch.randn(*((2, 5) if first else (5, 2)), 6)
    rows, _, data = probed(net, x)
    inputs = data["x"].transpose(0, 1) if first else torch.cat(list(data["x"].split(5)), 1)
    wanted = float((slopes(net.rnn, inputs).mean(0) < 0.05).double().mean())
    assert wanted > 0
    for name in ("rnn.weight_ih_l0", "rnn.weight_hh_l0"):
        assert rows[name].saturated == pytest.approx(wanted, abs=1e-5)
        assert rows[name].dead is not None


def test_directions_are_told_apart_and_calm_gates_are_not_saturated():
    net = Net(nn.LSTM, bidirectional=True, batch_first=True)
    with torch.no_grad():
        net.rnn.bias_ih_l0_reverse.fill_(50.0)
    rows, _, _ = probed(net, torch.randn(2, 5, 6))
    assert rows["rnn.weight_ih_l0"].saturated == 0
    assert rows["rnn.weight_hh_l0_reverse"].saturated == 1
    assert rows["rnn.weight_ih_l0_reverse"].dead == 1


def test_relu_has_dead_units_and_none_saturated():
    net = Net(nn.RNN, nonlinearity="relu", batch_first=True)
    with torch.no_grad():
        net.rnn.bias_ih_l0[:2] = -100.0
    rows, _, _ = probed(net, torch.randn(2, 5, 6))
    assert rows["rnn.weight_ih_l0"].dead >= 0.25
    assert rows["rnn.weight_ih_l0"].saturated is None


def test_an_onnx_file_tells_the_same(tmp_path):
    import initaudit

    torch.manual_seed(0)
    for kind in (nn.LSTM, nn.GRU, nn.RNN):
        net = Net(kind)
        for p in net.parameters():
            nn.init.constant_(p, 0.2)
        with torch.no_grad():
            net.rnn.bias_ih_l0[:4] = 40.0
        path = tmp_path / f"{kind.__name__}.onnx"
        torch.onnx.export(net, (torch.randn(5, 2, 6),), str(path), dynamo=False, verbose=False)
        told = [
            {row.layer.name.rpartition(".")[2]: row.probed for row in initaudit.check(one, *rest, probe=True).measured}
            for one, *rest in ((net, torch.randn(5, 2, 6)), (path,))
        ]
        names = sorted(set(told[0]) & set(told[1]) - {"head"})
        assert names
        for name in names:
            assert told[0][name].saturated == told[1][name].saturated > 0, name
            assert told[0][name].tied == told[1][name].tied > 0, name
