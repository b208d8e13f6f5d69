"""What the probe costs on well-known models of full size: as it is estimated, and as it is.

`python -m benchmarks.probe_cost` writes results/probe_cost.md; each model is probed in a process of its own.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from initaudit.live import probe as probing

OUT = Path(__file__).parent / "results" / "probe_cost.md"
MOST = 10.0  # seconds that a probe of these may take
LONG = frozenset({"GPT-2 small, 512 tokens"})  # reported only: a graph takes as many tokens as it was traced with
Record = dict[str, Any]


def _compiled() -> None:
    """Let torchvision, and transformers behind it, be imported where its compiled half is not installed."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        library: Any = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)


_KEPT: list[object] = []


def _vision(name: str) -> tuple[Any, Any]:
    import torch
    import torchvision

    return getattr(torchvision.models, name)(), torch.randn(1, 3, 224, 224)


def _gpt2(length: int) -> tuple[Any, Any]:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    model: Any = GPT2LMHeadModel(GPT2Config())
    return model.eval(), torch.randint(0, 50257, (1, length))


MODELS: dict[str, Callable[[], tuple[Any, Any]]] = {
    "ResNet-50": lambda: _vision("resnet50"),
    "ViT-B/16": lambda: _vision("vit_b_16"),
    "GPT-2 small, 64 tokens": lambda: _gpt2(64),
    "GPT-2 small, 512 tokens": lambda: _gpt2(512),
}


def measured(name: str) -> Record:
    """Probe one model; meant for a process of its own."""
    import torch

    from initaudit import audit, layers

    warnings.filterwarnings("ignore")
    torch.manual_seed(0)
    _compiled()
    module, example = MODELS[name]()
    model = audit.live(module, example)
    found = layers.infer(model)[0]
    assert model.graph is not None
    start = time.perf_counter()
    told = probing.estimate(model.graph, found)
    asked = time.perf_counter()
    before, cpu = _peak(), time.process_time()
    made = probing.probe(model.graph, found)
    rows = [row for row in made.layers if row.gradient is not None]
    return {
        "name": name, "sentence": told.sentence, "guess": told.seconds, "estimate": asked - start,
        "cpu": time.process_time() - cpu,
        "gigabytes": (_peak() - before) / 2**30, "inputs": made.inputs,
        "layers": len(found), "rows": len(rows), "why": made.why,
    }  # fmt: skip


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def rendered(records: list[Record]) -> str:
    """Return the page."""
    lines = [
        "# The cost of a probe",
        "",
        "Written by `python -m benchmarks.probe_cost`. A probe computes with one thread, so that its numbers do not",
        f"depend on how many there are. {os.cpu_count()} cores of {platform.machine()}; seconds of the processor for",
        "the probe alone, without building and tracing the model; memory is what it adds to the model's own.",
        f"At most {MOST:.0f} seconds; {', '.join(sorted(LONG))}: without a limit.",
        "",
        "| model | told before | guessed | seconds | GiB | inputs | layers with a gradient |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['name']} | {r['why'] or r['sentence']} | {r['guess']:.1f} | {r['cpu']:.1f} | {r['gigabytes']:.1f} "
        f"| {r['inputs']} | {r['rows']} of {r['layers']} |"
        for r in records
    ]
    return "\n".join([*lines, ""])


def main() -> int:
    """Probe all models, or the one that is named, and return 1 where one takes too long."""
    if len(sys.argv) > 1:
        sys.stdout.write(json.dumps(measured(sys.argv[1])))
        return 0
    records = []
    for name in MODELS:
        done = subprocess.run([sys.executable, "-m", __spec__.name, name], capture_output=True, text=True, check=True)
        records.append(json.loads(done.stdout.splitlines()[-1]))
    OUT.write_text(rendered(records), encoding="utf-8")
    sys.stdout.write(rendered(records))
    return int(any(r["why"] or (r["cpu"] > MOST and r["name"] not in LONG) for r in records))


if __name__ == "__main__":
    sys.exit(main())
