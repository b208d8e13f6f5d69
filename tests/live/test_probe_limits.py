"""What is too small, too large or too many for a probe, and that it says the same every time."""

import math
import subprocess
import sys

import pytest

from initaudit import audit, layers
from initaudit.types import Node
from tests.live.test_execute import graph
from tests.live.test_probe import Plain, Vit, cnn, mlp, probed

torch = pytest.importorskip("torch")
nn = torch.nn


def deep(scale, depth=20):
    torch.manual_seed(3)
    net = Plain(*(nn.Linear(8, 8, bias=False) for _ in range(depth)))
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(nn.init.orthogonal_(p) * scale)
    return net


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("cheap", [True, False])
def test_signals_beyond_single_precision(scale, cheap, monkeypatch):
    """Orthogonal layers scale exactly: 20 of them by 1e-60 or 1e60."""
    from initaudit.live.probe import cost

    if not cheap:
        monkeypatch.setattr(cost, "_CHEAP", 0.0)
    rows, made, _ = probed(deep(scale), torch.randn(2, 8))
    assert len(made.layers) == 20
    first = rows["parts.0.weight"]
    for k, row in enumerate(rows.values()):
        assert row.forward_variance == pytest.approx(first.forward_variance * scale ** (2.0 * k), rel=1e-3)
        assert row.second_moment == pytest.approx(first.second_moment * scale ** (2.0 * k), rel=1e-3)
        assert row.gradient == pytest.approx(first.gradient, rel=1e-3)
        assert 0 < row.gradient < math.inf
        assert row.contrast > 0


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_signals_beyond_double_precision_are_no_nan(scale):
    rows, _, _ = probed(deep(scale, 30), torch.randn(2, 8))
    for row in rows.values():
        for value in (row.forward_variance, row.second_moment, row.gradient, row.common, row.contrast):
            assert value is not None
            assert not math.isnan(value)
        assert row.input_correlation is None or -1.01 < row.input_correlation < 1.01
    last = rows["parts.29.weight"].forward_variance
    assert last == (0 if scale < 1 else math.inf)


def test_distance_from_a_correlation_of_one_keeps_its_digits():
    net = Plain(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        net.parts[0].weight.mul_(1e-5)
        net.parts[0].bias.fill_(1.0)
    rows, _, data = probed(net, torch.randn(2, 6))
    z = net.double().parts[0](data["x"].double()).detach().reshape(4, -1)
    cosines = [float(nn.functional.cosine_similarity(z[a], z[b], 0)) for a in range(4) for b in range(a)]
    wanted = sum(1 - c for c in cosines) / 6
    assert 1 - rows["parts.0.weight"].input_correlation == pytest.approx(wanted, rel=1e-3, abs=0)
    assert 0 < wanted < 1e-8


HUGE = {
    "an outer sum": (Node("add", ("a", "b"), ("y",)), {"a": (1000000, 1), "b": (1, 1000000)}),
    "an outer product": (Node("matmul", ("a", "b"), ("y",)), {"a": (1000000, 1), "b": (1, 1000000)}),
    "padding": (Node("pad", ("a",), ("y",), {"pads": (0, 10**12)}), {"a": (3,)}),
    "tiles": (Node("expand", ("a", "shape"), ("e",)), {"a": (1, 1), "shape": (2,)}),
}


@pytest.mark.parametrize("case", HUGE)
def test_what_would_not_fit_is_not_made(case):
    from initaudit.live.probe.guard import Guard, TooLargeError

    node, shapes = HUGE[case]
    feeds = {name: torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(TooLargeError, match="too large to run"), Guard(1e9, 1e12):
        match node.op:
            case "expand":
                torch.zeros(1, 1).expand(10**6, 10**6).clone()
            case "pad":
                nn.functional.pad(feeds["a"], (0, 10**12))
            case "add":
                torch.add(feeds["a"], feeds["b"])
            case _:
                torch.matmul(feeds["a"], feeds["b"])


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(10**6, 10**6), lambda: torch.arange(0, 10**13), lambda: torch.eye(10**6),
        lambda: torch.ones(2).repeat(10**12), lambda: torch.bincount(torch.tensor([10**11])),
        lambda: nn.functional.interpolate(torch.ones(1, 1, 2, 2), size=(10**6, 10**6)),
        lambda: torch.ones(2).repeat_interleave(torch.tensor([10**11, 2])),
        lambda: nn.functional.one_hot(torch.tensor([1, 2]), 10**11),
    ],
)  # fmt: skip
def test_sizes_that_numbers_ask_for_are_not_made(make):
    from initaudit.live.probe.guard import Guard, TooLargeError

    with pytest.raises(TooLargeError), Guard(1e9, 1e12):
        make()


@pytest.mark.parametrize(
    "read",
    [
        lambda w: w.expand(10**5, 10**5)[0].sum(),  # a gradient of 40 GB for one number
        lambda w: sum(torch.zeros(10**5).add(w)[k] for k in range(100_000)),  # a gradient of 400 kB each time
    ],
)
def test_what_only_the_way_back_would_make_is_not_made(read):
    """The way forward takes views, which cost nothing; the way back fills them."""
    from initaudit.live.probe.guard import Guard, TooLargeError

    with pytest.raises(TooLargeError, match="too large to run"), Guard(1e8, 1e12):
        read(torch.ones(1, requires_grad=True))


def test_what_is_small_passes_and_is_counted():
    from initaudit.live.probe.guard import Guard

    net, x = nn.Linear(6, 8), torch.randn(4, 6)
    with Guard(1e9, 1e12) as guard:
        y = net(x)
    assert torch.equal(y, net(x))
    assert guard.macs == 4 * 6 * 8
    assert guard.made >= 4 * 8 * 4


def test_too_many_multiplications_stop_a_pass():
    from initaudit.live.probe.guard import Guard, TooLargeError

    with pytest.raises(TooLargeError, match="multiplications"), Guard(1e9, 1000):
        nn.Linear(60, 80)(torch.randn(4, 60))


def test_a_graph_that_grows_is_refused_in_one_line(monkeypatch):
    from initaudit.live.probe import cost, probe

    monkeypatch.setattr(cost, "MOST_BYTES", 1 << 27)
    nodes = [Node("concat", ("x" if k == 0 else f"v{k - 1}",) * 8, (f"v{k}",), {"axis": 1}) for k in range(14)]
    made = probe(graph(*nodes, inputs={"x": (2, 4)}, outputs=("v13",)), ())
    assert made.why.startswith("too large to run")
    assert made.why.endswith("theory is used instead")
    assert "\n" not in made.why


def test_what_it_costs_is_told_before():
    from initaudit.live.probe import estimate, probe

    model = audit.live(cnn(), torch.randn(2, 3, 9, 9))
    rows = layers.infer(model)[0]
    told = estimate(model.graph, rows)
    made = probe(model.graph, rows)
    assert told.macs == made.macs
    assert told.sentence == f"about {2 * told.macs / 1e6:.{int(told.macs < 4.975e6)}f} MFLOP, 1 MiB, a second"
    assert not told.refused


def test_what_no_shape_is_known_of_is_counted_from_the_rules_of_shapes():
    from dataclasses import replace

    from initaudit.live.probe import estimate

    model = audit.live(cnn(), torch.randn(2, 3, 9, 9))
    bare = replace(model.graph, shapes={})
    known, guessed = estimate(model.graph), estimate(bare)
    assert guessed.macs == pytest.approx(known.macs, rel=0.01)


SCRIPT = """
import sys
from tests.live.test_probe_limits import same_model
sys.stdout.write(same_model(4, 0))
"""


def same_model(threads, before):
    """Return what is told of a net in single and in double precision, in the words of Python."""
    from initaudit.live.probe import cost, probe

    held = torch.get_num_threads(), cost._CHEAP
    torch.set_num_threads(threads)
    for _ in range(before):
        nn.Linear(300, 300)(torch.randn(700, 300)).sum().backward()
    try:
        torch.manual_seed(0)
        model = audit.live(Vit(), torch.randn(2, 3, 8, 8))
        rows = layers.infer(model)[0]
        told = repr(probe(model.graph, rows, seed=4))
        cost._CHEAP = 0.0
        return told + repr(probe(model.graph, rows, seed=4))
    finally:
        torch.set_num_threads(held[0])
        cost._CHEAP = held[1]


def test_the_same_to_the_byte_whatever_the_threads_and_whatever_ran_before():
    alone = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert {same_model(threads, before) for threads, before in ((1, 0), (2, 3), (3, 1))} == {alone}


def test_the_callers_random_numbers_and_threads_are_left_as_they_were():
    torch.manual_seed(1)
    threads = torch.get_num_threads()
    state = torch.get_rng_state()
    net = mlp()
    torch.set_rng_state(state)
    model = audit.live(net, torch.zeros(2, 12))
    rows = layers.infer(model)[0]
    from initaudit.live.probe import probe

    torch.set_rng_state(state)
    probe(model.graph, rows)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
