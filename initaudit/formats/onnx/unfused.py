"""ONNX Runtime's fused operators, taken apart again: the product, what it is added to, and the activation after it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from initaudit.ops import from_onnx

Emit = Callable[[str, tuple[str, ...], tuple[str, ...], Mapping[str, object]], None]

_PLAIN = {
    "FusedConv": "Conv",
    "FusedGemm": "Gemm",
    "FusedMatMulActivation": "FusedMatMul",
    "NhwcConv": "Conv",
    "NhwcFusedConv": "Conv",
    "GemmFastGelu": "MatMul",
}
# What FusedConv's activation_params are, in their order.
_PARAMETERS = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}


def unfuse(
    op: str,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    values: Mapping[str, object],
    new: Callable[[str], str],
    emit: Emit,
) -> bool:
    """Emit the plain operators that one of com.microsoft's stands for; False where it is none of the fused ones.

    Args:
        op: its ONNX name.
        inputs: names of its inputs, "" where one is absent.
        outputs: names of its outputs.
        values: its attributes.
        new: makes a name that no value has yet, from the one that is wanted.
        emit: takes canonical operator, inputs, outputs and attributes.
    """
    if op not in _PLAIN or len(inputs) < 2 or not outputs or not outputs[0]:
        return False
    activation = _text(values.get("activation")) if op != "GemmFastGelu" else "FastGelu"
    kept = {name: value for name, value in values.items() if not name.startswith("activation")}
    last = op.startswith("Nhwc")
    conv = _PLAIN[op] == "Conv"
    arguments = list(inputs[:2] if op == "GemmFastGelu" else inputs[:3] if conv else inputs)
    added = inputs[3] if conv and len(inputs) > 3 else ""
    steps: list[tuple[str, tuple[str, ...], Mapping[str, object]]] = []  # operator, further inputs, attributes
    if last:
        rank = 2 + len(kernel) if isinstance(kernel := values.get("kernel_shape"), tuple) else 4
        arguments[0] = new(f"{outputs[0]}#nchw")
        emit("transpose", inputs[:1], (arguments[0],), {"perm": (0, rank - 1, *range(1, rank - 1))})
        steps.append(("transpose", (), {"perm": (0, *range(2, rank), 1)}))
    if added:
        steps.append(("add", (added,), {}))
    if activation:
        further = inputs[2:3] if op == "GemmFastGelu" else ()
        steps.append((from_onnx(activation), further, _parameters(activation, values)))
    at = outputs[0] if not steps else new(f"{outputs[0]}#plain")
    emit(from_onnx(_PLAIN[op]), tuple(arguments), (at,), kept)
    for number, (name, further, attributes) in enumerate(steps, 1):
        to = outputs[0] if number == len(steps) else new(f"{outputs[0]}#plain")
        emit(name, (at, *further), (to,), attributes)
        at = to
    return True


def _parameters(activation: str, values: Mapping[str, object]) -> dict[str, object]:
    """Return the attributes of an activation, from a list or from attributes of their own."""
    given = values.get("activation_params")
    if isinstance(given, tuple):
        return dict(zip(_PARAMETERS.get(activation, ()), given, strict=False))
    prefix = "activation_"
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else ""
