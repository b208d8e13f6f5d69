"""From calls of torch functions to the canonical graph: one table, for whoever recorded or read the calls."""

from initaudit.torch_ops.builder import DIALECTS, Builder, known

__all__ = ["DIALECTS", "Builder", "known"]
