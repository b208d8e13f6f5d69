"""--model, --arch and --input on the command line, and live modules in Python."""

import json
import sys
from functools import partial

import pytest
import torch
from torch import nn

import initaudit
from initaudit.cli import main
from initaudit.errors import UsageError
from tests.test_cli import HEALTHY, refused

CODE = """
import torch
from torch import nn

print("noise on stdout")

class Net(nn.Module):
    def __init__(self, classes=10):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.MaxPool2d(2))
        self.hidden = nn.Linear(16 * 12 * 12, 32)
        self.out = nn.Linear(32, classes)

    def forward(self, image):
        return self.out(torch.relu(self.hidden(self.body(image).flatten(1))))

class Picky(Net):
    def forward(self, image):
        raise RuntimeError("not today")

def broken():
    raise ValueError("no data")
"""


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    (tmp_path / "own_nets.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["initaudit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err.replace("noise on stdout\n", "")

    return run


@pytest.fixture
def net(cli, capsys):
    sys.path.insert(0, "")
    from own_nets import Net

    capsys.readouterr()
    torch.manual_seed(3)
    return Net()


def document(result) -> dict:
    code, out, err = result
    assert (code, err) in ((0, ""), (1, "")), err
    return json.loads(out)


def test_a_checkpoint_gets_the_graph_of_its_model(cli, net):
    torch.save(net.state_dict(), "net.pt")
    alone = document(cli("check", "net.pt", "--format", "json"))
    report = document(cli("check", "net.pt", "--model", "own_nets:Net", "--format", "json"))
    assert (alone["source"]["graph"], report["source"]["graph"]) == ("none", "traced")
    assert report["source"]["path"] == "net.pt"
    assert [(r["name"], r["activation"], r["evidence"]) for r in report["layers"]] == [
        ("body.0", "relu", "traced"), ("body.2", "relu", "traced"), ("hidden", "relu", "traced"),
        ("out", None, "traced"),
    ]  # fmt: skip
    assert [r["std"] for r in report["layers"]] == [r["std"] for r in alone["layers"]]
    assert "image (2, 1, 28, 28) float32, guessed" in report["model"]["detail"]
    given = document(cli("check", "net.pt", "--model", "own_nets.py:Net", "--input", "3,1,28,28", "--format", "json"))
    assert "traced on image (3, 1, 28, 28) float32" in given["model"]["detail"]
    assert "guessed" not in given["model"]["detail"]
    assert given["layers"] == report["layers"]


def test_without_a_path_fresh_weights_are_judged_and_are_the_same_twice(cli):
    one = cli("check", "--model", "own_nets:Net", "--format", "json")
    report = document(one)
    assert report["source"] == {"path": "own_nets:Net", "format": "module", "graph": "traced"}
    assert {r["identified"]["scheme"] for r in report["layers"]} == {"torch-default"}
    assert report["model"]["state"] == "fresh"
    assert report["summary"]["coverage"] == 1
    assert one == cli("check", "--model", "own_nets:Net", "--format", "json")
    code, out, _ = cli("check", "--model", "own_nets:Net", "-q")
    assert code == 0
    assert out.startswith("own_nets:Net: healthy: 0 errors, 0 warnings, 0 infos; 100 % of parameters judged; risk 0.")
    assert out.count("\n") == 1
    code, out, _ = cli("show", "--model", "own_nets:Net")
    assert code == 0
    assert "hidden" in out


def test_several_checkpoints_and_their_differences(cli, net):
    torch.save({f"module.{name}": t for name, t in net.state_dict().items()}, "whole.pt")
    state = net.state_dict()
    state["out.weight"] = torch.zeros(5, 32)
    state["hidden.weight"] = state["hidden.weight"].t().contiguous()
    state["more.weight"] = torch.zeros(2, 2)
    del state["out.bias"]
    torch.save(state, "other.pt")
    torch.save({"a": torch.zeros(3, 3)}, "none.pt")
    code, out, err = cli("check", "whole.pt", "other.pt", "none.pt", "--model", "own_nets:Net", "--format", "json")
    whole, other = json.loads(out)
    assert code == 2
    assert "none.pt: no tensor of it fits own_nets:Net" in err
    assert [f for f in whole["findings"] if f["rule"] == "INI401"] == []
    found = [f for f in other["findings"] if f["rule"] == "INI401"]
    assert [(f["severity"], f["evidence"]["what"], f["evidence"]["names"]) for f in found] == [
        ("error", "shape", ["hidden.weight", "out.weight"]),
        ("warning", "missing", ["out.bias"]),
        ("warning", "unexpected", ["more.weight"]),
    ]
    assert "1 of them transposed: hidden.weight (2304x32, the model's is 32x2304)" in found[0]["message"]
    assert [r["name"] for r in other["layers"]] == ["body.0", "body.2"]


def test_a_model_that_cannot_be_run_is_still_read_and_the_report_says_so(cli):
    report = document(cli("check", "--model", "own_nets:Picky", "--format", "json"))
    assert report["source"]["graph"] == "module"
    assert [r["name"] for r in report["layers"]] == ["body.0", "body.2", "hidden", "out"]
    why = next(s["why"] for s in report["skipped"] if s["name"] == "graph")
    assert "RuntimeError: not today (own_nets.py:19, in forward)" in why
    line = refused(cli("check", "--model", "own_nets:Picky", "--input", "1,1,28,28"))
    assert "Picky cannot be run on image (1, 1, 28, 28) float32" in line
    assert "RuntimeError: not today (own_nets.py:19, in forward)" in line


def test_bad_usage_is_one_line(cli, net):
    torch.save(net.state_dict(), "net.pt")
    for arguments, words in {
        ("net.pt", "--model", "own_nets:broken"): "ValueError: no data (own_nets.py:22, in broken)",
        ("net.pt", "--model", "own_nets:Nett"): "own_nets has no 'Nett'",
        ("net.pt", "--model", "nowhere:Net"): "no module named 'nowhere'",
        ("net.pt", "--model", "own_nets:Net", "--arch", "timm:resnet18"): "contradict",
        ("net.pt", "--model", "own_nets:Net", "--input", "1,1,64,64"): "fails in hidden (Linear)",
        ("net.pt", "--model", "own_nets:Net", "--input", "x=1"): "no argument 'x'; it takes image",
        ("net.pt", "--input", "1,1"): "give one of these",
        ("net.pt", "--arch", "resnet18"): "--arch takes timm:NAME",
        ("net.pt", "--arch", "hf:nowhere"): "no such folder",
        (HEALTHY, "--model", "own_nets:Net"): "the graph is already there (onnx)",
        (): "give a PATH, --model or --arch",
        ("--input", "1,1"): "give one of these",
    }.items():
        assert words in refused(cli("check", *arguments)), arguments
    assert "give a PATH" in refused(cli("show"))


def test_check_takes_a_live_module(net):
    draws = torch.get_rng_state()
    report = initaudit.check(net, torch.zeros(1, 1, 28, 28))
    assert (report.verdict, report.model.path, report.model.graph_source) == ("healthy", "Net", "traced")
    assert report.model.detail == "Net, traced on image (1, 1, 28, 28) float32"
    assert torch.equal(draws, torch.get_rng_state())
    assert net.training
    with torch.no_grad():
        net.hidden.weight.zero_()
    found = initaudit.check(net).findings
    assert [(f.rule, f.layer) for f in found if f.severity > 1] == [("INI103", "hidden")]


def test_check_takes_a_path_and_the_module_or_what_makes_it(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for model in (net, type(net), partial(type(net), 10), "own_nets:Net"):
        report = initaudit.check(tmp_path / "net.pt", model=model)
        assert report.model.graph_source == "traced"
        assert [m.layer.activation for m in report.measured] == ["relu", "relu", "relu", None]
    assert initaudit.check(model=type(net)).model.path == "Net"


def test_arguments_that_contradict_are_refused(net, tmp_path):
    torch.save(net.state_dict(), tmp_path / "net.pt")
    for arguments, settings in (
        ((net,), {"model": net}),
        ((net,), {"arch": "timm:resnet18"}),
        ((tmp_path / "net.pt", torch.zeros(1)), {}),
        ((tmp_path / "net.pt",), {"inputs": "x=1"}),
        ((net, torch.zeros(1, 1, 28, 28)), {"inputs": "1,1,28,28"}),
        ((None,), {}),
        ((tmp_path / "net.pt",), {"model": net, "arch": "timm:resnet18"}),
        ((), {"model": 3}),
    ):
        with pytest.raises(UsageError):
            initaudit.check(*arguments, **settings)


def test_a_tied_recurrent_model_in_bfloat16(tmp_path):
    class Speaker(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(40, 16)
            self.rnn = nn.LSTM(16, 16, batch_first=True)
            self.head = nn.Linear(16, 40, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, tokens):
            return self.head(self.rnn(self.embed(tokens))[0])

    speaker = Speaker().bfloat16()
    torch.save(speaker.state_dict(), tmp_path / "speaker.pt")
    live = initaudit.check(speaker)
    held = initaudit.check(tmp_path / "speaker.pt", model=Speaker)
    assert [m.layer.name for m in live.measured] == [m.layer.name for m in held.measured]
    for a, b in zip(live.measured, held.measured, strict=True):
        assert (a.layer.kind, a.layer.fan_in, a.layer.activation, a.layer.role, a.layer.weight.dtype) == (
            b.layer.kind, b.layer.fan_in, b.layer.activation, b.layer.role, b.layer.weight.dtype,
        )  # fmt: skip
        assert a.stats.std == b.stats.std
    assert live.coverage == held.coverage == 1
