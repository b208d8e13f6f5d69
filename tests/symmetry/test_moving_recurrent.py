"""When the parameters of recurrent layers move, by what is read of them and what is zero."""

import pytest

from tests.symmetry.steps import Net, checked

torch = pytest.importorskip("torch")
nn = torch.nn


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize(
    ("kind", "read"), [("LSTM", "last"), ("LSTM", "first"), ("GRU", "last"), ("GRU", "mean"), ("RNN", "first")]
)
def test_recurrent_layers_by_what_is_read(kind, read, both):
    torch.manual_seed(0)
    pick = {"last": lambda y: y[:, -1], "first": lambda y: y[:, 0], "mean": lambda y: y.mean(1)}[read]
    net = Net(
        lambda s, x: s.head(pick(s.cell(x)[0])),
        cell=getattr(nn, kind)(3, 4, batch_first=True, bidirectional=both), head=nn.Linear(8 if both else 4, 2),
    )  # fmt: skip
    first = checked(net, (5, 3))
    stuck = not first["cell.weight_hh_l0"].any()
    assert stuck == (read == "first")
    if both:
        assert (not first["cell.weight_hh_l0_reverse"].any()) == (read == "last")


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize("zero", [("weight_hh_l0",), ("weight_ih_l0", "bias_ih_l0", "bias_hh_l0"), "all"])
def test_recurrent_layers_that_start_at_zero(kind, zero):
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(s.cell(x)[0][:, -1]), cell=getattr(nn, kind)(3, 4, batch_first=True), head=nn.Linear(4, 2)
    )
    for name, p in net.cell.named_parameters():
        if zero == "all" or name in zero:
            nn.init.zeros_(p)
    checked(net, (5, 3), 6, 1e-12)


def test_learned_first_states_that_are_zero():
    torch.manual_seed(0)

    def run(s, x):
        return s.head(s.cell(x, (s.h.expand(-1, x.shape[0], -1).contiguous(),) * 2)[0][:, -1])

    checked(
        Net(run, cell=nn.LSTM(3, 4, batch_first=True), h=nn.Parameter(torch.zeros(1, 1, 4)), head=nn.Linear(4, 2)),
        (1, 3),
    )
