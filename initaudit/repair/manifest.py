"""What a repair did, as JSON, schema initaudit.repair/1.

    {"schema": "initaudit.repair/1", "tool": {"name": "initaudit", "version": "0.1.0"},
     "source": {"path": "ckpt.pt", "format": "torch", "state": "fresh", "sha256": {"ckpt.pt": "..."}, ...},
     "output": {"path": "ckpt.fixed.pt", "sha256": {"ckpt.fixed.pt": "..."}}, "scheme": "auto", "seed": 0,
     "dry_run": false,
     "changes": [{"layer": "fc2", "tensor": "fc2.weight", "scheme": "he", "from": {...}, "to": {...}, ...}],
     "kept": [], "notes": [], "reached": [], "worse": [], "at_fault": [],
     "summary": {"before": {...}, "after": {...}, "changed": 1, "exit_code": 0}}

No clock, no absolute path: the same repair gives the same bytes.
"""

from __future__ import annotations

import json
import math
from typing import Any

from initaudit.edits import Reached, Repair, Row
from initaudit.repair.drawing import drawn_name
from initaudit.reporters.base import counts, unjudged
from initaudit.reporters.json import plain
from initaudit.reporters.repair import stats_of
from initaudit.types import Measured, Report, Severity, Tensor
from initaudit.version import __version__

SCHEMA = "initaudit.repair/1"


def text(repair: Repair) -> str:
    """Return the document as it is printed and written."""
    return json.dumps(document(repair), indent=2, ensure_ascii=True) + "\n"


def document(repair: Repair) -> dict[str, Any]:
    """Return the contract's object for one repair, made of plain values; what is not finite is None."""
    before, model = repair.before, repair.before.model
    made: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            "tool": {"name": "initaudit", "version": __version__},
            "source": {
                "path": model.path,
                "format": model.format,
                "detail": model.detail,
                "graph": model.graph_source,
                "state": str(before.state),
                "sha256": dict(repair.inputs),
            },
            "output": {"path": repair.output or None, "sha256": dict(repair.outputs)},
            "scheme": repair.scheme,
            "seed": repair.seed,
            "dry_run": repair.dry,
            "changes": [_change(row) for row in repair.rows],
            "kept": [{"name": skip.name, "why": skip.why} for skip in repair.plan.kept],
            "notes": [*repair.recovered, *repair.plan.notes],
            "reached": [_reached(one) for one in repair.reached],
            "worse": list(repair.worse),
            "at_fault": list(repair.at_fault),
            "summary": {
                "before": _summary(before),
                "after": _summary(repair.after) if repair.after is not None else None,
                "changed": len(repair.rows) if repair.output or repair.dry else 0,
                "exit_code": repair.code,
            },
        }
    )
    return made


def _change(row: Row) -> dict[str, Any]:
    recipe, layer = row.recipe, row.recipe.measured.layer
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "tensor": recipe.tensor.name,
        "original_name": drawn_name(recipe),
        "shape": list(recipe.tensor.shape),
        "dtype": recipe.tensor.dtype,
        "scheme": recipe.scheme,
        "by_part": dict(recipe.by_part),
        "units": list(recipe.units) if recipe.units is not None else None,
        "why": recipe.why,
        "about": recipe.about,
        "from": _values(recipe.measured, recipe.tensor, row.verdict_before),
        "to": _values(row.after, recipe.tensor, row.verdict_after) if row.after is not None else None,
        "reached": [_reached(one) for one in row.reached],
    }


def _values(m: Measured, tensor: Tensor, verdict: str | None) -> dict[str, Any]:
    stats = stats_of(m, tensor)
    weight = tensor.name == m.layer.weight.name
    return {
        "mean": stats.mean if stats else None,
        "std": stats.std if stats else None,
        "nonfinite": stats.nonfinite if stats else None,
        "zeros": stats.zeros if stats else None,
        "identified": m.identified.scheme or None if weight and m.identified else None,
        "variance_ratio": m.variance_ratio if weight else None,
        "effective_width": m.freedom.width if weight and m.freedom is not None else None,
        "verdict": verdict,
    }


def _reached(one: Reached) -> dict[str, Any]:
    return {
        "layer": one.layer,
        "part": one.part or None,
        "variance": one.variance,
        "tries": one.tries,
        "scale": one.scale,
        "why": one.why or None,
    }


def _summary(report: Report) -> dict[str, Any]:
    n = counts(report)
    risk = report.risk.value if report.risk is not None and not report.folded else None
    return {
        "verdict": report.verdict,
        "errors": n[Severity.ERROR],
        "warnings": n[Severity.WARNING],
        "infos": n[Severity.INFO],
        "risk": risk if risk is None or math.isfinite(risk) else None,
        "risk_by": report.risk.by if report.risk is not None else None,
        "unjudged": unjudged(report) or None,
    }
