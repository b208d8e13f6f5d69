"""Why a form of a model differs from the live module, one row a reason. A difference without a row fails the benchmark.

A row: forms (a pattern), differences (a pattern of one field of one row), the reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_ONNX = r"ONNX.*"
REASONS: tuple[tuple[str, str, str], ...] = (
    (
        r"pickled module",
        r".* \(assumed\)",
        "A module tree has no order of execution; what it cannot prove is marked assumed, and so it is here.",
    ),
    (
        _ONNX,
        r"norm with running statistics: no row",
        "The exporter folds a batch norm in evaluation mode into the convolution before it.",
    ),
    (
        _ONNX,
        r"linear: a row more, with the values of .*",
        "The exporter stores a tied matrix twice, once transposed for the output.",
    ),
    (
        r"ONNX.*|TorchScript",
        r"kind (gru|lstm|rnn) is linear|fans (\S+)x(\S+) is \2x\S+|activation none is (sigmoid|tanh)|role \S+ is .*",
        "A cell called step by step is written out as two matrix products and the arithmetic of its gates.",
    ),
    (
        r"ONNX, dynamo",
        r"(embedding|parameter): (no row|a row more)",
        "Positions that depend on nothing are looked up by the exporter: it stores the rows, not the table.",
    ),
    (
        r"ONNX, older exporter",
        r"parameter: (no row|a row more)",
        "An index that depends on nothing is applied by the exporter: it stores the result, not the table.",
    ),
    (
        _ONNX,
        r"activation glu is sigmoid|role \S+ is gate",
        "ONNX has no gated linear unit: it is a split, a sigmoid and a product.",
    ),
    (
        r"pickled module",
        r"role branch end is trunk",
        "Within the branch of a residual block the time embedding is added: a sum to a graph, the next layer to names.",
    ),
    (
        r"pickled module",
        r"role other is trunk",
        "The sum of all branches is also an output of the model, which only a graph shows.",
    ),
    (
        r"pickled module",
        r"kind linear is attention",
        "nn.MultiheadAttention is one module; in a graph its matrices are products like others.",
    ),
)
_ONLY = {  # a reason holds for rows that differ in this as well: one part alone would excuse too much
    REASONS[3][2]: r"kind (gru|lstm|rnn) is linear",
    REASONS[6][2]: r"activation glu is sigmoid",
}


def reason(form: str, part: str, row: Sequence[str]) -> str | None:
    """Return the written reason for one difference of a row, if there is one; `row` is all that differs in it."""
    for forms, parts, why in REASONS:
        needed = _ONLY.get(why, ".*")
        if re.fullmatch(forms, form) and re.fullmatch(parts, part) and any(re.fullmatch(needed, p) for p in row):
            return why
    return None
