from __future__ import annotations

import pytest

from initaudit import layers
from initaudit.types import Evidence, Role
from tests.layers.flat import by_weight, shapes


def roles(config: dict | None = None, **named: tuple[int, ...]) -> dict[str, Role]:
    return {n: a.role for n, a in by_weight(layers.infer(shapes(config, **named))[0]).items()}


def test_a_plain_chain_is_trunk_up_to_its_head_and_never_more_than_named() -> None:
    found = by_weight(
        layers.infer(
            shapes(conv1__weight=(8, 1, 3, 3), conv2__weight=(16, 8, 3, 3), fc1__weight=(32, 400), fc2__weight=(10, 32))
        )[0]
    )
    assert [a.role for a in found.values()] == [Role.TRUNK, Role.TRUNK, Role.TRUNK, Role.HEAD]
    assert all(a.role_evidence is Evidence.NAMED for a in found.values())


def test_layers_that_do_not_fit_one_another_are_no_chain() -> None:
    assert Role.TRUNK not in roles(fc1__weight=(32, 20), fc2__weight=(10, 33)).values()


def test_parallel_heads_are_no_chain() -> None:
    assert Role.TRUNK not in roles(heads__0__weight=(32, 32), heads__1__weight=(32, 32), x__weight=(3, 7)).values()


def test_the_last_conv_beside_a_shortcut_ends_a_branch_and_a_norm_stays_a_norm() -> None:
    block = {
        "conv1__weight": (64, 64, 3, 3), "bn1__weight": (64,), "bn1__bias": (64,),
        "conv2__weight": (64, 64, 3, 3), "bn2__weight": (64,), "bn2__bias": (64,),
    }  # fmt: skip
    named = {f"layer1__0__{k}": v for k, v in block.items()} | {f"layer2__0__{k}": v for k, v in block.items()}
    found = roles(**named, layer2__0__downsample__0__weight=(64, 64, 1, 1))
    assert found["layer1.0.conv1.weight"] is Role.TRUNK
    assert found["layer1.0.conv2.weight"] is Role.BRANCH_END
    assert found["layer1.0.bn2.weight"] is Role.NORM
    assert found["layer1.0.bn1.weight"] is Role.NORM
    assert found["layer2.0.downsample.0.weight"] is not Role.BRANCH_END


@pytest.mark.parametrize(
    ("name", "shape", "role"),
    [
        ("h.0.attn.c_proj.weight", (32, 32), Role.BRANCH_END),
        ("layers.0.mlp.down_proj.weight", (32, 64), Role.BRANCH_END),
        ("encoder.layer.0.attention.output.dense.weight", (32, 32), Role.BRANCH_END),
        ("stages.0.blocks.0.gamma", (32,), Role.GATE),
        ("blocks.0.ls1.gamma", (32,), Role.GATE),
        ("layer_scale_1", (32, 1, 1), Role.GATE),
        ("blocks.0.adaLN_modulation.1.weight", (192, 32), Role.GATE),
        ("controlnet_down_blocks.0.weight", (32, 32, 1, 1), Role.GATE),
        ("features.3.se.fc1.weight", (8, 32, 1, 1), Role.GATE),
        ("logit_scale", (), Role.GATE),
        ("resweight", (1,), Role.GATE),
        ("q_proj.lora_A.default.weight", (4, 32), Role.ADAPTER),
        ("q_proj.lora_B.default.weight", (32, 4), Role.ADAPTER),
        ("unet.lora_down.weight", (4, 32), Role.ADAPTER),
        ("q_proj.hada_w1_a", (32, 4), Role.ADAPTER),
        ("cls_token", (1, 1, 32), Role.EMBEDDING),
        ("pos_embed", (1, 197, 32), Role.EMBEDDING),
        ("encoder.mask_token", (1, 1, 32), Role.EMBEDDING),
        ("attn.relative_position_bias_table", (169, 4), Role.OTHER),
        ("layers.0.mlp.gate_proj.weight", (64, 32), Role.OTHER),
        ("mixer.A_log", (64, 16), Role.CLOSED_FORM),
        ("rotary_emb.inv_freq", (16,), Role.CLOSED_FORM),
        ("lm_head.weight", (100, 32), Role.HEAD),
        ("classifier.weight", (2, 32), Role.HEAD),
    ],
)
def test_roles_by_name(name: str, shape: tuple[int, ...], role: Role) -> None:
    found = roles(**{name.replace(".", "__"): shape, "other__weight": (7, 5, 3)})
    assert found[name] is role


def test_a_router_has_one_output_for_each_expert() -> None:
    experts = {f"m__experts__{e}__w1__weight": (64, 32) for e in range(4)}
    assert roles(m__gate__weight=(4, 32), **experts)["m.gate.weight"] is Role.ROUTER
    assert roles(m__gate__weight=(5, 32), **experts)["m.gate.weight"] is not Role.ROUTER
    assert roles({"num_local_experts": 5}, m__gate__weight=(5, 32))["m.gate.weight"] is Role.ROUTER


def test_the_gate_of_a_gated_feed_forward_block_is_one_only_beside_what_it_multiplies() -> None:
    found = roles(m__gate_proj__weight=(64, 32), m__up_proj__weight=(64, 32), m__down_proj__weight=(32, 64))
    assert [found[f"m.{n}_proj.weight"] for n in ("gate", "up")] == [Role.GATE, Role.OTHER]


def test_a_block_that_ends_in_a_feed_forward_part_does_not_end_in_its_convolution() -> None:
    block = {"conv_dw__weight": (32, 1, 3, 3), "convs__0__weight": (32, 1, 3, 3), "mlp__fc1__weight": (64, 32),
             "mlp__fc2__weight": (32, 64), "shortcut__weight": (32, 32, 1, 1)}  # fmt: skip
    found = roles(**{f"s__{n}__{k}": v for n in range(2) for k, v in block.items()})
    assert Role.BRANCH_END not in {found["s.0.conv_dw.weight"], found["s.0.convs.0.weight"]}
