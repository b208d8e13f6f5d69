"""Copies that the probe saw come apart at the first step weigh less than copies that may stay equal for ever."""

from dataclasses import replace

import numpy as np
import pytest

from initaudit.rules import catalogue
from initaudit.types import Risk, Severity, Signal, Symptom
from tests.build import audit, he, layer

HALVES = np.concatenate([he(16, 32), he(16, 32)])
ROWS = np.repeat(he(1, 32), 32, 0)
MULTIPLES = np.outer(np.linspace(1, 2, 32), he(1, 32)[0]).astype(np.float32)
SYMPTOM = Symptom("vanishing-signal", 0.9, 1e-9, severity=Severity.ERROR)


def told(code, values, tied, risk=None):
    rules = {rule.code: rule for rule in catalogue()}
    whole = audit(layer("a", values), layer("b", he(32, 32, 1)))
    signal = None if tied is None else Signal(gradient=1.0, tied=tied)
    first, second = whole.measured
    whole = replace(whole, measured=(replace(first, probed=signal), second), risk=risk or Risk(0.02, "probe"))
    return [f.severity for f in rules[code](whole)]


@pytest.mark.parametrize(
    ("code", "values"),
    [("INI201", HALVES), ("INI201", ROWS), ("INI203", MULTIPLES), ("INI104", np.full((32, 32), 0.05, np.float32))],
)
def test_copies_that_come_apart_are_a_warning_where_the_net_learns(code, values):
    assert told(code, values, tied=0.0) == [Severity.WARNING]
    assert told(code, values, tied=0.5) == [Severity.ERROR]
    assert told(code, values, tied=None) == [Severity.ERROR]
    assert told(code, values, tied=0.0, risk=Risk(0.02, "theory")) == [Severity.ERROR]
    assert told(code, values, tied=0.0, risk=Risk(0.9, "probe", (SYMPTOM,))) == [Severity.ERROR]
