"""A graph run with torch functions, forward and backward: no code of the model's author is needed or run."""

from initaudit.live.execute.coverage import covered, uncovered
from initaudit.live.execute.executor import Executor

__all__ = ["Executor", "covered", "uncovered"]
