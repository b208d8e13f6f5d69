"""Audits one saved file and compares what initaudit says of it with the truth about the live model."""

from __future__ import annotations

import json
import re
import time
import traceback
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import truth
from initaudit import audit
from initaudit.errors import InitauditError
from initaudit.types import Layer, Model, Report, Severity, Tensor

Record = dict[str, Any]
CLOSE = 2e-4  # relative difference of fingerprints; float32 and a folded norm's epsilon stay far below
SAME = {
    "quick_gelu": "gelu",
    "gelu_tanh": "gelu",
    "relu_squared": "relu2",
    "star_relu": "relu2",
    "identity": None,
    "linear": None,
}


def folder(path: Path) -> list[Record]:
    """Audit every model file of one zoo folder."""
    records: dict[str, Record] = json.loads((path / "truth.json").read_text(encoding="utf-8"))
    files = sorted(p for p in path.iterdir() if p.suffix != ".json")
    return [file(p, records) for p in files]


def file(path: Path, records: dict[str, Record]) -> Record:
    """Audit one file; whatever goes wrong becomes part of the answer."""
    start = time.perf_counter()
    answer: Record = {"file": path.name, "read": False}
    try:
        report = audit.audit_path(path)
    except InitauditError as error:
        answer["refused"] = error.reason
        return answer
    except Exception:
        answer["traceback"] = " | ".join(traceback.format_exc(limit=-4).strip().splitlines()[-9:]).replace("  ", "")
        return answer
    answer["seconds"] = time.perf_counter() - start
    answer["read"] = True
    answer.update(_verdict(report))
    answer.update(_readings(report, records))
    return answer


def _verdict(report: Report) -> Record:
    told = [
        {"severity": f.severity.label, "rule": f.rule, "tensor": f.tensor or f.layer or "", "message": f.message}
        for f in report.findings
        if f.severity > Severity.INFO
    ]
    return {
        "state": str(report.state),
        "parameters": report.parameters,
        "judged": round(report.coverage * report.parameters),
        "crashed": report.crashed,
        "infos": sum(f.severity == Severity.INFO for f in report.findings),
        "told": told,
        "skipped": [[skip.name, skip.why] for skip in report.skipped],
    }


def _readings(report: Report, records: dict[str, Record]) -> Record:
    """Fans and activations, layer by layer, against the records."""
    prints = defaultdict(list)
    for name, record in records.items():
        if record["print"] is not None:
            prints[record["size"]].append(name)
    fans = {"equal": 0, "compared": 0, "assumed": 0, "claimed": 0}
    acts: dict[str, list[int]] = {}
    misses: list[Record] = []
    unmatched: list[str] = []
    matched: set[str] = set()
    for measured in report.measured:
        layer = measured.layer
        names = _names(layer, records, prints)
        matched.update(names)
        if not names:
            if layer.fan_in is None:
                continue  # a vector or a constant of the graph claims nothing that could be wrong
            unmatched.append(f"{layer.weight.name} {list(layer.weight.shape)} {layer.kind}")
            continue
        found = [records[name] for name in names]
        if all(r["scored"] for r in found) and not _added(layer, found):
            fans["compared"] += 1
            if any(_equal_fans(layer, r["fans"]) for r in found):
                fans["equal"] += 1
            else:
                fans["assumed" if layer.fan_evidence.label == "assumed" else "claimed"] += 1
                misses.append(_miss("fans", layer, names[0], [layer.fan_in, layer.fan_out], found[0]["fans"]))
        wanted = {_plain(r["activation"]) for r in found}
        if all(r["activation_known"] and r["fans"] for r in found) and len(wanted) == 1:
            count = acts.setdefault(layer.activation_evidence.label, [0, 0])
            count[1] += 1
            if _plain(layer.activation) in wanted:
                count[0] += 1
            else:
                misses.append(_miss("activation", layer, names[0], layer.activation, found[0]["activation"]))
    absent = _absent(report.model, records, matched)
    return {"fans": fans, "activations": acts, "misses": misses, "unmatched": unmatched, "absent": absent}


def _names(layer: Layer, records: dict[str, Record], prints: dict[int, list[str]]) -> list[str]:
    """Names of the parameters that hold this layer's values: by name, else by value."""
    name = layer.weight.name
    for candidate in (name, name.removeprefix("model.")):
        if candidate in records:
            return [candidate]
    values = np.asarray(layer.weight.load())
    whole = _alike(values, records, prints)
    if not whole and layer.axes.startswith("s"):  # directions, experts
        whole = [name for piece in values for name in _alike(piece, records, prints)]
    return whole or _by_path(layer, records)


def _by_path(layer: Layer, records: dict[str, Record]) -> list[str]:
    """The parameter of the module that the layer is named after: an exporter changed its values (a folded norm)."""
    path = re.sub(r"_\d+$", "", layer.name.removeprefix("model."))
    whole, fused = f"{path}.weight", f"{path}.in_proj_weight"
    if whole in records and records[whole]["size"] == layer.weight.size:
        return [whole]
    return [fused] if fused in records and records[fused]["size"] > layer.weight.size else []


def _alike(values: Any, records: dict[str, Record], prints: dict[int, list[str]]) -> list[str]:
    mine = truth.fingerprint(values)
    if mine is None:
        return []
    return [
        name
        for name in prints.get(values.size, ())
        if records[name]["print"]
        and all(abs(a - b) <= CLOSE * max(1.0, abs(a)) for a, b in zip(mine, records[name]["print"], strict=True))
    ]


def _absent(model: Model, records: dict[str, Record], matched: set[str]) -> list[str]:
    """Weights that the file holds but no layer shows; an exporter leaves out or folds what its graph does not need."""
    twins = {(r["size"], tuple(r["print"])) for r in (records[name] for name in matched) if r["print"]}
    held: dict[int, list[Tensor]] = defaultdict(list)
    for tensor in model.tensors:
        held[tensor.size].append(tensor)
    lines = []
    for name, record in records.items():
        if not record["fans"] or not record["scored"] or name in matched:
            continue
        if record["print"] and (record["size"], tuple(record["print"])) in twins:
            continue  # a tie or a deep copy that was matched under its other name
        if any(_holds(tensor, name, records) for tensor in held[record["size"]]):
            lines.append(f"{name} {record['shape']} {record['class']}")
    return lines


def _holds(tensor: Tensor, name: str, records: dict[str, Record]) -> bool:
    if tensor.name.removeprefix("model.") == name or tensor.name == name:
        return True
    return tensor.is_float and bool(_alike(np.asarray(tensor.load()), {name: records[name]}, {tensor.size: [name]}))


def _equal_fans(layer: Layer, accepted: list[list[float]]) -> bool:
    if not accepted:
        return layer.fan_in is None and layer.fan_out is None
    if layer.fan_in is None or layer.fan_out is None:
        return False
    told = (layer.fan_in, layer.fan_out)
    return any(np.allclose(told, pair, rtol=1e-6) for pair in accepted)


def _added(layer: Layer, found: list[Record]) -> bool:
    """Whether an exporter has folded the look-up in an embedding away: its rows are then added like any parameter."""
    return layer.fan_in is None and layer.kind != "embedding" and all(r["kind"] == "embedding" for r in found)


def _plain(activation: str | None) -> str | None:
    return SAME.get(activation, activation) if activation else None


def _miss(what: str, layer: Layer, name: str, told: object, true: object) -> Record:
    evidence = layer.fan_evidence if what == "fans" else layer.activation_evidence
    return {
        "what": what, "parameter": name, "tensor": layer.weight.name, "kind": layer.kind, "axes": layer.axes,
        "shape": list(layer.weight.shape), "told": told, "true": true, "evidence": evidence.label,
        "reasons": list(layer.reasons),
    }  # fmt: skip
