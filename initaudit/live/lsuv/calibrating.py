"""The sweep: which weights are scaled where, on what, and what came of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from initaudit.edits import Reached, Recipe
from initaudit.errors import InitauditError, UsageError
from initaudit.graph.settled import settled
from initaudit.layers.spots import Places
from initaudit.live.lsuv.chains import graph_of
from initaudit.live.lsuv.feeding import Fed, attempts, guessed
from initaudit.live.lsuv.meetings import Meeting, meetings
from initaudit.live.lsuv.parts import parts
from initaudit.live.lsuv.scaling import Scaling
from initaudit.live.lsuv.stored import Stored
from initaudit.live.lsuv.sweep import Sweep
from initaudit.live.lsuv.targets import Settings, Target
from initaudit.live.probe.data import Data
from initaudit.live.probe.data import read as read_data
from initaudit.live.probe.run import _settled
from initaudit.types import Array, Graph, Model

Draw = Callable[[Recipe], Array]
Notice = Callable[[str], None]
SCHEME = "lsuv"
_SLOW = 1.0  # seconds from which a sweep is announced


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
    tensor (gates, projections, experts) are scaled one by one. Of a weight that is used several times the variance is
    pooled over its uses, and the stretch of the graph between the first and the last is run again until that holds. A
    recipe without an entry in the result stays as it is.

    Args:
        model: as it was read.
        recipes: all that the repair draws; those of other schemes are in place while the graph runs.
        draw: returns new values of a recipe's tensor; of one with "lsuv" the orthonormal start.
        data: a path, arrays by input name, or what `initaudit.live.probe.read_data` returned; drawn by default.
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
    wanted = [at for at, recipe in enumerate(recipes) if recipe.scheme.partition(":")[0] == SCHEME]
    fixed = {at: np.asarray(draw(recipe)) for at, recipe in enumerate(recipes) if at not in set(wanted)}
    if not wanted:
        return Calibrated({at: _held(value) for at, value in fixed.items()}, ())
    given = _read(data)
    graph = _as_in_training(graph_of(model, given, [recipe.measured.layer for recipe in recipes]), recipes)
    places = Places(graph)
    met, told = meetings(places, recipes, wanted)
    layers = {recipes[at].measured.layer.name for at in met}
    for at in wanted:  # the rest of weights that are made of several tensors
        if at not in met and recipes[at].measured.layer.name in layers and _beside(recipes[at]):
            fixed[at] = np.asarray(draw(recipes[at]))
    starts = {at: _start(recipes[at], draw(recipes[at])) for at in met}
    sweeps = _Sweeps(graph, recipes, fixed, starts, met, settings)
    with _settled(), torch.no_grad():
        outs = [out for meeting in met.values() for out in meeting.outs]
        feeds = attempts(graph, places, given, seed, model.examples, outs)
        done, notes = sweeps.first(feeds, notice, whole=guessed(graph, given))
    for one in done:
        one.settle()
    values = {at: _held(value) for at, value in fixed.items()} | {one.at: _held(one.values()) for one in done}
    return Calibrated(values, (*(row for one in done for row in one.reached(tol, target)), *told), notes)


def _statistics(norms: str) -> str:
    if norms not in ("file", "batch"):
        raise UsageError(f"norms is file or batch, not {norms[:40]!r}")
    return norms


def _read(data: Any) -> Data:
    return {} if data is None else read_data(data)


def _held(value: Array) -> Callable[[], Array]:
    return lambda: np.asarray(value, np.complex128 if np.iscomplexobj(value) else np.float64)


def _start(recipe: Recipe, drawn: Array) -> Array:
    """Return a start in the type that is computed in: single precision, unless the file has double."""
    kind = np.float64 if recipe.tensor.dtype == "float64" else np.float32
    return np.array(drawn, kind).reshape(recipe.tensor.shape)


def _beside(recipe: Recipe) -> bool:
    return recipe.tensor.name == recipe.measured.layer.weight.name or recipe.tensor in recipe.measured.layer.extra


def _as_in_training(graph: Graph, recipes: Sequence[Recipe]) -> Graph:
    """Return the graph with settled vectors of spectral norms; those that are drawn again are settled as they are."""
    made = settled(graph)
    if made is graph:
        return graph
    drawn = {recipe.tensor.name for recipe in recipes}
    own = {name: one for name, one in graph.constants.items() if one.name in drawn}
    return replace(made, constants={**made.constants, **own})


@dataclass(frozen=True, slots=True)
class _Sweeps:
    """Sweeps over one graph, until one passes."""

    graph: Graph
    recipes: Sequence[Recipe]
    fixed: Mapping[int, Array]  # new values that are not scaled, by recipe
    starts: Mapping[int, Array]
    met: Mapping[int, Meeting]
    settings: Settings

    def first(
        self, feeds: Iterable[Fed], notice: Notice | None, *, whole: bool
    ) -> tuple[list[Target], tuple[str, ...]]:
        """Return the weights after the first sweep that passes, else the one that comes farthest; and notes.

        Args:
            feeds: what to run the graph on.
            notice: told what a sweep will cost.
            whole: do not be content with less than all layers: the shapes of inputs were guessed.

        Raises:
            UsageError: none passes, or scales anything.
        """
        why = ""
        best: tuple[int, list[Target], tuple[str, ...]] | None = None
        for fed in feeds:
            if notice is not None and fed.seconds > _SLOW:
                notice(f"scaling: {fed.sentence}")
            try:
                scaling = self._one(fed)
            except InitauditError as error:
                why = why or error.reason
                continue
            if not scaling.why:
                return list(scaling.targets), fed.notes
            why = why or scaling.why
            if scaling.done and (best is None or scaling.done > best[0]):
                best = scaling.done, list(scaling.targets), fed.notes
        if best is not None and not whole:
            return best[1:]
        help_ = "; say what it takes with --data FILE" if whole else ""
        raise UsageError(f"the net cannot be run: {why or 'there is no room for its values'}{help_}")

    def _one(self, fed: Fed) -> Scaling:
        stored = Stored(self.graph, [recipe.tensor for recipe in self.recipes], {**self.fixed, **self.starts})
        double = any(c.dtype == "float64" and c.size > 1 and not c.buffer for c in self.graph.constants.values())
        single = torch.float64 if double else torch.float32
        norms = self.settings.training_norms
        sweep = Sweep(self.graph, training_norms=norms, dtype=single, seed=self.settings.seed)
        targets = [
            Target(at, self.recipes[at].measured.layer, parts(self.recipes[at], SCHEME), self.starts[at], meeting)
            for at, meeting in self.met.items()
        ]
        scaling = Scaling(sweep, stored, targets, self.settings)
        stored.place(sweep.replace, list(stored.values))
        sweep.through(fed.feeds, scaling.wanted, scaling.stops, scaling.at, scaling.stretches, scaling.repeat)
        return scaling
