"""Fresh, trained, mixed or unknown: fresh modules of torch, and small nets that were really trained."""

import numpy as np
import pytest

from initaudit import state
from initaudit.types import Evidence, Role, State
from tests.build import he, layer, measured, rng, tensor

torch = pytest.importorskip("torch")
nn = torch.nn


def of(model, heads=(), adapters=()):
    """Measure the layers of a live module."""
    found = []
    for name, m in model.named_modules():
        own = dict(m.named_parameters(recurse=False))
        if isinstance(m, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            running = [k for k in ("running_mean", "running_var") if getattr(m, k, None) is not None]
            found.append(
                layer(
                    name, own["weight"].detach().numpy().copy(), "norm", "o", role=Role.NORM,
                    bias=tensor(f"{name}.bias", own["bias"].detach().numpy().copy()),
                    extra=tuple(tensor(f"{name}.{k}", getattr(m, k).numpy().copy()) for k in running),
                )
            )  # fmt: skip
            continue
        for key, p in own.items():
            if p.ndim < 2:
                continue
            kind = {"LSTM": "lstm", "Conv2d": "conv"}.get(type(m).__name__, "linear")
            bias = own.get(key.replace("weight", "bias"))
            role = Role.HEAD if name in heads else Role.ADAPTER if name in adapters else Role.TRUNK
            found.append(
                layer(
                    f"{name}.{key}", p.detach().numpy().copy(), kind, "oi" + "k" * (p.ndim - 2), role=role,
                    parts=tuple("ifgo") if kind == "lstm" else tuple("qkv") if key == "in_proj_weight" else (),
                    bias=None if bias is None else tensor(f"{name}.bias.{key}", bias.detach().numpy().copy()),
                )
            )  # fmt: skip
    return [measured(one) for one in found]


def mlp(norm=None, init=None, bias=True):
    parts, width = [], 20
    for _ in range(3):
        parts += [nn.Linear(width, 96, bias=bias), *([norm(96)] if norm else []), nn.ReLU()]
        width = 96
    model = nn.Sequential(*parts, nn.Linear(96, 5, bias=bias))
    for m in model.modules():
        if init and isinstance(m, nn.Linear):
            init(m.weight)
            if bias:
                nn.init.zeros_(m.bias)
    return model


def cnn():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4, 5)), nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(640, 5),
    )  # fmt: skip


NETS = {
    "default": mlp,
    "he": lambda: mlp(init=nn.init.kaiming_normal_),
    "orthogonal": lambda: mlp(init=nn.init.orthogonal_),
    "layernorm": lambda: mlp(nn.LayerNorm),
    "batchnorm": lambda: mlp(nn.BatchNorm1d, nn.init.xavier_uniform_),
    "no bias": lambda: mlp(bias=False),
    "cnn": cnn,
}


def train(model, steps, seed=0, parameters=None):
    """Really train on a random teacher's labels."""
    torch.manual_seed(seed)
    x = torch.randn(1024, 20)
    y = (torch.tanh(x @ torch.randn(20, 30)) @ torch.randn(30, 5)).argmax(1)
    optimizer = torch.optim.SGD(parameters or model.parameters(), 0.05, momentum=0.9)
    for step in range(steps):
        batch = slice(64 * (step % 16), 64 * (step % 16) + 64)
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("seed", range(3))
def test_fresh_nets_are_fresh(net, seed):
    torch.manual_seed(seed)
    answer, reasons = state.judge(of(NETS[net]()))
    assert answer is State.FRESH, reasons


@pytest.mark.parametrize("net", NETS)
def test_trained_nets_are_trained(net):
    torch.manual_seed(4)
    answer, reasons = state.judge(of(train(NETS[net](), 150)))
    assert answer is State.TRAINED, reasons
    assert any(word in " ".join(reasons) for word in ("of a clean law", "constant"))


@pytest.mark.parametrize("net", NETS)
def test_a_few_steps_are_never_called_mixed(net):
    for steps in (1, 10, 40):
        torch.manual_seed(steps)
        assert state.judge(of(train(NETS[net](), steps)))[0] is not State.MIXED


def test_bigger_fresh_modules_are_fresh():
    torch.manual_seed(0)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True), 3)
    assert state.judge(of(encoder))[0] is State.FRESH
    assert state.judge(of(nn.LSTM(30, 64, 2)))[0] is State.FRESH


def test_faulty_scales_do_not_make_a_net_trained():
    for std in (1.0, 1e-4):
        net = mlp(init=lambda w, std=std: nn.init.normal_(w, 0, std))
        assert state.judge(of(net))[0] is State.FRESH


def test_a_folded_batchnorm_does_not_make_a_net_trained():
    torch.manual_seed(0)
    layers = []
    for k in range(4):
        w = nn.Conv2d(32, 32, 3).weight.detach().numpy() / np.float32(np.sqrt(1 + 1e-5))
        layers.append(layer(f"conv{k}", w, "conv", "oikk", bias=tensor(f"b{k}", np.zeros(32, np.float32))))
    assert state.judge([measured(one) for one in layers])[0] is State.FRESH


def test_a_fresh_head_on_a_trained_body_is_mixed():
    torch.manual_seed(1)
    net = train(mlp(nn.LayerNorm), 150)
    net[-1] = nn.Linear(96, 40)
    nn.init.normal_(net[-1].weight, 0, 0.02)
    nn.init.zeros_(net[-1].bias)
    answer, reasons = state.judge(of(net, heads=(str(len(net) - 1),)))
    assert answer is State.MIXED
    assert str(len(net) - 1) in reasons[-1]


def test_adapters_on_a_trained_base_are_mixed_and_on_a_fresh_base_fresh():
    def with_adapter(base):
        a, b = nn.Linear(96, 8, bias=False), nn.Linear(8, 96, bias=False)
        nn.init.zeros_(b.weight)
        return nn.ModuleDict({"base": base, "a": a, "b": b})

    torch.manual_seed(2)
    assert state.judge(of(with_adapter(train(mlp(), 150)), adapters=("a", "b")))[0] is State.MIXED
    assert state.judge(of(with_adapter(mlp()), adapters=("a", "b")))[0] is State.FRESH


def test_forward_passes_alone_are_not_training():
    torch.manual_seed(3)
    net = cnn()
    for _ in range(20):
        net(torch.randn(64, 20))
    assert state.judge(of(net))[0] in (State.FRESH, State.UNKNOWN)


def test_nothing_to_tell_by_is_unknown():
    answer, reasons = state.judge([])
    assert (answer, len(reasons)) == (State.UNKNOWN, 1)
    tiny = layer("fc", rng().standard_normal((3, 3)).astype(np.float32))
    assert state.judge([measured(tiny)])[0] is State.UNKNOWN


def test_ties_quantised_and_broken_tensors_have_no_vote():
    w = he(64, 64)
    tied = layer("tied", rng().standard_t(3, (64, 64)).astype(np.float32), tied="fc")
    broken = layer("broken", np.full((64, 64), np.nan, np.float32))
    packed = layer("int8", np.round(he(64, 64, 1) * 100).astype(np.int8))
    answer, reasons = state.judge([measured(one) for one in (layer("fc", w), tied, broken, packed)])
    assert answer is State.FRESH
    assert reasons == ("1 of 1 weights are of a clean law",)


def test_evidence_does_not_depend_on_how_sure_the_layers_are():
    bare = [layer(f"l{k}", he(64, 64, k), role=Role.OTHER, fan_evidence=Evidence.ASSUMED) for k in range(3)]
    assert state.judge([measured(one) for one in bare])[0] is State.FRESH
