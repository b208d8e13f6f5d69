"""Which faults are cured by drawing weights again, and whose: one row per rule."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Cure(StrEnum):
    """What is drawn again where a rule finds something."""

    TENSOR = "the tensor that it names"
    UNITS = "the units that are zero or copies"
    CLONES = "all clones but the first"
    CHAIN = "what is off in the layers that it names, or all of them"
    BRANCHES = "the last weights of residual branches"
    ATTENTION = "the weights that make queries and keys"
    HEAD = "the output layer"
    TIES = "all but one unit of each tied set"
    FACTOR = "one of the zeros that block each other"
    NOTHING = "nothing: no draw mends it"


CURED: Mapping[str, Cure] = {
    "INI001": Cure.NOTHING,
    "INI101": Cure.TENSOR,
    "INI102": Cure.TENSOR,
    "INI103": Cure.TENSOR,
    "INI104": Cure.TENSOR,
    "INI201": Cure.UNITS,
    "INI202": Cure.UNITS,
    "INI203": Cure.TENSOR,
    "INI204": Cure.CLONES,
    "INI205": Cure.FACTOR,
    "INI206": Cure.NOTHING,
    "INI301": Cure.TENSOR,
    "INI302": Cure.TENSOR,
    "INI401": Cure.NOTHING,
    "INI501": Cure.CHAIN,
    "INI502": Cure.CHAIN,
    "INI503": Cure.CHAIN,
    "INI504": Cure.CHAIN,
    "INI505": Cure.CHAIN,
    "INI506": Cure.CHAIN,
    "INI507": Cure.CHAIN,
    "INI508": Cure.CHAIN,
    "INI509": Cure.ATTENTION,
    "INI510": Cure.HEAD,
    "INI511": Cure.BRANCHES,
    "INI512": Cure.TIES,
}


def cured(rule: str) -> bool:
    """Whether drawing weights again cures what a rule finds; a rule of no row is cured by nothing we know."""
    return CURED.get(rule, Cure.NOTHING) is not Cure.NOTHING
