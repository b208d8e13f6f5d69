"""Where the output of each weight goes: the activation that follows, and how its signal is used.

One pass over the nodes from last to first; what is known of a value follows from what is known of its readers' outputs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from initaudit.graph.view import Use, View
from initaudit.layers.from_graph_bends import bends, elementwise_of
from initaudit.layers.from_graph_fate import END, UNUSED, Decision, Ends, Fate, inner, nearest, stream
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_functions import called
from initaudit.layers.from_graph_gates import ASKS, Gates
from initaudit.layers.from_graph_origin import PRODUCTS, SKIP_NORMS, SUMS
from initaudit.types import Node

_SHORT = 8  # steps from attention logits to their softmax
_BRANCH = 60  # values between the two ends of a branch
_ALONG = frozenset({"neg", "sqrt", "min", "max", "where", "reciprocal"})  # elementwise ops left over by fusing


class Flow(Gates):
    """The fate of every value that moves."""

    def __init__(self, view: View, founds: Iterable[Found], low_rank: Collection[int] = ()) -> None:
        super().__init__(view, founds, low_rank)
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
        if modulated:
            ends &= ~Ends.GATES  # the gate is made of it, so it is the signal
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
        node = self.view.nodes[use.node]
        kind = self.family(node)
        out = node.outputs[0] if node.outputs else ""
        label = f"{node.op} {node.name}".strip()
        if node.attrs.get("constant"):
            return UNUSED, ""
        if use.node in self.layers or kind == "weighted":
            return self._weighted(name, use, node, label), "weight"
        if kind == "activation":
            if use.position > 0 and node.op not in ("bias_gelu", "fast_gelu"):
                return UNUSED, ""
            after = self.fate(out)
            function = called(node)
            why = f"followed by {label}{function.note}" if node.op != "composite" else f"followed by {function.note}"
            decision = Decision(use.node, function.name, why, True, function.known, function.sure)
            return Fate(decision, after.ends, after.weighted, False, after.inside), "act"
        if kind == "norm":
            if use.position > (1 if node.op.startswith("skip") else 0):
                return UNUSED, ""
            fates = [self.fate(o) for o in node.outputs if o]
            after = self.fate(out)
            ends, how = after.ends, "pass"
            if node.op in SKIP_NORMS:
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
            if node.op in ("sort", "top_k") and not any(o and self.view.readers(o) for o in node.outputs[1:]):
                return self._not_understood(use, node, label)  # the values in another order, no choice of others
            return Fate(Decision(use.node, None, f"followed by {label}", True), Ends.CHOICE, later, False), "choice"
        if kind == "attention":
            later = any(self.fate(o).weighted for o in node.outputs if o)
            ends = Ends.MIX | (Ends.LOGITS if use.position < 2 else Ends.NOTHING)
            inside = self.fate(out).inside
            return Fate(Decision(use.node, None, f"goes into {label}", True), ends, later, False, inside), "mix"
        if bends(self, name, node, use.position):
            return self._not_understood(use, node, label, len(self.view.nodes))
        if node.op in SUMS:
            return self._sum(name, use, node, out)
        if node.op in PRODUCTS:
            return self._product(name, use, node, out, label)
        if kind == "move":
            return self._move(use, node)
        if kind in ("pool", "reduce", "quant") or node.op in _ALONG or (node.op == "pow" and use.position == 0):
            after = self.fate(out)
            normed = after.normed and (kind in ("pool", "reduce", "quant") or node.op == "neg")  # its scale passes
            choice = kind == "reduce" and len(node.outputs) > 1 and self.view.readers(node.outputs[1])  # max and where
            ends = after.ends | Ends.CHOICE if choice else after.ends
            return Fate(after.decision, ends, after.weighted or bool(choice), normed, after.inside), "pass"
        if kind == "elementwise" and out not in self.live:
            return UNUSED, ""
        if kind == "elementwise" and node.op in ASKS:
            return UNUSED, ""
        return self._not_understood(use, node, label)

    def _not_understood(self, use: Use, node: Node, label: str, wait: int = 0) -> tuple[Fate, str]:
        later = any(self.fate(o).weighted for o in node.outputs if o)
        at = use.node + wait  # a bound counts after what is known of other readers
        decision = Decision(at, None, f"followed by {label}, which is not understood", True, known=False)
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
        past = founds is not None and len(founds) == 1 and self._past(name, founds[0])
        decision = Decision(use.node, None, f"goes into {label}", firm=not past)  # the branch it passes says more
        inside = inner(self.fate(found.out) for found in founds or ())
        return Fate(decision, Ends.WEIGHT if into else Ends.MIX, True, False, inside + 1 if inside >= 0 else inside)

    def _past(self, name: str, found: Found) -> bool:
        """Whether a weight projects a value on its way past a branch: its output is added to what the branch does."""
        readers = self.view.readers(found.out)
        if len(readers) != 1 or self.view.nodes[readers[0].node].op not in SUMS:
            return False
        todo = [one for one in self.view.nodes[readers[0].node].inputs if one != found.out]
        seen: set[str] = set()
        while todo and len(seen) < _BRANCH:
            one = todo.pop()
            if one == name:
                return bool(seen)
            if one in self.view.producer and one not in seen:
                seen.add(one)
                todo += [i for i in self.view.nodes[self.view.producer[one]].inputs if i not in self.view.fixed]
        return False

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
        normed = node.op not in values and first == 0 and all(fate.normed for fate in fates)
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
            shifted = any(self._table(one) for one in node.inputs if one != name)
            return (replace(after, normed=False) if shifted else after), how
        ends = stream(after.ends) if end is Ends.SKIP else end
        if end is Ends.JOIN and after.ends & Ends.SOFTMAX and self._logits(out):
            ends = Ends.LOGITS  # a bias of positions, no branch
        return Fate(after.decision, ends, after.weighted, False, after.inside), how

    def _logits(self, name: str) -> bool:
        """Whether a sum of a product of two signals and more goes into a softmax alone."""
        operands = self.view.nodes[self.view.producer[name]].inputs
        makers = [self.view.producer.get(self.chain(one)[-1], -1) for one in operands]
        dotted = any(k >= 0 and k not in self.layers and self.view.nodes[k].op in ("matmul", "einsum") for k in makers)
        for _ in range(_SHORT if dotted else 0):
            readers = self.view.readers(name)
            node = self.view.nodes[readers[0].node] if len(readers) == 1 else None
            kind = "" if node is None else self.family(node)
            if node is None or kind not in ("softmax", "move", "elementwise"):
                return False
            if kind == "softmax":
                return True
            name = node.outputs[0]
        return False

    def _table(self, name: str) -> bool:
        """Whether a value is a learned table, as of positions, whose sum with a signal has a scale of its own."""
        tensor = self.view.constant(name)
        return tensor is not None and sum(extent > 1 for extent in tensor.shape) > 1

    def _meets(self, name: str, use: Use, node: Node) -> tuple[Ends, str]:
        """Return what a sum is to one of its operands, and how that passes."""
        mine = self.near(name)
        others = [one for one in self._others(use, node) if not self.statistic(one, node.outputs[0])]
        others = [one for one in others if not mine or not self.low_rank(one)]
        fixed = [self.view.origin.get(one, one) for one in node.inputs if one in self.view.fixed]
        if not others:
            onto = any(self.made_from(name, one) for one in fixed)  # as a class token after it attended
            return (Ends.JOIN, "join") if onto else (Ends.NOTHING, "pass")
        if name == self.shifted(use.node):
            return Ends.NOTHING, "pass"
        own = [other for other in others if other == name or self.past(name, other)]
        if name in self.view.fixed:
            own = []  # made of learned queries alone: the data comes in by the other operand
        if mine and not own and all(self._version(name, mine, other) for other in others):
            return Ends.NOTHING, "pass"  # two versions of one signal, as in a rotary embedding
        return (Ends.SKIP, "skip") if len(own) == len(others) else (Ends.JOIN, "join")

    def _version(self, name: str, mine: int, other: str) -> bool:
        """Whether two values come from the same weights, neither past a branch on the other."""
        theirs = self.near(other)
        return theirs == mine or (bool(theirs) and theirs | mine in (theirs, mine) and not self.past(other, name))

    def _product(self, name: str, use: Use, node: Node, out: str, label: str) -> tuple[Fate, str]:
        after = self.fate(out)
        others = [other for other in self._others(use, node) if not self.masks(other, out)]
        if not others:
            return after, "pass"
        other = others[0]
        if other == name:
            decision = Decision(use.node, None, f"squared by {label}", True, known=False)
            return Fate(decision, Ends.UNKNOWN, after.weighted, False, after.inside), "unknown"
        end = self.gating(name, other)
        if end is Ends.SELF:
            decision = after.decision
            if elementwise_of(self, other, name):
                why = f"multiplied with a function of itself by {label}, which is not understood"
                decision = Decision(use.node, None, why, True, known=False)
            return Fate(decision, after.ends | Ends.SELF, after.weighted, False, after.inside), "self product"
        inside = after.inside
        if end is Ends.GATES and self.made_from(name, other):  # a bare product closes with what makes it: no side path
            inside = 0 if self.gateness(name) else inside
        ends: Ends = end
        decision = Decision(use.node, None, f"multiplied with another signal by {label}", end is not Ends.GATED)
        bent = after.decision.firm and (after.decision.name is not None or not after.decision.known)
        if end is Ends.GATED:
            ends |= (self._modulated(out, other) or after).ends & ~Ends.SKIP  # gated first, no skip of its own
            ends = ends & ~Ends.GATED if self.conditional(name, other) else ends
            decision = after.decision if bent else decision
        elif end is Ends.PRODUCT and bent:
            why = f"{decision.why}, then {after.decision.why}"  # which of the two it shapes is not told
            decision = replace(after.decision, why=why, agreed=False)
        return Fate(decision, ends, after.weighted, False, inside), "product"

    def _modulated(self, out: str, scale: str) -> Fate | None:
        """Return what becomes of a scaled signal after a shift that the same weight makes as the scale."""
        readers = self.view.readers(out)
        node = self.view.nodes[readers[0].node] if len(readers) == 1 else None
        if node is None or node.op != "add" or out in self.view.outputs:
            return None
        others = self._others(readers[0], node)
        same = [other for other in others if self.near(scale) and self.near(other) == self.near(scale)]
        return self.fate(node.outputs[0]) if others and len(same) == len(others) else None
