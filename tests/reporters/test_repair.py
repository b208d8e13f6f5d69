"""The table of a repair on pages of any width, and what is said where there was nothing to repair."""

import re
from pathlib import Path

import pytest
import torch

import initaudit
from initaudit.reporters.base import Style
from initaudit.reporters.repair import render
from initaudit.reporters.table import Column, lines
from tests.build import he


@pytest.fixture(scope="module")
def repair(tmp_path_factory):
    path = tmp_path_factory.mktemp("repair") / "net.pt"
    tensors = {f"transformer.h.{k}.mlp.first_of_two.weight": torch.tensor(he(32, 32, k)) for k in range(3)}
    tensors["transformer.h.1.mlp.first_of_two.weight"][0, 0] = torch.nan
    torch.save(tensors, path)
    return initaudit.fix(path, scheme="normal:std=0.123456789", dry_run=True)


@pytest.mark.parametrize("width", range(60, 150, 3))
def test_columns_of_a_pair_come_and_go_together_and_why_outlives_how(repair, width):
    text = render(repair, Style(width)).splitlines()
    heading = next(line for line in text if "std before" in line)
    assert max(map(len, text)) <= width
    assert heading.count("before") == heading.count("> after")
    assert ("ratio before" in heading) <= ("scheme" in heading) <= (" for " in heading)


def test_a_short_name_of_a_scheme_comes_before_none(repair):
    told = {width: render(repair, Style(width)) for width in (88, 140)}
    assert "normal:std=" in told[140]
    assert "normal:.." in told[88]


def test_columns_that_give_way_at_the_same_time_do_so_together():
    columns = [
        Column("name", ("x" * 20,)),
        *(Column(h, ("1234567",), gives_way=k) for h, k in zip("abc", (1, 1, 2), strict=True)),
    ]
    assert [len(line.split()) for line in lines(columns, 48)] == [4, 4]
    assert [len(line.split()) for line in lines(columns, 46)] == [2, 2]


def test_where_nothing_is_fixed_it_is_said_what_was_not_judged(tmp_path):
    """What is called healthy without its signal may still not train."""
    path = tmp_path / "net.pt"
    torch.save({f"{name}.weight": torch.tensor(he(64, 64, k)) for k, name in enumerate("abc")}, path)
    text = render(initaudit.fix(path), Style(100))
    assert "signal not judged" in text
    assert "--model, --arch" in text
    assert "--all" not in text
    assert "--all draws every layer, --layers" in render(initaudit.fix(path, scheme="xavier"), Style(100))
    chain = tmp_path / "chain.pt"
    torch.save({f"{2 * k}.weight": torch.tensor(he(64, 64, k)) for k in range(6)}, chain)
    assert "--activation NAME" in " ".join(render(initaudit.fix(chain), Style(100)).split())
    judged = render(initaudit.fix(chain, activation="relu"), Style(100))
    assert "by theory" in judged
    assert "not known" not in judged


def test_units_that_are_drawn_and_the_width_they_bring_back():
    path = Path(__file__).parent.parent.parent / "fixtures" / "tied.onnx"
    made = initaudit.fix(path, dry_run=True)
    for width in (80, 100, 160):
        text = render(made, Style(width))
        assert max(map(len, text.splitlines())) <= width
        assert re.search(r"\bfc1 .* 4 > 6 ", text)
    assert re.search(r"\bfc1 .* 1 and 3 of 6 ", text)
    assert re.search(r"\blora_A .* all ", text)


def test_neither_is_shown_where_whole_layers_are_drawn(repair):
    heading = next(line for line in render(repair, Style(160)).splitlines() if "std before" in line)
    assert not {"units", "width"} & set(heading.split())
