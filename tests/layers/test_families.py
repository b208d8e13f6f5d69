from __future__ import annotations

import re

import pytest

from initaudit import activations, layers
from initaudit.layers.activated import FAMILIES
from initaudit.layers.families import Family, Matches, plain
from initaudit.layers.families_architectures import ARCHITECTURES
from initaudit.types import Evidence, Layer, Role
from tests.layers.flat import by_weight, model, tensor

NAMED, ASSUMED = Evidence.NAMED, Evidence.ASSUMED


def read(shapes: dict[str, tuple[int, ...]], config: dict | None = None) -> dict[str, Layer]:
    return by_weight(layers.infer(model(*(tensor(n, *s) for n, s in shapes.items()), config=config))[0])


def told(a: Layer) -> tuple[str | None, Evidence]:
    return a.activation, a.activation_evidence


def nothing(key: str, path: str) -> str | None:
    return None


def norm(path: str, n: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}.{p}": (n,) for p in ("weight", "bias", "running_mean", "running_var")}


def resnet(prefix: str = "") -> dict[str, tuple[int, ...]]:
    made = {"conv1.weight": (8, 3, 7, 7), **norm("bn1", 8)}
    takes = 8
    for stage in (1, 2, 3, 4):
        gives = 8 * stage
        for n, inward in ((1, takes), (2, gives)):
            made[f"layer{stage}.0.conv{n}.weight"] = (gives, inward, 3, 3)
            made |= norm(f"layer{stage}.0.bn{n}", gives)
        if takes != gives:
            made[f"layer{stage}.0.downsample.0.weight"] = (gives, takes, 1, 1)
            made |= norm(f"layer{stage}.0.downsample.1", gives)
        takes = gives
    return {prefix + name: shape for name, shape in {**made, "fc.weight": (10, 32), "fc.bias": (10,)}.items()}


@pytest.mark.parametrize("prefix", ["", "module.", "model.backbone.body."])
def test_a_resnet_is_known_wherever_it_stands(prefix: str) -> None:
    found = read(resnet(prefix))
    convs = [a for a in found.values() if a.kind == "conv"]
    assert {told(a) for a in convs} == {("relu", NAMED)}
    assert told(found[f"{prefix}fc.weight"]) == (None, NAMED)
    assert any("torchvision.models.resnet" in why for why in convs[0].reasons)


def test_half_a_family_is_only_a_likeness() -> None:
    shapes = {n: s for n, s in resnet().items() if not n.startswith("layer3")}
    assert {told(a) for a in read(shapes).values() if a.kind == "conv"} == {("relu", ASSUMED)}


def test_what_must_not_be_there_excludes_a_family() -> None:
    family = Family("f", "s", ("a", "b"), {"a": "relu"}, without=("c",))
    assert Matches([family], ["a", "b"], {}).read("a", nothing) is not None
    assert Matches([family], ["a", "b", "c"], {}).read("a", nothing) is None
    assert Matches([family], ["a"], {}).read("a", nothing) is None


def test_the_family_that_sees_most_speaks_first() -> None:
    block = Family("block", "s", ("mlp.fc1", "mlp.fc2"), {"mlp.fc1": "gelu"})
    whole = Family("whole", "s", ("stages.0.mlp.fc1", "stem"), {"**.mlp.fc1": "silu"})
    matches = Matches([block, whole], ["stages.0.mlp.fc1", "stages.0.mlp.fc2", "stem"], {})
    found = matches.read("stages.0.mlp.fc1", nothing)
    assert found is not None
    assert found.activation == "silu"


def test_a_dollar_is_the_last_of_a_sequential() -> None:
    family = Family("f", "s", ("b.0",), {"b.$": "-", "b.#": "relu"})
    matches = Matches([family], ["b.0", "b.3", "b.12"], {})
    assert [r.activation for n in (0, 3, 12) if (r := matches.read(f"b.{n}", nothing))] == ["relu", "relu", None]


def test_two_readings_are_both_told_and_assumed() -> None:
    layer = {
        "l.0.linear1.weight": (16, 8), "l.0.linear1.bias": (16,), "l.0.linear2.weight": (8, 16),
        "l.0.self_attn.in_proj_weight": (24, 8), "l.0.self_attn.out_proj.weight": (8, 8),
    }  # fmt: skip
    a = read(layer)["l.0.linear1.weight"]
    assert told(a) == ("relu", ASSUMED)
    assert any("relu or gelu" in why for why in a.reasons)
    assert told(read(layer, {"activation_function": "gelu"})["l.0.linear1.weight"]) == ("gelu", NAMED)


def test_t5_shows_by_its_keys_whether_it_is_gated() -> None:
    plain_ = read({"d.DenseReluDense.wi.weight": (16, 8), "d.DenseReluDense.wo.weight": (8, 16)})
    gated = read(
        {f"d.DenseReluDense.{n}.weight": s for n, s in {"wi_0": (16, 8), "wi_1": (16, 8), "wo": (8, 16)}.items()}
    )
    assert [a.activation for a in plain_.values()] == ["relu", None]
    assert [a.activation for a in gated.values()] == ["gelu", None, None]


def tower(prefix: str) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.encoder.layers.0.mlp.fc1.weight": (16, 8), f"{prefix}.encoder.layers.0.mlp.fc2.weight": (8, 16)}


def test_each_part_of_a_model_has_its_own_configuration() -> None:
    config = {"text_config": {"hidden_act": "gelu"}, "vision_config": {"hidden_act": "quick_gelu"}}
    found = read(tower("language_model") | tower("vision_model"), config)
    assert told(found["language_model.encoder.layers.0.mlp.fc1.weight"]) == ("gelu", NAMED)
    assert told(found["vision_model.encoder.layers.0.mlp.fc1.weight"]) == ("quick_gelu", NAMED)


def test_the_architecture_of_timm_decides_between_networks_of_the_same_keys() -> None:
    shapes = {
        "conv_stem.weight": (8, 3, 3, 3), **norm("bn1", 8), **norm("bn2", 64), "conv_head.weight": (64, 16, 1, 1),
        "blocks.1.0.conv_pw.weight": (48, 8, 1, 1), "blocks.1.0.conv_dw.weight": (48, 1, 3, 3),
        "blocks.1.0.conv_pwl.weight": (16, 48, 1, 1),
    }  # fmt: skip
    assert told(read(shapes)["blocks.1.0.conv_dw.weight"]) == ("relu6", ASSUMED)
    found = read(shapes, {"architecture": "mnasnet_100"})
    assert told(found["blocks.1.0.conv_dw.weight"]) == ("relu", NAMED)
    assert found["blocks.1.0.conv_pwl.weight"].activation is None


def test_wrappers_do_not_hide_a_family() -> None:
    assert plain("_orig_mod.module.blocks.0.base_layer") == "blocks.0"
    assert plain("modules_to_save.default.head") == "head"
    found = read(
        {
            "base_model.model.l.0.gate_proj.base_layer.weight": (16, 8), "base_model.model.l.0.up_proj.weight": (16, 8),
            "base_model.model.l.0.down_proj.weight": (8, 16),
            "base_model.model.l.0.gate_proj.lora_A.default.weight": (2, 8),
        }
    )  # fmt: skip
    assert told(found["base_model.model.l.0.gate_proj.base_layer.weight"]) == ("silu", ASSUMED)
    adapter = found["base_model.model.l.0.gate_proj.lora_A.default.weight"]
    assert (adapter.role, adapter.activation) == (Role.ADAPTER, None)


def test_no_name_is_ever_traced() -> None:
    assert all(a.activation_evidence < Evidence.TRACED for a in read(resnet()).values())


def test_a_norm_is_followed_by_what_follows_the_weight_before_it() -> None:
    assert told(read(resnet())["layer1.0.bn2.weight"]) == ("relu", NAMED)
    alone = read({"x.weight": (5, 7), **norm("n", 8)})
    assert told(alone["n.weight"]) == (None, ASSUMED)
    behind = read(
        {"t.dense.weight": (8, 8), "t.dense.bias": (8,), "t.LayerNorm.weight": (8,), "t.LayerNorm.bias": (8,)}
    )
    assert behind["t.LayerNorm.weight"].activation_evidence is ASSUMED


@pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f"{f.name} {f.keys[0]}")
def test_every_row_of_the_table_can_be_read(family: Family) -> None:
    assert family.source
    assert not re.search(r"[#*${}]", family.keys[0])
    for value in [*family.rows.values(), *family.norms.values(), *family.style.values()]:
        for name in value.removeprefix("~").rpartition("=")[2].split("|"):
            row = activations.find(name) if name != "-" else None
            assert name == "-" or (row is not None and row.name == name)
    for patterns in [*family.rows, *family.norms]:
        for written in patterns.split():
            assert written.rfind("**") <= 0
            assert written.count("{") == written.count("}")


def test_every_architecture_uses_an_activation_that_there_is() -> None:
    assert all(activations.get(name).name == name for name in ARCHITECTURES.values())
