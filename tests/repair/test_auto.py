"""How a layer is drawn where its model does not say it."""

import math

import numpy as np
import pytest

from initaudit import activations, schemes
from initaudit.repair.auto import STYLES, TEXTBOOK, TIMES, Auto, Style, edge
from initaudit.repair.faults import Fault
from initaudit.repair.policy import Policy
from initaudit.types import Role
from tests.build import he, layer, measured, tensor

LSTM = ("input", "forget", "cell", "output")


def drawn(one, style=TEXTBOOK, *others, ends=False, chain=False):
    m = measured(one)
    auto = Auto([m, *(measured(other) for other in others)])
    return auto.weight(Fault(m, one.weight, "INI103", ends=ends, chain=chain), style)


def zeros(*shape):
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("activation", "scheme"),
    [("relu", "he"), ("gelu", "he:activation=gelu"), ("tanh", "xavier"), ("selu", "lecun"), (None, "lecun")],
)
def test_a_trunk_weight_follows_its_activation(activation, scheme):
    assert drawn(layer("fc", zeros(32, 32), activation=activation)).scheme == scheme


def test_the_halves_of_a_gated_unit_and_gates_are_linear():
    assert drawn(layer("up", zeros(64, 32), activation="glu")).scheme == "lecun"
    assert drawn(layer("gate", zeros(32, 32), activation="silu", role=Role.GATE)).scheme == "lecun"
    assert drawn(layer("gate", zeros(32, 32), activation="sigmoid", role=Role.GATE)).scheme == "xavier"


def test_no_gain_is_searched_where_a_norm_or_a_gate_follows():
    half = Style("", law="normal", times=0.5)
    assert drawn(layer("fc", zeros(32, 32)), half).scheme == "lecun:gain=0.7071"
    assert drawn(layer("fc", zeros(32, 32), normed=True), half).scheme == "he"
    assert drawn(layer("fc", zeros(32, 32), activation="sigmoid", role=Role.GATE), half).scheme == "xavier"
    assert all(0.5 <= times <= 2 for times in TIMES)


def test_every_choice_can_be_drawn():
    for act in ("relu", "sigmoid", "tanh", "silu", "sin", "hardshrink", "softmax", None):
        for style in STYLES:
            chosen = drawn(layer("fc", zeros(48, 32), activation=act), style)
            row, given = schemes.parse(chosen.scheme)
            assert math.isfinite(row.std(schemes.Fans(32, 48, rows=48, columns=32), **given)), (act, style.name)
            assert chosen.about


def test_recurrent_weights_are_orthogonal_and_forget_gates_open():
    of_state = layer("rnn.weight_hh_l0", zeros(64, 16), "lstm", parts=LSTM, tags=("recurrent",))
    of_input = layer("rnn.weight_ih_l0", zeros(64, 16), "lstm", parts=LSTM, bias=tensor("rnn.bias_ih_l0", zeros(64)))
    assert drawn(of_state).scheme == "orthogonal"
    assert drawn(of_input).scheme == "xavier"
    first = Auto.vector(measured(of_input), "rnn.bias_ih_l0", bias=True)
    assert (first.scheme, first.by_part) == ("zeros", (("forget", "ones"),))
    second = Auto.vector(measured(of_state), "rnn.bias_hh_l0", bias=True)  # torch adds the two
    assert (second.scheme, second.by_part) == ("zeros", ())
    named = layer("rnn.weight_hh_l0", zeros(64, 16), "lstm", parts=LSTM)  # no graph
    assert drawn(named).scheme == "orthogonal"


def test_branch_ends_without_a_norm_shrink_with_the_number_of_branches():
    ends = [layer(f"b{k}", he(32, 32, k), role=Role.BRANCH_END, activation=None) for k in range(9)]
    assert drawn(ends[0], TEXTBOOK, *ends[1:]).scheme == "lecun:branches=9"
    norm = layer("n", np.ones(32, np.float32), "norm", "o", role=Role.NORM)
    assert drawn(ends[0], TEXTBOOK, *ends[1:], norm).scheme == "lecun"
    closed = Style("", ends="zero")
    assert drawn(ends[0], closed, *ends[1:]).scheme == "zeros"


def test_a_deep_narrow_chain_is_orthogonal():
    deep = [layer(f"l{k}", he(24, 24, k)) for k in range(12)]
    assert drawn(deep[0], TEXTBOOK, *deep[1:], chain=True).scheme == "orthogonal:gain=1.414"
    assert drawn(deep[0], TEXTBOOK, *deep[1:]).scheme == "he"  # one broken layer is no reason
    assert drawn(layer("wide", he(512, 512)), chain=True).scheme == "he"


def test_a_matrix_that_widens_keeps_the_variance_per_unit():
    style = Style("", law="orthogonal")
    wide = drawn(layer("fc", zeros(64, 16), activation=None), style)
    assert wide.scheme == "orthogonal:gain=2"
    assert drawn(layer("fc", zeros(16, 64), activation=None), style).scheme == "orthogonal"


def test_delta_orthogonal_only_where_it_can_be_drawn():
    style = Style("", law="delta-orthogonal")
    assert drawn(layer("c", zeros(16, 8, 3, 3), "conv", "oikk"), style).scheme == "delta-orthogonal:gain=1.414"
    for odd in (zeros(8, 16, 3, 3), zeros(16, 8, 2, 2)):
        assert "delta" not in drawn(layer("c", odd, "conv", "oikk"), style).scheme


def test_the_edge_of_chaos():
    assert edge(activations.get("relu")) == pytest.approx(math.sqrt(2), rel=1e-3)
    row = activations.get("sigmoid")
    gain = edge(row)
    variance = 1.0
    for _ in range(200):
        variance = gain**2 * row.mean_square(variance)
    assert gain**2 * row.slope_square(variance) == pytest.approx(1, rel=1e-2)
    assert 1 < edge(activations.get("tanh")) < 1.5  # its edge proper lies where the signal is gone


def test_brothers_say_how_a_model_draws():
    own = [layer(f"block.{k}.fc", 0.02 / np.sqrt(2 / 64) * he(64, 64, k)) for k in range(6)]
    rows = [measured(one) for one in own]
    assert rows[1].identified is not None
    policy = Policy(rows, frozenset({own[0].weight.identity}))
    assert policy.weight(rows[0]) == ("normal:std=0.02", "as its brothers in this model")


def test_brothers_that_disagree_say_nothing():
    own = [layer(f"block.{k}.fc", (0.5 + k) * he(64, 64, k)) for k in range(6)]
    rows = [measured(one) for one in own]
    assert Policy(rows, frozenset({own[0].weight.identity})).weight(rows[0]) is None


def test_a_mode_of_the_fans_that_square_layers_leave_open_is_told_by_the_others():
    shapes = [(64, 64), (64, 64), (64, 64), (128, 64), (64, 128)]
    rng = np.random.default_rng(0)
    own = [
        layer(f"b.{k}", (rng.standard_normal(s) * math.sqrt(2 / s[0])).astype(np.float32)) for k, s in enumerate(shapes)
    ]
    rows = [measured(one) for one in own]
    told = Policy(rows, frozenset({own[3].weight.identity})).weight(rows[3])
    assert told is not None
    assert told[0] == "he:mode=fan_out"
