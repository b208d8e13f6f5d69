from __future__ import annotations

from math import prod

import pytest

from initaudit import layers
from initaudit.types import Evidence, Global, Layer, Module, Role
from tests.layers.flat import by_weight, model, pickled, tensor

torch = pytest.importorskip("torch")
nn = torch.nn
TRACED, NAMED, ASSUMED = Evidence.TRACED, Evidence.NAMED, Evidence.ASSUMED


def read(live: object) -> dict[str, Layer]:
    return by_weight(layers.infer(pickled(live))[0])


def test_a_sequential_tells_activation_norm_and_role_for_certain() -> None:
    found = read(
        nn.Sequential(
            nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16)), nn.Tanh(),
            nn.Linear(16, 16), nn.Linear(16, 4),
        )
    )  # fmt: skip
    a, b, c, d = found["0.weight"], found["3.0.weight"], found["5.weight"], found["6.weight"]
    assert [x.activation for x in (a, b, c, d)] == ["relu", "tanh", None, None]
    assert [x.role for x in (a, b, c, d)] == [Role.TRUNK, Role.TRUNK, Role.TRUNK, Role.HEAD]
    assert all(x.evidence is TRACED and x.role_evidence is TRACED for x in (a, b, c, d))
    assert (a.normed, b.normed) == (False, True)


def test_a_class_of_ones_own_is_no_sequential() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.act, self.b = nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)

    found = read(Net())
    assert (found["a.weight"].activation, found["a.weight"].activation_evidence) == ("relu", ASSUMED)
    assert found["a.weight"].fan_evidence is TRACED
    assert all(a.role_evidence < TRACED for a in found.values())


def test_what_a_module_list_holds_does_not_follow_one_another() -> None:
    found = read(nn.ModuleList([nn.Linear(8, 8), nn.ReLU()]))
    assert found["0.weight"].activation is None
    assert found["0.weight"].activation_evidence is ASSUMED


def test_fans_of_torch_modules_are_exact() -> None:
    live = nn.ModuleDict(
        {
            "ct": nn.ConvTranspose2d(6, 4, 4, stride=2, groups=2),
            "c": nn.Conv1d(6, 9, 3, groups=3),
            "bil": nn.Bilinear(3, 4, 5),
            "emb": nn.Embedding(20, 8, padding_idx=-1),
            "bag": nn.EmbeddingBag(20, 8),
            "lstm": nn.LSTM(5, 8, 2, bidirectional=True),
            "proj": nn.LSTM(5, 8, proj_size=3),
            "gru": nn.GRUCell(5, 8),
            "mha": nn.MultiheadAttention(8, 2),
            "kv": nn.MultiheadAttention(8, 2, kdim=6, vdim=4, add_bias_kv=True),
            "gn": nn.GroupNorm(2, 8),
            "p": nn.PReLU(3),
        }
    )
    found = read(live)
    expected = {
        "ct.weight": ("conv_transpose", 3 * 16 / 4, 2 * 16),
        "c.weight": ("conv", 6, 9),
        "bil.weight": ("bilinear", 12, 20),
        "emb.weight": ("embedding", 1, 8),
        "bag.weight": ("embedding", 1, 8),
        "lstm.weight_ih_l0": ("lstm", 5, 8),
        "lstm.weight_ih_l1_reverse": ("lstm", 16, 8),
        "proj.weight_hr_l0": ("lstm", 8, 3),
        "proj.weight_hh_l0": ("lstm", 3, 8),
        "gru.weight_ih": ("gru", 5, 8),
        "mha.in_proj_weight": ("attention", 8, 8),
        "mha.out_proj.weight": ("linear", 8, 8),
        "kv.k_proj_weight": ("attention", 6, 8),
        "kv.v_proj_weight": ("attention", 4, 8),
        "gn.weight": ("norm", None, None),
        "p.weight": ("prelu", None, None),
    }
    for name, answer in expected.items():
        assert (found[name].kind, found[name].fan_in, found[name].fan_out) == answer, name
        assert found[name].fan_evidence is TRACED, name
    assert found["emb.weight"].padding == 19
    assert found["ct.weight"].groups == 2


def test_every_element_is_in_one_layer() -> None:
    live = nn.Transformer(16, 2, 1, 1, 32)
    found, skipped = layers.infer(pickled(live))
    placed = [t for a in found for t in (a.weight, a.bias, *a.extra) if t is not None]
    assert len({t.name for t in placed}) == len(placed)
    assert sum(t.size for t in placed) == sum(prod(p.shape) for p in live.parameters())
    assert skipped == ()


def test_the_activation_that_a_transformer_layer_holds_follows_its_first_matrix() -> None:
    found = read(nn.TransformerEncoderLayer(16, 2, 32, activation="gelu"))
    assert (found["linear1.weight"].activation, found["linear1.weight"].activation_evidence) == ("gelu", NAMED)
    assert found["linear2.weight"].activation is None


def test_rnn_with_relu() -> None:
    assert read(nn.RNN(4, 8, nonlinearity="relu"))["weight_hh_l0"].activation == "relu"


def _foreign(cls: str, attrs: dict, *shape: int) -> Layer:
    root = Module("", cls, attrs, {"weight": "weight"}, ())
    (found,) = layers.infer(model(tensor("weight", *shape), modules=(root,)))[0]
    return found


@pytest.mark.parametrize(
    ("cls", "attrs", "shape", "kind", "fans"),
    [
        ("lib.QuantLinear", {"in_features": 6, "out_features": 4}, (4, 6), "linear", (6, 4)),
        ("lib.FanInFanOut", {"in_features": 6, "out_features": 4}, (6, 4), "linear", (6, 4)),
        ("transformers.pytorch_utils.Conv1D", {"nf": 4, "nx": 6}, (6, 4), "linear", (6, 4)),
        (
            "timm.layers.ScaledStdConv2d",
            {"kernel_size": (3, 3), "stride": (1, 1), "groups": 4},
            (8, 2, 3, 3),
            "conv",
            (18, 18),
        ),
        ("lib.Table", {"num_embeddings": 9, "embedding_dim": 3}, (9, 3), "embedding", (1, 3)),
        ("lib.LlamaRMSNorm", {"variance_epsilon": 1e-6}, (8,), "norm", (None, None)),
    ],
)
def test_a_foreign_class_with_known_attributes_is_read_as_its_kind(
    cls: str, attrs: dict, shape: tuple, kind: str, fans: tuple
) -> None:
    a = _foreign(cls, attrs, *shape)
    assert (a.kind, a.fan_in, a.fan_out, a.fan_evidence) == (kind, *fans, NAMED)


@pytest.mark.parametrize(
    "attrs", [{"groups": 0}, {"groups": "x", "stride": (0,)}, {"stride": "x"}, {"groups": 7, "stride": 2}]
)
def test_attributes_that_make_no_sense_do_not_crash(attrs: dict) -> None:
    assert _foreign("torch.nn.modules.conv.Conv2d", {"kernel_size": (3, 3), **attrs}, 8, 4, 3, 3).kind == "conv"


def test_a_function_held_as_attribute_is_an_activation() -> None:
    root = Module("", "lib.Mlp", {"activation": Global("torch.nn.functional.silu")}, {}, ("fc1", "fc2"))
    parts = tuple(
        Module(
            n, "torch.nn.modules.linear.Linear", {"in_features": 4, "out_features": 4}, {"weight": f"{n}.weight"}, ()
        )
        for n in ("fc1", "fc2")
    )
    found = by_weight(
        layers.infer(model(tensor("fc1.weight", 4, 4), tensor("fc2.weight", 4, 4), modules=(root, *parts)))[0]
    )
    assert (found["fc1.weight"].activation, found["fc2.weight"].activation) == ("silu", None)


def test_a_known_family_and_what_its_classes_hold_tell_more_than_the_order() -> None:
    class Mlp(nn.Module):
        def __init__(self, act: type[nn.Module]) -> None:
            super().__init__()
            self.fc1, self.fc2, self.act = nn.Linear(8, 32), nn.Linear(32, 8), act()

    class Block(nn.Module):
        def __init__(self, act: type[nn.Module]) -> None:
            super().__init__()
            self.mlp = Mlp(act)

    found = read(nn.ModuleList([Block(nn.SiLU), Block(nn.Mish)]))
    assert [(a.activation, a.activation_evidence) for a in found.values()] == [
        ("silu", NAMED), (None, ASSUMED), ("mish", NAMED), (None, ASSUMED),
    ]  # fmt: skip


def test_a_depthwise_convolution_between_two_matrices_takes_the_activation() -> None:
    class Mlp(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.dwconv = nn.Linear(8, 32), nn.Conv2d(32, 32, 3, groups=32)
            self.act, self.fc2 = nn.GELU(), nn.Linear(32, 8)

    found = read(nn.ModuleDict({"mlp": Mlp()}))
    assert [a.activation for a in found.values()] == [None, "gelu", None]


def test_what_follows_a_norm_is_traced_in_a_sequential_and_open_elsewhere() -> None:
    found = read(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Mish(), nn.LayerNorm(8), nn.Linear(8, 4)))
    assert [(found[f"{n}.weight"].activation, found[f"{n}.weight"].activation_evidence) for n in (1, 3)] == [
        ("mish", TRACED), (None, TRACED),
    ]  # fmt: skip

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

    a = read(Net())["norm.weight"]
    assert (a.activation, a.activation_evidence, a.fan_evidence) == (None, ASSUMED, TRACED)


def test_an_activation_that_a_norm_holds_follows_it() -> None:
    norm = Module("", "lib.BatchNormAct2d", {"num_features": 4, "eps": 1e-5}, {"weight": "weight"}, ("act",))
    act = Module("act", "torch.nn.modules.activation.SiLU", {}, {}, ())
    (found,) = layers.infer(model(tensor("weight", 4), modules=(norm, act)))[0]
    assert (found.activation, found.activation_evidence) == ("silu", NAMED)


def test_buffers_are_no_rows_but_told_and_tell_of_others() -> None:
    held = {"weight": "n.weight", "bias": "n.bias"}
    root = Module("", "lib.Net", {}, {"inv_freq": "inv_freq"}, ("c", "n"))
    parts = (
        Module("c", "torch.nn.modules.conv.Conv2d", {"kernel_size": (3, 3), "stride": 1}, {"weight": "c.weight"}, ()),
        Module("n", "lib.FrozenBatchNorm2d", {"eps": 1e-5}, held, ()),
    )
    made = (
        tensor("inv_freq", 4, buffer=True), tensor("c.weight", 4, 3, 3, 3),
        tensor("n.weight", 4, buffer=True), tensor("n.bias", 4, buffer=True),
    )  # fmt: skip
    found, skipped = layers.infer(model(*made, modules=(root, *parts)))
    assert [a.name for a in found] == ["c"]
    assert {s.name for s in skipped} == {"inv_freq", "n.weight", "n.bias"}
    assert not any(s.parameter for s in skipped)
