"""Calls that fill a whole tensor with independent entries, or with one value."""

from __future__ import annotations

import math
import re

from initaudit import schemes
from initaudit.repair.forms import Form
from initaudit.schemes import Fans, Params, Scheme
from initaudit.types import Layer

_HERE = "\0"  # where a call takes its tensor


def whole(row: Scheme, params: Params, layer: Layer, form: Form, text: str) -> tuple[str, str]:
    """Return what stands before and after the tensor in the call that draws `text`, which came to `row`.

    torch.nn.init counts the fans itself where it counts them as the operator has them; elsewhere the std is written
    out, and the layout does not matter.
    """
    given = row.params(params)
    call = _counted(row, given, layer, text) if form.weight and _plain(layer, form) else ""
    if not call and row.law == "constant":
        value = float(given.get("value", row.fixed.get("value", 0.0)))
        ending = {0.0: f"zeros_({_HERE})", 1.0: f"ones_({_HERE})"}.get(value, f"constant_({_HERE}, {value:.8g})")
        call = f"torch.nn.init.{ending}"
    if not call:
        fans = schemes.fans_of(layer) if form.weight else None
        call = row.call(_HERE, fans or Fans(1, 1), **params)
    before, _, after = call.partition(_HERE)
    return before, after


def _plain(layer: Layer, form: Form) -> bool:
    """Whether torch.nn.init would count the fans of the operator from the tensor's shape."""
    if not re.fullmatch("oik*", form.axes) or form.blocks > 1 or layer.fan_in is None or layer.fan_out is None:
        return False
    kernel = math.prod(form.shape[2:])
    return (layer.fan_in, layer.fan_out) == (form.shape[1] * kernel, form.shape[0] * kernel)


def _counted(row: Scheme, given: Params, layer: Layer, text: str) -> str:
    """Return the call of torch.nn.init that counts the fans, if it has this law."""
    if schemes.parse(text)[0].name == "torch-default":
        return f"torch.nn.init.kaiming_uniform_({_HERE}, a=5**0.5)" if layer.kind in ("linear", "conv") else ""
    base, _, law = row.name.partition("-")
    law = law or "normal"
    gain, mode = given.get("gain", 1.0), str(given.get("mode", ""))
    if law not in ("normal", "uniform") or given.get("branches", 1.0) != 1 or isinstance(gain, str):
        return ""
    if base == "xavier" and mode == "fan_avg":
        return f"torch.nn.init.xavier_{law}_({_HERE}{'' if gain == 1 else f', gain={gain:.6g}'})"
    told = {"fan_in": "", "fan_out": ', mode="fan_out"'}.get(mode)
    linear = base == "lecun" and gain == 1
    rectified = base == "he" and given["activation"] == "relu" and gain == schemes.parse("he")[0].defaults["gain"]
    if told is None or not (linear or rectified):
        return ""
    return f'torch.nn.init.kaiming_{law}_({_HERE}{told}, nonlinearity="{"linear" if linear else "relu"}")'
