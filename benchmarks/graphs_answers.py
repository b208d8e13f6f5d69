"""What initaudit says follows each weight of one model, beside the truth: of the live module and of its bare file."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import initaudit
from benchmarks import calls, graphs_hooks, graphs_roles, graphs_truths
from benchmarks.graphs_models import Row
from initaudit.types import Layer

Record = dict[str, Any]
MISSING = "no row"


def of(row: Row, folder: Path) -> Record:
    """Return the answers for one model; its state_dict is written into `folder`, beside config.json if it has one."""
    model, inputs = row.build()
    parameters = dict(model.named_parameters())
    matrices = [name for name, p in parameters.items() if p.dim() > 1]
    seen = graphs_hooks.look(model, inputs)
    record: Record = {
        "name": row.name, "library": row.library, "by_hand": row.by_hand, "rows": [],
        "functions": list(seen.functions), "untold": [], "cross": [], "agreed": 0,
    }  # fmt: skip
    if row.by_hand:
        truth, record["rows"] = graphs_truths.told(row.name, matrices)
    else:
        truth, record["untold"] = seen.answers, list(seen.untold)
    record["agreed"], record["cross"] = _crossed(row, truth, seen, calls.activations(model, inputs))
    names = _names(model)
    model, inputs = row.build()  # as fresh as the user's, with no hook left on it
    record["live"] = _compared(truth, _layers(model, inputs), names)
    record["file"] = _compared(truth, _layers(_written(model, folder)), names)
    return record


def roles(name: str, row: Row) -> Record:
    """Return how many layers of a live module want each tag or role, how many have it, and the misses."""
    model, inputs = row.build()
    want, have, told = graphs_roles.score(name, _layers(model, inputs))
    return {"name": row.name, "want": dict(want), "have": dict(have), "misses": told}


def _layers(model: Any, inputs: dict[str, Any] | None = None) -> list[Layer]:
    return [measured.layer for measured in initaudit.check(model, inputs, jobs=1).measured]


def _names(model: Any) -> dict[str, str]:
    """Every name of a parameter, ties included, with the one it is known by."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def _compared(truth: dict[str, str | None], layers: Iterable[Layer], names: dict[str, str]) -> Record:
    """Right and counted answers by evidence, and what is wrong."""
    said: dict[str, list[Layer]] = {}
    for layer in layers:
        for name in dict.fromkeys((layer.weight.name, *layer.weight.parts)):
            said.setdefault(names.get(name, name), []).append(layer)
    counts: dict[str, list[int]] = {}
    wrong: list[list[str]] = []
    for name, activation in truth.items():
        found = said.get(name, [])
        evidence = min((layer.activation_evidence for layer in found), default=None)
        label = evidence.label if evidence is not None else MISSING
        right = bool(found) and all(graphs_truths.right(layer.activation, activation) for layer in found)
        count = counts.setdefault(label, [0, 0])
        count[0] += right
        count[1] += 1
        if not right:
            told = " and ".join(dict.fromkeys(str(layer.activation) for layer in found)) or MISSING
            wrong.append([name, told, str(activation), label])
    return {"counts": counts, "wrong": wrong}


def _crossed(
    row: Row, truth: dict[str, str | None], seen: graphs_hooks.Seen, called: dict[str, calls.Answer]
) -> tuple[int, list[list[str]]]:
    """Where a second witness speaks of a layer: how often it agrees, and where it does not."""
    agreed, apart = 0, []
    for name, activation in truth.items():
        others = {}
        if row.by_hand and name in seen.answers:
            others["hooks"] = seen.answers[name]
        if (answer := called.get(name)) is not None and answer.sure:
            others["calls"] = _SAME.get(answer.name or "", answer.name)
        for witness, said in others.items():
            if graphs_truths.right(said, activation):
                agreed += 1
            else:
                apart.append([name, str(activation), witness, str(said)])
    return agreed, apart


_SAME = {"gelu_tanh": "gelu", "relu_squared": "relu2"}  # calls.py's words


def _written(model: Any, folder: Path) -> Path:
    """Save what people pass on: the folder of a library with a config, else a bare state_dict."""
    import torch
    from safetensors.torch import save_model

    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config) if hasattr(config, "items") else {}
    if not settings or not hasattr(model, "save_pretrained") or hasattr(model, "peft_config"):
        torch.save(model.state_dict(), folder / "state_dict.pt")
        return folder / "state_dict.pt"
    whole = folder / "pretrained"
    whole.mkdir(exist_ok=True)
    save_model(model, str(whole / "model.safetensors"))
    text = json.dumps(settings, indent=1, sort_keys=True, default=str)
    (whole / "config.json").write_text(text + "\n", encoding="utf-8")
    return whole
