"""Example inputs shape what is drawn: by their values, whatever they are called."""

import pytest

import initaudit
from initaudit import audit, layers

torch = pytest.importorskip("torch")
nn = torch.nn


def law(value, **options):
    from initaudit.live.probe.examples import law as told

    return told(value, **options)


def drawn(value, calls=6, **options):
    found = law(value, **options)
    random = torch.Generator().manual_seed(3)
    return [found.run(call, calls, random) for call in range(calls)]


def differ(runs):
    return all(not torch.equal(runs[0], other) for other in runs[1:])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(1, 3, 224, 224), torch.ones(2, 5), torch.full((2, 4), 0.5), torch.randn(16, 64, generator=seeded()),
        torch.randn(1, 3, 32, 32, generator=seeded(1)), torch.randn(4, 7, generator=seeded(2)), torch.ones(()),
        torch.zeros(2, 3).long(), torch.zeros(0, 3), torch.randn(2, 3, dtype=torch.complex64),
        torch.randn(1, 8, generator=seeded(4)),
    ],
)  # fmt: skip
def test_constants_and_normal_numbers_tell_nothing(value):
    assert law(value) is None


def test_several_inputs_are_used_as_they_are():
    value = torch.rand(4, 6, generator=seeded())
    runs = drawn(value, calls=4)
    assert differ(runs)
    for run in runs:
        assert {tuple(row.tolist()) for row in run} == {tuple(row.tolist()) for row in value}


def test_an_image_of_its_own_statistics_is_no_normal_draw():
    smooth = torch.randn(4, 3, 9, 9, generator=seeded()).cumsum(-1).cumsum(-2)
    smooth = (smooth - smooth.mean()) / smooth.std()
    assert law(smooth) is not None


def test_values_of_one_image_stay_in_their_channel():
    value = torch.rand(1, 3, 8, 8, generator=seeded()) + torch.tensor([0.0, 5.0, 9.0]).reshape(1, 3, 1, 1)
    runs = drawn(value)
    assert differ(runs)
    for run in runs:
        assert run.shape == value.shape
        for channel in range(3):
            assert set(run[0, channel].flatten().tolist()) <= set(value[0, channel].flatten().tolist())


@pytest.mark.parametrize("shape", [(1, 30), (1, 5, 30), (1, 1, 30)])
def test_one_hot_vectors_stay_one_hot(shape):
    value = torch.zeros(shape)
    value[..., 4] = 1.0
    value[..., -1, :] = value[..., -1, :].roll(3)
    runs = drawn(value)
    for run in runs:
        assert torch.equal(run.sum(-1), torch.ones(shape[:-1]))
        assert set(run.unique().tolist()) == {0.0, 1.0}
    assert not all(torch.equal(run, runs[0]) for run in runs)


def test_directions_keep_their_length_and_shares_their_sum():
    ray = nn.functional.normalize(torch.randn(1, 40, 3, generator=seeded()), dim=-1) * 2
    for run in drawn(ray):
        assert run.norm(dim=-1) == pytest.approx(2, rel=1e-5)
    share = torch.rand(1, 9, 4, generator=seeded()).softmax(-1)
    runs = drawn(share)
    assert differ(runs)
    for run in runs:
        assert run.sum(-1) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("batch", [(), (1,), (3,)])
def test_an_adjacency_keeps_its_loops_and_degrees(batch):
    value = (torch.rand(*batch, 12, 12, generator=seeded()) < 0.2).float()
    value = ((value + value.transpose(-1, -2) + torch.eye(12)) > 0).float()
    runs = drawn(value, calls=3)
    assert differ(runs)
    for run in runs:
        assert torch.equal(run.diagonal(dim1=-2, dim2=-1), torch.ones(*batch, 12))
        assert torch.equal(run, run.transpose(-1, -2))
        assert torch.equal(run.sum(-1).flatten().sort()[0], value.sum(-1).flatten().sort()[0])


def test_masks_and_single_numbers_stay_as_they_are():
    causal = torch.full((1, 5, 5), -torch.inf).triu(1)
    assert all(torch.equal(run, causal) for run in drawn(causal))
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    assert all(torch.equal(run, hidden) for run in drawn(hidden, word="mask"))
    time = torch.tensor([0.3])
    assert all(torch.equal(run, time) for run in drawn(time, alone=False))
    assert law(time) is None  # the only input there is


def test_whole_numbers_keep_their_range():
    value = torch.tensor([[-2, 5, 9], [3, 3, 3]])
    runs = drawn(value)
    assert differ(runs)
    assert all(-2 <= int(run.min()) <= int(run.max()) <= 9 for run in runs)
    assert law(value, word="ids") is None  # the table says which there are


class Graphs(nn.Module):
    """Averages over neighbours: with rows that sum to about zero, it explodes."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 5)

    def forward(self, x, links):
        mean = links / links.sum(-1, keepdim=True)
        return self.second(torch.relu(mean @ self.first(x))).mean(1)


def graphs():
    x = torch.randn(4, 12, 16, generator=seeded())
    links = (torch.rand(4, 12, 12, generator=seeded(1)) < 0.3).float() + torch.eye(12)
    return x, links.clamp(max=1)


def test_a_net_on_graphs_is_probed_on_graphs():
    torch.manual_seed(0)
    module = Graphs()
    report = initaudit.check(module, graphs())
    rows = {m.layer.name: m.probed for m in report.measured}
    ratio = rows["second"].forward_variance / rows["first"].forward_variance
    assert 1e-3 < ratio < 1, report.findings
    model = audit.live(module, graphs())
    assert [one.name for one in model.examples] == ["x", "links"]
    from initaudit.live.probe import probe

    without = probe(model.graph, layers.infer(model)[0])
    assert without.layers[1].forward_variance > 10 * rows["second"].forward_variance  # what the examples are for


def test_the_same_report_every_time_and_by_seed():
    torch.manual_seed(0)
    module = Graphs()
    told = [initaudit.check(module, graphs(), seed=seed).probe for seed in (0, 0, 1)]
    assert told[0] == told[1] != told[2]


def test_data_go_before_examples():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    data = torch.randn(8, 6, generator=seeded())
    one = initaudit.check(module, torch.rand(2, 6, generator=seeded()) * 100, data=data)
    two = initaudit.check(module, torch.zeros(2, 6), data=data)
    assert one.probe == two.probe


def test_guessed_inputs_are_no_examples():
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    assert audit.live(module).examples == ()
    assert audit.live(module, None, ("input=2,6",)).examples == ()


def test_placeholders_are_probed_as_without_values():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    zeros, normal = (initaudit.check(module, x) for x in (torch.zeros(4, 6), torch.randn(4, 6, generator=seeded())))
    assert zeros.probe == normal.probe


def test_two_inputs_are_not_counted_as_more():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    report = initaudit.check(module, torch.rand(2, 6, generator=seeded()))
    assert report.probe.inputs == 4  # two runs of both, in turn
    first = report.measured[0].probed
    x = module[0](torch.rand(2, 6, generator=seeded())).detach()
    assert first.forward_variance == pytest.approx(float(x.var(0).mean()), rel=1e-4)


@pytest.mark.parametrize("probe", [True, False])
def test_a_placeholder_does_not_make_a_healthy_net_ill(probe):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 3))
    for x in (torch.zeros(4, 32), torch.ones(1, 32)):
        report = initaudit.check(module, x, probe=probe)
        assert report.risk.value < 0.1
        assert report.measured[0].signal.forward_variance > 0.1
