"""The rules keep the conventions that their readers rely on."""

import re
from pathlib import Path

import pytest

from initaudit.rules import catalogue

SECTIONS = ("Why it matters", "How it is measured", "When to ignore it", "Seen in the wild", "Source")
RULES = catalogue()


def test_codes_and_names_are_unique():
    assert len({r.code for r in RULES}) == len({r.name for r in RULES}) == len(RULES) > 5


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_a_rule_is_one_file_of_its_own_name_with_a_whole_page(rule):
    assert re.fullmatch(r"INI[0-6]\d\d", rule.code)
    assert rule.check.__module__ == f"initaudit.rules.{rule.check.__name__}"
    assert re.findall(r"^## (.*)$", rule.doc, re.MULTILINE) == list(SECTIONS)
    assert rule.title.endswith(".")
    assert not re.match(r"(no|disallow|use|fix|avoid)-", rule.name), "a rule names the fault, not the cure"


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.code)
def test_every_rule_has_a_test(rule):
    sources = "".join(p.read_text() for p in Path(__file__).parent.rglob("test_*.py"))
    assert f"{rule.check.__name__}(" in sources or f'"{rule.code}"' in sources
