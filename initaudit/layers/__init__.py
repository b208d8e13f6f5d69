"""From tensors to layers: what each weight is, how it is used, and how sure that is.

`infer` takes the best source a model has: its graph, unless its names are all that tells it, else its module tree, else
the names and shapes of its tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from initaudit.layers import words
from initaudit.layers.doubted import doubted
from initaudit.types import Evidence, Layer, Model, Role, Skip

__all__ = ["infer"]

_PLAIN = frozenset({"linear", "conv", "conv_transpose", "bilinear"})


def infer(model: Model, activation: str | None = None) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """Return every layer of a model, and the tensors that belong to none, with the reason.

    Each tensor is in one place: weight, bias or extra of one layer, or skipped. A tensor under several names is one
    layer, under the first of them.

    Args:
        model: as a reader returned it.
        activation: what follows plain weights of which nothing else is known (counts as told by name).
    """
    traced = model.graph is not None and model.graph_evidence is Evidence.TRACED
    if traced:
        from initaudit.layers import from_graph  # noqa: PLC0415  needs the graph package, which other sources do not

        found, skipped = from_graph.infer(model)
        for other in model.other:
            found = doubted(found, from_graph.infer(replace(model, graph=other))[0])
    elif model.modules:
        from initaudit.layers import from_modules  # noqa: PLC0415

        found, skipped = from_modules.infer(model)
    else:
        from initaudit.layers import from_names  # noqa: PLC0415

        found, skipped = from_names.infer(model)
    if not traced:
        found = _untied(found)
        skipped = (*skipped, *_missing(model, found, skipped))
    if activation is not None:
        name = words.activation(activation) or activation
        found = tuple(_told(a, name) for a in found)
    return found, skipped


def _told(a: Layer, activation: str) -> Layer:
    """Apply the user's word to a plain weight of which nothing better is known, rather than what is only likely."""
    if a.kind not in _PLAIN or a.role not in (Role.TRUNK, Role.OTHER) or a.activation_evidence > Evidence.ASSUMED:
        return a
    return replace(
        a,
        activation=activation,
        activation_evidence=Evidence.NAMED,
        reasons=(*a.reasons, f"{activation} follows: told on the command line"),
    )


def _untied(found: Sequence[Layer]) -> tuple[Layer, ...]:
    """Keep one row per tensor: the first name's, which notes the others and takes what they had besides."""
    rows: dict[object, Layer] = {}
    for a in found:
        key = a.weight.identity
        first = rows.get(key)
        if first is None:
            rows[key] = a
            continue
        more = tuple(t for t in (a.bias, *a.extra) if t is not None)
        kept = {t.identity for t in (first.bias, *first.extra) if t is not None}
        rows[key] = replace(
            first,
            extra=(*first.extra, *(t for t in more if t.identity not in kept)),
            reasons=(*first.reasons, f"tied: {a.weight.name} is the same tensor, read as {a.kind}"),
        )
    served = {t.identity for a in rows.values() for t in (a.bias, *a.extra) if t is not None}
    return tuple(a for a in rows.values() if not (a.kind == "bias" and a.weight.identity in served))


def _missing(model: Model, found: Sequence[Layer], skipped: Sequence[Skip]) -> list[Skip]:
    """Tensors that no layer took: told, never silent."""
    placed = {s.name for s in skipped}
    same: set[object] = set()
    for a in found:
        for t in (a.weight, a.bias, *a.extra):
            if t is not None:
                placed.add(t.name)
                same.add(t.identity)
    return [
        Skip(t.name, "no layer was found that it belongs to")
        if t.is_float
        else Skip(t.name, f"{t.dtype} values: no weights to judge", parameter=False)
        for t in model.tensors
        if t.name not in placed and t.identity not in same
    ]
