"""How likely a model is not to train, from what its signal and gradient do in the whole graph."""

from __future__ import annotations

from initaudit.types import Audit, Risk


def judge(audit: Audit) -> Risk | None:
    """Return the risk that a model does not train, and the symptoms behind it; None where nothing is known."""
    return None
