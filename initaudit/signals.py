"""What is said of a whole graph: ties, theory, then the probe if it is asked for, then the risk that all speak of.

Each of these may fail without taking the rest of the report with it: what failed is a skip with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from initaudit import risk, theory
from initaudit.errors import InitauditError, UsageError
from initaudit.graph.settled import settled
from initaudit.layers.merged import merged
from initaudit.layers.owned import owned
from initaudit.risk.fit import WARNING
from initaudit.types import Audit, Evidence, Graph, Measured, Signal, Signals, Skip

Notice = Callable[[str], None]  # takes a line for the user, before something that takes a while
Progress = Callable[[int, int], None]  # what is done, and of how much
_NOTHING = Signal()
_OPEN = "what stands between the weights of this chain is not told (--activation NAME, --model or --arch tells it)"
_SLOW = 1.0  # seconds from which a probe is announced


def judged(
    whole: Audit,
    *,
    probe: bool,
    data: Any = None,
    seed: int = 0,
    notice: Notice | None = None,
    progress: Progress | None = None,
) -> tuple[Audit, tuple[str, ...]]:
    """Return the audit with what theory, probe and risk say, and the parts of these that failed by a fault of ours.

    Args:
        whole: without signals.
        probe: run a small batch.
        data: what the batch is made of, see `initaudit.check`.
        seed: of what the probe draws.
        notice: told what the probe will cost, before it runs.
        progress: told (0, 0) before ties are looked for, which has no share to tell.

    Raises:
        UsageError: torch is not there, or the data do not fit.
    """
    crashes: list[str] = []

    def tried(part: str, work: Callable[[], Audit]) -> Audit:
        try:
            return work()
        except InitauditError:
            raise
        except Exception as error:
            crashes.append(f"{part} failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
            return replace(whole, skipped=(*whole.skipped, Skip(part, crashes[-1], parameter=False)))

    if whole.model.graph is not None and whole.model.graph_evidence < Evidence.TRACED:
        whole = _in_order(whole, whole.model.graph)
    if whole.model.graph is not None:
        if progress is not None:
            progress(0, 0)
        whole = tried("symmetry", lambda: _freed(whole))
    before = whole.measured
    if whole.model.open:
        whole = tried("theory", lambda: _agreed(whole))
        if whole.theory is None:  # nothing that holds for all, or it failed: there is no graph then
            model = replace(whole.model, graph=None, other=(), source="")
            whole = replace(whole, model=model, measured=before, theory=Signals((), why=_OPEN, by="theory"))
    graph = None if whole.model.open else whole.model.graph
    if graph is not None:
        whole = tried("theory", lambda: _predicted(whole, graph))
    if probe:
        whole = tried("probe", lambda: _probed(whole, data, seed, notice))
    if graph is not None and whole.model.graph_source not in ("traced", "inferred") and merged(graph):
        whole = replace(whole, probe=_folded(whole.probe), theory=_folded(whole.theory))
    if not whole.model.open:
        whole = tried("risk", lambda: replace(whole, risk=risk.judge(whole)))
    return whole, tuple(crashes)


def _in_order(whole: Audit, graph: Graph) -> Audit:
    """Return the audit with its layers in execution order, where they were not read from the graph."""
    order = {tensor.name: at for at, tensor in enumerate(graph.constants.values())}
    return replace(whole, measured=tuple(sorted(whole.measured, key=lambda m: order.get(m.layer.weight.name, -1))))


def _agreed(whole: Audit) -> Audit:
    """Add what theory says of each graph that the model may be, where all are as bad as a warning: of the best one.

    Where some of its symptoms are shared by all others, only these are told.
    """
    graph = whole.model.graph
    every: list[Audit] = []
    for one in () if graph is None else (graph, *whole.model.other):
        judged = _predicted(replace(whole, model=replace(whole.model, graph=one, other=())), one)
        told = risk.judge(judged)
        if told is None or told.value < WARNING:
            return whole
        every.append(replace(judged, risk=told))
    best = min(every, key=_value)
    if best.risk is None:
        return whole
    shared = frozenset.intersection(*(_kinds(one) for one in every))
    symptoms = tuple(s for s in best.risk.symptoms if s.kind in shared)
    if all(s.capped for s in symptoms):
        symptoms = best.risk.symptoms
    return replace(best, model=whole.model, risk=replace(best.risk, symptoms=symptoms))


def _value(one: Audit) -> float:
    return 1.0 if one.risk is None else one.risk.value


def _kinds(one: Audit) -> frozenset[str]:
    return frozenset(() if one.risk is None else (s.kind for s in one.risk.symptoms))


def _freed(whole: Audit) -> Audit:
    """Add which units can ever differ and which parameters can ever move."""
    from initaudit import symmetry  # noqa: PLC0415  only where there is a graph

    own = [m.layer for m in whole.measured]
    found = owned(symmetry.of_model(whole.model, own), whole.model, own, whole.skipped)
    still = {p.name: p for p in found.parameters}
    rows = found.layers or (None,) * len(own)
    measured = tuple(
        replace(m, freedom=row, movement=still.get(m.layer.weight.name))
        for m, row in zip(whole.measured, rows, strict=True)
    )
    return replace(whole, measured=measured, freedom=found)


def _folded(signals: Signals | None) -> Signals | None:
    return None if signals is None else replace(signals, folded=True)


def _predicted(whole: Audit, graph: Graph) -> Audit:
    """Add to each layer what theory says of it."""
    made = theory.predict(settled(graph), whole.measured, whole.model.examples)
    return replace(whole, measured=_with(whole.measured, made, "predicted"), theory=made)


def _probed(whole: Audit, data: Any, seed: int, notice: Notice | None) -> Audit:
    """Add to each layer what a small batch through the model says of it; where it cannot run, the reason is a skip."""
    made = _run(whole, data, seed, notice)
    skipped = (*whole.skipped, Skip("probe", made.why, parameter=False)) if made.why else whole.skipped
    return replace(whole, measured=_with(whole.measured, made, "probed"), probe=made, skipped=skipped)


def _run(whole: Audit, data: Any, seed: int, notice: Notice | None) -> Signals:
    graph = None if whole.model.open else whole.model.graph
    if graph is None:
        why = "there is no graph to run: name the code with --model or --arch, or audit an ONNX export"
        if whole.model.open:
            why += ", or say with --activation what stands between the weights"
        return Signals((), why=why)
    try:
        from initaudit.live import probe as probing  # noqa: PLC0415  imports torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError("the probe needs torch: pip install torch") from None
    given = None if data is None else probing.read_data(data)
    graph = settled(graph)
    own = [m.layer for m in whole.measured]
    if notice is not None:
        cost = probing.estimate(graph, own, given)
        if cost.seconds > _SLOW and not cost.refused:
            notice(f"probing: {cost.sentence}")
    made: Signals = probing.probe(graph, own, given, seed=seed, examples=whole.model.examples)
    if made.layers and given is not None and len(given) >= len(graph.inputs) and _alike(given):
        return Signals((), why="the data hold no two inputs that differ, and it measures what differs between inputs")
    return made


def _alike(data: Mapping[str, Any]) -> bool:
    """Whether all samples are the same one, as where there is only one."""
    return all(bool(value.ndim and (value == value[:1]).all()) for value in data.values())


def _with(measured: Sequence[Measured], made: Signals, name: str) -> tuple[Measured, ...]:
    """Add rows under a name; a row that says nothing is left out, so that the other judge's figures stand."""
    if not made.layers:
        return tuple(measured)
    rows: list[Any] = [None if row == _NOTHING else row for row in made.layers]
    return tuple(replace(m, **{name: row}) for m, row in zip(measured, rows, strict=True))
