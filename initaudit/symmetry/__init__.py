"""Which units can ever differ, and which parameters can ever move: decided on the graph, without training."""

from initaudit.symmetry import attention, moves, norms, pointwise, products  # noqa: F401  they fill the table
