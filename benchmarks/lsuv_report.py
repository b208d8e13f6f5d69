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
        "\n## Cost\n\nLayers of BERT's width, a batch of {}x{} tokens, one thread, seconds in one run on {}. `lsuv` is "
        "PyPI's 0.3.0.\n\n".format(*SHAPE, platform.machine())
    )
    out += "| layers | dense layers | sweep | whole `fix` | `lsuv` | `lsuv` / sweep | `lsuv` / `fix` |\n"
    out += "|---:|---:|---:|---:|---:|---:|---:|\n"
    for cost in costs:
        times = f"{cost.sweep:.1f} | {cost.whole:.1f} | {cost.other:.1f}"
        ratios = f"{cost.other / cost.sweep:.0f} | {cost.other / cost.whole:.0f}"
        out += f"| {cost.depth} | {cost.weights} | {times} | {ratios} |\n"
    if len(costs) > 1:
        first, last = costs[0], costs[-1]
        out += (
            f"\n{last.depth / first.depth:.0f} times the layers take {last.sweep / first.sweep:.1f} times as long here "
            f"and {last.other / first.other:.1f} times as long with `lsuv`.\n"
        )
    return out
