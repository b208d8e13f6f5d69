"""The graph of a model that comes without one, where what the file holds proves it, or nearly.

`graphed`: a pickled module of torch's own classes alone. Its records say all that it does, so that its graph is as sure
as one that was traced. `chained`: a state_dict whose numbering proves a chain. What stands between the weights is not
known but from the user, so that there is a graph for each activation that is common.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from initaudit.layers import words
from initaudit.types import Layer, Model

__all__ = ["chained", "graphed"]

SOURCE = "inferred"


def graphed(model: Model) -> Model:
    """Return a model with the graph that its records prove; the same model where they prove none."""
    if model.graph is not None or not model.modules or model.format == "module":
        return model
    from initaudit.inferred.sequential import proven  # noqa: PLC0415  most files are no such module

    graph = proven(model)
    return model if graph is None else replace(model, graph=graph, source=SOURCE)


def chained(model: Model, found: Sequence[Layer], activation: str | None = None) -> Model:
    """Return a model with the graphs that its names leave open; the same model where they prove no chain.

    Args:
        model: as it was read.
        found: its layers.
        activation: what the user says stands between them: there is one graph then.
    """
    if model.graph is not None or model.modules or model.mismatches:
        return model
    from initaudit.inferred import numbered  # noqa: PLC0415  most files are no such chain

    chain = numbered.chain(model, found)
    if chain is None:
        return model
    told = numbered.between(words.activation(activation) or activation) if activation is not None else None
    if told is None and chain.closed:
        told = numbered.NOTHING
    if told is not None:
        return replace(model, graph=chain.graph(told), source=SOURCE)
    usual = Counter(a.activation for a in found if a.kind == "linear").most_common(1)[0][0]
    some = sorted(numbered.COMMON, key=lambda one: one.activation != usual)
    first, *rest = (chain.graph(one) for one in some)
    return replace(model, graph=first, other=tuple(rest), source=SOURCE)
