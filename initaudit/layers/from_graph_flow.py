"""Where the output of each weight goes: the activation that follows, and how its signal is used.

One pass over the nodes from last to first; what is known of a value follows from what is known of its readers' outputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Flag, auto

from initaudit.graph.view import FAR, Use, View
from initaudit.layers.from_graph_found import Found
from initaudit.types import Node

_LATE = 1 << 60
_BOUNDED = frozenset({"sigmoid", "hardsigmoid", "softmax", "log_sigmoid"})
_SUMS = frozenset({"add", "sub", "sum", "mean"})
_PRODUCTS = frozenset({"mul", "div"})
_SAME = frozenset({"reshape", "flatten", "transpose", "squeeze", "unsqueeze", "cast", "identity", "dropout", "view"})
_PIECES = frozenset({"split", "slice", "chunk", "gather"})
_ALONG = frozenset({"neg", "sqrt", "min", "max", "where", "reciprocal"})  # elementwise ops left over by fusing


class Ends(Flag):
    """How a signal ends up, over all of its readers."""

    NOTHING = 0
    WEIGHT = auto()  # goes into a weighted op
    JOIN = auto()  # is added to another signal
    SKIP = auto()  # is added to something made from itself
    MERGE = auto()  # is concatenated with another signal
    GATES = auto()  # multiplies another signal, as the gate
    GATED = auto()  # is multiplied by another signal
    PRODUCT = auto()  # is multiplied by another signal, neither of them clearly the gate
    MIX = auto()  # goes into attention or a product of two matrices
    SOFTMAX = auto()
    CHOICE = auto()  # goes into top-k or arg-max
    OUTPUT = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides the activation after a value."""

    at: int  # index of the deciding node
    name: str | None
    why: str
    firm: bool  # an activation or a weight, as against the end of the graph
    known: bool = True
    agreed: bool = True


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a value."""

    decision: Decision
    ends: Ends
    weighted: bool  # a weighted op comes later on some path
    normed: bool


_END = Fate(Decision(_LATE, None, "nothing follows but the output", False), Ends.OUTPUT, False, False)
_UNUSED = Fate(Decision(_LATE, None, "nothing reads it", False), Ends.NOTHING, False, False)


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
            for position in view.moving(node) if node.op in _SUMS or node.op in _PRODUCTS else ():
                part = node.inputs[position]
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
            fates.append((_END, "output"))
        if not fates:
            return _UNUSED
        ends = Ends.NOTHING
        for fate, _ in fates:
            ends |= fate.ends
        deciding = [fate for fate, how in fates if how != "skip" and (not modulated or how in ("self product", "act"))]
        decision = _nearest([fate.decision for fate in deciding] or [fate.decision for fate, _ in fates])
        return Fate(
            decision,
            ends,
            any(fate.weighted for fate, _ in fates),
            all(fate.normed for fate, _ in fates),
        )

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
                return _UNUSED, ""
            after = self.fate(out)
            known = node.op != "composite"
            why = f"followed by {label}" if known else "followed by an elementwise function without a name"
            decision = Decision(use.node, _torch_name(node) if known else None, why, True, known)
            return Fate(decision, after.ends, after.weighted, False), "act"
        if kind == "norm":
            if use.position > (1 if node.op.startswith("skip") else 0):
                return _UNUSED, ""
            fates = [self.fate(o) for o in node.outputs if o]
            joined = Ends.JOIN if node.op.startswith("skip") else Ends.NOTHING
            after = self.fate(out)
            ends = joined or after.ends
            return Fate(after.decision, ends, any(f.weighted for f in fates), True), "pass"
        if kind == "softmax":
            after = self.fate(out)
            decision = Decision(use.node, None, f"followed by {label}", True)
            chosen = after.ends & (Ends.CHOICE | Ends.MIX)
            return Fate(decision, Ends.SOFTMAX | chosen | (after.ends & Ends.OUTPUT), after.weighted, False), "softmax"
        if kind == "index":
            if node.op in ("shape", "size"):
                return _UNUSED, ""
            later = any(self.fate(o).weighted for o in node.outputs if o)
            return Fate(Decision(use.node, None, f"followed by {label}", True), Ends.CHOICE, later, False), "choice"
        if kind == "attention":
            later = any(self.fate(o).weighted for o in node.outputs if o)
            return Fate(Decision(use.node, None, f"goes into {label}", True), Ends.MIX, later, False), "mix"
        if node.op in _SUMS:
            return self._sum(name, use, node, out)
        if node.op in _PRODUCTS:
            return self._product(name, use, node, out, label)
        if kind == "move":
            return self._move(use, node)
        if kind in ("pool", "reduce", "quant") or node.op in _ALONG or (node.op == "pow" and use.position == 0):
            after = self.fate(out)
            return Fate(after.decision, after.ends, after.weighted, False), "pass"
        if kind == "elementwise" and out not in self.live:
            return _UNUSED, ""
        if kind == "elementwise" and node.op in (
            "greater",
            "less",
            "equal",
            "greater_or_equal",
            "less_or_equal",
            "not",
        ):
            return _UNUSED, ""
        later = any(self.fate(o).weighted for o in node.outputs if o)
        decision = Decision(use.node, None, f"followed by {label}, which is not understood", True, known=False)
        return Fate(decision, Ends.UNKNOWN, later, False), "unknown"

    def _weighted(self, name: str, use: Use, node: Node, label: str) -> Fate:
        founds = self.layers.get(use.node)
        if founds is None and node.op in ("matmul", "einsum", "gemm", "conv", "conv_transpose", "linear"):
            later = self.fate(node.outputs[0]).weighted
            return Fate(
                Decision(use.node, None, f"multiplied with another signal in {label}", True), Ends.MIX, later, False
            )
        if founds is None and node.op == "gather":
            return self._move(use, node)[0]
        into = founds is None or any(found.source == name for found in founds)
        return Fate(
            Decision(use.node, None, f"goes into {label}", True), Ends.WEIGHT if into else Ends.MIX, True, False
        )

    def _move(self, use: Use, node: Node) -> tuple[Fate, str]:
        values = {"concat", "where", "sequence_construct", "concat_from_sequence", "phi"}
        first = 2 if node.op in ("scatter_elements", "scatter_nd", "scatter") and use.position == 2 else 0
        if use.position != first and node.op not in values:
            return _UNUSED, ""
        fates = [self.fate(o) for o in node.outputs if o and (o in self.view.uses or o in self.view.outputs)]
        if not fates:
            return _UNUSED, ""
        ends = Ends.NOTHING
        for fate in fates:
            ends |= fate.ends
        if node.op in values and len({node.inputs[k] for k in self.view.moving(node)}) > 1:
            ends |= Ends.MERGE
        normed = node.op in _SAME and all(fate.normed for fate in fates)
        decision = _nearest([fate.decision for fate in fates])
        return Fate(decision, ends, any(fate.weighted for fate in fates), normed), "pass"

    def _others(self, use: Use, node: Node) -> list[str]:
        """Return the other inputs that are signals themselves: made by a weight, or an input of the graph."""
        return [
            node.inputs[k]
            for k in self.view.moving(node)
            if k != use.position and (node.inputs[k] in self.live or node.inputs[k] in self.raw)
        ]

    def _sum(self, name: str, use: Use, node: Node, out: str) -> tuple[Fate, str]:
        after = self.fate(out)
        mine = self._sources(name)
        others = [other for other in self._others(use, node) if not mine or not self._low_rank(other)]
        if not others:
            return after, "pass"
        own = [other for other in others if other == name or self._made_from(other, name)]
        if mine and not own and all(self._sources(other) == mine for other in others):
            return after, "pass"  # two versions of one signal, as in a rotary embedding
        end = Ends.SKIP if len(own) == len(others) else Ends.JOIN
        return Fate(after.decision, end, after.weighted, False), "skip" if end is Ends.SKIP else "join"

    def _product(self, name: str, use: Use, node: Node, out: str, label: str) -> tuple[Fate, str]:
        after = self.fate(out)
        others = self._others(use, node)
        if not others:
            return Fate(after.decision, after.ends, after.weighted, False), "pass"
        other = others[0]
        if other == name:
            decision = Decision(use.node, None, f"squared by {label}", True, known=False)
            return Fate(decision, Ends.UNKNOWN, after.weighted, False), "unknown"
        if self._made_from(other, name):
            return Fate(after.decision, after.ends | Ends.GATED, after.weighted, False), "self product"
        mine, theirs = self._gateness(name), self._gateness(other)
        end = Ends.GATES if mine > theirs else Ends.GATED if theirs > mine else Ends.PRODUCT
        if self._made_from(name, other) or (max(mine, theirs) < 3 and self._one_weight_later(name, other)):
            end = Ends.GATES
        elif max(mine, theirs) < 3 and self._one_weight_later(other, name):
            end = Ends.GATED
        ends = end | (after.ends if end is Ends.GATED else Ends.NOTHING)
        decision = Decision(use.node, None, f"multiplied with another signal by {label}", end is not Ends.GATED)
        return Fate(decision, ends, after.weighted, False), "product"

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


def _nearest(decisions: list[Decision]) -> Decision:
    """Return the first firm decision in execution order, and whether the others say the same."""
    order = sorted(decisions, key=lambda d: (not d.firm, d.at))
    first = order[0]
    others = {d.name for d in order[1:] if d.firm} - {first.name}
    if others and all(d.agreed for d in order):
        named = ", ".join(sorted(str(other or "none") for other in others))
        return Decision(first.at, first.name, f"{first.why}; another reader: {named}", True, first.known, False)
    return first
