"""Attention with its projections inside, and whole encoder layers, taken apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from initaudit.torch_ops.bench import Bench
from initaudit.types import Call, Ref

Values = Mapping[str, Any]
Outputs = tuple[str, ...]


class _Steps:
    """Adds the nodes of one expansion, each with a call of its own."""

    def __init__(self, bench: Bench, near: str) -> None:
        self.bench = bench
        self.near = near

    def do(self, op: str, target: str, args: tuple[Any, ...], operands: int, out: str = "", **attrs: Any) -> Ref:
        """Add a node whose first arguments are its operands."""
        out = out or self.bench.fresh(self.near)
        names = [self.bench.operand(a) for a in args[:operands]]
        self.bench.emit(op, names, (out,), attrs, self.bench.called(target, *args))
        return Ref(out)

    def linear(self, x: Ref, weight: Any, bias: Any, out: str = "") -> Ref:
        return self.do("linear", "linear", (x, weight, bias), 3, out)

    def part(self, weight: Any, start: int, length: int) -> Any:
        if weight is None:
            return None
        return self.do("slice", "narrow", (weight, 0, start, length), 1, index=(slice(start or None, start + length),))

    def norm(self, x: Ref, weight: Any, bias: Any, eps: Any, out: str = "") -> Ref:
        size = self.bench.shape(weight) if weight is not None else None
        out = out or self.bench.fresh(self.near)
        call = self.bench.called("layer_norm", x, size, weight, bias, eps)
        names = [x.name, self.bench.operand(weight), self.bench.operand(bias)]
        self.bench.emit("layer_norm", names, (out,), {"epsilon": eps, "normalized_shape": size}, call)
        return Ref(out)

    def heads(self, x: Ref, count: Any) -> Ref:
        """(batch, length, channels) -> (batch, head, length, channels of a head)."""
        apart = self.do("reshape", "unflatten", (x, -1, (count, -1)), 1, axis=-1, sizes=(count, -1))
        return self.do("transpose", "transpose", (apart, 1, 2), 1, perm=(0, 2, 1, 3))

    def attend(self, q: Ref, k: Ref, v: Ref, mask: Any, count: Any, weights: str = "") -> Ref:
        q, k, v = (self.heads(x, count) for x in (q, k, v))
        out = self.bench.fresh(self.near)
        call = self.bench.called("scaled_dot_product_attention", q, k, v, mask)
        names = [q.name, k.name, v.name, self.bench.operand(mask)]
        self.bench.emit("scaled_dot_product_attention", names, (out, weights) if weights else (out,), {}, call)
        back = self.do("transpose", "transpose", (Ref(out), 1, 2), 1, perm=(0, 2, 1, 3))
        return self.do("reshape", "flatten", (back, -2), 1)


def _projected(steps: _Steps, values: Values, q: Ref, k: Ref, v: Ref) -> tuple[Ref, Ref, Ref] | None:
    weight, bias = values.get("in_proj_weight"), values.get("in_proj_bias")
    own = [values.get(f"{name}_proj_weight") for name in "qkv"]
    shape = steps.bench.shape(weight) if isinstance(weight, Ref) else None
    width = values.get("embed_dim")
    if not isinstance(width, int):
        width = shape[0] // 3 if shape and shape[0] else None
    if isinstance(weight, Ref) and q == k == v:
        packed = steps.linear(q, weight, bias)
        names = tuple(steps.bench.fresh(steps.near) for _ in range(3))
        call = steps.bench.called("chunk", packed, 3, -1)
        steps.bench.emit("split", (packed.name,), names, {"chunks": 3, "axis": -1}, call)
        return Ref(names[0]), Ref(names[1]), Ref(names[2])
    if not isinstance(width, int):
        return None
    out = []
    for place, (x, alone) in enumerate(zip((q, k, v), own, strict=True)):
        mine = steps.part(weight, place * width, width) if isinstance(weight, Ref) else alone
        if not isinstance(mine, Ref):
            return None
        out.append(steps.linear(x, mine, steps.part(bias, place * width, width)))
    return out[0], out[1], out[2]


def _multi_head(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    q, k, v = (values.get(name) for name in ("query", "key", "value"))
    if not (isinstance(q, Ref) and isinstance(k, Ref) and isinstance(v, Ref)):
        return False
    if not isinstance(values.get("out_proj_weight"), Ref):
        return False
    steps = _Steps(bench, outputs[0] or "%attention")
    native = "native" in call.target
    if not native:  # time first
        moved = {x.name: steps.do("transpose", "transpose", (x, 0, 1), 1, perm=(1, 0, 2)) for x in (q, k, v)}
        q, k, v = (moved[x.name] for x in (q, k, v))
    made = _projected(steps, values, q, k, v)
    if made is None:
        return False
    weights = outputs[1] if len(outputs) > 1 else ""
    mask = values.get("attn_mask")
    mixed = steps.attend(*made, mask if isinstance(mask, Ref) else None, values.get("num_heads"), weights)
    out = outputs[0] or bench.fresh("%attention")
    last = steps.linear(mixed, values["out_proj_weight"], values.get("out_proj_bias"), out if native else "")
    if not native:
        steps.do("transpose", "transpose", (last, 0, 1), 1, out, perm=(1, 0, 2))
    return True


def _encoder_layer(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x = values.get("x")
    needed = ("in_proj_weight", "out_proj_weight", "linear1_weight", "linear2_weight")
    if not isinstance(x, Ref) or not all(isinstance(values.get(name), Ref) for name in needed):
        return False
    steps = _Steps(bench, outputs[0])
    first = bool(values.get("norm_first"))
    eps = values.get("eps")
    mask = values.get("attn_mask")

    def norm(which: int, at: Ref, out: str = "") -> Ref:
        return steps.norm(at, values.get(f"norm{which}_weight"), values.get(f"norm{which}_bias"), eps, out)

    def attention(at: Ref) -> Ref | None:
        made = _projected(steps, values, at, at, at)
        if made is None:
            return None
        mixed = steps.attend(*made, mask if isinstance(mask, Ref) else None, values.get("num_heads"))
        return steps.linear(mixed, values["out_proj_weight"], values.get("out_proj_bias"))

    def feed_forward(at: Ref) -> Ref:
        act = "gelu" if values.get("use_gelu") else "relu"
        inner = steps.linear(at, values["linear1_weight"], values.get("linear1_bias"))
        return steps.linear(steps.do(act, act, (inner,), 1), values["linear2_weight"], values.get("linear2_bias"))

    mixed = attention(norm(1, x) if first else x)
    if mixed is None:
        return False
    at = steps.do("add", "add", (x, mixed), 2)
    if first:
        steps.do("add", "add", (at, feed_forward(norm(2, at))), 2, outputs[0])
    else:
        at = norm(1, at)
        norm(2, steps.do("add", "add", (at, feed_forward(at)), 2), outputs[0])
    return True


HANDLERS: Mapping[str, Callable[[Bench, Values, Outputs, Call], bool]] = {
    "multi_head": _multi_head,
    "encoder_layer": _encoder_layer,
}
