"""The options that commands share, with their help."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from initaudit import reporters

Format = StrEnum("Format", {name: name for name in sorted(reporters.reporters())})  # type: ignore[misc]


CONSOLE = Format("console")


class RepairFormat(StrEnum):
    """How a repair or a difference is told."""

    CONSOLE = "console"
    JSON = "json"


class FailOn(StrEnum):
    """The least severity that makes the exit code 1."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"
    NEVER = "never"


Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH...",
        help="ONNX graph, torch.save file, safetensors file, or a folder. Without one, --model or --arch is built and"
        " its fresh weights are judged.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:CALLABLE",
        help="The nn.Module that the weights are for: package.module:callable or file.py:callable. Runs your code.",
    ),
]
ArchOption = Annotated[
    str | None,
    typer.Option(
        metavar="LIBRARY:NAME",
        help="The same from a library: timm:NAME, torchvision:NAME or hf:FOLDER (its config.json; never remote code).",
    ),
]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=1,3,224,224[:DTYPE]",
        help="Shape of an input of --model or --arch, repeatable; guessed where it is not given.",
    ),
]
NamesOption = Annotated[
    str | None,
    typer.Option(
        metavar="CHECKPOINT",
        help="Call layers as in this file of the same weights: for graphs whose exporter renamed them.",
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="How the report is written.")]
OutputOption = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to; - is stdout.")]
FailOnOption = Annotated[FailOn, typer.Option(help="Least severity that makes the exit code 1.")]
SelectOption = Annotated[
    list[str] | None, typer.Option(metavar="RULE,...", help="Run only these rules: codes, prefixes (INI1) or names.")
]
IgnoreOption = Annotated[list[str] | None, typer.Option(metavar="RULE,...", help="Leave these rules out.")]
LayersOption = Annotated[list[str] | None, typer.Option(metavar="GLOB,...", help="Judge only layers with such a name.")]
ActivationOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="What follows the weights, where the file does not say.")
]
JobsOption = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Threads that measure; default all cores.")]
ProbeOption = Annotated[
    bool | None,
    typer.Option(
        "--probe/--no-probe",
        help="Run one small batch forward and backward; needs torch. Done where there is --data, else theory predicts.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="What the batch is made of: .npy, .npz or .pt, by input name; drawn by default."),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of what the probe draws.")]
SymmetryOption = Annotated[
    bool,
    typer.Option(
        "--symmetry",
        help="Tell instead which units stay equal in training for ever, and which parameters sleep or never move.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings, errors and the closing line.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Every row, every finding, what was not judged.")]

FixPath = Annotated[
    str | None,
    typer.Argument(
        metavar="PATH", help="The file or folder to repair: whatever check reads and docs/formats.md lists."
    ),
]
SchemeOption = Annotated[
    str,
    typer.Option(
        "--scheme", metavar="NAME[:KEY=VALUE,...]",
        help="How weights are drawn: auto (what each layer needs), lsuv, or any name of `initaudit schemes`.",
    ),
]  # fmt: skip
TargetOption = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="PATH", help="Where to; default beside it: ckpt.pt becomes ckpt.fixed.pt."),
]
InPlaceOption = Annotated[bool, typer.Option("--in-place", help="Write over the original.")]
FixLayersOption = Annotated[
    list[str] | None,
    typer.Option("--layers", metavar="GLOB,...", help="Draw these layers, healthy or not, and no others."),
]
AllOption = Annotated[bool, typer.Option("--all", help="Draw every layer, healthy or not.")]
DryOption = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change and write nothing; exit code 1 if something would.")
]
ManifestOption = Annotated[
    str | None, typer.Option("--manifest", metavar="FILE", help="Write what was done, with checksums, as JSON.")
]
EmitOption = Annotated[
    str | None,
    typer.Option(
        "--emit-code",
        metavar="FILE",
        help="Write a Python function that does the same, instead of weights; with -o both.",
    ),
]
FixSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of every draw.")]
ForceOption = Annotated[
    bool, typer.Option("--force", help="Repair a trained model too; write over an existing output.")
]
RepairFormatOption = Annotated[RepairFormat, typer.Option("--format", help="How the result is told.")]
FixDataOption = Annotated[
    str | None,
    typer.Option(
        "--data", metavar="FILE",
        help="Batch for lsuv and the probe: .npy, .npz or .pt, by input name; drawn by default.",
    ),
]  # fmt: skip
