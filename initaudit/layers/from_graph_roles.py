"""The role of a weight in a graph, told by what becomes of its output."""

from __future__ import annotations

from initaudit.layers.from_graph_fate import Ends
from initaudit.layers.from_graph_flow import Flow
from initaudit.layers.from_graph_found import Found
from initaudit.types import Evidence, Role

_LONG = 5  # a gate of so many weights in a row is no side path: it does the work, as a mask over a signal does

# A signal that only goes such ways reaches what comes later through its weight alone.
_ONWARD = Ends.WEIGHT | Ends.SKIP | Ends.CONCAT | Ends.SELF

_TRUNK = {
    Ends.SKIP: "its output starts the stream that later branches are added to",
    Ends.CONCAT: "its output goes on to the next weight, concatenated with another signal",
    Ends.SELF: "its output goes on to the next weight, times a gate made from itself",
}
_OTHER = {
    Ends.LATER: "the stream it starts does not go on to weights alone",
    Ends.MERGE: "its output is chosen instead of another signal",
    Ends.GATED: "its output is multiplied by a gate",
    Ends.PRODUCT: "its output is multiplied with another signal",
    Ends.LOGITS: "its output goes into attention logits",
    Ends.MIX: "its output goes into a product of signals, as in attention",
    Ends.SOFTMAX: "its output goes into a softmax",
    Ends.OUTPUT: "its output is also an output of the graph",
    Ends.UNKNOWN: "its output goes into an op that is not understood",
}


def role_of(flow: Flow, found: Found, adapter: bool) -> tuple[Role, Evidence, str]:
    """Return the role, how sure that is, and why in a few words."""
    if found.role is not None:
        sure = Evidence.TRACED if found.kind != "parameter" or found.sure else Evidence.NAMED
        round_again = found.role is Role.OTHER and found.kind in ("lstm", "gru", "rnn")
        return found.role, sure, "its output goes round from step to step" if round_again else f"role: {found.role}"
    fate = flow.fate(found.out)
    ends = fate.ends
    if adapter:
        return Role.ADAPTER, Evidence.TRACED, "a low-rank product added to what a larger weight makes of the same input"
    if ends & Ends.CHOICE and fate.weighted:
        return Role.ROUTER, Evidence.TRACED, "its output chooses among what comes after"
    if ends & Ends.GATES:
        return Role.GATE, Evidence.TRACED, "its output multiplies another signal"
    if 0 < flow.gate_chain(found, _LONG) < _LONG:
        return Role.GATE, Evidence.TRACED, "inside a gate: all that comes of it multiplies another signal"
    if ends & Ends.JOIN:
        return Role.BRANCH_END, Evidence.TRACED, "its output is added to another signal"
    if not fate.weighted:
        return Role.HEAD, Evidence.TRACED, "nothing weighted comes after it"
    if ends == Ends.WEIGHT:
        return Role.TRUNK, Evidence.TRACED, "its output goes on to the next weight and nowhere else"
    gated = Ends.GATED if ends & Ends.SKIP else Ends.NOTHING  # the stream itself passes ungated
    if ends and not ends & ~(_ONWARD | gated):
        return Role.TRUNK, Evidence.TRACED, "; ".join(text for end, text in _TRUNK.items() if ends & end)
    told = _OTHER if not ends & Ends.LOGITS else {end: text for end, text in _OTHER.items() if end is not Ends.MIX}
    return (
        Role.OTHER,
        Evidence.TRACED,
        "; ".join(text for end, text in told.items() if ends & end) or "no role is proven",
    )
