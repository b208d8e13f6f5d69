"""The same tensors in the order of registration and sorted by name: the readings must be the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from initaudit import layers
from initaudit.types import Evidence, Layer, Role
from tests.layers.flat import by_weight, model, shapes, stored

torch = pytest.importorskip("torch")
nn = torch.nn

READINGS = (
    "name", "kind", "axes", "groups", "parts", "fan_in", "fan_out", "role", "role_evidence", "normed", "activation",
    "activation_evidence", "fan_evidence",
)  # fmt: skip


def block(**parts: object) -> object:
    made = nn.Module()
    for name, part in parts.items():
        made.add_module(name, part)
    return made


def residual(i: int, o: int) -> object:
    parts = {
        "conv_a": nn.Conv2d(i, o, 3), "norm_a": nn.BatchNorm2d(o), "conv_b": nn.Conv2d(o, o, 3),
        "norm_b": nn.BatchNorm2d(o),
    }  # fmt: skip
    return block(**parts, **({"shortcut": nn.Conv2d(i, o, 1)} if i != o else {}))


def cnn() -> object:
    stages = {f"stage{n}": nn.Sequential(residual(i, o), residual(o, o)) for n, i, o in ((1, 16, 16), (2, 16, 32))}
    return block(entry=nn.Conv2d(3, 16, 3), **stages, out=nn.Linear(32, 10))


def resnext() -> object:
    def one(i: int) -> object:
        return block(
            conv1=nn.Conv2d(i, 64, 1, bias=False), bn1=nn.BatchNorm2d(64),
            conv2=nn.Conv2d(64, 64, 3, groups=16, bias=False), bn2=nn.BatchNorm2d(64),
            conv3=nn.Conv2d(64, 128, 1, bias=False), bn3=nn.BatchNorm2d(128),
            **({} if i == 128 else {"downsample": nn.Sequential(nn.Conv2d(i, 128, 1), nn.BatchNorm2d(128))}),
        )  # fmt: skip

    return block(conv1=nn.Conv2d(3, 32, 7, bias=False), bn1=nn.BatchNorm2d(32), layer1=nn.Sequential(one(32), one(128)),
                 fc=nn.Linear(128, 10))  # fmt: skip


def unet() -> object:
    def double(i: int, o: int) -> object:
        return block(c1=nn.Conv2d(i, o, 3), c2=nn.Conv2d(o, o, 3))

    return block(
        d1=double(3, 16), d2=double(16, 32), mid=double(32, 64), up2=nn.ConvTranspose2d(64, 32, 2, 2),
        u2=double(64, 32), up1=nn.ConvTranspose2d(32, 16, 2, 2), u1=double(32, 16), final=nn.Conv2d(16, 2, 1),
    )  # fmt: skip


def preactivation() -> object:
    def one(i: int, o: int) -> object:
        return block(norm1=nn.GroupNorm(4, i), conv1=nn.Conv2d(i, o, 3), norm2=nn.GroupNorm(4, o),
                     conv2=nn.Conv2d(o, o, 3))  # fmt: skip

    return block(conv_in=nn.Conv2d(4, 16, 3), resnets=nn.Sequential(one(16, 32), one(32, 32)),
                 conv_out=nn.Conv2d(32, 4, 3))  # fmt: skip


def vit() -> object:
    def one() -> object:
        return block(
            norm1=nn.LayerNorm(32), attn=block(qkv=nn.Linear(32, 96), proj=nn.Linear(32, 32)), norm2=nn.LayerNorm(32),
            mlp=block(fc1=nn.Linear(32, 128), fc2=nn.Linear(128, 32)),
        )  # fmt: skip

    return block(patch_embed=block(proj=nn.Conv2d(3, 32, 8)), blocks=nn.Sequential(*[one() for _ in range(12)]),
                 norm=nn.LayerNorm(32), head=nn.Linear(32, 10))  # fmt: skip


def mobile() -> object:
    def one(i: int, o: int) -> object:
        return block(
            pw=nn.Conv2d(i, 4 * i, 1, bias=False), bn1=nn.BatchNorm2d(4 * i),
            dw=nn.Conv2d(4 * i, 4 * i, 3, groups=4 * i, bias=False), bn2=nn.BatchNorm2d(4 * i),
            se=block(reduce=nn.Conv2d(4 * i, i, 1), expand=nn.Conv2d(i, 4 * i, 1)),
            pwl=nn.Conv2d(4 * i, o, 1, bias=False), bn3=nn.BatchNorm2d(o),
        )  # fmt: skip

    return block(stem=nn.Conv2d(3, 16, 3, bias=False), bn=nn.BatchNorm2d(16),
                 blocks=nn.Sequential(one(16, 16), one(16, 24), one(24, 24)), hid=nn.Linear(24, 64),
                 cls=nn.Linear(64, 10))  # fmt: skip


def transformer() -> object:
    return nn.Transformer(32, 4, 2, 2, 64)


def recurrent() -> object:
    return block(emb=nn.Embedding(300, 16), lstm=nn.LSTM(16, 24, 2, bidirectional=True), fc1=nn.Linear(48, 20),
                 fc2=nn.Linear(20, 5))  # fmt: skip


def plain() -> object:
    return block(
        features=nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3)),
        classifier=nn.Sequential(nn.Linear(400, 32), nn.ReLU(), nn.Linear(32, 12)),
    )


NETS = (cnn, resnext, unet, preactivation, vit, mobile, transformer, recurrent, plain)


def readings(live: Callable[[], object], *, turned: Callable[[list[str]], list[str]]) -> dict[str, Layer]:
    tensors = {t.name: t for t in stored(live().state_dict())}  # type: ignore[attr-defined]
    return by_weight(layers.infer(model(*(tensors[name] for name in turned(list(tensors)))))[0])


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("turned", [sorted, lambda names: names[::-1]], ids=["sorted", "reversed"])
def test_the_order_of_the_file_changes_no_reading(net: Callable[[], object], turned: Callable) -> None:
    torch.manual_seed(0)
    registered = readings(net, turned=list)
    other = readings(net, turned=turned)
    assert {n: [getattr(a, r) for r in READINGS] for n, a in registered.items()} == {
        n: [getattr(a, r) for r in READINGS] for n, a in other.items()
    }


def test_rows_stand_in_the_order_of_the_file() -> None:
    assert next(iter(readings(plain, turned=list))) == "features.0.weight"
    assert next(iter(readings(plain, turned=sorted))) == "classifier.0.weight"


@pytest.mark.parametrize(
    ("net", "trunk"),
    [
        (cnn, {"entry.weight", "stage1.0.conv_a.weight", "stage2.0.conv_a.weight", "stage2.1.conv_a.weight"}),
        (vit, {"patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.11.mlp.fc1.weight"}),
        (mobile, {"stem.weight"}),
        (transformer, {"encoder.layers.0.linear1.weight", "decoder.layers.1.linear1.weight"}),
        (recurrent, {"lstm.weight_ih_l0", "lstm.weight_ih_l1_reverse", "fc1.weight"}),
        (plain, {"features.0.weight", "features.2.weight", "classifier.0.weight"}),
        (unet, {"d1.c1.weight", "mid.c1.weight"}),
    ],
)
def test_trunk_by_name_is_told_as_such(net: Callable[[], object], trunk: set[str]) -> None:
    found = readings(net, turned=sorted)
    assert {(found[n].role, found[n].role_evidence) for n in trunk} == {(Role.TRUNK, Evidence.NAMED)}


def test_groups_are_found_in_a_sorted_file() -> None:
    found = readings(resnext, turned=sorted)
    assert found["layer1.1.conv2.weight"].groups == 16
    assert found["layer1.0.conv1.weight"].groups == found["conv1.weight"].groups == 1
    assert found["conv1.weight"].fan_evidence is Evidence.NAMED
    inside = readings(mobile, turned=sorted)
    assert (inside["blocks.1.dw.weight"].groups, inside["stem.weight"].groups) == (64, 1)


def test_a_norm_that_stands_before_its_convolution_is_not_taken_for_one_that_follows() -> None:
    before = readings(preactivation, turned=sorted)
    assert before["resnets.1.conv1.weight"].normed is None
    assert readings(resnext, turned=sorted)["layer1.1.conv1.weight"].normed is True


@pytest.mark.parametrize(
    "name",
    ["attn.to_gate.fc1", "x.se.fc1", "b.0.zero_conv1", "b.0.adaLN_modulation.linear1", "conv_offset1", "m.squeeze.fc1"],
)
def test_weights_that_are_zeroed_on_purpose_are_no_trunk_by_name(name: str) -> None:
    second = name[:-1] + "2"
    named = {f"{name}.weight": (128, 32), f"{second}.weight": (32, 128), "a.weight": (7, 5, 3), "b.c.d": (3, 9)}
    found = layers.infer(shapes(**{k.replace(".", "__"): v for k, v in named.items()}))[0]
    assert by_weight(found)[f"{name}.weight"].role is not Role.TRUNK


def test_the_second_matrix_of_a_feed_forward_block_and_a_lonely_first_one_are_no_trunk() -> None:
    found = by_weight(
        layers.infer(
            shapes(
                h__0__mlp__c_fc__weight=(32, 128), h__0__mlp__c_fc__bias=(128,), h__0__mlp__c_proj__weight=(128, 32),
                h__0__mlp__c_proj__bias=(32,), h__1__mlp__c_fc__weight=(32, 128), h__1__mlp__c_fc__bias=(128,),
                h__2__mlp__up_proj__weight=(128, 32), h__2__mlp__gate_proj__weight=(128, 32),
                h__2__mlp__down_proj__weight=(32, 128),
            )
        )[0]
    )  # fmt: skip
    assert [n for n, a in found.items() if a.role is Role.TRUNK] == ["h.0.mlp.c_fc.weight"]
    assert found["h.0.mlp.c_proj.weight"].role is Role.BRANCH_END


def test_two_convolutions_on_three_channels_are_no_stem() -> None:
    found = by_weight(
        layers.infer(shapes(a__stem__weight=(16, 3, 3, 3), b__stem__weight=(16, 3, 3, 3), x__weight=(5, 7)))[0]
    )
    assert Role.TRUNK not in {a.role for a in found.values()}


def test_two_matrices_that_squeeze_and_widen_again_are_no_trunk_whatever_their_parent_is_called() -> None:
    found = by_weight(
        layers.infer(
            shapes(
                b__1__2__fc1__weight=(8, 32, 1, 1), b__1__2__fc1__bias=(8,), b__1__2__fc2__weight=(32, 8, 1, 1),
                b__1__2__fc2__bias=(32,), r__0__conv1__weight=(8, 32, 1, 1), r__0__conv1__bias=(8,),
                r__0__conv2__weight=(32, 8, 3, 3), r__0__conv2__bias=(32,), x__weight=(5, 7),
            )
        )[0]
    )  # fmt: skip
    assert [found[f"b.1.2.fc{n}.weight"].role for n in (1, 2)] == [Role.GATE, Role.GATE]
    assert found["r.0.conv1.weight"].role is Role.TRUNK
