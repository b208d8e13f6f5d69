"""Repair: what is wrong is drawn again, and nothing else."""
