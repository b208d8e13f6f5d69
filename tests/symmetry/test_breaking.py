"""What parts tied units in practice, as it is told and as training with it on does."""

import pytest

torch = pytest.importorskip("torch")
nn = torch.nn

from tests.rules.nets import ROWS, checked, dense, tied  # noqa: E402


def breaks(net, *examples):
    return {m.layer.name: m.freedom.breaks for m in checked(net, *examples).measured if m.freedom.breaks}


def apart(net, first, second, *, steps=30):
    """How far two units of the first layer are from each other after some steps with dropout on."""
    net = net.double().train()
    torch.manual_seed(1)
    made = torch.optim.SGD(net.parameters(), 0.05)
    x = torch.randn(32, 16).double()
    for _ in range(steps):
        made.zero_grad()
        net(x).square().sum(-1).mean().backward()
        made.step()
    weight = net[0].weight.detach()
    return float((weight[first] - weight[second]).abs().max())


@pytest.mark.parametrize("between", [(), (nn.Dropout(0.1),), (nn.AlphaDropout(0.2),), (nn.Dropout(0.0),)])
def test_masks_per_unit_part_tied_units(between):
    net = tied(dense(*between), 3, 17)
    active = bool(between) and between[0].p > 0
    assert breaks(net) == ({"0": (f"dropout {between[0].p} at 2",)} if active else {})
    assert (apart(net, 3, 17) > 1e-9) is active


def test_a_dropout_that_acts_elsewhere_parts_nothing():
    net = nn.Sequential(nn.Dropout(0.3), *tied(dense(), 3, 17))
    assert breaks(net) == {}


def test_nothing_is_said_of_units_that_are_not_tied():
    assert breaks(dense(nn.Dropout(0.1))) == {}


def test_the_nearest_dropout_is_named():
    net = tied(tied(dense(nn.Dropout(0.1)), 3, 17), 5, 6, at=1)
    net.insert(5, nn.Dropout(0.25))
    assert breaks(net) == {"0": ("dropout 0.1 at 2",), "3": ("dropout 0.25 at 5",)}


class Image(nn.Module):
    """Two tied channels, and a dropout of whole channels or of whole samples."""

    def __init__(self, drop):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.drop, self.second = nn.Conv2d(3, 8, 3), drop, nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.first.weight[2], self.first.bias[2] = self.first.weight[5], self.first.bias[5]
            self.second.weight[:, 2] = self.second.weight[:, 5]

    def forward(self, x):
        return self.head(torch.relu(self.second(self.drop(torch.relu(self.first(x))))).mean((2, 3)))


class Depth(nn.Module):
    """Stochastic depth: a whole sample is dropped."""

    def forward(self, x):
        kept = torch.rand(x.shape[0], 1, 1, 1) < 0.8 if self.training else 1.0
        return x * kept


def test_masks_per_channel_part_channels_and_masks_per_sample_do_not():
    x = torch.randn(2, 3, 8, 8)
    assert breaks(Image(nn.Dropout2d(0.2)), x) == {"first": ("dropout 0.2 at drop",)}
    assert breaks(Image(Depth()), x) == {}


@pytest.mark.parametrize("old", [True, False])
def test_dropout_of_an_onnx_file_that_was_exported_in_training_mode(old, tmp_path):
    pytest.importorskip("onnx")
    import initaudit

    if not old:
        pytest.importorskip("onnxscript")
    net = tied(dense(nn.Dropout(0.1)), 3, 17).train()
    path = tmp_path / "net.onnx"
    options = {"training": torch.onnx.TrainingMode.TRAINING} if old else {}
    torch.onnx.export(net, (ROWS,), str(path), dynamo=not old, verbose=False, **options)
    (told,) = [m.freedom for m in initaudit.check(path).measured if m.freedom is not None and m.freedom.classes]
    assert len(told.breaks) == 1
    assert told.breaks[0].startswith("dropout 0.1")
