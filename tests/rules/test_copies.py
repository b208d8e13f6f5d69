"""INI2xx: copies, zero units, rank, equal layers."""

import numpy as np
import pytest

from initaudit.rules.copied_units import copied_units
from initaudit.rules.equal_layers import equal_layers
from initaudit.rules.rank_one import rank_one
from initaudit.rules.zero_units import zero_units
from initaudit.types import Evidence, Role, Severity, State
from tests.build import audit, he, layer, rng, tensor


def test_copied_units_counts_copies_and_names_a_pair():
    w = he(64, 32)
    w[40:44] = w[3:7]
    (finding,) = copied_units(audit(layer("fc", w)))
    assert finding.severity is Severity.ERROR
    assert (finding.evidence["copies"], finding.evidence["first"], finding.evidence["second"]) == (4, 3, 40)


def test_copied_units_finds_equal_experts_but_not_equal_groups():
    w = rng().standard_normal((4, 8, 16)).astype(np.float32)
    w[2] = w[1]
    (finding,) = copied_units(audit(layer("experts", w, axes="soi")))
    assert finding.evidence["copies"] == 8
    depthwise = np.repeat(rng().standard_normal((1, 1, 3, 3)), 8, 0).astype(np.float32)
    assert not list(copied_units(audit(layer("dw", depthwise, "conv", "oikk", groups=8))))


def test_a_table_of_relative_positions_that_was_read_out_is_no_copy():
    table = rng().standard_normal((11, 16)).astype(np.float32)
    turned = np.stack([table[np.arange(8) + shift] for shift in (0, 1, 3)])
    (finding,) = copied_units(audit(layer("rel", turned, axes="soi")))
    assert finding.severity is Severity.INFO
    turned[1, 5] = turned[0, 5]  # the same place
    (finding,) = copied_units(audit(layer("experts", turned, axes="soi")))
    assert finding.severity is Severity.ERROR


def test_stacked_identities_are_no_copies():
    stack = np.stack([np.eye(8, dtype=np.float32)] * 4)
    assert not list(copied_units(audit(layer("rotation", stack, axes="soi"))))
    stack[:, :, 0] += 0.5
    assert list(copied_units(audit(layer("rotation", stack, axes="soi"))))


def test_sub_pixel_runs_are_recognised():
    w = np.repeat(rng().standard_normal((8, 16, 3, 3)), 4, axis=0).astype(np.float32)
    (finding,) = copied_units(audit(layer("up", w, "conv", "oikk")))
    assert finding.severity is Severity.INFO
    assert "ICNR" in finding.message


@pytest.mark.parametrize("fan_in", [1, 64])
def test_equal_units_by_accident_of_the_type_are_no_copies(fan_in):
    w = rng().integers(0, 3, (64, fan_in)).astype(np.float16)
    found = list(copied_units(audit(layer("fc", w))))
    assert not found


def test_copied_units_is_silent_on_a_fresh_draw_and_on_zero_rows():
    w = he(64, 32)
    w[:8] = 0
    assert not list(copied_units(audit(layer("fc", w))))


def test_zero_units_warns_in_a_trunk_and_tells_in_a_sparse_layer():
    w = he(64, 64)
    w[5] = 0
    (finding,) = zero_units(audit(layer("fc", w)))
    assert (finding.severity, finding.evidence["dead"], finding.evidence["first"]) == (Severity.WARNING, 1, 5)
    assert not list(zero_units(audit(layer("fc", he(64, 64)))))
    assert not list(zero_units(audit(layer("fc", np.zeros((8, 8), np.float32)))))


def test_zero_units_tells_a_trained_model_only():
    w = he(64, 64)
    w[5] = 0
    (finding,) = zero_units(audit(layer("fc", w), state=State.TRAINED))
    assert finding.severity is Severity.INFO


def test_rank_one_fires_on_an_outer_product_only():
    outer = np.outer(rng(1).standard_normal(32), rng(2).standard_normal(16)).astype(np.float32)
    (finding,) = rank_one(audit(layer("fc", outer)))
    assert finding.severity is Severity.ERROR
    outer[0, 0] += 1
    assert not list(rank_one(audit(layer("fc", outer))))
    assert not list(rank_one(audit(layer("fc", np.ones((32, 16), np.float32)))))


def test_equal_layers_tells_a_repeated_block_once():
    layers = [
        layer(f"layers.{k}.{part}", he(16, 16, seed)) for k in range(3) for seed, part in enumerate(("q_proj", "fc1"))
    ]
    (finding,) = equal_layers(audit(*layers))
    assert finding.severity is Severity.WARNING
    assert finding.evidence["members"] == ["layers.0", "layers.1", "layers.2"]
    assert "2 weights each" in finding.message


def test_equal_layers_sees_one_draw_used_for_two_roles():
    (finding,) = equal_layers(audit(layer("attn.q", he(16, 16)), layer("attn.k", he(16, 16))))
    assert finding.evidence["members"] == ["attn.k", "attn.q"]


def test_ties_copies_by_name_and_different_draws_are_silent():
    w = he(16, 16)
    tied = [layer(n, w, weight=tensor(f"{n}.weight", w, storage="0")) for n in ("a.0", "a.1")]
    assert not list(equal_layers(audit(*tied)))
    assert not list(equal_layers(audit(layer("net.fc", w), layer("ema.fc", w))))
    assert not list(equal_layers(audit(layer("a.0", he(16, 16, 1)), layer("a.1", he(16, 16, 2)))))


def test_a_head_that_equals_the_embedding_is_a_tie_stored_twice():
    w = he(32, 16)
    body = layer("embed.proj", w, role=Role.OTHER, role_evidence=Evidence.NAMED)
    assert not list(equal_layers(audit(body, layer("lm_head", w, role=Role.HEAD))))


def test_a_second_copy_that_an_exporter_named_after_the_first_is_a_tie():
    w = he(16, 16)
    assert not list(equal_layers(audit(layer("layer.query", w), layer("layer.query_1", w))))
    assert list(equal_layers(audit(layer("fc_1", w), layer("fc_2", w))))


def test_an_unrolled_loop_is_one_layer():
    w = he(16, 16)
    steps = [layer(f"rnn_{k}", w, weight=tensor(f"val_{60 + k}", w)) for k in range(4)]
    assert not list(equal_layers(audit(*steps)))


def test_a_conv_that_is_one_filter_throughout_is_no_sub_pixel_kernel():
    one = np.repeat(rng().standard_normal((1, 16, 3, 3)), 16, axis=0).astype(np.float32)
    (finding,) = copied_units(audit(layer("conv", one, "conv", "oikk")))
    assert finding.severity is Severity.ERROR


def test_equal_layers_that_are_no_draws_prove_nothing():
    eye = np.eye(16, dtype=np.float32)
    assert not list(equal_layers(audit(layer("fc.0", eye), layer("fc.1", eye))))


def test_every_clone_is_marked_in_the_table():
    from initaudit.reporters.base import by_layer
    from tests.build import report

    w = he(16, 16)
    assert by_layer(report(layer("fc.0", w), layer("fc.1", w))) == {"fc.0": "warning", "fc.1": "warning"}


@pytest.mark.parametrize(("evidence", "severity"), [(Evidence.NAMED, "warning"), (Evidence.ASSUMED, "info")])
def test_zero_units_are_as_grave_as_the_evidence_allows(evidence, severity):
    w = he(64, 64)
    w[5] = 0
    (finding,) = zero_units(audit(layer("fc", w, role_evidence=evidence)))
    assert finding.severity.label == severity


def test_copies_in_a_narrow_layer_of_unknown_role_are_only_told():
    w = he(4, 64)
    w[1] = w[0]
    narrow = layer("fc", w, role=Role.OTHER, activation=None, role_evidence=Evidence.ASSUMED)
    (finding,) = copied_units(audit(narrow))
    assert finding.severity is Severity.INFO
