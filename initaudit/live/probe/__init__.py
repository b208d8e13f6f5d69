"""One small seeded batch through a graph, forward and backward: what each layer really does to signal and gradient."""

from initaudit.live.probe.data import read as read_data
from initaudit.live.probe.run import estimate, probe

__all__ = ["estimate", "probe", "read_data"]
