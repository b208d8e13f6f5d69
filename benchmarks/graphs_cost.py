"""What a 7B Llama costs to build and trace without weights, and whether a checkpoint reads as the live module does."""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from initaudit.types import Report

Record = dict[str, Any]
SECONDS, GIGABYTES = 20.0, 1.5  # the limits of the issue
LARGE: dict[str, Any] = {  # Llama 2 7B's config.json
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096,
    "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 32,
    "max_position_embeddings": 4096, "torch_dtype": "bfloat16", "tie_word_embeddings": False,
}  # fmt: skip
SMALL: dict[str, Any] = {
    **LARGE, "vocab_size": 512, "hidden_size": 128, "intermediate_size": 352, "num_hidden_layers": 3,
    "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip


def large(folder: Path) -> Record:
    """Build the 7B configuration without weights and trace it; meant for a process of its own."""
    started = time.perf_counter()
    from initaudit import audit, layers

    where = _config(folder / "large", LARGE)
    model = audit.built(None, f"hf:{where}", None, (), weights=False)
    found, _ = layers.infer(model)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {
        "parameters": sum(t.size for t in model.tensors if not t.buffer), "rows": len(found),
        "nodes": len(model.graph.nodes) if model.graph else 0,
        "seconds": time.perf_counter() - started, "gigabytes": peak / 1e9,
    }  # fmt: skip


def small(folder: Path) -> Record:
    """Compare the layer table of a bf16 checkpoint beside its config with that of the live bf16 module, row by row."""
    import torch
    from safetensors.torch import save_model
    from transformers import LlamaConfig, LlamaForCausalLM

    import initaudit

    where = _config(folder / "small", SMALL)
    torch.manual_seed(0)
    module = LlamaForCausalLM(LlamaConfig(**SMALL)).to(torch.bfloat16).eval()
    save_model(module, str(where / "model.safetensors"))
    live = _rows(initaudit.check(module))
    report = initaudit.check(where, arch=f"hf:{where}")
    found = _rows(report)
    names = [name for name in {**live, **found} if live.get(name) != found.get(name)]
    apart = [f"{name}: {live.get(name)} is {found.get(name)}" for name in names]
    return {
        "rows": len(live), "differences": apart, "order": list(live) == list(found),
        "mismatches": len(report.model.mismatches),
    }  # fmt: skip


def _rows(report: Report) -> dict[str, list[Any]]:
    """All that the layer table shows of each weight, its measures included."""
    return {
        layer.weight.name: [
            layer.kind, list(layer.weight.shape), layer.weight.dtype, layer.axes, layer.fan_in, layer.fan_out,
            layer.groups, layer.activation, str(layer.role), layer.evidence.label, layer.normed, list(layer.tags),
            layer.depth, layer.bias.name if layer.bias else None, measured.stats.mean, measured.stats.std,
        ]
        for measured in report.measured
        for layer in (measured.layer,)
    }  # fmt: skip


def _config(folder: Path, settings: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return folder
