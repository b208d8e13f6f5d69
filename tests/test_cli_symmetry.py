"""`initaudit show --symmetry`."""

import importlib
import sys
from dataclasses import replace

import pytest

from initaudit import symmetry
from initaudit.freedom import Cause, Freedom, LayerFreedom, ParameterFreedom, weakest
from initaudit.reporters.base import Style
from initaudit.reporters.freedom import render
from initaudit.types import Graph
from tests.build import he, layer, report, tensor
from tests.running import runner
from tests.test_cli import BROKEN, HEALTHY

torch = pytest.importorskip("torch")

CODE = """
import torch
from torch import nn

def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.Tanh(), nn.Linear(12, 10), nn.Tanh(), nn.Linear(10, 3))

def tied():
    net = mlp()
    with torch.no_grad():
        for k in (2, 3, 7):
            net[0].weight[k], net[0].bias[k] = net[0].weight[1], net[0].bias[1]
            net[2].weight[:, k] = net[2].weight[:, 1]
    return net

def halved():
    net = tied()
    with torch.no_grad():
        net[2].weight[:, 7] *= 2
    return net

class Lora(nn.Module):
    def __init__(self, up=0.0, down=1.0):
        super().__init__()
        torch.manual_seed(0)
        self.base = nn.Linear(8, 5)
        self.down, self.up = nn.Linear(8, 2, bias=False), nn.Linear(2, 5, bias=False)
        with torch.no_grad():
            self.up.weight *= up
            self.down.weight *= down

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))

def dead():
    return Lora(down=0.0)

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.norm, self.b = nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(torch.relu(self.norm(self.a(x))))

def chain(depth=4):
    torch.manual_seed(0)
    layers = [nn.Linear(8, 8) for _ in range(depth)]
    for layer in layers:
        nn.init.constant_(layer.weight, 0.25)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), nn.Linear(8, 2))
"""


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    (tmp_path / "tied_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "tied_nets", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return runner(monkeypatch, capsys)


def told(cli, name, *options):
    code, out, err = cli("show", "--model", f"tied_nets:{name}", "--input", "4,8", *options, "--symmetry")
    assert (code, err) == (0, "")
    return out


def rows(out):
    """The cells of all tables."""
    tables = ("layer", "parameter")
    cells = [line.split() for line in out.splitlines() if line.startswith("    ")]
    return [row for row in cells if row[0] not in tables]


def shown(found, *, width=100, only=False, **fields):
    """The page of layers as `found` names them, None as "other"."""
    layers = [layer(one.name if one else "other", he(2, 2)) for one in found.layers]
    made = report(*layers)
    measured = tuple(replace(m, freedom=one) for m, one in zip(made.measured, found.layers, strict=True))
    return render(replace(made, measured=measured, freedom=found, **fields), Style(width), only=only)


def test_tied_units_are_told_with_their_class_and_where_they_start(cli):
    out = told(cli, "tied")
    assert rows(out) == [["0", "12", "9", "itself"]]
    assert "0: this layer acts as one of width 9\n  tied: 1-3 and 7\n" in out
    assert out.endswith("1 of 3 layers narrower than they look; every parameter moves at the first step\n")


def test_what_training_parts_is_not_told(cli):
    assert rows(told(cli, "halved")) == [["0", "12", "10", "itself"]]  # unit 7 gets another gradient


def test_the_example_of_the_docs_needs_every_sum_to_agree(cli, tmp_path):
    from initaudit import audit

    onnx, make = pytest.importorskip("onnx"), importlib.import_module("fixtures.make")

    def widths(name="", at=(0, 0), by=0.0):
        tensors = make.tied()
        if name:
            tensors[f"{name}.weight"][at] += by
        onnx.save(make.tied_graph(tensors), tmp_path / "net.onnx")
        found = audit.audit_path(tmp_path / "net.onnx", chosen=()).measured
        return {m.layer.name: m.freedom.width for m in found if m.layer.name in ("fc1", "fc2")}

    assert widths() == {"fc1": 4, "fc2": 3}
    for name, at in (("fc1", (1, 0)), ("fc2", (0, 1)), ("head", (0, 1))):
        assert widths(name, at, 0.5) == {"fc1": 6, "fc2": 4}


def test_of_a_healthy_net_one_line_says_so(cli):
    line = "no ties in {} layers; every parameter moves at the first step"
    assert told(cli, "mlp").splitlines()[-2:] == ["", line.format(3)]
    code, out, err = cli("show", HEALTHY, "--symmetry")
    assert (code, err) == (0, "")
    assert out.splitlines()[-2:] == ["", line.format(6)]


def test_one_zero_factor_sleeps_and_two_are_dead(cli):
    out = told(cli, "Lora")
    assert rows(out) == [["down.weight", "16", "at", "step", "2"]]
    assert out.endswith("no ties in 3 layers; parameters: 1 asleep at first\n")
    own = {row[0]: row[2:] for row in rows(told(cli, "dead")) if "weight" in row[0]}
    assert own == {"down.weight": ["never"], "up.weight": ["never"]}
    assert "down.weight, up.weight: never: down.weight and up.weight are both zero\n" in told(cli, "dead")


def test_a_bias_before_a_batch_norm_is_cancelled(cli):
    out = told(cli, "Normed")
    assert rows(out) == [["a.bias", "6", "never:", "cancelled"]]
    assert out.endswith("parameters: 1 cancelled\n")


def test_layers_alike_share_a_row_and_name_the_first(cli):
    out = told(cli, "chain")
    assert [row[-2:] for row in rows(out)] == [["1", "itself"], ["1", "0"]]
    assert "each of these layers acts as one of width 1\n  tied: 0-7\n" in out


def test_patterns_choose_layers(cli):
    assert rows(told(cli, "tied", "--layers", "2")) == []
    assert rows(told(cli, "Lora", "--layers", "up")) == []
    assert rows(told(cli, "Lora", "--layers", "do*"))[0][0] == "down.weight"
    code, out, err = cli("show", HEALTHY, "--symmetry", "--layers", "nobody")
    assert (code, out) == (2, "")
    assert "no layer is called 'nobody'" in err


def test_a_checkpoint_needs_the_graph_of_its_model(cli):
    sys.path.insert(0, "")
    import tied_nets

    torch.save(tied_nets.Lora().state_dict(), "lora.pt")
    code, out, err = cli("show", "lora.pt", "--symmetry")
    assert (code, err) == (0, "")
    assert out.endswith("not analysed: there is no graph (--model, --arch or an ONNX export gives one)\n")
    assert rows(told(cli, "Lora", "lora.pt"))[0][0] == "down.weight"


def test_what_a_checkpoint_lacks_is_said_and_ties_nothing(cli):
    sys.path.insert(0, "")
    import tied_nets

    held = tied_nets.tied().state_dict()
    del held["0.bias"]
    torch.save(held, "lacks.pt")
    out = told(cli, "tied", "lacks.pt")
    assert rows(out) == []
    assert "the checkpoint lacks values, so that all they touch is taken to differ, for 0.bias\n" in out


def test_where_the_graph_is_open_what_holds_in_all_is_told(cli):
    sys.path.insert(0, "")
    import tied_nets

    torch.save(tied_nets.tied().state_dict(), "tied.pt")
    code, out, _ = cli("show", "tied.pt", "--symmetry")
    assert code == 0
    assert "graphs open" in out
    assert rows(out) == [["0", "12", "9"]]
    assert "  tied:" not in out
    out = cli("show", "tied.pt", "--symmetry", "--activation", "tanh")[1]
    assert "graphs open" not in out
    assert "  tied: 1-3 and 7\n" in out


def test_the_weakest_of_several():
    a = Freedom(
        (LayerFreedom("x", 4, 2, ((0, 1), (2, 3)), "x"), LayerFreedom("y", 4, 1, ((0, 1, 2, 3),), "x"), None),
        (ParameterFreedom("p", 8, 2, ((2, 8),)), ParameterFreedom("q", 8, 0, dead=8),
         ParameterFreedom("r", 8, 1, dead=4), ParameterFreedom("s", 8, 0, dead=8)),
        ("foo",), 2, 2,
    )  # fmt: skip
    b = Freedom(
        (LayerFreedom("x", 4, 3, ((0, 1),), "x"), LayerFreedom("y", 4, 4), LayerFreedom("z", 4, 1)),
        (ParameterFreedom("p", 8, 3, ((3, 8),)), ParameterFreedom("q", 8, 0, cancelled=8),
         ParameterFreedom("r", 8, 1, dead=4)),
        ("bar", "foo"), 3, 3,
    )  # fmt: skip
    both = weakest([a, b])
    assert both.layers == (LayerFreedom("x", 4, 3), LayerFreedom("y", 4, 4), None)
    assert both.parameters == (ParameterFreedom("p", 8, 2, ((2, 8),)), ParameterFreedom("q", 8, 0, cancelled=8))
    assert both.unread == ("foo", "bar")
    assert weakest([a]) is a


@pytest.mark.parametrize("width", [80, 160])
def test_the_page_fits_its_width_and_has_no_colour_in_a_pipe(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    pages = [cli("show", BROKEN, "--symmetry")[1], told(cli, "chain")]
    long = "encoder.layers.11.attention.self.query.projection.lora_A.default.weight"
    found = Freedom(
        (LayerFreedom(long, 512, 256, tuple((k, k + 256) for k in range(256)), long), None),
        (ParameterFreedom(long, 10**6, 2, ((2, 5), (3, 7)), 11, 13),), tuple(f"operation_{k}" for k in range(20)),
    )  # fmt: skip
    pages.append(shown(found, width=width))
    assert "248 more sets" in pages[-1]
    assert "14 more" in pages[-1]
    for page in pages:
        assert max(map(len, page.splitlines())) <= width
        assert "\x1b" not in page
    assert "conv: not finite" in pages[0]


def test_many_members_are_counted():
    page = shown(Freedom((LayerFreedom("a", 100, 51, (tuple(range(0, 100, 2)),), "a"),)))
    assert "  tied: 0, 2, 4, 6, 8, 10, 12, 14 and 42 more\n" in page


def test_near_ties_twins_and_what_parts_them():
    found = Freedom(
        (
            LayerFreedom("a", 8, 7, ((0, 1),), "a", nearly=((0, 1, 2), (4, 5)), breaks=("dropout 0.1",)),
            LayerFreedom("b", 8, 8, twins=((0, 3),)),
            LayerFreedom("c", 8, 8),
        )
    )
    page = shown(found)
    assert rows(page) == [["a", "8", "7", "5", "itself"], ["b", "8", "8", "8", "-"]]
    assert "  tied: 0-1\n  nearly tied: 0-2; 4-5\n  parted in practice by dropout 0.1\n" in page
    assert "b: this layer is as wide as it looks\n  twins: 0 and 3\n" in page
    assert page.endswith("1 of 3 layers narrower than they look, 1 with twins; "
                         "every parameter moves at the first step\n")  # fmt: skip
    assert "nearly" not in shown(Freedom((replace(found.layers[0], nearly=()),)))


def test_words_are_explained_where_they_occur_and_only_there():
    tied = Freedom((LayerFreedom("a", 8, 7, ((0, 1),), "a"),))
    assert ("tied: equal for every input" in shown(tied), "twins: " in shown(tied)) == (True, False)
    flipped = shown(Freedom((LayerFreedom("b", 8, 8, twins=((0, 3),)),)))
    assert ("tied: equal" in flipped, "twins: equal but for a sign" in flipped) == (False, True)
    asleep = shown(Freedom((), (ParameterFreedom("p", 8, 2, ((2, 8),)),)), only=False)
    assert ("at step: " in asleep, "never: " in asleep, "cancelled: " in asleep) == (True, False, False)


def test_why_parameters_never_move():
    def dead(name, cause, *blocked):
        return ParameterFreedom(name, 8, 0, dead=8, cause=cause, blocked_by=blocked)

    pair = ("lora_A", "lora_B")
    blocks = [(f"blocks.{k}.a", f"blocks.{k}.b") for k in range(3)]
    page = shown(
        Freedom(
            (),
            (
                *(dead(name, Cause.ZEROS, *pair) for name in pair),
                *(dead(name, Cause.ZEROS, *own) for own in blocks for name in own),
                dead("lone", Cause.ZEROS, "gate"),
                dead("five", Cause.ZEROS, *"abcde"),
                dead("many", Cause.ZEROS, *(f"{c}.w" for c in "abcdefgh")),
                dead("tied", Cause.TIED),
                dead("off", Cause.OFF),
                dead("query", Cause.DESIGN),
                dead("unknown", None),
            ),
        )
    )
    assert "\nlora_A, lora_B: never: lora_A and lora_B are both zero\n" in page
    assert "\nblocks.0-2.a, blocks.0-2.b: never: blocks.0-2.a and blocks.0-2.b are both zero\n" in page
    assert "\nlone: never: gate is zero\n" in page
    assert "\nfive: never: a, b, c, d and e are all zero\n" in page
    assert "\nmany: never: a.w, b.w, c.w, d.w, e.w and 3 more are all zero\n" in page
    assert "\ntied: never: what it feeds is tied\n" in page
    assert "\noff: never: no input switches these units on\n" in page
    assert "\nquery: never: by design: its input is zero or masked, whatever the parameters are\n" in page
    assert "unknown: never" not in page
    assert page.endswith("parameters: 15 that never move in whole or in part\n")


def test_a_crash_is_told_in_one_line_and_the_exit_code(cli, monkeypatch):
    def broken(*_):
        raise ValueError("no such thing")

    monkeypatch.setattr(symmetry, "of_model", broken)
    code, out, err = cli("show", HEALTHY, "--symmetry")
    assert code == 2
    assert out.startswith(str(HEALTHY))
    assert err.count("\n") == 1
    assert "symmetry failed: ValueError: no such thing" in err
    assert out.endswith("not analysed: symmetry failed: ValueError: no such thing\n")


def test_options_that_would_do_nothing_are_refused(cli):
    code, out, err = cli("show", HEALTHY, "--symmetry", "--probe")
    assert (code, out) == (2, "")
    assert "leave --probe out" in err
    code, out, err = cli("show", HEALTHY, "--symmetry", "--data", "none.npy")
    assert (code, out) == (2, "")


def test_the_bar_says_when_ties_are_looked_for():
    from initaudit import audit
    from initaudit.cli.checking import _step

    shown, calls = [], []
    audit.audit_path(HEALTHY, chosen=(), progress=lambda done, total: calls.append((done, total)))
    for done, total in calls:
        _step(lambda *told: shown.append(told), "net.onnx", done, total)
    assert shown[0][0] == "net.onnx"
    assert shown[-1] == ("net.onnx: ties", 0, 0)


def test_parameters_have_the_names_that_people_know(cli):
    held = layer(
        "block.fc", he(2, 2), weight=tensor("onnx::MatMul_57", he(2, 2)), bias=tensor("block.fc.bias", he(2, 1))
    )
    fused = layer("at.in_proj_weight", he(2, 2), weight=tensor("at.in_proj_weight", he(2, 2)),
                  bias=tensor("at.in_proj_bias", he(2, 1)))  # fmt: skip
    names = ("onnx::MatMul_57", "block.fc.bias", "at.in_proj_weight", "at.in_proj_bias")
    found = Freedom(
        (), tuple(ParameterFreedom(name, 4, 0, dead=4, cause=Cause.ZEROS, blocked_by=names[:1]) for name in names)
    )
    made = report(held, fused)
    for graph, own in ((Graph((), {}, (), {}), "block.fc.weight"), (None, "onnx::MatMul_57")):
        page = render(replace(made, model=replace(made.model, graph=graph), freedom=found), Style(120))
        assert [row[0] for row in rows(page)] == [own, *names[1:]]
        assert f"never: {own} is zero" in page
