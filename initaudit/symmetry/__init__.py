"""Which units can ever differ, and which parameters can ever move: decided on the graph, without training."""

from initaudit.freedom import Freedom, LayerFreedom, ParameterFreedom
from initaudit.symmetry import (  # noqa: F401  they fill the tables
    attention,
    choices,
    convolutions,
    joins,
    moves,
    moving_choices,
    moving_convolutions,
    moving_each,
    moving_moves,
    moving_norms,
    moving_picks,
    moving_products,
    moving_recurrent,
    moving_several,
    multiplied,
    norms,
    places,
    pointwise,
    products,
    recurrent,
)
from initaudit.symmetry.analysis import analyse, movements, of_model

__all__ = ["Freedom", "LayerFreedom", "ParameterFreedom", "analyse", "movements", "of_model"]
