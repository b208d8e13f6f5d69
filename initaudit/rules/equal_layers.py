"""INI204."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from initaudit.grounds import analysed, born, operator, varied
from initaudit.naming import natural, pattern
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Measured, Role, Severity

# Names of networks that are meant to start as a copy of another.
_COPY = re.compile(
    r"(^|[._])(ema|teacher|target|momentum|shadow|ref|reference|old|best|swa|anchor|base_layer|frozen)([._]|\d|$)"
)


@rule("INI204", Severity.WARNING)
def equal_layers(audit: Audit, *, least: int = 64) -> Iterator[Finding]:
    """Layers that were meant to be drawn separately and hold the same random values.

    ## Why it matters
    Layers cloned from one prototype start as one layer. Depth soon tells them apart, but the variety that depth was
    meant to give is missing at the start; twin critics or ensemble members that see the same data stay one for ever.

    ## How it is measured
    The values of all weights with at least `least` of them are hashed; equal hashes in different places of the file are
    clones. Whole blocks that repeat are told once.

    ## When to ignore it
    Target, teacher and averaged networks start as copies, and frozen ones are not told; a table shared by an embedding
    and an output layer; identical adapters by request. Equal experts (sparse upcycling) are info where the graph proves
    that their router tells them apart.

    ## Seen in the wild
    pytorch/pytorch#86274 (nn.TransformerEncoder copies one layer), EdanToledo/Stoix#72, keras-team/keras-hub#352.

    ## Source
    Certain from the values.
    """
    frozen = audit.model.frozen
    clones: dict[tuple[int, int], list[Measured]] = defaultdict(list)
    for m in audit.measured:
        if operator(m) and varied(m) and m.stats.count >= least and not _fixed(m):
            clones[m.stats.digest, m.stats.count].append(m)
    for group in clones.values():  # the same order whatever the order of the file
        group.sort(key=lambda m: natural(m.layer.name))
    blocks: dict[tuple[str, ...], list[tuple[Measured, ...]]] = defaultdict(list)
    for group in clones.values():
        apart = _distinct(group)
        if len(apart) > 1 and not any(_COPY.search(m.layer.name) or m.layer.weight.name in frozen for m in apart):
            blocks[_stems([m.layer.name for m in apart])].append(tuple(apart))
    routed = _routed(audit)
    for stems, groups in blocks.items():
        groups.sort(key=lambda group: natural(group[0].layer.name))
        first = groups[0]
        weights = f"{len(groups)} weights each" if len(groups) > 1 else f"{first[0].layer.weight.name}"
        chosen = routed and all("expert" in m.layer.tags for group in groups for m in group)
        yield equal_layers.at(
            first[1],
            f"{_listed(stems)} start with equal values ({weights})"
            + ("; the router that chooses among them tells them apart" if chosen else ""),
            severity=Severity.WARNING if born(audit) and not chosen else Severity.INFO,
            members=list(stems),
            weights=[m.layer.weight.name for m in first],
            also=tuple(m.layer.name for group in groups for m in group),
            remedy="initialise each after copying it (call reset_parameters on every clone)",
        )


def _routed(audit: Audit) -> bool:
    """Whether the graph proves of each router that its outputs, and so the experts, can all differ."""
    routers = [m.freedom for m in audit.measured if m.layer.role is Role.ROUTER or "router" in m.layer.tags]
    return bool(routers) and analysed(audit.freedom) and all(f is not None and f.width == f.units for f in routers)


def _distinct(group: list[Measured]) -> list[Measured]:
    """Leave out ties: one storage, an embedding and its head, and what an exporter stored once per call of a module.

    Such a copy is named after the first (query, query_1); an unrolled loop has one per step, under anonymous names.
    """
    seen: dict[object, Measured] = {}
    for m in group:
        seen.setdefault(m.layer.weight.identity, m)
    names = {m.layer.name for m in seen.values()}
    apart = [m for m in seen.values() if _stem(m) not in names - {m.layer.name}]
    if len({_stem(m) for m in apart}) == 1 and not any(m.layer.weight.name.startswith(_stem(m)) for m in apart):
        return []
    roles = {m.layer.role for m in apart}
    return [] if len({pattern(m.layer.name) for m in apart}) > 1 and Role.HEAD in roles and len(apart) == 2 else apart


def _fixed(m: Measured) -> bool:
    """Whether the values are no draw, so that equal ones prove nothing: identity, Dirac, tables."""
    return m.layer.role is Role.CLOSED_FORM or (m.identified is not None and m.identified.law in ("identity", "dirac"))


def _stem(m: Measured) -> str:
    return re.sub(r"_\d+$", "", m.layer.name)


def _stems(names: list[str]) -> tuple[str, ...]:
    """Return the part of each name up to the first component in which they differ."""
    split = [name.split(".") for name in names]
    for depth, column in enumerate(zip(*split, strict=False)):
        if len(set(column)) > 1:
            return tuple(".".join(parts[: depth + 1]) for parts in split)
    return tuple(names)


def _listed(names: tuple[str, ...]) -> str:
    if len(names) <= 4:
        return ", ".join(names[:-1]) + " and " + names[-1]
    return f"{names[0]}, {names[1]} ... {names[-1]} ({len(names)} of them)"
