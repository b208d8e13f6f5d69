"""How a row of the table is written, and what it means.

A row is a line `op = name name ... : parameter parameter ...`: the canonical operation, the torch functions that enter
as it, and their parameters in torch's order. A line that starts with blanks goes on with the one before.

    x         an operand: a value, a number or a short list of numbers; operands stand in the order they are written in
    x?        an operand that may be missing or None
    x!        an operand that must be a value, not a number: what tells two rows of one function apart
    x*        a list of operands
    x|y       a parameter that goes by another name in another of the functions
    x@2       an operand at a place of its own
    %1.5@0    a number as an operand
    -x        not of interest
    x>        an attribute of the same name; x>axis: under another one; x>axis=0: with a value where it is not given
    *x> *x*   all that is left of the positional arguments, or one list of them
    +x=1      an attribute that torch does not ask for

Several rows may share a name: the first that the arguments fit is taken. An operation `!name` is one of expand.py,
which is given the arguments by name.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from initaudit.errors import UnsupportedError

_TOKEN = re.compile(
    r"(?P<rest>\*?)(?P<drop>-?)(?P<name>[\w|]+)"
    r"(?:(?P<mark>[?!*]?)(?:@(?P<place>\d+))?|>(?P<attr>\w*)(?:=(?P<default>\S+))?)$"
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a torch function."""

    name: str
    role: str  # operand, operands, attr, none
    rest: bool = False  # takes all positional arguments that are left
    needed: bool = False
    value: bool = False  # a number will not do
    place: int = -1  # among the operands, -1 for the next that is free
    attr: str = ""
    default: Any = None
    given: bool = False  # whether there is a default
    also: tuple[str, ...] = ()  # other names it is known by


@dataclass(frozen=True, slots=True)
class Row:
    """What one way to call a torch function means."""

    op: str
    parameters: tuple[Parameter, ...]
    numbers: tuple[tuple[float, int], ...] = ()  # operands that are none of torch's, with their places
    fixed: tuple[tuple[str, Any], ...] = ()  # attributes that are none of torch's

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names in torch's order."""
        return tuple(p.name for p in self.parameters)


def parse(text: str) -> dict[str, tuple[Row, ...]]:
    """Return the rows of a table by the names of the functions.

    Raises:
        UnsupportedError: a line is not written as it should be.
    """
    lines: list[str] = []
    for raw in text.splitlines():
        line = raw.partition("#")[0].rstrip()
        if line.startswith(" ") and lines:
            lines[-1] += " " + line.strip()
        elif line:
            lines.append(line)
    table: dict[str, list[Row]] = {}
    for line in lines:
        head, _, signature = line.partition(":")
        op, equals, names = head.partition("=")
        if not equals or not names.strip():
            raise UnsupportedError(f"a row without names: {line}")
        row = _row(op.strip(), signature.split())
        for name in names.split():
            table.setdefault(name, []).append(row)
    return {name: tuple(rows) for name, rows in table.items()}


def merged(*tables: Mapping[str, tuple[Row, ...]]) -> dict[str, tuple[Row, ...]]:
    """Return one table of several: rows of the earlier ones are tried first."""
    out: dict[str, tuple[Row, ...]] = {}
    for table in tables:
        for name, rows in table.items():
            out[name] = (*out.get(name, ()), *rows)
    return out


def _row(op: str, tokens: list[str]) -> Row:
    parameters: list[Parameter] = []
    numbers: list[tuple[float, int]] = []
    fixed: list[tuple[str, Any]] = []
    for token in tokens:
        if token.startswith("+"):
            name, _, value = token[1:].partition("=")
            fixed.append((name, _literal(value)))
        elif token.startswith("%"):
            number, _, place = token[1:].partition("@")
            numbers.append((float(number), int(place)))
        else:
            parameters.append(_parameter(token))
    return Row(op, tuple(parameters), tuple(numbers), tuple(fixed))


def _parameter(token: str) -> Parameter:
    match = _TOKEN.match(token)
    if match is None:
        raise UnsupportedError(f"no parameter is written {token}")
    name, *others = match["name"].split("|")
    rest, also = bool(match["rest"]), tuple(others)
    if match["drop"]:
        return Parameter(name, "none", rest, also=also)
    if match["attr"] is not None:
        default = match["default"]
        value = _literal(default) if default is not None else None
        return Parameter(
            name, "attr", rest, attr=match["attr"] or name, default=value, given=default is not None, also=also
        )
    place = int(match["place"]) if match["place"] else -1
    if match["mark"] == "*":
        return Parameter(name, "operands", rest, needed=True, place=place, also=also)
    return Parameter(name, "operand", rest, match["mark"] != "?", match["mark"] == "!", place, also=also)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
