import re

import numpy as np
import pytest

from initaudit.reporters import reporters
from initaudit.reporters.base import Style
from initaudit.types import Role
from tests.build import he, layer, report


def rendered(*layers, **style) -> str:
    return reporters()["console"].render([report(*layers)], Style(**style))


def test_rows_alike_fold_and_verbose_unfolds_them():
    layers = [layer(f"fc{k}", he(64, 64, k)) for k in range(6)]
    assert "fc0-5" in rendered(*layers)
    assert "fc3 " in rendered(*layers, verbosity=1)


def test_a_row_shows_fans_activation_std_expectation_and_ratio():
    out = rendered(layer("fc", he(64, 128)), width=120)
    row = next(line for line in out.splitlines() if line.strip().startswith("fc"))
    cells = row.split()
    assert cells[:7] == ["fc", "linear", "128", ">", "64", "relu", "he"]
    assert cells[-3:-1] == ["he", "0.125"]
    assert float(cells[-1]) == pytest.approx(1, abs=0.05)


def test_colour_is_only_added_on_a_terminal_and_changes_no_word():
    zero = layer("fc", np.zeros((8, 8), np.float32))
    plain, colour = rendered(zero), rendered(zero, colour=True)
    assert "\x1b" not in plain
    assert "\x1b" in colour
    assert re.sub(r"\x1b\[[0-9;]*m", "", colour) == plain


def test_capped_findings_are_told_in_the_closing_lines():
    thin = layer("fc", np.zeros((8, 8), np.float32), role=Role.OTHER, activation=None)
    out = " ".join(rendered(thin).split())
    assert "up to error" in out
    assert "--activation NAME" in out


def test_a_long_name_is_cut_in_the_middle():
    name = "encoder." + "very_long_part." * 6 + "attention.output.dense"
    out = rendered(layer(name, he(64, 64)))
    assert max(map(len, out.splitlines())) <= 80
    assert "output.dense" in out


def test_a_hostile_name_reaches_no_terminal():
    out = rendered(layer("fc\x1b[2J\nx", np.zeros((8, 8), np.float32)))
    assert "\x1b" not in out
    assert "\\x1b[2J" in out


def test_a_long_table_is_cut_but_not_what_is_wrong_in_it():
    letters = [a + b for a in "abcdefgh" for b in "abcdefgh"]
    layers = [layer(name, he(64, 64, k)) for k, name in enumerate(letters)]
    layers[-1] = layer("zz", np.zeros((64, 64), np.float32))
    out = rendered(*layers)
    assert "more rows" in out
    assert any(line.startswith("  x zz") for line in out.splitlines())


def test_a_run_of_blocks_folds_whatever_the_order_of_the_file():
    names = sorted(f"layer.{k}.fc" for k in range(12))
    assert "layer.0-11.fc" in rendered(*(layer(n, he(64, 64, k)) for k, n in enumerate(names)))
