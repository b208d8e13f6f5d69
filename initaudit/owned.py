"""Which tensors of a graph are parameters of its model, and which are numbers of a formula."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from initaudit.freedom import Freedom
from initaudit.types import Layer, Model, Skip

# Names that exporters make up for the numbers of a formula, after the last slash. A scalar that is a parameter, as the
# gate of a ReZero branch, keeps a name of its own.
_MADE_UP = re.compile(
    r"""_?(tensor_|lifted_)*const(ant|_fold_opt_)?[_\d]*(_output_\d+)?  # Constant_3_output_0, _tensor_constant0
    | (val|tmp|init|initializer|c|n|one|zero|eps)?_?\d+                 # val_12, 37
    | (_to_copy|clone|detach|detach_copy|alias|scalar_tensor|lift_fresh|lift_fresh_copy|full|ones|zeros)
      (_default)?(_\d+)*
    | (Add|Mul|Div|Sub|Pow|Clip|Cast|Where|Max|Min)_\d+(_output_\d+)?
    | [xy]                                                             # mul/y""",
    re.VERBOSE | re.IGNORECASE,
)


def owned(found: Freedom, model: Model, layers: Iterable[Layer], skipped: Sequence[Skip]) -> Freedom:
    """Return what is told of parameters only.

    Args:
        found: what is told of all numbers of the graph.
        model: whose graph it is. ONNX does not tell a parameter from a number of a formula.
        layers: what they hold is a parameter.
        skipped: some of which are known to be none.
    """
    none = {skip.name for skip in skipped if not skip.parameter}
    named = {t.name for layer in layers for t in (layer.weight, layer.bias, *layer.extra) if t is not None}
    formulas = model.graph_source == "onnx"

    def kept(name: str, size: int) -> bool:
        return name in named or not (name in none or (formulas and size == 1 and made_up(name)))

    return replace(found, parameters=tuple(p for p in found.parameters if kept(p.name, p.size)))


def made_up(name: str) -> bool:
    """Whether a name of one number is an exporter's own."""
    last = name.rpartition("/")[2].removesuffix(":0")
    return name.startswith("onnx::") or _MADE_UP.fullmatch(last) is not None
