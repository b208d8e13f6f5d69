"""A pickled module of torch's own classes alone has the graph that tracing the live module finds."""

import io
from dataclasses import replace

import pytest

import initaudit
from initaudit import formats
from initaudit.inferred import graphed

torch = pytest.importorskip("torch")
nn = torch.nn

VECTOR, SEQUENCE, PICTURE, VOLUME = (2, 8), (2, 8, 64), (2, 8, 64, 64), (2, 8, 16, 32, 32)
LINEAR = {VECTOR: lambda: nn.Linear(8, 8), SEQUENCE: lambda: nn.Conv1d(8, 8, 1), PICTURE: lambda: nn.Conv2d(8, 8, 1),
          VOLUME: lambda: nn.Conv3d(8, 8, 1)}  # fmt: skip
LEAVES = [
    (VECTOR, lambda: [
        nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(0.2), nn.ELU(0.7), nn.SELU(), nn.CELU(), nn.GELU(),
        nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.Hardtanh(),
        nn.Hardtanh(-2.0, 1.0), nn.Softplus(2.0), nn.Softsign(), nn.LogSigmoid(), nn.Softshrink(), nn.Hardshrink(0.1),
        nn.Tanhshrink(), nn.Threshold(0.1, 0.0), nn.PReLU(), nn.PReLU(8), nn.RReLU(), nn.GLU(), nn.Softmax(1),
        nn.Softmax(), nn.LogSoftmax(-1), nn.Softmin(1), nn.Dropout(), nn.AlphaDropout(), nn.Identity(),
        nn.BatchNorm1d(8), nn.BatchNorm1d(8, affine=False), nn.BatchNorm1d(8, track_running_stats=False),
        nn.BatchNorm1d(8, momentum=None), nn.LayerNorm(8), nn.LayerNorm(8, bias=False), nn.RMSNorm(8),
        nn.LayerNorm(8, elementwise_affine=False), nn.GroupNorm(2, 8), nn.Unflatten(1, (2, 4)),
        nn.Unflatten(-1, (-1, 4)), nn.Linear(8, 3, bias=False), nn.Flatten(),
    ]),
    (SEQUENCE, lambda: [
        nn.Conv1d(8, 4, 3, stride=2, dilation=2, groups=2), nn.Conv1d(8, 4, 4, padding="same"),
        nn.Conv1d(8, 4, 3, padding=1, padding_mode="circular"), nn.ConvTranspose1d(8, 4, 4, 2, 1, 1, groups=2),
        nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(2), nn.AdaptiveAvgPool1d(5), nn.AdaptiveMaxPool1d(1), nn.LPPool1d(2, 3),
        nn.InstanceNorm1d(8), nn.Upsample(scale_factor=2), nn.Upsample(7, mode="linear"), nn.ReflectionPad1d(2),
        nn.Dropout1d(), nn.BatchNorm1d(8), nn.Flatten(), nn.GroupNorm(4, 8), nn.GLU(1),
    ]),
    (PICTURE, lambda: [
        nn.Conv2d(8, 4, (3, 5), padding=(1, 2), padding_mode="reflect"), nn.Conv2d(8, 4, 3, (1, 2), padding="valid"),
        nn.Conv2d(8, 4, 4, padding="same", padding_mode="replicate"), nn.ConvTranspose2d(8, 4, 3, 2, 1, 1),
        nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, dilation=2), nn.AvgPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d((2, 3), divisor_override=2), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((4, None)),
        nn.AdaptiveMaxPool2d(3), nn.LPPool2d(2, 2), nn.InstanceNorm2d(8, affine=True, track_running_stats=True),
        nn.BatchNorm2d(8), nn.LocalResponseNorm(5), nn.PixelShuffle(2), nn.PixelUnshuffle(4), nn.ChannelShuffle(2),
        nn.Upsample(scale_factor=(1.5, 2.0), mode="bilinear"), nn.UpsamplingNearest2d(scale_factor=2),
        nn.UpsamplingBilinear2d(8), nn.ZeroPad2d(1), nn.ZeroPad2d((1, 0, 2, 0)), nn.ConstantPad2d(1, 0.5),
        nn.ReflectionPad2d(1), nn.ReplicationPad2d(2), nn.CircularPad2d(1), nn.Dropout2d(), nn.FeatureAlphaDropout(),
        nn.Softmax2d(), nn.Flatten(), nn.Flatten(2), nn.Flatten(1, 2), nn.Flatten(3), nn.PReLU(8),
        nn.LayerNorm((64, 64)),
    ]),
    (VOLUME, lambda: [
        nn.Conv3d(8, 4, 3), nn.MaxPool3d(2), nn.AvgPool3d(3, 2), nn.BatchNorm3d(8), nn.InstanceNorm3d(8),
        nn.ConvTranspose3d(8, 4, 2, 2), nn.AdaptiveAvgPool3d(1), nn.ZeroPad3d(1), nn.Upsample(scale_factor=2),
    ]),
]  # fmt: skip


def saved(net):
    file = io.BytesIO()
    torch.save(net, file)
    return file.getvalue()


def read(net, folder):
    (folder / "net.pt").write_bytes(saved(net))
    return graphed(formats.read(folder / "net.pt"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("shape", "leaves"), LEAVES, ids=["vector", "sequence", "picture", "volume"])
def test_each_module_calls_what_tracing_sees(tmp_path, shape, leaves):
    from initaudit.live import model as live

    for leaf in leaves():
        net = nn.Sequential(LINEAR[shape](), leaf).eval()
        with torch.no_grad():
            out = tuple(net(torch.zeros(shape)).shape)
        made, traced = read(net, tmp_path).graph, live.read(net).graph
        assert made is not None, leaf
        assert (made.nodes, made.inputs, made.outputs) == (traced.nodes, traced.inputs, traced.outputs), leaf
        assert made.shapes == traced.shapes, leaf
        assert made.shapes[made.outputs[0]] == out, leaf


def test_an_embedding_takes_ids(tmp_path):
    from initaudit.live import model as live

    for net in (
        nn.Sequential(nn.Embedding(20, 6, padding_idx=0), nn.LayerNorm(6), nn.Linear(6, 3)),
        nn.Sequential(nn.Embedding(20, 6), nn.Flatten(), nn.Linear(72, 3)),
        nn.Sequential(nn.EmbeddingBag(20, 6, mode="sum"), nn.Linear(6, 3)),
    ):
        made, traced = read(net, tmp_path).graph, live.read(net).graph
        assert (made.nodes, made.inputs) == (traced.nodes, traced.inputs)


def test_sizes_are_those_that_fit(tmp_path):
    for side in (28, 32, 45, 96):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Flatten(), nn.Linear(4 * (side - 4) ** 2, 3)
        )
        assert read(net, tmp_path).graph.inputs == {"input": (2, 1, side, side)}


class Own(nn.Sequential):
    """A class of the user's own, whose code is not in the file."""


def _hook(module, args):
    return args


def _hooked():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net[0].register_forward_pre_hook(_hook)
    return net


def _replaced():
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net[1].forward = torch.sin
    return net


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: Own(nn.Linear(4, 4), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(4, 4), Own(nn.ReLU())),
        lambda: nn.ModuleList([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)]),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ModuleList([nn.Linear(4, 4)])),
        lambda: nn.Sequential(nn.LSTM(4, 4), nn.Linear(4, 4)),
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2, return_indices=True)),
        lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4)), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(5, 4)),
        lambda: {"a": nn.Sequential(nn.Linear(4, 4)), "b": nn.Sequential(nn.Linear(4, 4))},
        _hooked, _replaced,
    ],
    ids=["class", "inner class", "list", "inner list", "tuple", "indices", "hook of weight norm", "misfit",
          "two", "hook", "forward"],
)  # fmt: skip
def test_what_its_records_do_not_prove_has_no_graph(tmp_path, make):
    found = read(make(), tmp_path)
    assert found.graph is None
    assert found.graph_source == "module"


def test_a_parameter_that_nobody_uses_is_no_part_of_a_proof(tmp_path):
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    net.scale = nn.Parameter(torch.ones(4))
    assert read(net, tmp_path).graph is None


@pytest.mark.parametrize("value", [0, -5, 10**5000, float("nan"), float("inf"), "x", (), (1, 2, 3), None], ids=range(9))
@pytest.mark.parametrize(("at", "name"), [("0", "stride"), ("0", "dilation"), ("2", "kernel_size"), ("3", "start_dim")])
def test_attributes_that_no_constructor_sets_do_no_harm(tmp_path, at, name, value):
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 169, 3))
    torch.save(net, tmp_path / "net.pt")
    found = formats.read(tmp_path / "net.pt")
    records = [replace(m, attrs={**m.attrs, name: value}) if m.path == at else m for m in found.modules]
    assert graphed(replace(found, modules=tuple(records))).graph is None


@pytest.mark.parametrize("more", ["", "0", "missing"])
def test_a_tree_that_is_no_tree_proves_nothing(tmp_path, more):
    torch.save(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), tmp_path / "net.pt")
    found = formats.read(tmp_path / "net.pt")
    root = replace(found.modules[0], children=(*found.modules[0].children, more))
    assert graphed(replace(found, modules=(root, *found.modules[1:]))).graph is None


def test_one_module_in_two_places_is_one_layer(tmp_path):
    shared = nn.Linear(8, 8)
    (tmp_path / "net.pt").write_bytes(saved(nn.Sequential(shared, nn.ReLU(), shared, nn.Tanh(), nn.Linear(8, 2))))
    report = initaudit.check(tmp_path / "net.pt")
    assert [m.layer.name for m in report.measured] == ["0", "4"]
    assert report.model.graph_source == "inferred"
