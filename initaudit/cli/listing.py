"""What prints a table and judges nothing: rules, explain, schemes, activations, `show --symmetry`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer

from initaudit.cli.streams import complain, emit, progress_of, style_of
from initaudit.errors import InitauditError, UsageError
from initaudit.freedom import ParameterFreedom
from initaudit.types import Layer, Model


def rules() -> None:
    """List the rules: code, name, severity, what each finds."""
    from initaudit import rules as package  # noqa: PLC0415

    emit("".join(f"{r.code}  {r.name:<24}  {r.severity.label:<7}  {r.title}\n" for r in package.catalogue()))


def explain(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Code or name, as INI101 or not-finite.")],
) -> None:
    """Tell what a rule finds, why it matters, how it is measured and when to ignore it."""
    from initaudit import audit  # noqa: PLC0415

    for found in audit.select([rule]):
        settings = "".join(f"\n    {key} = {value}" for key, value in found.settings.items())
        emit(f"{found.code} {found.name} ({found.severity.label})\n\n{found.doc}\n")
        emit(f"\n## Settings\n{settings.lstrip(chr(10)) or '    none'}\n\n")


def schemes() -> None:
    """List the initializers that are recognised."""
    from initaudit import schemes as table  # noqa: PLC0415

    emit("".join(f"{line}\n" for line in table.listing()))


def activations() -> None:
    """List the activations that are known, with their gains."""
    from initaudit import activations as table  # noqa: PLC0415

    emit("".join(f"{line}\n" for line in table.listing()))


def freedom(
    path: str | None,
    name: str,
    meant: Callable[[], Model] | None,
    *,
    names: str | None,
    activation: str | None,
    only: Sequence[str],
) -> int:
    """Tell which units stay tied and which parameters sleep or never move; return the exit code.

    Args:
        path: of the file or folder; None: the fresh module of `meant`.
        name: of the model, as it was given.
        meant: builds the module that the weights are for.
        names: a checkpoint whose names the layers get.
        activation: what stands between plain weights whose numbering proves a chain.
        only: shell patterns on layer names.

    Raises:
        InitauditError: the model could not be read.
    """
    from initaudit import audit, names_from  # noqa: PLC0415  not for --help
    from initaudit import freedom as told  # noqa: PLC0415
    from initaudit import layers as reading  # noqa: PLC0415
    from initaudit.inferred import chained, graphed  # noqa: PLC0415
    from initaudit.reporters import freedom as reporter  # noqa: PLC0415

    style = style_of("-", verbosity=0, many=False)
    with progress_of(Path(name).name if meant is None else f"building {name}", quiet=False) as step:
        try:
            model = graphed(meant() if path is None and meant is not None else audit.read(name, meant))
            found, skips = reading.infer(model, activation)
            model = chained(model, found, activation)
        except InitauditError as error:
            raise error.at(name) from None
        if names is not None:
            found = names_from.renamed(found, audit.named_by(names))
        shown = _asked(found, only)
        heading = reporter.heading(name, model, style)
        if model.graph is None:
            emit(heading + reporter.absent(style))
            return 0
        from initaudit import symmetry  # noqa: PLC0415  as slow to load as it is seldom asked for

        graphs = (model.graph, *model.other)
        if step is not None:
            step(f"{Path(name).name}: ties", 0, 0)
        try:
            result = told.weakest([symmetry.analyse(graph, shown) for graph in graphs])
        except Exception as error:  # a graph that it cannot work through is no reason to say nothing at all
            ours = isinstance(error, InitauditError)
            why = str(error) if ours else f"{type(error).__name__}: {error}; please report it"
            result = None
    if result is None:
        emit(heading)
        complain(f"{name}: not analysed: {why}")
        return 2
    none = {skip.name for skip in (*model.skipped, *skips) if not skip.parameter}
    if model.graph_source == "onnx":  # which does not tell parameters from the constants of a formula
        none |= {tensor.name for tensor in model.graph.constants.values() if tensor.size == 1}
    result = replace(result, parameters=_called(result.parameters, shown, none, every=not only))
    lacking = [one.name for one in model.mismatches if one.what != "unexpected"]
    layers = [one.name for one in shown]
    emit(heading + reporter.render(result, layers, style, graphs=len(graphs), lacking=lacking))
    return 0


def _called(
    found: Sequence[ParameterFreedom], layers: Sequence[Layer], none: Collection[str], *, every: bool
) -> tuple[ParameterFreedom, ...]:
    """Return parameters by their layers' names: exporters rename tensors.

    Args:
        found: by the names of tensors.
        layers: that are shown.
        none: names of what is known to be no parameter.
        every: those that are in no layer too.
    """
    names: dict[str, str] = {}
    for layer in layers:
        for tensor, word in ((layer.weight, "weight"), (layer.bias, "bias"), *((t, "") for t in layer.extra)):
            if tensor is not None:
                renamed = word and not tensor.name.startswith(layer.name)
                names.setdefault(tensor.name, f"{layer.name}.{word}" if renamed else tensor.name)
    return tuple(
        replace(p, name=names.get(p.name, p.name)) for p in found if p.name in names or (every and p.name not in none)
    )


def _asked(found: Sequence[Layer], only: Sequence[str]) -> tuple[Layer, ...]:
    """Return the layers that the patterns name, all of them where there are none."""
    for glob in only:
        if found and not any(fnmatchcase(one.name, glob) for one in found):
            raise UsageError(f"no layer is called {glob!r}; the first is {found[0].name!r}")
    return tuple(one for one in found if not only or any(fnmatchcase(one.name, glob) for glob in only))
