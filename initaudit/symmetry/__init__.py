"""Which units can ever differ, and which parameters can ever move: decided on the graph, without training."""

from initaudit.symmetry import (  # noqa: F401  they fill the tables
    attention,
    moves,
    moving_recurrent,
    moving_rules,
    norms,
    pointwise,
    products,
    recurrent,
)
from initaudit.symmetry.analysis import analyse, movements
from initaudit.symmetry.freedom import Freedom, LayerFreedom, ParameterFreedom

__all__ = ["Freedom", "LayerFreedom", "ParameterFreedom", "analyse", "movements"]
