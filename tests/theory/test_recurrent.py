"""Recurrent layers: theory against the probe, and against cells with fresh weights in numpy."""

import math

import numpy as np
import pytest

from initaudit import audit
from initaudit.theory.recurrent_cells import Both, Weights, backward, forward, lagged
from initaudit.theory.recurrent_curves import Curve, sigmoid, sigmoid_slope

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):
    def __init__(self, made, wide, last=True):
        super().__init__()
        self.rnn, self.head, self.last = made, nn.Linear(wide, 10), last

    def forward(self, x):
        y = self.rnn(x)[0]
        return self.head(y[:, -1] if self.last else y)


class Cells(nn.Module):
    """Cells called step by step."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.head = nn.GRUCell(16, 48), nn.LSTMCell(48, 48), nn.Linear(48, 5)

    def forward(self, x):
        h = g = c = torch.zeros(x.shape[0], 48)
        for t in range(3):
            h = self.one(x[:, t], h)
            g, c = self.two(h, (g, c))
        return self.head(g)


def scaled(net, **times):
    with torch.no_grad():
        for name, p in net.named_parameters():
            for part, factor in times.items():
                if part in name:
                    p.mul_(factor)
    return net


NETS = {
    "tanh": lambda: Net(nn.RNN(16, 64, batch_first=True), 64),
    "relu": lambda: Net(nn.RNN(16, 64, nonlinearity="relu", batch_first=True), 64, last=False),
    "lstm": lambda: Net(nn.LSTM(16, 64, batch_first=True), 64),
    "lstm of large weights": lambda: scaled(Net(nn.LSTM(16, 64, batch_first=True), 64), weight=4.0),
    "gru": lambda: Net(nn.GRU(16, 64, batch_first=True), 64),
    "two layers and directions": lambda: Net(nn.GRU(16, 48, 2, batch_first=True, bidirectional=True), 96, last=False),
    "projected": lambda: Net(nn.LSTM(16, 64, proj_size=32, batch_first=True), 32),
    "cells": Cells,
}


@pytest.mark.parametrize("name", NETS)
def test_within_a_factor_two(name):
    torch.manual_seed(0)
    report = audit.audit_model(audit.live(NETS[name]().eval(), (torch.randn(8, 12, 16),)), probe=True, jobs=1)
    assert not report.probe.why
    assert not report.theory.unread
    for m in report.measured:
        for field in ("forward_variance", "relative_gradient"):
            found, wanted = getattr(m.predicted, field), getattr(m.probed, field)
            if wanted:
                assert found, (m.layer.name, field)
                assert abs(math.log2(found / wanted)) < 1.1, (m.layer.name, field, found, wanted)


@pytest.mark.parametrize("kind", ["rnn", "lstm", "gru"])
def test_states_of_fresh_cells(kind):
    """Second moments of the states, of one input and of two, over many draws of the weights."""
    steps, n, draws = 5, 40, 400
    gates = {"rnn": 1, "lstm": 4, "gru": 3}[kind]
    random = np.random.default_rng(0)
    same, cross = np.zeros((steps, steps)), np.zeros((steps, steps))
    for _ in range(draws):
        x = random.normal(size=(2, steps, n))
        w, u = (random.normal(size=(gates, n, n)) * 1.5 / math.sqrt(n) for _ in range(2))
        b = random.normal(size=(gates, n, 1)) * 0.5
        h, c = np.zeros((2, n)), np.zeros((2, n))
        states = []
        for t in range(steps):
            z = np.einsum("goi,ai->gao", w, x[:, t]) + b.transpose(0, 2, 1)
            r = np.einsum("goi,ai->gao", u, h)
            if kind == "rnn":
                h = np.tanh(z[0] + r[0])
            elif kind == "lstm":
                i, f, o = (sigmoid(z[k] + r[k]) for k in (0, 1, 3))
                c = f * c + i * np.tanh(z[2] + r[2])
                h = o * np.tanh(c)
            else:
                reset, update = (sigmoid(z[k] + r[k]) for k in (0, 1))
                h = (1 - update) * np.tanh(z[2] + reset * r[2]) + update * h
            states.append(h)
        both = np.array(states)
        same += np.einsum("sau,tau->st", both, both) / (2 * n * draws)
        cross += np.einsum("su,tu->st", both[:, 0], both[:, 1]) / (n * draws)
    moments = Weights(2.25, 2.25, ((0.0, 0.25),) * gates)
    made = forward(kind, "tanh", Both(np.eye(steps), np.zeros((steps, steps))), moments, (0.0,) * 4)
    assert made.states.same[:, 0] == pytest.approx(np.diag(same), rel=0.1)
    assert made.states.same == pytest.approx(lagged(same), rel=0.35, abs=0.03)
    assert made.states.cross == pytest.approx(lagged(cross), rel=0.3, abs=0.02)


def test_gradients_shrink_as_slopes_say():
    """With weights of gain g, a linear recurrence hands back g^2 per step."""
    steps = 6
    moments = Weights(1.0, 0.49, ((0.0, 0.0),))
    run = forward("rnn", "tanh", Both(np.eye(steps) * 1e-8, np.zeros((steps, steps))), moments, (0.0,) * 4)
    given = np.zeros((3, steps, steps))
    given[:, -1, 0] = 1.0
    back = backward("rnn", run, given, moments, 1.0, None)
    assert back["new"][0, :, 0] == pytest.approx(0.49 ** np.arange(steps)[::-1], rel=1e-3)


@pytest.mark.parametrize("variance", [0.1, 4.0, 900.0])
def test_slopes_of_gates_far_in_saturation(variance):
    curve = Curve(sigmoid_slope, 0.0, 1)
    curve.add(0, variance)
    z = np.random.default_rng(0).normal(size=400000) * math.sqrt(variance)
    assert curve.square[0] == pytest.approx((sigmoid_slope(z) ** 2).mean(), rel=0.05)
