"""Copies: what the weights alone tell where no probe ran, and what the probe saw where it did."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from initaudit.freedom import LayerFreedom
from initaudit.risk.copies import lost
from initaudit.types import Role
from tests.build import he, layer, measured
from tests.risk.build import WIDTH, dense

SAME = np.full((WIDTH, WIDTH), 0.05, np.float32)


def test_two_constant_weights_in_a_row_tie_the_units_between_for_ever():
    rows = [measured(one) for one in (layer("a", SAME), layer("b", SAME), dense("head", role=Role.HEAD))]
    assert lost(rows, 0, None)[0] == pytest.approx(1)
    assert lost(rows, 1, None)[0] == 0  # what reads it tells its units apart


def test_the_probe_has_the_last_word():
    rows = [measured(one) for one in (layer("a", SAME), layer("b", SAME))]
    assert lost(rows, 0, 0.0)[0] == 0
    assert lost(rows, 1, 1.0)[0] == pytest.approx(1)


def test_what_reads_a_layer_has_the_last_word_over_theory():
    rows = [measured(one) for one in (layer("a", SAME), dense("b"), dense("head", role=Role.HEAD))]
    assert lost(rows, 0, 1.0, seen=False)[0] == 0
    assert lost(rows[:1], 0, 1.0, seen=False)[0] == pytest.approx(1)  # nobody is known to read it


def test_a_recurrent_weight_reads_itself():
    one = layer("rnn.weight_hh_l0", np.full((4 * WIDTH, WIDTH), 0.05, np.float32), "lstm", parts=("i", "f", "g", "o"))
    assert lost([measured(one)], 0, None)[0] == pytest.approx(1)


def test_copies_that_part_are_lost_at_first_only():
    one = layer("a", np.tile(he(1, WIDTH), (WIDTH, 1)))
    for_ever, at_first = lost([measured(one), measured(dense("b"))], 0, None)
    assert for_ever == 0
    assert at_first == pytest.approx(1)


@pytest.mark.parametrize("role", [Role.BRANCH_END, Role.GATE, Role.HEAD])
def test_what_is_added_or_comes_last_may_be_copies_at_first(role):
    one = layer("a", np.tile(he(1, WIDTH), (WIDTH, 1)), role=role)
    assert lost([measured(one), measured(dense("b"))], 0, None)[1] is None


def test_zeros_are_no_copies():
    one = layer("a", np.zeros((WIDTH, WIDTH), np.float32))
    assert lost([measured(one), measured(layer("b", SAME))], 0, None) == (0.0, None)


def test_random_weights_lose_nothing():
    assert lost([measured(dense("a")), measured(dense("b"))], 0, None) == (0.0, 0.0)


def test_a_single_unit_has_nothing_to_lose():
    assert lost([measured(layer("a", he(1, WIDTH)))], 0, None) == (0.0, None)


def test_what_the_graph_proves_tied_counts_whatever_the_weights_say():
    one = replace(measured(dense("a")), freedom=LayerFreedom("a", WIDTH, WIDTH // 4))
    assert lost([one, measured(dense("b"))], 0, 0.0)[0] == pytest.approx(np.log(4) / np.log(WIDTH))


def test_what_it_does_not_prove_tied_is_not_where_it_was_all_understood():
    one = replace(measured(layer("a", SAME)), freedom=LayerFreedom("a", WIDTH, WIDTH))
    rows = [one, measured(layer("b", SAME))]
    assert lost(rows, 0, 1.0, sure=True)[0] == 0
    assert lost(rows, 0, 1.0)[0] == pytest.approx(1)
