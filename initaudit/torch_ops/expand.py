"""Torch functions that a row alone cannot say: what their arguments decide, and what takes several nodes.

Each takes the bench, the arguments by name, the names of the results and the call, adds its nodes, and says whether it
understood the arguments; where it did not, what it added is dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from initaudit.torch_ops import attention, indexing, recurrent
from initaudit.torch_ops.bench import Bench
from initaudit.torch_ops.bind import literal
from initaudit.types import Call, Ref

Values = Mapping[str, Any]
Outputs = tuple[str, ...]
Handler = Callable[[Bench, Values, Outputs, Call], bool]


# ---- arithmetic


def _scaled(bench: Bench, value: Any, factor: Any, near: str) -> Any:
    """Return a value times a number, the value itself where the number is one."""
    if factor is None or factor == 1:
        return value
    return bench.step("mul", "mul", (value, factor), bench.fresh(near))


def _sum(op: str) -> Handler:
    def add(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
        x, other = values.get("x"), values.get("other")
        if not all(isinstance(v, Ref) or literal(v) for v in (x, other)):
            return False
        if values.get("alpha") in (None, 1):
            bench.emit(op, (bench.operand(x), bench.operand(other)), outputs, {}, call)
        else:
            bench.step(op, op, (x, _scaled(bench, other, values["alpha"], outputs[0])), outputs[0])
        return True

    return add


def _rsub(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    """Return other - alpha * self, whatever the function's parameters are called."""
    x, other, alpha = values.get("x"), values.get("other"), values.get("alpha")
    if not all(isinstance(v, Ref) or literal(v) for v in (x, other)):
        return False
    if alpha in (None, 1):
        bench.emit("sub", (bench.operand(other), bench.operand(x)), outputs, {}, call)
    else:
        bench.step("sub", "sub", (other, _scaled(bench, x, alpha, outputs[0])), outputs[0])
    return True


def _add_of(op: str) -> Handler:
    """Return a handler of x + value * tensor1 op tensor2."""

    def add(bench: Bench, values: Values, outputs: Outputs, _: Call) -> bool:
        a, b = values.get("tensor1"), values.get("tensor2")
        if not isinstance(a, Ref) or b is None or values.get("x") is None:
            return False
        part: Any = bench.step(op, op, (a, b), bench.fresh(outputs[0]))
        part = _scaled(bench, part, values.get("value"), outputs[0])
        bench.step("add", "add", (values["x"], part), outputs[0])
        return True

    return add


def _lerp(bench: Bench, values: Values, outputs: Outputs, _: Call) -> bool:
    x, end, weight = (values.get(name) for name in ("x", "end", "weight"))
    if not isinstance(x, Ref) or not isinstance(end, Ref) or weight is None:
        return False
    way = bench.step("sub", "sub", (end, x), bench.fresh(outputs[0]))
    part = bench.step("mul", "mul", (way, weight), bench.fresh(outputs[0]))
    bench.step("add", "add", (x, part), outputs[0])
    return True


def _baddbmm(bench: Bench, values: Values, outputs: Outputs, _: Call) -> bool:
    c, a, b = (values.get(name) for name in "cab")
    if not all(isinstance(v, Ref) for v in (a, b, c)):
        return False
    product: Any = bench.step("matmul", "matmul", (a, b), bench.fresh(outputs[0]))
    product = _scaled(bench, product, values.get("alpha"), outputs[0])
    beta = values.get("beta")
    if beta == 0:
        bench.step("identity", "clone", (product,), outputs[0])
    else:
        bench.step("add", "add", (_scaled(bench, c, beta, outputs[0]), product), outputs[0])
    return True


def _cosine(bench: Bench, values: Values, outputs: Outputs, _: Call) -> bool:
    pair = [v for v in (values.get("x1"), values.get("x2")) if isinstance(v, Ref)]
    axis = values.get("dim", 1)
    if len(pair) < 2 or not isinstance(axis, int):
        return False
    units = []
    for one in pair:
        out = bench.fresh(outputs[0])
        bench.emit("l2_norm", (one.name,), (out,), {"axis": axis}, bench.called("normalize", one, 2.0, axis))
        units.append(Ref(out))
    product = bench.step("mul", "mul", tuple(units), bench.fresh(outputs[0]))
    bench.emit(
        "reduce_sum", (product.name,), outputs, {"axes": (axis,), "keepdims": False}, bench.called("sum", product, axis)
    )
    return True


def _not_equal(bench: Bench, values: Values, outputs: Outputs, _: Call) -> bool:
    if values.get("x") is None or values.get("other") is None:
        return False
    same = bench.step("equal", "eq", (values["x"], values["other"]), bench.fresh(outputs[0]))
    bench.step("not", "logical_not", (same,), outputs[0])
    return True


def _where_nonzero(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    bench.emit("non_zero", (bench.operand(values.get("condition")),), outputs, {}, call)
    return True


# ---- reductions


def _axes(value: Any) -> Any:
    return (value,) if isinstance(value, int) else value or None


def _var(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, dim, keep = values.get("x"), values.get("dim"), values.get("keepdim", False)
    if not isinstance(x, Ref):
        return False
    if isinstance(dim, bool):  # var(x, unbiased)
        dim = None
    op = "reduce_std" if "std" in call.target else "reduce_var"
    attrs = {"axes": _axes(dim), "keepdims": bool(keep)}
    if "mean" in call.target and len(outputs) > 1:
        bench.emit(op, (x.name,), outputs[:1], attrs, call)
        if outputs[1]:
            bench.emit("reduce_mean", (x.name,), outputs[1:2], attrs, bench.called("mean", x, dim, keep))
        return True
    bench.emit(op, (x.name,), outputs, attrs, call)
    return True


def _norm(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, p = values.get("x"), values.get("p")
    if not isinstance(x, Ref):
        return False
    op = {1: "reduce_l1", math.inf: "reduce_max"}.get(p, "reduce_l2") if isinstance(p, (int, float)) else "reduce_l2"
    attrs = {"axes": _axes(values.get("dim")), "keepdims": bool(values.get("keepdim", False))}
    bench.emit(op, (x.name,), outputs, attrs, call)
    return True


def _adaptive(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, size = values.get("x"), values.get("output_size")
    if not isinstance(x, Ref):
        return False
    sizes = size if isinstance(size, (tuple, list)) else (size,)
    kind = "max" if "max" in call.target else "average"
    whole = all(isinstance(n, int) and n == 1 for n in sizes)
    op = f"global_{kind}_pool" if whole else f"{kind}_pool"
    bench.emit(op, (x.name,), outputs, {} if whole else {"output_size": size}, call)
    return True


# ---- products


def _conv(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, weight = values.get("x"), values.get("weight")
    if not isinstance(x, Ref) or not isinstance(weight, Ref):
        return False
    transposed = values.get("transposed") is True or "transpose" in call.target
    attrs = {
        "strides": values.get("stride", 1), "pads": values.get("padding", 0), "dilations": values.get("dilation", 1),
        "group": values.get("groups", 1),
    }  # fmt: skip
    if transposed:
        attrs["output_padding"] = values.get("output_padding", 0)
    inputs = (x.name, weight.name, bench.operand(values.get("bias")))
    bench.emit("conv_transpose" if transposed else "conv", inputs, outputs, attrs, call)
    return True


def _einsum(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    equation, operands = values.get("equation"), values.get("operands", ())
    if isinstance(operands, (tuple, list)) and operands and isinstance(operands[0], (tuple, list)):
        operands = operands[0]
    if not isinstance(equation, str) or not operands or not all(isinstance(v, Ref) for v in operands):
        return False
    bench.emit("einsum", [v.name for v in operands], outputs, {"equation": equation}, call)
    return True


def _linear_loss(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, weight, target = (values.get(name) for name in ("x", "linear_weight", "target"))
    if not isinstance(x, Ref) or not isinstance(weight, Ref) or not isinstance(target, Ref):
        return False
    bias = call.kwargs.get("linear_bias")
    scores = bench.step("linear", "linear", (x, weight, bias), bench.fresh(outputs[0]))
    bench.step("loss", "cross_entropy", (scores, target), outputs[0])
    return True


# ---- copies and casts


def _cast(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x = values.get("x")
    if not isinstance(x, Ref):
        return False
    given = [*call.args[1:], *call.kwargs.values()]
    like = next((v for v in given if isinstance(v, Ref)), None)
    dtype = next((v for v in given if isinstance(v, str)), None)
    if dtype is not None:
        bench.emit("cast", (x.name,), outputs, {"dtype": dtype}, call)
    elif like is not None:
        bench.emit("cast_like", (x.name, like.name), outputs, {}, call)
    else:
        bench.emit("identity", (x.name,), outputs, {}, call)
    return True


def _view_dtype(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, dtype = values.get("x"), values.get("dtype")
    if not isinstance(x, Ref) or not isinstance(dtype, str):
        return False
    bench.emit("cast", (x.name,), outputs, {"dtype": dtype}, call)
    return True


def _copy(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    if values.get("src") is None:
        return False
    bench.emit("identity", (bench.operand(values["src"]),), outputs, {}, call)
    return True


def _number(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    data = values.get("data")
    if isinstance(data, Ref):
        bench.emit("identity", (data.name,), outputs, {}, call)
    elif literal(data):
        bench.number(data, outputs[0])
    else:
        bench.emit("source", (), outputs, {}, call)
    return True


HANDLERS: Mapping[str, Handler] = {
    "add": _sum("add"), "sub": _sum("sub"), "rsub": _rsub, "addcmul": _add_of("mul"), "addcdiv": _add_of("div"),
    "lerp": _lerp, "cosine_similarity": _cosine, "baddbmm": _baddbmm, "not_equal": _not_equal,
    "where_nonzero": _where_nonzero, "var": _var, "norm": _norm, "adaptive": _adaptive, "conv": _conv,
    "conv_transpose": _conv, "einsum": _einsum, "linear_loss": _linear_loss, "cast": _cast,
    "view_dtype": _view_dtype, "copy": _copy, "number": _number, **indexing.HANDLERS,
    **recurrent.HANDLERS, **attention.HANDLERS,
}  # fmt: skip
