from __future__ import annotations

import pytest

from initaudit import layers
from initaudit.types import Evidence, Layer, Role
from tests.layers.flat import by_weight, model, shapes, tensor

NAMED, ASSUMED = Evidence.NAMED, Evidence.ASSUMED


def read(config: dict | None = None, **named: tuple[int, ...]) -> dict[str, Layer]:
    return by_weight(layers.infer(shapes(config, **named))[0])


def test_linear_is_out_by_in_and_its_bias_proves_it() -> None:
    a = read(fc1__weight=(64, 32), fc1__bias=(64,))["fc1.weight"]
    assert (a.name, a.kind, a.axes, a.fan_in, a.fan_out, a.fan_evidence) == ("fc1", "linear", "oi", 32, 64, NAMED)
    assert a.bias is not None


def test_conv1d_of_gpt2_is_in_by_out_even_where_it_is_square() -> None:
    found = read(
        h__0__attn__c_attn__weight=(32, 96), h__0__attn__c_attn__bias=(96,),
        h__0__attn__c_proj__weight=(32, 32), h__0__attn__c_proj__bias=(32,),
        h__0__mlp__c_proj__weight=(128, 32), h__0__mlp__c_proj__bias=(32,),
    )  # fmt: skip
    assert [a.axes for a in found.values()] == ["io", "io", "io"]
    assert found["h.0.attn.c_attn.weight"].parts == ("query", "key", "value")
    assert (found["h.0.attn.c_attn.weight"].fan_in, found["h.0.attn.c_attn.weight"].fan_out) == (32, 32)
    assert found["h.0.mlp.c_proj.weight"].fan_in == 128


def test_unequal_query_key_value_is_not_split() -> None:
    assert read(attn__qkv_proj__weight=(64, 32))["attn.qkv_proj.weight"].parts == ()


def test_a_bias_that_fits_neither_axis_leaves_the_reading_assumed() -> None:
    assert read(fc__weight=(64, 32), fc__bias=(7,))["fc.weight"].fan_evidence is ASSUMED


@pytest.mark.parametrize("name", ["embed_tokens", "wte", "word_embeddings", "token_emb"])
def test_embedding_by_name(name: str) -> None:
    a = read(**{f"{name}__weight": (1000, 32)})[f"{name}.weight"]
    assert (a.kind, a.axes, a.fan_in, a.fan_out, a.role) == ("embedding", "io", 1, 32, Role.EMBEDDING)


@pytest.mark.parametrize("name", ["embed_proj", "lm_head"])
def test_a_projection_is_no_embedding(name: str) -> None:
    assert read(**{f"{name}__weight": (1000, 32)})[f"{name}.weight"].kind == "linear"


def test_groups_follow_from_the_channels_before() -> None:
    found = read(
        b__0__conv1__weight=(128, 64, 1, 1), b__0__bn1__weight=(128,), b__0__bn1__bias=(128,),
        b__0__conv2__weight=(128, 4, 3, 3), b__0__bn2__weight=(128,), b__0__bn2__bias=(128,),
        b__0__conv3__weight=(256, 128, 1, 1),
    )  # fmt: skip
    a = found["b.0.conv2.weight"]
    assert (a.groups, a.fan_in, a.fan_out, a.fan_evidence) == (32, 36, 36, NAMED)
    assert found["b.0.conv3.weight"].groups == 1
    assert found["b.0.conv1.weight"].normed is True


def test_depthwise_needs_its_channels_before_it() -> None:
    found = read(
        features__0__weight=(32, 3, 3, 3), features__1__weight=(32, 1, 3, 3), features__2__weight=(64, 32, 1, 1)
    )
    a = found["features.1.weight"]
    assert (a.groups, a.fan_in, a.fan_out, a.fan_evidence) == (32, 9, 9, NAMED)


def test_the_first_conv_on_a_grey_picture_is_not_depthwise() -> None:
    a = read(conv1__weight=(32, 1, 3, 3), conv2__weight=(64, 32, 3, 3))["conv1.weight"]
    assert (a.groups, a.fan_in, a.fan_out, a.fan_evidence) == (1, 9, 288, NAMED)


def test_parallel_convs_of_one_block_are_not_grouped() -> None:
    found = read(stem__weight=(96, 3, 7, 7), f__squeeze__weight=(16, 96, 1, 1), f__expand1__weight=(64, 16, 1, 1),
                 f__expand3__weight=(64, 16, 3, 3))  # fmt: skip
    assert [a.groups for a in found.values()] == [1, 1, 1, 1]


def test_a_bias_as_long_as_the_second_axis_proves_a_transposed_conv_but_not_its_stride() -> None:
    a = read(up__weight=(64, 32, 4, 4), up__bias=(32,))["up.weight"]
    assert (a.kind, a.axes, a.stride, a.fan_in, a.fan_out) == ("conv_transpose", "iokk", (2, 2), 256, 512)
    assert a.fan_evidence is ASSUMED
    assert any("stride is not in the file" in why for why in a.reasons)


def test_a_square_conv_with_an_even_kernel_is_assumed() -> None:
    assert read(x__weight=(32, 32, 2, 2), x__bias=(32,))["x.weight"].fan_evidence is ASSUMED


@pytest.mark.parametrize(("gates", "kind"), [(4, "lstm"), (3, "gru"), (1, "rnn")])
def test_recurrent_by_gate_count(gates: int, kind: str) -> None:
    found = read(
        r__weight_ih_l0=(gates * 8, 5),
        r__weight_hh_l0=(gates * 8, 8),
        r__bias_ih_l0=(gates * 8,),
        r__bias_hh_l0=(gates * 8,),
    )
    a, b = found["r.weight_ih_l0"], found["r.weight_hh_l0"]
    assert (a.kind, a.fan_in, a.fan_out) == (kind, 5, 8)
    assert (b.kind, b.fan_in, b.fan_out) == (kind, 8, 8)
    assert a.bias is not None and b.bias is not None


def test_lstm_with_projection() -> None:
    found = read(weight_ih_l0=(32, 5), weight_hh_l0=(32, 3), weight_hr_l0=(3, 8))
    assert [(a.kind, a.fan_in, a.fan_out) for a in found.values()] == [("lstm", 5, 8), ("lstm", 3, 8), ("lstm", 8, 3)]


@pytest.mark.parametrize(
    ("gate_up", "down", "axes"), [((4, 128, 32), (4, 32, 64), "soi"), ((4, 32, 128), (4, 64, 32), "sio")]
)
def test_stacked_experts_are_oriented_by_their_two_matrices(gate_up: tuple, down: tuple, axes: str) -> None:
    found = read(mlp__experts__gate_up_proj=gate_up, mlp__experts__down_proj=down)
    a, b = found["mlp.experts.gate_up_proj"], found["mlp.experts.down_proj"]
    assert (a.axes, a.fan_in, a.fan_out, a.parts) == (axes, 32, 64, ("gate", "up"))
    assert (b.axes, b.fan_in, b.fan_out, b.fan_evidence) == (axes, 64, 32, NAMED)


def test_batch_norm_takes_its_statistics_along() -> None:
    found, skipped = layers.infer(
        model(
            tensor("bn.weight", 8), tensor("bn.bias", 8), tensor("bn.running_mean", 8), tensor("bn.running_var", 8),
            tensor("bn.num_batches_tracked", dtype="int64"),
        )
    )  # fmt: skip
    (a,) = found
    assert (a.kind, a.fan_in, a.role) == ("norm", None, Role.NORM)
    assert len(a.extra) == 3
    assert skipped == ()


def test_prelu_and_norm_without_bias() -> None:
    found = read(act__weight=(8,), layernorm__weight=(8,))
    assert [a.kind for a in found.values()] == ["prelu", "norm"]


def test_a_file_sorted_by_name_is_not_taken_for_the_order_of_execution() -> None:
    found = read(
        blocks__0__conv__weight=(32, 1, 3, 3), blocks__0__fc__weight=(32, 32), stem__conv__weight=(32, 3, 3, 3)
    )
    a = found["blocks.0.conv.weight"]
    assert a.groups == 32


def test_flax_kernels_are_channels_last() -> None:
    found = read(dense__kernel=(32, 64), dense__bias=(64,), conv__kernel=(3, 3, 16, 32), conv__bias=(32,))
    assert [(a.axes, a.fan_in, a.fan_out) for a in found.values()] == [("io", 32, 64), ("kkio", 144, 288)]


def test_a_tied_weight_is_one_row_that_names_the_other() -> None:
    found, skipped = layers.infer(
        model(
            tensor("wte.weight", 100, 8, storage="a"),
            tensor("h.ln.weight", 8),
            tensor("lm_head.weight", 100, 8, storage="a"),
        )
    )
    assert [a.weight.name for a in found] == ["wte.weight", "h.ln.weight"]
    assert any("lm_head.weight" in why for why in found[0].reasons)
    assert skipped == ()


def test_whole_numbers_are_skipped_with_a_reason() -> None:
    _, (skip,) = layers.infer(model(tensor("position_ids", 1, 512, dtype="int64")))
    assert "int64" in skip.why


@pytest.mark.parametrize("key", ["hidden_act", "activation_function", "feed_forward_proj"])
def test_the_configured_activation_follows_the_first_feed_forward_matrix(key: str) -> None:
    found = read({key: "gelu_new"}, h__0__mlp__c_fc__weight=(128, 32), h__0__mlp__c_proj__weight=(32, 128))
    a, b = found.values()
    assert (a.activation, a.activation_evidence) == ("gelu", NAMED)
    assert b.activation is None


def test_of_a_gated_pair_only_the_gate_is_activated() -> None:
    found = read({"hidden_act": "silu"}, l__0__mlp__gate_proj__weight=(64, 32), l__0__mlp__up_proj__weight=(64, 32),
                 l__0__mlp__down_proj__weight=(32, 64))  # fmt: skip
    assert [a.activation for a in found.values()] == ["silu", None, None]


def test_the_told_activation_goes_to_plain_weights_only() -> None:
    bare = shapes(fc1__weight=(64, 32), fc1__bias=(64,), fc2__weight=(64, 64), fc2__bias=(64,), head__weight=(3, 64))
    found = by_weight(layers.infer(bare, "relu")[0])
    assert [(a.activation, a.activation_evidence) for a in found.values()] == [
        ("relu", NAMED),
        ("relu", NAMED),
        (None, ASSUMED),
    ]
