"""Which units can ever differ, and which parameters can ever move: decided on the graph, without training."""

from initaudit.symmetry import attention, moves, norms, pointwise, products, recurrent  # noqa: F401  they fill the table
from initaudit.symmetry.analysis import analyse
from initaudit.symmetry.freedom import Freedom, LayerFreedom

__all__ = ["Freedom", "LayerFreedom", "analyse"]
