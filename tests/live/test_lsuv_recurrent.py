"""LSUV on recurrent layers: each matrix by its own product, gate by gate, unrolled here with torch's cells."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from tests.live.scaled import scaled, told, variances  # noqa: E402

nn = torch.nn
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def near(values, tol=0.05):
    return np.asarray([float(v) for v in values]) == pytest.approx(1, abs=tol)


class Net(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.rnn = kind(6, 10, **options)
        self.head = nn.Linear((options.get("proj_size") or 10) * (1 + options.get("bidirectional", False)), 3)

    def forward(self, x):
        return self.head(self.rnn(x)[0])


def cell_of(kind, rnn, suffix):
    """Return torch's own cell with the weights of one layer and direction."""
    options = {"nonlinearity": rnn.nonlinearity} if kind is nn.RNN else {}
    w = getattr(rnn, f"weight_ih_{suffix}")
    cell = {nn.LSTM: nn.LSTMCell, nn.GRU: nn.GRUCell, nn.RNN: nn.RNNCell}[kind](w.shape[1], rnn.hidden_size, **options)
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).copy_(getattr(rnn, f"{name}_{suffix}"))
    return cell


def products(kind, rnn, x):
    """Return the variances of each matrix's own products, gate by gate; x is (time, batch, inputs)."""
    out = {}
    with torch.no_grad():
        for layer in range(rnn.num_layers):
            made = []
            for suffix in ("", "_reverse")[: 1 + rnn.bidirectional]:
                cell = cell_of(kind, rnn, f"l{layer}{suffix}")
                h, state = torch.zeros(x.shape[1], 10), torch.zeros(x.shape[1], 10)
                own, outs = [], []
                for step in x.flip(0) if suffix else x:
                    own.append(h @ cell.weight_hh.T)
                    if kind is nn.LSTM:
                        h, state = cell(step, (h, state))
                    else:
                        h = cell(step, h)
                    outs.append(h)
                given = x @ cell.weight_ih.T
                for name, value in (("ih", given), ("hh", torch.stack(own))):
                    parts = value.chunk(GATES[kind], -1)
                    out[f"{name}_l{layer}{suffix}"] = [float(p.var(correction=0)) for p in parts]
                outs = torch.stack(outs)
                made.append(outs.flip(0) if suffix else outs)
            x = torch.cat(made, -1)
    return out


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_each_gate_of_each_matrix(kind, options):
    net, x = Net(kind, **options), torch.randn(24, 16, 6)
    done = scaled(net, x, examples=x[:2] if options else x)
    assert told(done) == {}
    time_first = x.transpose(0, 1) if options else x
    found = products(kind, net.rnn, time_first)
    assert all(near(values) for values in found.values()), found
    assert near(variances(net, x)["head"], 2e-3)


def test_biases_play_no_part_and_stay():
    net, x = Net(nn.GRU), torch.randn(20, 16, 6)
    with torch.no_grad():
        net.rnn.bias_ih_l0.uniform_(-2, 2)
        net.rnn.bias_hh_l0.uniform_(-2, 2)
    before = net.rnn.bias_ih_l0.clone()
    scaled(net, x, examples=x)
    assert torch.equal(net.rnn.bias_ih_l0, before)
    assert all(near(values) for values in products(nn.GRU, net.rnn, x).values())


def test_a_relu_net_and_a_projected_lstm():
    net, x = Net(nn.RNN, nonlinearity="relu"), torch.randn(20, 16, 6)
    scaled(net, x, examples=x)
    assert all(near(values) for values in products(nn.RNN, net.rnn, x).values())
    net = Net(nn.LSTM, proj_size=4)
    done = scaled(net, x, examples=x)
    assert told(done) == {}
    out = net.rnn(x)[0].detach()
    assert near([out.var(correction=0)])  # what the projection makes
    before = torch.cat([torch.zeros_like(out[:1]), out[:-1]])
    own = (before @ net.rnn.weight_hh_l0.T.detach()).chunk(4, -1)
    assert near([part.var(correction=0) for part in own])


def test_packed_sequences():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn = nn.GRU(6, 10, bidirectional=True)

        def forward(self, x, lengths):
            packed = nn.utils.rnn.pack_padded_sequence(x, lengths, enforce_sorted=True)
            return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]

    net = Packed().eval()
    x, lengths = torch.randn(20, 4, 6), torch.tensor([20, 18, 9, 4])
    done = scaled(net, {"x": x, "lengths": lengths}, examples={"x": x, "lengths": lengths})
    assert told(done) == {}
    rows = torch.cat([x[:n, k] for k, n in enumerate(lengths)])
    given = (rows @ net.rnn.weight_ih_l0.detach().T).chunk(3, -1)
    assert near([part.var(correction=0) for part in given], 2e-3)
    own = []
    for k, n in enumerate(lengths):
        out = net.rnn(x[:n, k : k + 1])[0][:, 0].detach()
        own.append(torch.cat([torch.zeros(1, 10), out[:-1, :10]]) @ net.rnn.weight_hh_l0.detach().T)
    assert near([part.var(correction=0) for part in torch.cat(own).chunk(3, -1)])


class Steps(nn.Module):
    """A cell in a loop of the user's own."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(6, 10), nn.Linear(10, 3)

    def forward(self, x):
        h = state = x.new_zeros(x.shape[1], 10)
        for step in x:
            h, state = self.cell(step, (h, state))
        return self.head(h)


def test_a_cell_in_a_loop_is_pooled_over_its_steps():
    net, x = Steps(), torch.randn(16, 40, 6)
    done = scaled(net, x, examples=x)
    own, h = [], torch.zeros(40, 10)
    state = torch.zeros(40, 10)
    with torch.no_grad():
        for step in x:
            own.append(h @ net.cell.weight_hh.T)
            h, state = net.cell(step, (h, state))
        given = (x @ net.cell.weight_ih.T).chunk(4, -1)
    assert near([part.var(correction=0) for part in given])
    assert near([part.var(correction=0) for part in torch.stack(own).chunk(4, -1)])
    assert not any(row.why for row in done.reached if "use" not in row.part)


def test_one_step_leaves_a_recurrent_matrix_without_a_product():
    net, x = Net(nn.LSTM), torch.randn(1, 30, 6)
    done = scaled(net, x, examples=x)
    assert {why for name, why in told(done).items() if "hh" in name} == {"its input is zero"}
    assert bool(torch.isfinite(net.rnn.weight_hh_l0).all())
