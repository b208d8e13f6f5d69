"""`--data` says what a model takes where nobody else does: it is traced with their shapes."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import initaudit
from tests.test_cli_fix import cli

__all__ = ["cli"]

NETS = """
import torch
from torch import nn
def conv():
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(50, 16), nn.Linear(16, 4)
    def forward(self, ids):
        return self.head(self.table(ids).mean(1))
class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.other = nn.Conv1d(4, 8, 3), nn.Linear(12, 8)
    def forward(self, left, right):
        return self.one(left).mean(2) + self.other(right)
"""


def draw(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


DATA = {
    "conv": draw(16, 3, 12, 13),
    "Tokens": np.random.default_rng(0).integers(0, 50, (16, 11)),
    "Two": {"left": draw(16, 4, 21), "right": draw(16, 12)},
    "Two half": {"left": draw(16, 4, 21)},
}


@pytest.fixture
def nets(cli, monkeypatch):
    Path("own_data_nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(".")
    import own_data_nets

    yield own_data_nets
    del sys.modules["own_data_nets"]


@pytest.mark.parametrize("case", DATA)
def test_a_checkpoint_is_traced_with_the_shapes_of_the_data(cli, nets, case):
    name, data = case.split()[0], DATA[case]
    torch.manual_seed(0)
    torch.save(getattr(nets, name)().state_dict(), "net.pt")
    if isinstance(data, dict):
        np.savez("batch.npz", **data)
    else:
        np.save("batch.npy", data)
    file = "batch.npz" if isinstance(data, dict) else "batch.npy"
    options = ("net.pt", "--model", f"own_data_nets.py:{name}", "--data", file)
    code, out, err = cli("check", *options)
    assert (code, err) == (0, "")
    assert "by probe" in out
    code, out, err = cli("fix", *options, "--scheme", "lsuv", "--all")
    assert (code, err) == (0, "")
    assert "at variance" in out


def test_so_is_a_live_module(nets):
    for name, data in DATA.items():
        torch.manual_seed(0)
        repair = initaudit.fix(getattr(nets, name.split()[0])(), data=data, scheme="lsuv", all=True)
        assert repair.code == 0
        assert repair.reached
        assert not [one.why for one in repair.reached if one.why]


def test_data_of_another_width_are_refused(cli, nets):
    torch.save(nets.conv().state_dict(), "net.pt")
    np.save("batch.npy", draw(16, 5))
    code, _, err = cli("fix", "net.pt", "--model", "own_data_nets.py:conv", "--data", "batch.npy")
    assert code == 2
    assert "(16, 5)" in err


@pytest.mark.parametrize("data", [draw(1, 20), np.repeat(draw(1, 20), 8, axis=0)])
def test_one_input_tells_nothing_of_what_differs_between_inputs(data):
    """The variance across inputs would be 0 at every layer of any net."""
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(20, 40), torch.nn.ReLU(), torch.nn.Linear(40, 5))
    report = initaudit.check(net, data=data)
    assert report.verdict == "healthy"
    assert report.risk is not None
    assert report.risk.by == "theory"
    assert [skip.why for skip in report.skipped if "no two inputs" in skip.why]
    repair = initaudit.fix(net, data=data, scheme="lsuv", all=True)
    assert repair.code == 0
    assert len(repair.reached) == 2
