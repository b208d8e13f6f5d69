"""What LSUV costs on stacks of BERT's layers: this package beside `lsuv` of PyPI, in one run."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

DEPTHS = (4, 8)
SHAPE = (8, 64)  # inputs, tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """One depth: seconds."""

    depth: int
    weights: int
    sweep: float  # of LSUV alone: draw and scale
    whole: float  # with the graph, the audit before and the audit after
    other: float  # of lsuv 0.3.0


def measured() -> list[Cost]:
    """Return the costs, measured one after the other with one thread."""
    return [_one(depth) for depth in DEPTHS]


def _bert(depth: int) -> tuple[Any, Any]:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(num_hidden_layers=depth, vocab_size=1000)
    model: Any = BertModel(config).eval()
    return model, torch.randint(0, 1000, SHAPE)


def _one(depth: int) -> Cost:
    import lsuv
    import torch

    import initaudit
    from initaudit.repair import fixing

    sweep = 0.0
    draw = fixing._draw

    def timed(*args: Any) -> Any:
        nonlocal sweep
        start = time.perf_counter()
        made = draw(*args)
        sweep = time.perf_counter() - start
        return made

    model, ids = _bert(depth)
    weights = sum(isinstance(m, torch.nn.Linear) for m in model.modules())
    fixing._draw = timed
    try:
        start = time.perf_counter()
        initaudit.fix(model, {"input_ids": ids}, scheme="lsuv", all=True, force=True, data={"input_ids": ids})
        whole = time.perf_counter() - start
    finally:
        fixing._draw = draw
    model, ids = _bert(depth)
    start = time.perf_counter()
    lsuv.lsuv_with_singlebatch(model, ids, verbose=False)
    return Cost(depth, weights, sweep, whole, time.perf_counter() - start)
