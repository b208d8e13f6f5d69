"""The sweep: which weights are scaled where, on what, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from initaudit.edits import Reached, Recipe
from initaudit.errors import InitauditError, UsageError
from initaudit.graph.settled import settled
from initaudit.layers.spots import Places
from initaudit.live.lsuv import feeding
from initaudit.live.lsuv.parts import parts
from initaudit.live.lsuv.scaling import RECURRENT, Scaling
from initaudit.live.lsuv.stored import Stored
from initaudit.live.lsuv.sweep import Sweep
from initaudit.live.lsuv.targets import Meeting, Settings, Target
from initaudit.live.probe.cost import pass_limits
from initaudit.live.probe.data import read as read_data
from initaudit.live.probe.guard import Guard
from initaudit.live.probe.run import _settled
from initaudit.types import Array, Graph, Layer, Model

Draw = Callable[[Recipe], Array]
Notice = Callable[[str], None]
SCHEME = "lsuv"
_WEIGHTED = frozenset({"linear", "conv", "conv_transpose", "embedding", "bilinear", "attention", *RECURRENT})
_NO_PRODUCT = "it has no product of its own whose variance could be set"


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What came of a sweep."""

    values: Mapping[int, Callable[[], Array]]  # by place of the recipe: in the stored order of its tensor
    reached: tuple[Reached, ...]
    notes: tuple[str, ...] = ()


def calibrate(
    model: Model,
    recipes: Sequence[Recipe],
    draw: Draw,
    *,
    data: Any = None,
    seed: int = 0,
    tol: float = 0.05,
    tmax: int = 10,
    target: float = 1.0,
    norms: str = "file",
    notice: Notice | None = None,
) -> Calibrated:
    """Scale orthonormal weights layer by layer until what each makes has the target variance.

    The graph is run once, in execution order, with everything else as the file and the other recipes have it. Where a
    weight with the scheme "lsuv" meets the data, it is divided by the standard deviation of what comes out, bias
    included, pooled over all elements; of a recurrent matrix, of its own product, gate by gate. Parts that lie in one
    tensor (gates, projections, experts) are scaled one by one. Of a weight that is used several times the first use
    decides at which its input is not zero.

    Args:
        model: with a graph.
        recipes: all that the repair draws; those of other schemes are in place while the graph runs.
        draw: returns new values of a recipe's tensor; of one with "lsuv" the orthonormal start.
        data: a path, arrays by input name, or what `initaudit.live.probe.read_data` returned; drawn where there is none.
        seed: of what is drawn.
        tol: how far the variance may be off the target.
        tmax: most tries per layer.
        target: variance to reach.
        norms: statistics that batch norms use: of the "file", or of the "batch".
        notice: told what the run will cost, if it takes more than a second.

    Raises:
        UsageError: the model has no graph that can be run, or the data hold NaN or infinity, are all zero, or do not
            fit the graph's inputs.

    Source: Mishkin & Matas 2015 (arXiv 1511.06422), algorithm 1.
    """
    settings = Settings(tol, tmax, target, _statistics(norms) == "batch", seed)
    wanted = [at for at, recipe in enumerate(recipes) if recipe.scheme.split(":")[0] == SCHEME]
    drawn = {at: np.asarray(draw(recipe)) for at, recipe in enumerate(recipes) if at not in set(wanted)}
    if not wanted:
        return Calibrated({at: _held(value) for at, value in drawn.items()}, ())
    graph = _settled_graph(_graph(model), recipes)
    places = Places(graph)
    given = None if data is None else data if _is_read(data) else read_data(data)
    plain, told = _sorted(places, recipes, wanted)
    starts = {at: _start(recipes[at], draw(recipes[at])) for at in plain}
    scaled = {recipes[at].measured.layer.name for at in plain}
    beside = {  # the rest of a weight that is made of several tensors
        at: np.asarray(draw(recipes[at]))
        for at in wanted
        if at not in plain and recipes[at].measured.layer.name in scaled
    }
    with _settled(), torch.no_grad():
        done, notes = _run(graph, places, recipes, {**drawn, **beside, **starts}, plain, given, settings, model, notice)
    reached = [row for one in done for row in one.reached(settings.tol, settings.target)]
    values = {at: _held(value) for at, value in (drawn | beside).items()}
    values |= {one.at: _held(one.values()) for one in done}
    return Calibrated(values, (*reached, *told), tuple(notes))


def _held(value: Array) -> Callable[[], Array]:
    return lambda: np.asarray(value, np.complex128 if np.iscomplexobj(value) else np.float64)


def _start(recipe: Recipe, drawn: Array) -> Array:
    """Return a start in the type that is computed in: single precision, unless the file has double."""
    kind = np.float64 if recipe.tensor.dtype == "float64" else np.float32
    return np.array(drawn, kind).reshape(recipe.tensor.shape)


def _is_read(data: Any) -> bool:
    return isinstance(data, Mapping) and all(isinstance(v, torch.Tensor) for v in data.values())


def _statistics(norms: str) -> str:
    if norms not in ("file", "batch"):
        raise UsageError(f"norms is file or batch, not {norms[:40]!r}")
    return norms


def _graph(model: Model) -> Graph:
    if model.graph is not None:
        return model.graph
    raise UsageError(
        "lsuv needs to run the net, and there is no graph in this file: name the code with --model module:callable or "
        "--arch, or repair an ONNX export"
    )


def _run(
    graph: Graph,
    places: Places,
    recipes: Sequence[Recipe],
    values: Mapping[int, Array],
    plain: Mapping[int, Meeting],
    given: Any,
    settings: Settings,
    model: Model,
    notice: Notice | None,
) -> tuple[list[Target], list[str]]:
    """Return the targets after the first sweep that passes."""
    why = ""
    tensors = [recipe.tensor for recipe in recipes]
    for fed in feeding.attempts(graph, places, given, settings.seed, model.examples):
        if notice is not None and fed.seconds > 1:
            notice(f"scaling: {fed.sentence}")
        stored = Stored(graph, tensors, values)
        sweep = Sweep(graph, training_norms=settings.training_norms, seed=settings.seed)
        targets = [
            Target(at, recipes[at].measured.layer, parts(recipes[at], SCHEME), values[at], meeting)
            for at, meeting in plain.items()
        ]
        scaling = Scaling(sweep, stored, targets, settings)
        stored.place(sweep.replace, list(values))
        try:
            with Guard(*(limit * 40 for limit in pass_limits())):
                sweep.through(fed.feeds, scaling.wanted, scaling.stops, scaling.at)
        except InitauditError as error:
            why = why or error.reason
            continue
        if any(part.done for one in targets for part in one.states) or not targets:
            return targets, [*fed.notes]
        why = why or next((part.why for one in targets for part in one.states if part.why), "")
        last = targets, [*fed.notes]
        if not scaling.broken:
            return last
    raise UsageError(f"the net cannot be run: {why or 'no inputs are known for it'}")
