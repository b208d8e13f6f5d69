"""initaudit tells whether the weights you are about to train can be trained.

import initaudit
report = initaudit.check("model.onnx")  # or a file of weights, or a torch.nn.Module
for finding in report.findings:
    ...
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from initaudit.version import __version__

if TYPE_CHECKING:
    from initaudit.types import Report

__all__ = ["__version__", "check"]


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
    from initaudit import activations, audit  # noqa: PLC0415
    from initaudit.errors import UsageError  # noqa: PLC0415

    path = model_or_path
    live = audit.is_module(path)
    named = model is not None or arch is not None
    if not live and not isinstance(path, str | os.PathLike) and not (path is None and named):
        raise UsageError(f"check takes a torch.nn.Module or the path of a file or folder, not a {type(path).__name__}")
    if live and named:
        raise UsageError("the module is already there: model and arch are for the path of a checkpoint")
    if not live and not named and (example_inputs is not None or inputs):
        raise UsageError("example inputs are for a module: give one, or model or arch")
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is at least 1, not {jobs}")
    fresh = live or path is None  # a module with its own weights: torch is there already
    settings: dict[str, Any] = {
        "activation": activations.named(activation) if activation is not None else None,
        "chosen": audit.select(_words(select), _words(ignore)),
        "only": _words(layers),
        "jobs": jobs,
        "names": audit.named_by(Path(names)) if names is not None else None,
        "probe": data is not None or (fresh and example_inputs is not None) if probe is None else probe,
        "data": data,
        "seed": seed,
    }
    if data is not None and probe is False:
        raise UsageError("data is for the probe: leave probe=False away")
    shapes = _words(inputs)
    if live:
        return audit.audit_model(audit.live(path, example_inputs, shapes), **settings)
    if path is None:
        return audit.audit_model(audit.built(model, arch, example_inputs, shapes, weights=True), **settings)
    meant = partial(audit.built, model, arch, example_inputs, shapes, weights=False) if named else None
    return audit.audit_path(Path(str(path)), meant=meant, **settings)


def _words(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
