"""A chain that numbers prove is judged for every activation that is common, and told where none would do."""

import pytest

import initaudit
from initaudit import formats, layers
from initaudit.inferred import chained, numbered
from initaudit.types import Evidence, Severity
from tests.layers.flat import shapes

torch = pytest.importorskip("torch")
nn = torch.nn


def dense(depth, *, width=16, activation=nn.ReLU, norm=None, dropout=False, init=None):
    """Depth weights with activations between them, at torch's default or as `init` draws them."""
    steps = []
    for at in range(depth - 1):
        steps.append(nn.Linear(width if at else 20, width))
        steps += [norm(width)] if norm else []
        steps += [activation()] + ([nn.Dropout()] if dropout else [])
    net = nn.Sequential(*steps, nn.Linear(width, 5))
    for m in net if init is not None else ():
        if isinstance(m, nn.Linear):
            init(m.weight)
            nn.init.zeros_(m.bias)
    return net


def saved(net, folder, prefix="", order=None):
    state = {f"{prefix}{name}": value for name, value in net.state_dict().items()}
    torch.save({name: state[name] for name in sorted(state)} if order else state, folder / "net.pt")
    return folder / "net.pt"


def he(weight):
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


def siren(weight):  # Sitzmann et al. (2020): U(+-sqrt(6 / n) / 30) behind sin(30 x)
    nn.init.uniform_(weight, -((6 / weight.shape[1]) ** 0.5) / 30, (6 / weight.shape[1]) ** 0.5 / 30)


@pytest.mark.parametrize("prefix", ["", "model.net."])
@pytest.mark.parametrize("order", [None, sorted])
def test_a_deep_chain_at_the_default_is_told(tmp_path, prefix, order):
    torch.manual_seed(0)
    report = initaudit.check(saved(dense(18), tmp_path, prefix, order))
    assert (report.verdict, report.model.graph_source) == ("suspect", "inferred")
    worst = report.findings[0]
    assert (worst.rule, worst.severity, worst.capped) == ("INI501", Severity.WARNING, Severity.ERROR)
    assert len(worst.also) > 14
    assert [m.layer.name for m in report.measured] == [f"{prefix}{at}" for at in range(0, 35, 2)]  # as it runs
    assert all(m.layer.activation_evidence is Evidence.ASSUMED for m in report.measured[:-1])


@pytest.mark.parametrize(
    "net",
    [
        lambda: dense(30, dropout=True),
        lambda: dense(30, activation=nn.PReLU),
        lambda: dense(14, init=lambda w: nn.init.normal_(w, 0, 1e-3)),
        lambda: dense(14, init=lambda w: nn.init.normal_(w, 0, 10)),
    ],
    ids=["dropout", "prelu", "small", "large"],
)
def test_other_chains_that_no_activation_saves(tmp_path, net):
    torch.manual_seed(0)
    report = initaudit.check(saved(net(), tmp_path))
    assert (report.verdict, report.model.graph_source) == ("suspect", "inferred")
    assert all(f.severity < Severity.ERROR for f in report.findings)


@pytest.mark.parametrize(
    "net",
    [
        lambda: dense(4), lambda: dense(8), lambda: dense(14, init=he), lambda: dense(14, norm=nn.LayerNorm),
        lambda: dense(14, activation=nn.Tanh, init=nn.init.xavier_normal_),
        lambda: dense(14, activation=nn.SELU, init=lambda w: nn.init.normal_(w, 0, w.shape[1] ** -0.5)),
        lambda: dense(10, init=siren),
        lambda: dense(10, activation=nn.Sigmoid, init=lambda w: nn.init.xavier_uniform_(w, gain=4)),
    ],
    ids=["shallow", "eight", "he", "layer norm", "xavier", "lecun", "siren", "sigmoid"],
)  # fmt: skip
def test_a_chain_that_some_activation_suits_is_left_alone(tmp_path, net):
    torch.manual_seed(0)
    report = initaudit.check(saved(net(), tmp_path))
    assert (report.verdict, report.model.graph_source, report.risk) == ("healthy", "none", None)
    assert all(m.predicted is None for m in report.measured)


def test_the_user_says_what_stands_between(tmp_path):
    torch.manual_seed(0)
    net = dense(14, activation=nn.Tanh, norm=nn.BatchNorm1d)
    told = initaudit.check(saved(net, tmp_path), activation="tanh")
    live = initaudit.check(net)
    assert told.model.graph_source == "inferred"
    assert not told.model.open
    assert told.risk.value == pytest.approx(live.risk.value)
    for ours, theirs in zip(told.measured, live.measured, strict=True):
        assert ours.predicted.forward_variance == pytest.approx(theirs.predicted.forward_variance)
    assert max(m.layer.activation_evidence for m in told.measured if m.layer.kind == "linear") is Evidence.NAMED


def test_what_is_not_known_is_not_run(tmp_path):
    torch.manual_seed(0)
    path = saved(dense(18), tmp_path)
    report = initaudit.check(path, probe=True)
    assert report.probe.layers == ()
    assert "--activation" in report.probe.why
    told = initaudit.check(path, activation="relu", probe=True)
    assert told.probe.layers
    assert told.findings[0].severity is Severity.WARNING


def test_a_repair_of_it_is_healthy(tmp_path):
    torch.manual_seed(0)
    repair = initaudit.fix(saved(dense(18), tmp_path), output=tmp_path / "fixed.pt")
    assert len(repair.plan.recipes) >= 16
    assert initaudit.check(tmp_path / "fixed.pt").verdict == "healthy"


MATRICES = {f"{n}__weight": (8, 8) for n in (0, 2, 4)}


@pytest.mark.parametrize(
    "named",
    [
        MATRICES,
        {f"net__{name}": shape for name, shape in MATRICES.items()},
        MATRICES | {"1__weight": (8,), "1__bias": (8,), "1__running_mean": (8,), "1__running_var": (8,)}
        | {"2__weight": (8, 8), "4__weight": (8, 8), "0__bias": (8,)} | {"4__weight": (3, 8)},
        {"0__weight": (8, 8), "1__weight": (1,), "2__weight": (5, 8)},
        {"1__weight": (8, 8), "3__weight": (8, 8)},
    ],
    ids=["plain", "prefix", "norm", "prelu", "from one"],
)  # fmt: skip
def test_numbers_prove_a_chain(named):
    if "1__running_mean" in named:  # a norm right behind its weight; a gap has to follow
        named = {name.replace("2__", "3__").replace("4__", "5__"): shape for name, shape in named.items()}
    model = shapes(**named)
    assert numbered.chain(model, layers.infer(model)[0]) is not None


@pytest.mark.parametrize(
    "named",
    [
        {f"{n}__weight": (8, 8) for n in range(5)},  # a ModuleList of weights
        {f"{n}__weight": (8, 8) for n in (0, 1, 3)},  # nothing stands between two
        MATRICES | {"head__weight": (8, 8)},
        MATRICES | {"a__0__weight": (8, 8)},
        {f"{name}__{n}__weight": (8, 8) for name in "ab" for n in (0, 2)},
        {"0__weight": (8, 8), "2__weight": (8, 9)},
        {"0__weight": (8, 8)},
        MATRICES | {"1__weight": (8,)},  # the scale of a norm, or slopes
        MATRICES | {"1__weight": (8,), "1__bias": (8,)},  # a norm, and nothing else between
        MATRICES | {"6__alpha": (1,)},
        MATRICES | {"2__weight_g": (8, 1)},
        {f"res_blocks__{n}__weight": (8, 8) for n in (0, 2, 4)},
        {f"{n}__weight": (8, 8) for n in (7, 9)},
        {f"{n}__weight": (8, 8, 3, 3) for n in (0, 2)},
    ],
)  # fmt: skip
def test_what_may_be_something_else_is_no_chain(named):
    model = shapes(**named)
    assert chained(model, layers.infer(model)[0]) is model


def test_layers_are_read_as_before(tmp_path):
    torch.manual_seed(0)
    path = saved(dense(18), tmp_path)
    plain = {a.name: a for a in layers.infer(formats.read(path))[0]}
    report = initaudit.check(path)
    assert report.model.graph_source == "inferred"
    assert {m.layer.name: m.layer for m in report.measured} == plain
