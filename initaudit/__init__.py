"""initaudit tells whether the weights you are about to train can be trained.

import initaudit
report = initaudit.check("model.onnx")  # or a file of weights, or a torch.nn.Module
for finding in report.findings:
    ...
initaudit.fix("model.onnx")  # draws again what is wrong, into model.fixed.onnx; a live module in place
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initaudit.version import __version__

if TYPE_CHECKING:
    from initaudit.edits import Repair
    from initaudit.types import Model, Report

__all__ = ["__version__", "check", "fix"]


def check(
    model_or_path: Any = None,
    example_inputs: Any = None,
    *,
    model: str | Callable[..., Any] | None = None,
    arch: str | None = None,
    inputs: str | Sequence[str] = (),
    names: str | os.PathLike[str] | None = None,
    activation: str | None = None,
    select: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    layers: str | Sequence[str] = (),
    jobs: int | None = None,
    probe: bool | None = None,
    data: Any = None,
    seed: int = 0,
) -> Report:
    """Return the report on a model: a live torch.nn.Module, or a file or folder.

    Args:
        model_or_path: a torch.nn.Module, or the path of an ONNX graph, a torch.save file, a safetensors file, or a
            folder with one of these. None with `model` or `arch`: what these build is audited with its fresh weights.
        example_inputs: what the module is run with once, without computing anything: a tensor, a tuple of arguments, or
            a dict by name. Guessed from the configuration and the weights where it is None; the report says what. The
            probe's inputs follow its values: several different inputs are used as they are, of a single one others are
            drawn that have its values, of constants and of N(0, 1) only the shape is taken. See docs/signal.md.
        model: the module that a checkpoint is meant for: the module, something that makes it, or its name as
            "package.module:callable" or "path/to/file.py:callable". This code is run.
        arch: the same for what libraries know: "timm:NAME", "torchvision:NAME" or "hf:FOLDER".
        inputs: in place of example_inputs, shapes by name: "x=1,3,224,224" or "ids=1,16:int64".
        names: a checkpoint with the same values as the file, whose names the layers get where an exporter renamed them.
        activation: what follows the weights where the file does not say, in torch.nn.functional's spelling.
        select: codes, prefixes or names of the rules to run; all where empty.
        ignore: rules to leave out.
        layers: shell patterns on layer names; the other layers are neither listed nor judged.
        jobs: threads that measure, at least 1; all cores where None.
        probe: run one small batch through the graph, forward and backward, and report what each layer does to signal
            and gradient; needs torch. None: where data is given, and for a module that comes with example inputs.
            Elsewhere theory predicts the same figures.
        data: what the batch is made of, the first axis being that of the samples: an array or a tensor for the first
            input, a dict by input name, or the path of a .npy, .npz or torch.save file. Drawn where it is None.
        seed: of what the probe draws.

    Raises:
        InitauditError: the model could not be read, or an argument names nothing (see initaudit.errors).
    """
    # Importing the package stays free of everything else.
    from initaudit import audit  # noqa: PLC0415
    from initaudit.errors import UsageError  # noqa: PLC0415

    _refuse("check", model_or_path, example_inputs, model, arch, inputs, path_needed=False)
    path = model_or_path
    live = audit.is_module(path)
    fresh = live or path is None  # a module with its own weights: torch is there already
    if data is not None and probe is False:
        raise UsageError("data is for the probe: leave probe=False away")
    wanted = data is not None or (fresh and example_inputs is not None) if probe is None else probe
    settings = {
        **_settings(activation, select, ignore, jobs, wanted, data, seed),
        "only": _words(layers),
        "names": audit.named_by(Path(names)) if names is not None else None,
    }
    shapes = _words(inputs)
    if live:
        return audit.audit_model(audit.live(path, example_inputs, shapes, data), **settings)
    if path is None:
        made = audit.built(model, arch, example_inputs, shapes, weights=True, data=data)
        return audit.audit_model(made, **settings)
    return audit.audit_path(Path(str(path)), meant=_meant(model, arch, example_inputs, shapes, data), **settings)


def fix(
    model_or_path: Any,
    example_inputs: Any = None,
    *,
    scheme: str = "auto",
    output: str | os.PathLike[str] | None = None,
    in_place: bool = False,
    layers: str | Sequence[str] = (),
    all: bool = False,
    dry_run: bool = False,
    seed: int = 0,
    force: bool = False,
    data: Any = None,
    model: str | Callable[..., Any] | None = None,
    arch: str | None = None,
    inputs: str | Sequence[str] = (),
    names: str | os.PathLike[str] | None = None,
    activation: str | None = None,
    select: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    jobs: int | None = None,
    probe: bool | None = None,
) -> Repair:
    """Draw again what is wrong with a model, and nothing else; return what came of it.

    A live torch.nn.Module changes in place: the values of its parameters, not the parameters. A file or folder is
    written beside the original. Either happens only if the second audit finds nothing worse; see docs/fix.md.

    Args:
        model_or_path: a torch.nn.Module, or the path of a file or folder.
        example_inputs: as for `check`.
        scheme: how weights are drawn: "auto", "lsuv" or what `initaudit schemes` lists, with ":key=value,...".
        output: where a file is written; beside the original by default.
        in_place: write over the original file.
        layers: shell patterns on layer names: draw these, healthy or not; by default those at fault.
        all: draw every layer.
        dry_run: change and write nothing.
        seed: of every draw.
        force: repair a trained model too, and write over an existing output.
        data: the batch of LSUV and of the probe, as for `check`.
        model: as for `check`.
        arch: as for `check`.
        inputs: as for `check`.
        names: as for `check`.
        activation: as for `check`.
        select: as for `check`.
        ignore: as for `check`.
        jobs: as for `check`.
        probe: as for `check`; both audits are judged by the same.

    Raises:
        InitauditError: the work could not be done, and the model is as it was.
    """
    from initaudit import audit  # noqa: PLC0415
    from initaudit.errors import UsageError  # noqa: PLC0415
    from initaudit.repair import fixing  # noqa: PLC0415

    _refuse("fix", model_or_path, example_inputs, model, arch, inputs, path_needed=True)
    live = audit.is_module(model_or_path)
    if live and (output is not None or in_place or names is not None):
        raise UsageError("a module is changed in place: output, in_place and names are for files")
    if output is not None and in_place:
        raise UsageError("output and in_place contradict each other")
    if all and layers:
        raise UsageError("layers and all contradict each other")
    wanted = data is not None or (live and example_inputs is not None) if probe is None else probe
    settings = _settings(activation, select, ignore, jobs, wanted, data if wanted else None, seed)
    wish = fixing.Wish(scheme, tuple(_words(layers)), all, seed, force, data, dry_run)
    shapes = _words(inputs)
    if live:
        return fixing.fix_module(model_or_path, wish, fixing.Judge(settings=settings), example_inputs, shapes)
    twin = audit.named_by(Path(names)) if names is not None else None
    judge = fixing.Judge(_meant(model, arch, example_inputs, shapes, data), twin, settings)
    return fixing.fix(
        str(model_or_path), wish, judge, output=None if output is None else Path(output), in_place=in_place
    )


def _refuse(
    asked: str, path: Any, example_inputs: Any, model: Any, arch: str | None, inputs: Any, *, path_needed: bool
) -> None:
    """Refuse arguments that contradict each other."""
    from initaudit import audit  # noqa: PLC0415
    from initaudit.errors import UsageError  # noqa: PLC0415

    live = audit.is_module(path)
    named = model is not None or arch is not None
    if not live and not isinstance(path, str | os.PathLike) and not (path is None and named and not path_needed):
        kind = type(path).__name__
        raise UsageError(f"{asked} takes a torch.nn.Module or the path of a file or folder, not a {kind}")
    if live and named:
        raise UsageError("the module is already there: model and arch are for the path of a checkpoint")
    if not live and not named and (example_inputs is not None or inputs):
        raise UsageError("example inputs are for a module: give one, or model or arch")


def _settings(
    activation: str | None, select: Any, ignore: Any, jobs: int | None, probe: bool, data: Any, seed: int
) -> dict[str, Any]:
    """Return what an audit is told of how to judge."""
    from initaudit import activations, audit  # noqa: PLC0415
    from initaudit.errors import UsageError  # noqa: PLC0415

    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is at least 1, not {jobs}")
    return {
        "activation": activations.named(activation) if activation is not None else None,
        "chosen": audit.select(_words(select), _words(ignore)),
        "jobs": jobs,
        "probe": probe,
        "data": data,
        "seed": seed,
    }


def _meant(
    model: Any, arch: str | None, example_inputs: Any, shapes: Sequence[str], data: Any
) -> Callable[[], Model] | None:
    """Return what builds the module that a checkpoint is meant for, once."""
    from initaudit import audit  # noqa: PLC0415

    if model is None and arch is None:
        return None
    return cache(partial(audit.built, model, arch, example_inputs, shapes, weights=False, data=data))


def _words(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
