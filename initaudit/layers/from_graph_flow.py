"""Where the output of each weight goes: the activation that follows, and how its signal is used.

One pass over the nodes from last to first; what is known of a value follows from what is known of its readers' outputs.
"""

from __future__ import annotations

from collections.abc import Iterable

from initaudit.graph.view import FAR, Use, View
from initaudit.layers.from_graph_fate import END, UNUSED, Decision, Ends, Fate, inner, nearest, stream
from initaudit.layers.from_graph_found import Found, signal
from initaudit.types import Node

_BOUNDED = frozenset({"sigmoid", "hardsigmoid", "softmax", "log_sigmoid"})
_SUMS = frozenset({"add", "sub", "sum", "mean"})
_SKIP_NORMS = frozenset({"skip_layer_norm", "skip_rms_norm"})  # a sum and the norm after it
_PRODUCTS = frozenset({"mul", "div"})
_SAME = frozenset({"reshape", "flatten", "transpose", "squeeze", "unsqueeze", "cast", "identity", "dropout", "view"})
_PIECES = frozenset({"split", "slice", "chunk", "gather"})
_ALONG = frozenset({"neg", "sqrt", "min", "max", "where", "reciprocal"})  # elementwise ops left over by fusing


class Flow:
    """The fate of every value that moves."""

    def __init__(self, view: View, founds: Iterable[Found], low_rank: frozenset[int] = frozenset()) -> None:
        self.view = view
        self.layers: dict[int, list[Found]] = {}
        for found in founds:
            if found.role is None or found.kind in ("embedding", "lstm", "gru", "rnn") or found.parts:
                self.layers.setdefault(found.node, []).append(found)
        self.into = {(found.node, found.source) for found in founds}
        self.adapters = 0  # bits of the nodes of low-rank additions
        for node, here in self.layers.items():
            if all(id(found) in low_rank for found in here):
                self.adapters |= 1 << node
        self.live: set[str] = set()  # made by a weight
        self.raw: set[str] = set()  # an input of the graph, moved or scaled, but no mask or position made of one
        self.above: dict[str, int] = {}  # bits of the forks a value comes from
        self.bit: dict[str, int] = {}
        self.sources: dict[str, int] = {}  # bits of the weights a value comes from without another one in between
        self._forward()
        self.fates: dict[str, Fate] = {}
        for index in range(len(view.nodes) - 1, -1, -1):
            for name in view.nodes[index].outputs:
                if name:
                    self.fates[name] = self._fate(name)

    def fate(self, name: str) -> Fate:
        """Return what becomes of a value."""
        if name not in self.fates:
            self.fates[name] = self._fate(name)
        return self.fates[name]

    # ---- forward: what is made from what

    def _forward(self) -> None:
        view = self.view
        self.raw.update(view.graph.inputs)
        for index, node in enumerate(view.nodes):
            kind = view.family(node)
            carries = kind in ("move", "pool", "norm", "activation", "reduce") and node.op not in ("cast", "cast_like")
            carries = carries or node.op in _SUMS or node.op in _PRODUCTS
            if carries and any(name in self.raw for name in node.inputs[: None if node.op == "concat" else 2]):
                self.raw.update(node.outputs)
            meets = node.op in _SUMS or node.op in _PRODUCTS or node.op in _SKIP_NORMS
            for part in node.inputs if meets else ():
                if part in view.fixed:
                    self._learned_stream(part)
                    continue
                whole = self._whole(part)
                for name in (part, whole):
                    if (len(view.readers(name)) > 1 or name != part) and name not in self.bit:
                        self.bit[name] = 1 << len(self.bit)
                        self.above[name] = self.above.get(name, 0)
            if index in self.layers or any(name in self.live for name in node.inputs):
                self.live.update(node.outputs)
        for index, node in enumerate(view.nodes):
            here = 1 << index if index in self.layers else 0
            if not here:
                for name in node.inputs:
                    here |= self.sources.get(name, 0)
            if here:
                for name in node.outputs:
                    self.sources[name] = here
            bits = 0
            for name in node.inputs:
                bits |= self.above.get(name, 0) | self.bit.get(name, 0)
            if bits:
                for name in node.outputs:
                    self.above[name] = bits

    def _learned_stream(self, name: str) -> None:
        """Mark a value that does not move with the data but is read as a signal: a class token, learned queries."""
        base = self.view.origin.get(name, name)
        if not base or base in self.bit:
            return
        if base not in self.view.graph.constants:
            if signal(self.view, base):
                self.bit[base] = 1 << len(self.bit)
            return
        todo, seen = [base], {base}
        while todo and len(seen) < FAR:
            for use in self.view.readers(todo.pop()):
                node = self.view.nodes[use.node]
                kind = self.view.family(node)
                if node.op == "concat" or (use.position == 0 and kind in ("norm", "weighted")):
                    self.bit[base] = 1 << len(self.bit)
                    return
                if kind == "move" and use.position == 0:
                    todo += [out for out in node.outputs if out not in seen]
                    seen.update(node.outputs)

    def _made_from(self, name: str, fork: str) -> bool:
        return bool(self.above.get(name, 0) & self.bit.get(fork, 0))

    def _whole(self, name: str) -> str:
        """Return the value that this one is a piece or a rearrangement of."""
        for _ in range(FAR):
            if name not in self.view.producer:
                break
            node = self.view.nodes[self.view.producer[name]]
            if node.op not in _SAME | _PIECES or node.inputs[0] in self.view.fixed:
                break
            name = node.inputs[0]
        return name

    def _sources(self, name: str) -> int:
        return self.sources.get(name, 0) & ~self.adapters

    def _low_rank(self, name: str) -> bool:
        """Whether a value comes from nothing but low-rank additions."""
        sources = self.sources.get(name, 0)
        return bool(sources) and not sources & ~self.adapters

    # ---- backward: what becomes of it

    def _fate(self, name: str) -> Fate:
        view = self.view
        readers = view.readers(name)
        fates: list[tuple[Fate, str]] = []
        modulated = False
        made = view.producer.get(name, -1)
        for use in readers:
            if use.node <= made:
                continue  # the next round of a loop
            fate, how = self._through(name, use)
            if how:
                fates.append((fate, how))
            modulated = modulated or how == "self product"
        if name in view.outputs:
            fates.append((END, "output"))
        if not fates:
            return UNUSED
        ends = Ends.NOTHING
        for fate, _ in fates:
            ends |= fate.ends
        deciding = [fate for fate, how in fates if how != "skip" and (not modulated or how in ("self product", "act"))]
        decision = nearest([fate.decision for fate in deciding] or [fate.decision for fate, _ in fates])
        return Fate(
            decision,
            ends,
            any(fate.weighted for fate, _ in fates),
            all(fate.normed for fate, _ in fates),
            inner(fate for fate, _ in fates),
        )

    def gate_chain(self, found: Found, most: int) -> int:
        """Return how many weights in a row make the gate that this one lies in; 0 in none, `most` where more do."""
        after = self.fate(found.out).inside + 1
        return min(most, after + self._gate_before(found, most)) if after else 0

    def _gate_before(self, found: Found, most: int) -> int:
        bits = self.sources.get(found.source, 0)
        longest = 0
        while bits and longest < most:
            node = bits.bit_length() - 1
            bits ^= 1 << node
            for one in self.layers.get(node, ()):
                if self.fate(one.out).inside >= 0 and most > 1:
                    longest = max(longest, 1 + self._gate_before(one, most - 1))
        return longest

    def _through(self, name: str, use: Use) -> tuple[Fate, str]:
        """Return what becomes of a value through one reader, and how it passes; "" where the values do not pass."""
        view, node = self.view, self.view.nodes[use.node]
        kind = view.family(node)
        out = node.outputs[0] if node.outputs else ""
        label = f"{node.op} {node.name}".strip()
        if use.node in self.layers or kind == "weighted":
            return self._weighted(name, use, node, label), "weight"
        if kind == "activation":
            if use.position > 0 and node.op not in ("bias_gelu", "fast_gelu"):
                return UNUSED, ""
            after = self.fate(out)
            known = node.op != "composite"
            why = f"followed by {label}" if known else "followed by an elementwise function without a name"
            decision = Decision(use.node, _torch_name(node) if known else None, why, True, known)
            return Fate(decision, after.ends, after.weighted, False, after.inside), "act"
        if kind == "norm":
            if use.position > (1 if node.op.startswith("skip") else 0):
                return UNUSED, ""
            fates = [self.fate(o) for o in node.outputs if o]
            after = self.fate(out)
            ends, how = after.ends, "pass"
            if node.op in _SKIP_NORMS:
                for fate in fates:
                    ends |= fate.ends
                end, how = self._meets(name, use, node)
                ends = stream(ends) if end is Ends.SKIP else end or ends
            elif node.op.startswith("skip"):
                ends = Ends.JOIN
            return Fate(after.decision, ends, any(f.weighted for f in fates), True, inner(fates)), how
        if kind == "softmax":
            after = self.fate(out)
            decision = Decision(use.node, None, f"followed by {label}", True)
            chosen = after.ends & (Ends.CHOICE | Ends.MIX)
            return Fate(
                decision, Ends.SOFTMAX | chosen | (after.ends & Ends.OUTPUT), after.weighted, False, after.inside
            ), "softmax"
        if kind == "index":
            if node.op in ("shape", "size"):
                return UNUSED, ""
            later = any(self.fate(o).weighted for o in node.outputs if o)
            return Fate(Decision(use.node, None, f"followed by {label}", True), Ends.CHOICE, later, False), "choice"
        if kind == "attention":
            later = any(self.fate(o).weighted for o in node.outputs if o)
            ends = Ends.MIX | (Ends.LOGITS if use.position < 2 else Ends.NOTHING)
            inside = self.fate(out).inside
            return Fate(Decision(use.node, None, f"goes into {label}", True), ends, later, False, inside), "mix"
        if node.op in _SUMS:
            return self._sum(name, use, node, out)
        if node.op in _PRODUCTS:
            return self._product(name, use, node, out, label)
        if kind == "move":
            return self._move(use, node)
        if kind in ("pool", "reduce", "quant") or node.op in _ALONG or (node.op == "pow" and use.position == 0):
            after = self.fate(out)
            return Fate(after.decision, after.ends, after.weighted, False, after.inside), "pass"
        if kind == "elementwise" and out not in self.live:
            return UNUSED, ""
        if kind == "elementwise" and node.op in (
            "greater",
            "less",
            "equal",
            "greater_or_equal",
            "less_or_equal",
            "not",
        ):
            return UNUSED, ""
        later = any(self.fate(o).weighted for o in node.outputs if o)
        decision = Decision(use.node, None, f"followed by {label}, which is not understood", True, known=False)
        return Fate(decision, Ends.UNKNOWN, later, False), "unknown"

    def _weighted(self, name: str, use: Use, node: Node, label: str) -> Fate:
        founds = self.layers.get(use.node)
        if founds is None and node.op in ("matmul", "einsum", "gemm", "conv", "conv_transpose", "linear"):
            after = self.fate(node.outputs[0])
            decision = Decision(use.node, None, f"multiplied with another signal in {label}", True)
            ends = Ends.MIX | (Ends.LOGITS if after.ends & Ends.SOFTMAX else Ends.NOTHING)
            return Fate(decision, ends, after.weighted, False, after.inside)
        if founds is None and node.op == "gather":
            return self._move(use, node)[0]
        into = founds is None or any(found.source == name for found in founds)
        decision = Decision(use.node, None, f"goes into {label}", True)
        inside = inner(self.fate(found.out) for found in founds or ())
        return Fate(decision, Ends.WEIGHT if into else Ends.MIX, True, False, inside + 1 if inside >= 0 else inside)

    def _move(self, use: Use, node: Node) -> tuple[Fate, str]:
        values = {"concat", "where", "sequence_construct", "concat_from_sequence", "phi"}
        first = 2 if node.op in ("scatter_elements", "scatter_nd", "scatter") and use.position == 2 else 0
        if use.position != first and node.op not in values:
            return UNUSED, ""
        fates = [self.fate(o) for o in node.outputs if o and (o in self.view.uses or o in self.view.outputs)]
        if not fates:
            return UNUSED, ""
        ends = Ends.NOTHING
        for fate in fates:
            ends |= fate.ends
        joined = {node.inputs[k] for k in self.view.moving(node) if node.op != "where" or k > 0}
        if node.op in values and len(joined) > 1:
            ends |= Ends.MERGE if node.op in ("where", "phi") else Ends.CONCAT
        normed = node.op in _SAME and all(fate.normed for fate in fates)
        decision = nearest([fate.decision for fate in fates])
        return Fate(decision, ends, any(fate.weighted for fate in fates), normed, inner(fates)), "pass"

    def _others(self, use: Use, node: Node) -> list[str]:
        """Return the other inputs that are signals themselves: made by a weight, or an input of the graph."""
        return [
            node.inputs[k]
            for k in self.view.moving(node)
            if k != use.position and (node.inputs[k] in self.live or node.inputs[k] in self.raw)
        ]

    def _sum(self, name: str, use: Use, node: Node, out: str) -> tuple[Fate, str]:
        after = self.fate(out)
        end, how = self._meets(name, use, node)
        if not end:
            return after, how
        ends = stream(after.ends) if end is Ends.SKIP else end
        return Fate(after.decision, ends, after.weighted, False, after.inside), how

    def _meets(self, name: str, use: Use, node: Node) -> tuple[Ends, str]:
        """Return what a sum is to one of its operands, and how that passes."""
        mine = self._sources(name)
        others = [other for other in self._others(use, node) if not mine or not self._low_rank(other)]
        fixed = [self.view.origin.get(one, one) for one in node.inputs if one in self.view.fixed]
        if not others:
            onto = any(self._made_from(name, one) for one in fixed)  # as a class token after it attended
            return (Ends.JOIN, "join") if onto else (Ends.NOTHING, "pass")
        own = [other for other in others if other == name or self._made_from(other, name)]
        if name in self.view.fixed:
            own = []  # made of learned queries alone: the data comes in by the other operand
        if mine and not own and all(self._sources(other) == mine for other in others):
            return Ends.NOTHING, "pass"  # two versions of one signal, as in a rotary embedding
        return (Ends.SKIP, "skip") if len(own) == len(others) else (Ends.JOIN, "join")

    def _product(self, name: str, use: Use, node: Node, out: str, label: str) -> tuple[Fate, str]:
        after = self.fate(out)
        others = self._others(use, node)
        if not others:
            return Fate(after.decision, after.ends, after.weighted, False, after.inside), "pass"
        other = others[0]
        if other == name:
            decision = Decision(use.node, None, f"squared by {label}", True, known=False)
            return Fate(decision, Ends.UNKNOWN, after.weighted, False, after.inside), "unknown"
        if self._made_from(other, name):
            return Fate(after.decision, after.ends | Ends.SELF, after.weighted, False, after.inside), "self product"
        mine, theirs = self._gateness(name), self._gateness(other)
        end = Ends.GATES if mine > theirs else Ends.GATED if theirs > mine else Ends.PRODUCT
        inside = after.inside
        if self._made_from(name, other):
            end, inside = Ends.GATES, 0 if mine else inside  # a bare product closes with what makes it: no side path
        elif max(mine, theirs) < 3 and self._one_weight_later(name, other):
            end = Ends.GATES
        elif max(mine, theirs) < 3 and self._one_weight_later(other, name):
            end = Ends.GATED
        ends = end
        if end is Ends.GATED:
            ends |= (self._modulated(out, other) or after).ends & ~Ends.SKIP  # gated first, no skip of its own
        decision = Decision(use.node, None, f"multiplied with another signal by {label}", end is not Ends.GATED)
        return Fate(decision, ends, after.weighted, False, inside), "product"

    def _modulated(self, out: str, scale: str) -> Fate | None:
        """Return what becomes of a scaled signal after a shift that the same weight makes as the scale."""
        readers = self.view.readers(out)
        node = self.view.nodes[readers[0].node] if len(readers) == 1 else None
        if node is None or node.op != "add" or out in self.view.outputs:
            return None
        others = self._others(readers[0], node)
        same = [other for other in others if self._sources(scale) and self._sources(other) == self._sources(scale)]
        return self.fate(node.outputs[0]) if others and len(same) == len(others) else None

    def _one_weight_later(self, name: str, other: str) -> bool:
        """Whether one weight makes `name` out of the signal that `other` is a piece of, and so is a gate on it."""
        mine, theirs = self._sources(name), self._sources(other)
        if not theirs or mine.bit_count() != 1 or not self._made_from(name, self._whole(other)):
            return False
        return all(self._sources(found.source) == theirs for found in self.layers.get(mine.bit_length() - 1, ()))

    def _gateness(self, name: str) -> int:
        """How much a factor looks like the gate: 3 a bounded activation, 2 another one, 1 one number per channel."""
        score = 0
        for _ in range(8):
            if name not in self.view.producer:
                return score
            node = self.view.nodes[self.view.producer[name]]
            kind = self.view.family(node)
            if node.op in _BOUNDED:
                return 3
            if kind == "activation":
                return 2
            moving = self.view.moving(node)
            if node.op in ("unsqueeze", "expand") or (node.op in _SUMS and len(moving) == 1 and kind == "elementwise"):
                score = max(score, int(self._per_channel(node)))
            elif node.op not in _SAME | {"split", "slice", "gather", "mul"}:
                return score
            if len(moving) != 1:
                return score
            name = node.inputs[moving[0]]
        return score

    def _per_channel(self, node: Node) -> bool:
        if node.op in ("unsqueeze", "expand"):
            return True
        constants = [self.view.constant(i) for i in node.inputs if i in self.view.fixed]
        return all(c is not None and c.size == 1 for c in constants)


def _torch_name(node: Node) -> str:
    return {"fast_gelu": "gelu", "bias_gelu": "gelu", "bias_split_gelu": "gelu", "swish": "silu"}.get(node.op, node.op)
