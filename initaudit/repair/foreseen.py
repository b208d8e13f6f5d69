"""What an audit would say of weights that are not drawn yet: their measures follow from the scheme.

Theory judges a graph by second moments and copies, so that the moments a scheme promises are all it needs: no number
is drawn, no file is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from initaudit import risk, rules, schemes, theory
from initaudit.cures import CURED, Cure
from initaudit.edits import Edit, Recipe
from initaudit.errors import InitauditError
from initaudit.graph.settled import settled
from initaudit.repair import drawing, reparametrised
from initaudit.repair.overlaying import laid
from initaudit.risk.fit import WARNING
from initaudit.schemes import Fans
from initaudit.types import Array, Audit, Finding, Law, Measured, Risk, Severity, Stats, Tensor, Units

_ANYWHERE = Fans(1.0, 1.0)
_FOLLOWS = "it follows from"  # how risk says that a symptom is told by another
_WHOLE = frozenset({Cure.CHAIN, Cure.BRANCHES, Cure.ATTENTION, Cure.HEAD, Cure.TIES})  # told by signal and gradient


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is to be expected of a model once some recipes are carried out."""

    audit: Audit
    findings: tuple[Finding, ...]  # on signal and gradient, also those that follow from another

    @property
    def risk(self) -> Risk | None:
        """That it does not train; None where that is not known."""
        return self.audit.risk

    @property
    def value(self) -> float:
        """The same as a number; 1 where it is not known."""
        return 1.0 if self.risk is None else self.risk.value

    @property
    def vague(self) -> bool:
        """Whether the risk is not that of training: norms are folded, or few gradients are known."""
        told = self.risk.symptoms if self.risk is not None else ()
        return any(s.capped and not s.capped.startswith(_FOLLOWS) for s in told)

    @property
    def healthy(self) -> bool:
        """Whether nothing on signal and gradient is as grave as a warning."""
        return self.value < WARNING and all(f.severity < Severity.WARNING for f in self.findings)


def foresee(audit: Audit, recipes: Sequence[Recipe]) -> Foreseen | None:
    """Return what theory says of a model with recipes carried out; None where there is no graph to tell by."""
    graph = audit.model.graph
    if graph is None or audit.theory is None:
        return None
    recipes = [one for recipe in recipes for one in (recipe, *drawing.companions(recipe))]
    edits = [Edit(recipe.tensor, partial(drawing.draw, recipe, 0)) for recipe in recipes]
    measured = as_drawn(audit.measured, recipes)
    try:
        shown = laid(audit.model, edits).graph or graph
        made = theory.predict(settled(shown), measured, audit.model.examples)
    except (InitauditError, ArithmeticError, ValueError, TypeError, LookupError):
        return None
    if made.layers:
        rows = zip(measured, made.layers, strict=True)
        measured = tuple(replace(m, probed=None, predicted=row) for m, row in rows)
    made = replace(made, folded=audit.theory.folded)
    drawn = replace(audit, measured=measured, theory=made, probe=None, risk=None, freedom=None)
    drawn = replace(drawn, risk=risk.judge(drawn))
    if drawn.risk is None:
        return None
    told = (f for rule in rules.catalogue() if CURED.get(rule.code) in _WHOLE for f in rule(drawn))
    return Foreseen(drawn, tuple(told))


def as_drawn(measured: Sequence[Measured], recipes: Sequence[Recipe]) -> tuple[Measured, ...]:
    """Return layers with the measures that their recipes will give them."""
    by_tensor: dict[object, list[Recipe]] = {}
    for recipe in recipes:  # what an audit reads of a weight may be derived from the tensor of that name
        for key in (recipe.tensor.identity, recipe.tensor.name):
            by_tensor.setdefault(key, []).append(recipe)
    return tuple(_layer(m, by_tensor, at) for at, m in enumerate(measured))


def _layer(m: Measured, recipes: Mapping[object, list[Recipe]], at: int) -> Measured:
    layer = m.layer
    for recipe in _of(recipes, layer.weight):
        fans = schemes.fans_of(recipe.measured.layer) or _ANYWHERE
        m = replace(m, stats=_stats(recipe, m.stats, layer.weight, fans, 2 * at), identified=_law(recipe))
    others = dict(m.others)
    for tensor, stats in m.tensors[1:]:
        for recipe in _of(recipes, tensor):
            others[tensor.name] = _stats(recipe, stats, tensor, _ANYWHERE, 2 * at + 1)
    return replace(m, others=others, freedom=None, movement=None)  # of what was there before: theory tells copies


def _of(recipes: Mapping[object, list[Recipe]], tensor: Tensor) -> list[Recipe]:
    """Return the recipes of a tensor; units of another piece of the same one are counted otherwise."""
    named = [r for r in recipes.get(tensor.name, ()) if r.units is None or r.tensor.shape == tensor.shape]
    return recipes.get(tensor.identity) or named


def _law(recipe: Recipe) -> Law | None:
    if recipe.units is not None:
        return recipe.measured.identified
    if recipe.by_part:
        return None
    return Law(recipe.scheme, schemes.parse(recipe.scheme)[0].law)


def _moments(scheme: str, recipe: Recipe, fans: Fans) -> tuple[float, float]:
    """Return (mean, variance) of what a scheme draws."""
    layer, tensor = recipe.measured.layer, recipe.tensor
    if tensor.name != layer.weight.name and tensor in reparametrised.beside(layer).values():
        fans = schemes.fans_of(layer) or fans
        _, variance = _moments(scheme, replace(recipe, tensor=layer.weight), fans)
        return (variance * layer.weight.size / max(1, tensor.size)) ** 0.5, 0.0  # the length of each unit
    row, given = schemes.resolve(scheme, layer, tensor)
    params = row.params(given)
    mean = params.get("mean", params.get("value", row.fixed.get("value", 0.0)))
    return (0.0 if isinstance(mean, str) else float(mean)), row.spread(fans, params)


def _stats(recipe: Recipe, old: Stats, tensor: Tensor, fans: Fans, seed: int) -> Stats:
    """Return the measures of a tensor that a recipe draws; units that it leaves alone keep theirs."""
    parts = recipe.measured.layer.parts
    each = [_moments(recipe.by_part.get(part, recipe.scheme), recipe, fans) for part in parts or ("",)]
    rows, size = old.rows.hash.size, tensor.size
    drawn = np.zeros(rows, dtype=bool)
    drawn[list(recipe.units) if recipe.units is not None else slice(None)] = True
    mean, variance = np.array([each[_part(k, rows, len(each))] for k in range(rows)]).T if rows else np.zeros((2, 0))
    per = size / max(1, rows)
    square = np.where(drawn, per * (variance + mean**2), old.rows.square)
    unlike = np.random.default_rng(seed).integers(1, 2**63, rows + old.columns.hash.size, dtype=np.uint64)
    same = np.unique(np.stack([mean, variance], 1), axis=0, return_inverse=True)[1].ravel() if rows else unlike[:0]
    hashes = np.where(variance > 0, unlike[:rows], same.astype(np.uint64))
    some = bool((variance[drawn] > 0).any())
    total = float(square.sum()) / max(1, size)
    middle = float(np.where(drawn, mean, old.mean if np.isfinite(old.mean) else 0.0).mean()) if rows else 0.0
    spread = max(0.0, total - middle**2) if some or recipe.units is not None else float(np.var(mean)) if rows else 0.0
    reach = 3.0 * spread**0.5
    empty = np.where(drawn, (variance == 0) & (mean == 0), old.rows.nonzero == 0)
    columns = old.columns
    return replace(
        old,
        count=size,
        mean=middle,
        variance=spread,
        kurtosis=3.0 if spread else float("nan"),
        min=middle - reach,
        max=middle + reach,
        zeros=round(float(empty.sum()) * per),
        nans=0 if recipe.units is None else old.nans,
        infs=0 if recipe.units is None else old.infs,
        subnormals=0,
        exponent_span=8.0,
        rows=Units(square, _filled(empty, per), np.where(drawn, hashes, old.rows.hash).astype(np.uint64)),
        columns=Units(
            np.full(columns.hash.size, total * size / max(1, columns.hash.size)),
            np.full(columns.hash.size, 0 if empty.all() else size // max(1, columns.hash.size), dtype=np.int64),
            unlike[rows:] if some else np.zeros(columns.hash.size, dtype=np.uint64),
        ),
        part_variance=tuple(v for _, v in each),
        rank_one=False,
        orthogonality=float("nan"),
        part_orthogonality=float("nan"),
        digest=seed + 1,
        digest_t=-seed - 1,
    )


def _part(unit: int, units: int, parts: int) -> int:
    return min(parts - 1, unit * parts // max(1, units))


def _filled(empty: Array, per: float) -> Array:
    return np.where(empty, 0, round(per)).astype(np.int64)
