"""Which operations the executor runs, and which it does not: for the docs."""

from __future__ import annotations

from initaudit.live.execute import executor
from initaudit.live.execute.case import OPERATORS
from initaudit.ops import OPS

_JOINS = frozenset(executor._WHY) - {"phi"}  # phi runs where it joins the two sides of a condition

_READ = frozenset({"constant", "if"})  # gone before: the readers keep the value, or join both sides by a phi


def covered() -> tuple[str, ...]:
    """Return the operations that are run: ONNX's names, or the canonical one where ONNX has none.

    Calls recorded from torch are not listed: they are run by the function of torch that they name.
    """
    return tuple(sorted(name for op, names in _names().items() if _runs(op) for name in names))


def uncovered() -> tuple[str, ...]:
    """Return the operations of ONNX files that are known and not run.

    A graph that needs one of them for its outputs is not probed; `Signals.why` names it.
    """
    return tuple(sorted(name for op, names in _names().items() if not _runs(op) for name in names))


def _runs(op: str) -> bool:
    return op in _READ or (op in OPERATORS and op not in _JOINS)


def _names() -> dict[str, tuple[str, ...]]:
    """Return ONNX's names by canonical operation; what only torch has is left out unless it is run."""
    return {op.name: op.onnx or (op.name,) for op in OPS.values() if op.onnx or op.name in OPERATORS}
