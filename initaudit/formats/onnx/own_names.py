"""Names that parameters had before torch's exporter folded them: what its metadata still says.

The graph's metadata lists every parameter of the program, `p_fc_weight: PARAMETER target='fc.weight'`, and each node's
the call that it was made from, `linear(args = (%x, %p_fc_weight, %p_fc_bias))`. A parameter that the file does not
store under its name was transposed, cast or reshaped into a constant with a made-up one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_SIGNATURE = "pkg.torch.export.ExportedProgram.graph_signature"
_CALL = "pkg.torch.onnx.fx_node"
_PARAMETER = re.compile(r"^\s*(\w+): PARAMETER target='([^'\n]*)'", re.MULTILINE)
_VALUE = re.compile(r"%(\w+)")


def lost_names(metadata: Mapping[str, str], stored: Collection[str]) -> dict[str, str]:
    """Return the parameters that the file holds under no name of theirs: what the program calls them, their name."""
    return {inner: name for inner, name in _PARAMETER.findall(metadata.get(_SIGNATURE, "")) if name not in stored}


def mentioned(metadata: Mapping[str, str], lost: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of such parameters that the call behind a node takes, in its order.

    >>> call = "%y : [num_users=1] = call_function[target=aten.linear](args = (%x, %p_w, %p_b), kwargs = {})"
    >>> mentioned({"pkg.torch.onnx.fx_node": call}, {"p_w": "fc.weight"})
    ('fc.weight',)
    """
    if not lost:
        return ()
    _, _, arguments = metadata.get(_CALL, "").partition("(args = ")
    return tuple(dict.fromkeys(lost[name] for name in _VALUE.findall(arguments) if name in lost))
