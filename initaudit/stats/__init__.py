"""What one pass over a tensor's values tells: moments, extremes, counts, and norms and hashes per unit."""

from initaudit.stats.measuring import Job, measure, measure_many

__all__ = ["Job", "measure", "measure_many"]
