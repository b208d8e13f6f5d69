"""What LSUV costs on stacks of BERT's layers: this package beside the `lsuv` package, in one run."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEPTHS = (4, 8)
SHAPE = (8, 64)  # inputs, tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """One depth, in seconds of one processor."""

    depth: int
    weights: int  # dense layers
    draw: float  # orthonormal weights
    scale: float  # everything else of LSUV
    fix: float  # the whole repair: graph, audit before, LSUV, audit after
    other_draw: float  # of lsuv 0.3.0: torch's orthogonal_
    other_scale: float


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


class _Clock:
    """Counts the processor time of a function's calls."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.process_time() - start


def _one(depth: int) -> Cost:
    import lsuv
    import torch

    import initaudit
    from initaudit.live import lsuv as own
    from initaudit.repair import drawing

    model, ids = _bert(depth)
    weights = sum(isinstance(m, torch.nn.Linear) for m in model.modules())
    draw, scale, fix = _Clock(drawing.draw), _Clock(own.calibrate), _Clock(initaudit.fix)
    drawing.draw, own.calibrate = draw, scale  # type: ignore[assignment]
    try:
        fix(model, {"input_ids": ids}, scheme="lsuv", all=True, force=True, data={"input_ids": ids})
    finally:
        drawing.draw, own.calibrate = draw.function, scale.function  # type: ignore[assignment]
    model, ids = _bert(depth)
    start = _Clock(model.apply)
    start(lsuv.lsuvinit.orthogonal_weights_init)
    whole = _Clock(lsuv.lsuv_with_singlebatch)
    whole(model, ids, verbose=False)
    drawn = draw.seconds, scale.seconds - draw.seconds
    return Cost(depth, weights, *drawn, fix.seconds, start.seconds, whole.seconds - start.seconds)
