"""LSUV's results as a page."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from benchmarks.lsuv import Result
    from benchmarks.lsuv_cost import Cost

_MOST = 4  # reasons of one result
_HEAD = """# LSUV

## Variances

`initaudit fix --all --scheme lsuv` on fresh models, as modules and as ONNX files of both of torch's exporters, on a
batch of {inputs} inputs. Then the variance of every product was measured without initaudit: of modules by forward
hooks, recurrent ones unrolled by hand; of files by onnxruntime with further outputs. A product counts gate by gate
where the layer is recurrent, and projection by projection where an attention packs them.

"within" is the number of products whose variance is within 0.05 of 1. Others are listed with what the repair itself
says of them; "unexplained" would be one of which it says nothing.
"""
_TABLE = """
| model | form | products | within | lowest | highest | unexplained | others |
|---|---|---:|---:|---:|---:|---:|---|
"""


def line(result: Result) -> str:
    """Return one row of the table."""
    if result.failed:
        return f"| {result.model} | {result.form} | | | | | | {result.failed} |"
    good = [p.variance for p in result.products if p.within]
    others = Counter(p.excuse for p in result.products if not p.within and p.excuse)
    told = "; ".join(f"{count}: {why}" for why, count in others.most_common(_MOST))
    low, high = (f"{f(good):.3f}" if good else "" for f in (min, max))
    unexplained = "; ".join(f"{p.weight} {p.part} {p.variance:.3g}" for p in result.unexplained[:_MOST]) or "0"
    numbers = f"{len(result.products)} | {len(good)} | {low} | {high} | {unexplained}"
    return f"| {result.model} | {result.form} | {numbers} | {told} |"


def page(results: Sequence[Result], costs: Sequence[Cost], main: Collection[str]) -> str:
    """Return the page."""
    from benchmarks.lsuv_models import INPUTS

    out = _HEAD.format(inputs=INPUTS)
    for title, own in (("The five", True), ("Others", False)):
        rows = [result for result in results if (result.model in main) == own]
        out += f"\n### {title}\n{_TABLE}" + "\n".join(map(line, rows)) + "\n"
    whole = [p for result in results for p in result.products]
    unexplained = sum(len(result.unexplained) for result in results)
    out += (
        f"\nOf {len(whole)} products {sum(p.within for p in whole)} are within 0.05 of 1; {unexplained} unexplained.\n"
    )
    return out + _costs(costs)


def _costs(costs: Sequence[Cost]) -> str:
    from benchmarks.lsuv_cost import SHAPE

    out = (
        "\n## Cost\n\nStacks of layers of BERT's width, a batch of {}x{} tokens; seconds of one processor, all in one "
        "run on {}. `lsuv` is the package, release 0.3.0. Both draw orthonormal weights first, then scale layers. The "
        "whole `fix` also records the graph and audits, with a probe, before and after.\n\n"
    ).format(*SHAPE, platform.machine())
    out += "| layers | dense layers | draw | scale | `lsuv`: draw | `lsuv`: scale | times less for scaling | in all |"
    out += " whole `fix` |\n|---:|---:|---:|---:|---:|---:|---:|---:|---:|\n"
    for cost in costs:
        own, other = cost.draw + cost.scale, cost.other_draw + cost.other_scale
        times = (cost.draw, cost.scale, cost.other_draw, cost.other_scale)
        numbers = " | ".join(f"{seconds:.2f}" for seconds in times)
        ratios = f"{cost.other_scale / cost.scale:.1f} | {other / own:.1f}"
        out += f"| {cost.depth} | {cost.weights} | {numbers} | {ratios} | {cost.fix:.1f} |\n"
    if len(costs) > 1:
        first, last = costs[0], costs[-1]
        grown = (last.scale / first.scale, last.other_scale / first.other_scale)
        out += (
            f"\n{last.depth / first.depth:.0f} times the layers are scaled in {grown[0]:.1f} times the time here, "
            f"in {grown[1]:.1f} times the time by `lsuv`.\n"
        )
    return out
