"""The same model in every form that carries or implies a graph: which rows of the layer table differ, and how."""

from __future__ import annotations

import re
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import initaudit
from benchmarks import save, truth
from benchmarks.graphs_models import Row
from initaudit.errors import InitauditError
from initaudit.types import Evidence, Layer

Record = dict[str, Any]
FORMS = (".pt + model", "TorchScript", ".pt2", "ONNX, older exporter", "ONNX, dynamo", "pickled module")
PICKLED = (  # a Sequential through and through, or a family whose key patterns are well known
    "mlp", "dcgan_generator", "resnet18", "densenet121", "mobilenet_v3_small", "convnext", "swin", "vit", "bert",
    "gpt2", "llama", "t5", "whisper", "wav2vec2", "clip", "unet2d", "dit",
)  # fmt: skip
CLOSE = 2e-4  # relative difference of fingerprints; float32 and a folded norm's epsilon stay far below
FIELDS = ("kind", "shape", "fans", "groups", "activation", "role")


def of(row: Row, folder: Path) -> Record:
    """Return, for each form, the number of rows and the differences from those of the live module."""
    warnings.filterwarnings("ignore")
    model, inputs = _built(row)
    live = _table(_read(model, inputs))
    record: Record = {"name": row.name, "rows": len(live), "forms": {}}
    for form, layers in _forms(row, folder).items():
        try:
            found = _table(layers())
        except InitauditError as error:
            record["forms"][form] = {"unread": error.reason if hasattr(error, "reason") else str(error)}
        except Exception as error:  # an exporter may refuse a model in any way
            record["forms"][form] = {"refused": save._reason(error)}
        else:
            record["forms"][form] = {"rows": len(found), "differences": _differences(live, found)}
    return record


def _built(row: Row) -> tuple[Any, dict[str, Any]]:
    """The model with constant tensors made uneven: exporters store equal tensors once, whatever they are for."""
    import torch

    model, inputs = row.build()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.is_floating_point()
                and parameter.numel() > 1
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                parameter.add_(torch.randn_like(parameter) * 1e-3)
    return model, inputs


def _read(what: Any, inputs: Any = None, **options: Any) -> list[Layer]:
    return [measured.layer for measured in initaudit.check(what, inputs, jobs=1, **options).measured]


def _forms(row: Row, folder: Path) -> dict[str, Callable[[], list[Layer]]]:
    import torch

    class AllTensors(torch.nn.Module):
        """Takes positional inputs and returns every tensor of the answer, which all exporters understand."""

        def __init__(self, model: Any, names: tuple[str, ...]) -> None:
            super().__init__()
            self.model = model
            self.names = names

        def forward(self, *args: Any) -> Any:
            return tuple(_outputs(self.model(**dict(zip(self.names, args, strict=True)))))

    def wrapped() -> tuple[Any, tuple[Any, ...]]:
        model, inputs = _built(row)  # an exporter may leave hooks and folded weights behind
        return AllTensors(model, tuple(inputs)).eval(), tuple(inputs.values())

    def saved(name: str, write: Callable[[Path], object], **options: Any) -> list[Layer]:
        """Read the file, after writing it where an earlier run has not left it."""
        path = folder / name
        if not path.exists():
            try:
                write(path)
            except Exception:
                path.unlink(missing_ok=True)
                raise
        return _read(path, **options)

    def given() -> list[Layer]:
        model, inputs = _built(row)
        write = partial(torch.save, model.state_dict())
        return saved("weights.pt", write, inputs=inputs, model=lambda: row.build()[0])

    def script(path: Path) -> None:
        torch.jit.trace(*wrapped(), strict=False, check_trace=False).save(str(path))

    def exported(path: Path) -> None:
        with torch.no_grad():
            torch.export.save(torch.export.export(*wrapped(), strict=False), str(path))

    def onnx(path: Path, **options: Any) -> None:
        torch.onnx.export(*wrapped(), str(path), verbose=False, **options)

    def pickled(path: Path) -> None:
        torch.save(_built(row)[0], path)

    older = partial(onnx, dynamo=False, opset_version=17)
    dynamo = partial(onnx, dynamo=True, opset_version=18, external_data=False)
    writers: list[tuple[str, Callable[[Path], object]]]
    writers = [("script.pt", script), ("program.pt2", exported), ("older.onnx", older), ("dynamo.onnx", dynamo)]
    if row.name in PICKLED:
        writers.append(("module.pt", pickled))
    found = {form: partial(saved, name, write) for form, (name, write) in zip(FORMS[1:], writers, strict=False)}
    return {FORMS[0]: given, **found}


def _outputs(value: Any) -> Iterable[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, tuple | list) else ()
    return [tensor for item in values for tensor in _outputs(item)]


def _table(layers: Iterable[Layer]) -> list[Record]:
    """The rows, without whatever is only a name."""
    return [
        {
            "name": re.sub(r"^model\.(?=.)", "", layer.weight.name) if layer.weight.name else layer.name,
            "full": layer.weight.name,
            "size": layer.weight.size,
            "print": truth.fingerprint(np.asarray(layer.weight.load())) if layer.weight.size > 1 else None,
            "kind": layer.kind,
            "shape": sorted(extent for extent in layer.weight.shape if extent > 1),
            "fans": [_rounded(layer.fan_in), _rounded(layer.fan_out)],
            "groups": layer.groups,
            "activation": layer.activation,
            "role": str(layer.role),
            "statistics": bool(layer.extra) and layer.kind == "norm",
            "guessed": [
                field
                for field, evidence in (
                    ("fans", layer.fan_evidence),
                    ("groups", layer.fan_evidence),
                    ("activation", layer.activation_evidence),
                    ("role", layer.role_evidence),
                )
                if evidence is Evidence.ASSUMED
            ],
        }
        for layer in layers
    ]


def _rounded(fan: float | None) -> float | None:
    return None if fan is None else round(float(fan), 3)


def _differences(live: list[Record], found: list[Record]) -> list[list[Any]]:
    """One entry a row that differs: its name, its kind, and what is different, field by field."""
    pairs, missing, more = _paired(live, found)
    lines: list[list[Any]] = []
    for a, b in pairs:
        apart = [
            f"{field} {_text(a[field])} is {_text(b[field])}{' (assumed)' if field in b['guessed'] else ''}"
            for field in FIELDS
            if a[field] != b[field]
        ]
        if apart:
            lines.append([a["name"], a["kind"], apart])
    for a in missing:
        what = f"{a['kind']}{' with running statistics' if a['statistics'] else ''}"
        lines.append([a["name"], a["kind"], [f"{what}: no row"]])
    for b in more:
        twin = next((a["name"] for a in live if a["size"] == b["size"] and _same_values(a, b)), None)
        whose = f", with the values of {twin}" if twin else ""
        lines.append([b["name"], b["kind"], [f"{b['kind']}: a row more{whose}"]])
    return lines


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, list) else str(value).lower()


Pairs = list[tuple[Record, Record]]


def _paired(live: list[Record], found: list[Record]) -> tuple[Pairs, list[Record], list[Record]]:
    """Rows of the same parameter: by name, else by value, else in order among those of one kind and shape."""
    pairs: Pairs = []
    for alike in (_same_name, _same_values, _same_look):
        live, found = list(live), list(found)
        keys: dict[object, list[Record]] = defaultdict(list)
        for b in found:
            keys[b["name"] if alike is _same_name else b["size"]].append(b)
        for a in list(live):
            candidates = keys[a["name"] if alike is _same_name else a["size"]]
            match = next((b for b in candidates if alike(a, b)), None)
            if match is not None:
                pairs.append((a, match))
                candidates.remove(match)
                live = [x for x in live if x is not a]
                found = [x for x in found if x is not match]
    return pairs, live, found


def _same_name(a: Record, b: Record) -> bool:
    return bool(a["size"] == b["size"] or a["full"] == b["full"])


def _same_values(a: Record, b: Record) -> bool:
    mine, its = a["print"], b["print"]
    if mine is None or its is None:
        return False
    return all(abs(x - y) <= CLOSE * max(1.0, abs(x)) for x, y in zip(mine, its, strict=True))


def _same_look(a: Record, b: Record) -> bool:
    """An exporter changed the values (a folded norm): the next of the same kind and shape in the order of execution."""
    return bool(a["kind"] == b["kind"] and a["shape"] == b["shape"])
