import re
from dataclasses import replace

import numpy as np
import pytest

from initaudit.freedom import LayerFreedom, ParameterFreedom
from initaudit.reporters import reporters
from initaudit.reporters.base import Style
from initaudit.types import Finding, Graph, Risk, Role, Severity, Signal, Signals, Symptom
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


def judged(probed=None, predicted=None, probe=None, theory=None, risk=None, **style) -> str:
    """The page of twelve layers whose signal falls tenfold from one to the next."""
    made = report(*(layer(f"encoder.blocks.{k}.feed_forward", he(64, 64, k)) for k in range(12)))
    rows = [
        replace(
            m,
            probed=probed and Signal(forward_variance=10.0**-k, relative_gradient=probed),
            predicted=predicted and Signal(forward_variance=10.0**-k, relative_gradient=predicted),
        )
        for k, m in enumerate(made.measured)
    ]
    graph = replace(made.model, graph=Graph((), {}, (), {}))
    made = replace(made, model=graph, measured=tuple(rows), probe=probe, theory=theory, risk=risk)
    return reporters()["console"].render([made], Style(**style))


def test_what_was_measured_and_what_was_predicted_are_told_apart():
    out = judged(probed=0.5, predicted=0.25, probe=Signals((), inputs=8), verbosity=1)
    assert "measured on 8 inputs" in out
    assert "~" not in out
    assert " 0.001 " in out
    out = judged(predicted=0.25, verbosity=1)
    assert out.count("~0.25") == 12
    assert "~ predicted from the weights, --probe measures it" in " ".join(out.split())
    assert "signal:" not in judged()


def test_rows_told_as_one_show_the_signal_of_the_first_and_the_last():
    out = judged(probed=0.5)
    assert "1e+00>1e-11" in out
    assert " 0.5" in out


@pytest.mark.parametrize("width", [40, 80, 160])
def test_a_page_with_signal_fits_its_width_and_keeps_names_legible(width):
    symptom = Symptom("vanishing-signal", 0.97, 1e-11, ("encoder.blocks.0.feed_forward",), severity=Severity.ERROR)
    out = judged(probed=0.5, predicted=0.2, risk=Risk(0.97, "probe", (symptom,)), width=width)
    assert max(map(len, out.splitlines())) <= max(width, 70)
    if width >= 80:
        assert max(map(len, out.splitlines())) <= width
        assert "feed_forward" in out
        assert "ratio" in out
    assert "\x1b" not in out


def test_the_closing_line_shows_the_risk_and_who_told_it():
    out = judged(predicted=0.2, risk=Risk(0.973, "theory"))
    assert " ".join(out.split()).endswith("of parameters judged; risk 0.97 by theory")
    quiet = judged(predicted=0.2, risk=Risk(0.973, "theory"), verbosity=-1)
    assert quiet.count("\n") == 1
    assert "risk 0.97 by theory" in quiet


def test_no_risk_is_told_where_none_is_known_or_it_is_not_that_of_training():
    assert "signal not judged" in " ".join(judged().split())
    merged = " ".join(judged(predicted=0.2, theory=Signals((), folded=True), risk=Risk(0.973, "theory")).split())
    assert "risk not told: batch norms are merged" in merged
    assert "0.97" not in merged


def test_refusals_and_disagreement_are_told():
    out = " ".join(judged(predicted=0.2, probe=Signals((), why="it cannot be run: Foo")).split())
    assert "the probe: it cannot be run: Foo" in out
    out = " ".join(judged(predicted=0.2, theory=Signals((), unread=("Foo", "Bar"), folded=True)).split())
    assert "theory does not follow Foo, Bar" in out
    assert "batch norms are merged" in out
    out = " ".join(judged(theory=Signals((), why="no shapes")).split())
    assert "not known: no shapes" in out
    out = " ".join(judged(probed=0.5, risk=Risk(0.5, "probe", (), "fc3 by 1e4")).split())
    assert "theory and probe disagree: fc3 by 1e4" in out
    assert "there is no graph" in " ".join(rendered(layer("fc", he(64, 64))).split())


def test_what_is_wrong_with_no_layer_is_told_on_request():
    spare = Finding("INI206", "cancelled-parameters", Severity.INFO, "6 values of a.bias have no effect")
    made = replace(report(layer("fc", he(8, 8))), findings=(spare,))
    shown = [reporters()["console"].render([made], Style(verbosity=v)) for v in (0, 1)]
    assert [spare.message in page for page in shown] == [False, True]
    assert all("1 info;" in " ".join(page.split()) for page in shown)


def freed(left=8, wake=1, cancelled=0, **style) -> str:
    """The page of six layers of eight units, the last of them narrower, or with a weight that sleeps."""
    made = report(*(layer(f"fc{k}", he(8, 8, k)) for k in range(6)))
    classes = (tuple(range(9 - left)),) if left < 8 else ()
    late = ((wake, 64),) if wake > 1 else ()
    moving = ParameterFreedom("fc5.weight", 64, wake, late, 0 if late or cancelled else 64, cancelled)
    last = replace(
        made.measured[-1],
        freedom=LayerFreedom("fc5", 8, left, classes, "fc5" * bool(classes)),
        movement=moving if wake != 1 or moving.cancelled else None,
    )
    others = (replace(m, freedom=LayerFreedom(m.layer.name, 8, 8)) for m in made.measured[:-1])
    return reporters()["console"].render([replace(made, measured=(*others, last))], Style(**style))


@pytest.mark.parametrize("columns", [80, 160])
def test_the_effective_width_has_a_column_where_a_layer_is_narrower_than_it_looks(columns):
    out = freed(5, width=columns)
    assert re.search(r" width ", out)
    assert re.search(r"fc4 .* 8 ", out)
    assert re.search(r"fc5 .* 5 of 8 ", out)
    assert max(map(len, out.splitlines())) <= columns
    assert "width" not in freed(8, width=columns)
    assert re.sub(r"\x1b\[[0-9;]*m", "", freed(5, width=columns, colour=True)) == out


def test_weights_that_sleep_or_never_move_are_told_where_there_is_room():
    assert re.search(r"fc5 .* step 2 ", freed(wake=2, width=160))
    assert re.search(r"fc5 .* never ", freed(wake=0, width=160))
    assert re.search(r"fc4 .* - ", freed(wake=0, width=160))
    assert re.search(r"fc5 .* cancelled ", freed(wake=0, cancelled=64, width=160))
    assert "moves" not in freed(width=160)
