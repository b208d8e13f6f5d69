"""INI401."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from initaudit.registry import rule
from initaudit.types import Audit, Finding, Mismatch, Severity

_SHOWN = 4


@rule("INI401", Severity.ERROR)
def checkpoint_mismatch(audit: Audit) -> Iterator[Finding]:
    """Tensors of a checkpoint that do not fit the model they are meant for.

    ## Why it matters
    A tensor of another shape stops the load, or with `strict=False` and a filter is dropped. A parameter that the
    checkpoint lacks keeps whatever the constructor drew, often without a word: a head that was renamed, a prefix that a
    wrapper added. Such a layer starts fresh in an otherwise trained model.

    ## How it is measured
    The names of the checkpoint are compared with those of the model that `--model` or `--arch` built, after one prefix
    is taken away or put before all of them (`module.`, `model.`, a base model's) if that makes more of them meet. Tied
    parameters count as there when one of their names is. Buffers that every model makes for itself are left out.

    ## When to ignore it
    A new head on a pretrained trunk, an adapter's checkpoint beside its base model, heads that are dropped on purpose.

    ## Seen in the wild
    `Some weights were not initialized from the model checkpoint` of transformers, `size mismatch for` of torch.

    ## Source
    Certain from names and shapes.
    """
    differ = audit.model.mismatches
    shape = [one for one in differ if one.what == "shape"]
    missing = [one for one in differ if one.what == "missing"]
    unexpected = [one for one in differ if one.what == "unexpected"]
    if shape:
        turned = sum(one.found == (one.wanted or ())[::-1] for one in shape)
        note = "" if not turned else ": transposed" if turned == len(shape) else f", {turned} of them transposed"
        yield _finding(
            shape,
            f"{_count(shape)} another shape in the checkpoint than in the model{note}",
            Severity.ERROR,
            "transpose them when loading"
            if turned == len(shape)
            else "build the model with the sizes of the checkpoint",
        )
    if missing:
        yield _finding(
            missing,
            f"{_count(missing)} no values in the checkpoint and would start as the constructor makes them",
            Severity.WARNING,
            "check the names, or initialize these on purpose",
        )
    if unexpected:
        yield _finding(
            unexpected,
            f"{_count(unexpected)} no place in the model",
            Severity.WARNING if missing else Severity.INFO,
            "check the names; what has no place is not loaded",
        )


def _count(differ: Sequence[Mismatch]) -> str:
    return f"{len(differ)} tensors have" if len(differ) > 1 else "1 tensor has"


def _finding(differ: Sequence[Mismatch], message: str, severity: Severity, remedy: str) -> Finding:
    some = [_told(one) for one in differ[:_SHOWN]]
    more = f" and {len(differ) - _SHOWN} more" if len(differ) > _SHOWN else ""
    return checkpoint_mismatch.at(
        None,
        f"{message}: {', '.join(some)}{more}",
        severity=severity,
        tensor=differ[0].name,
        remedy=remedy,
        what=differ[0].what,
        count=len(differ),
        names=[one.name for one in differ[:100]],
    )


def _told(one: Mismatch) -> str:
    if one.what != "shape":
        return one.name
    return f"{one.name} ({_text(one.found)}, the model's is {_text(one.wanted)})"


def _text(shape: tuple[int, ...] | None) -> str:
    return "x".join(map(str, shape or ())) or "()"
