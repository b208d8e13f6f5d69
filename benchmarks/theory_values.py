"""Where in a model does theory go wrong? Every value of its graph, in order of execution, as measured and as said.

    python -m benchmarks.theory_values MODEL [--cache FOLDER] [--from N] [--nodes N] [--off 0.15] [--back]

MODEL is a model of the zoo or a pair of trainability_nets. One line a value: the op that makes it, second moment,
variance across inputs, cosine between inputs, the mean square of the cotangent of one input (the way back as the
probe starts it), each measured by the probe's own run and told by theory, with the decades between them. A line is
marked `<` where a figure is off by more than --off decades while those of everything that the op reads are not: that
op is to blame. With --back the lines go from the output to the input and the marks are of the cotangents.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks import theory_cases
from benchmarks.theory_cases import Case
from initaudit.types import Graph, Node


@dataclass(slots=True)
class Seen:
    """What was measured of a value, or said of it."""

    square: float = math.nan  # second moment
    variance: float = math.nan  # across inputs
    cosine: float = math.nan  # between two inputs
    cotangent: float = math.nan  # mean square per element of one input, the whole cotangent of an input being 1
    shape: tuple[int, ...] = ()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.theory_values")
    parser.add_argument("model")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--from", dest="first", type=int, default=0, help="first node to show")
    parser.add_argument("--nodes", type=int, default=400, help="how many")
    parser.add_argument("--off", type=float, default=0.15, help="decades that count as wrong")
    parser.add_argument("--back", action="store_true", help="from the output to the input")
    options = parser.parse_args()
    name, family = next(row for row in theory_cases.names([options.model]) if row[0] == options.model)
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.cache or Path(scratch)
        if not theory_cases.path(folder, name).exists():
            theory_cases.make(folder, name, family)
        case = theory_cases.load(folder, name)
        real, said = measured(case), told(case)
    rows = _rows(case.graph, real, said, options.off, options.back)
    if options.back:
        rows.reverse()
    print(f"{'node':>5} {'op':24} {'value':34} {'shape':20} | {'second moment':>24} | {'variance over inputs':>24} | "
          f"{'cosine':>13} | {'cotangent':>24}")  # fmt: skip
    for line in rows[options.first : options.first + options.nodes]:
        print(line)
    return 0


# ---- measured


def measured(case: Case) -> dict[str, Seen]:
    """Return what the probe's run shows of every value: by its first pass, with its own batch and cotangents."""
    import torch

    from initaudit.live.probe import probe, probing
    from initaudit.live.probe.back import Back
    from initaudit.live.probe.lockstep import Lockstep

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    out: dict[str, Seen] = {}
    real = Lockstep.together
    passes: list[int] = []
    done: list[bool] = []

    def together(self: Any, feeds: Sequence[Mapping[str, Any]], wanted: Iterable[str], seen: Any, *rest: Any) -> Any:
        passes.append(0)
        if len(passes) > 1 and out:
            return real(self, feeds, wanted, seen, *rest)
        inputs = len(feeds) * max((v.shape[0] for v in feeds[0].values() if v.dim()), default=1)

        def both(name: str, values: Sequence[torch.Tensor], whole: torch.Tensor | None) -> None:
            seen(name, values, whole)
            out[name] = _seen(values, inputs // len(feeds) if len(values) > 1 else 0)
            scale = inputs / sum(v.numel() for v in values) if values[0].numel() else 0.0
            for value in values if whole is None else [whole]:
                if value.requires_grad:
                    value.register_hook(_Hook(out[name], scale, done))

        return real(self, feeds, wanted, both, *rest)

    class First(Back):
        """Goes back once with a unit vector for each input, before the probe does what it wants."""

        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            if not done:
                done.append(True)
                self.alone()

    with patch.object(Lockstep, "together", together), patch.object(probing, "Back", First):
        made = probe(case.graph, [m.layer for m in case.measured])
    if made.why:
        print(made.why, file=sys.stderr)
    return out


def _seen(values: Sequence[Any], batch: int) -> Seen:
    """Measure a value; where the first axis is that of the inputs, they are compared, else the runs are."""
    import torch

    first = values[0]
    shape = tuple(first.shape)
    if not first.is_floating_point() or not first.numel() or any(v.shape != first.shape for v in values):
        return Seen(shape=shape)
    with torch.no_grad():
        stacked = torch.stack([v.detach().double() for v in values])
        square = float(stacked.square().mean())
        if len(values) < 2:
            return Seen(square, 0.0, 1.0, shape=shape)
        if batch > 1 and first.dim() and first.shape[0] == batch:
            rows = stacked.flatten(0, 1).reshape(len(values) * batch, -1)
        else:
            rows = stacked.reshape(len(values), -1)
        variance = float(rows.var(0).mean())
        unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-300)
        n = len(rows)
        cosine = float((unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1)))
    return Seen(square, variance, cosine, shape=shape)


class _Hook:
    """Takes the cotangent of one tensor on the first way back, which comes after the way up is done."""

    def __init__(self, seen: Seen, scale: float, done: Sequence[bool]) -> None:
        self.seen, self.scale, self.done, self.called = seen, scale, done, False

    def __call__(self, gradient: Any) -> None:
        """Add its mean square; runs are weighted so that all inputs together have size 1."""
        if not self.done or self.called:
            return
        self.called = True
        before = 0.0 if math.isnan(self.seen.cotangent) else self.seen.cotangent
        self.seen.cotangent = before + float(gradient.detach().double().square().sum()) * self.scale


# ---- said


def told(case: Case) -> dict[str, Seen]:
    """Return what theory says of every value that it reads."""
    from initaudit.theory import walked

    _, walk = walked(case.graph, case.measured)
    out: dict[str, Seen] = {}
    for name, value in walk.kernels.items():
        if value is not None:
            whole = float(value.same[0])
            cosine = float(value.cross[0]) / whole if whole > 0 else math.nan
            out[name] = Seen(whole, float(value.own[0]), cosine, shape=value.shape)
    for name, back in walk.backs.items():
        if back is not None and name in out:
            out[name].cotangent = float(back.each[0])
    if walk.unread:
        print(f"unread: {', '.join(walk.unread)}")
    return out


# ---- lines


def _rows(graph: Graph, real: Mapping[str, Seen], said: Mapping[str, Seen], off: float, back: bool) -> list[str]:
    wrong = {
        name: {k for k in _FIGURES if _decades(getattr(seen, k), getattr(said.get(name, Seen()), k)) > off}
        for name, seen in real.items()
    }
    readers: dict[str, set[str]] = {}
    for node in graph.nodes:
        for name in node.inputs:
            readers.setdefault(name, set()).update(node.outputs)
    rows = []
    for at, node in enumerate(graph.nodes):
        for name in node.outputs:
            if name not in real or math.isnan(real[name].square):
                continue
            others = readers.get(name, set()) if back else set(node.inputs)
            blamed = any(
                k in wrong[name] and not any(k in wrong.get(other, ()) for other in others) for k in _FIGURES
                if back == (k == "cotangent")
            )  # fmt: skip
            rows.append(_line(at, node, name, real[name], said.get(name, Seen())) + (" <" if blamed else ""))
    return rows


_FIGURES = ("square", "variance", "cotangent")


def _decades(one: float, other: float) -> float:
    """Return how far two figures are apart; 0 where one is not known."""
    if math.isnan(one) or math.isnan(other) or max(one, other) < 1e-30:
        return 0.0
    return abs(math.log10(max(one, 1e-40) / max(other, 1e-40)))


def _line(at: int, node: Node, name: str, real: Seen, said: Seen) -> str:
    pairs = " | ".join(_pair(getattr(real, k), getattr(said, k)) for k in ("square", "variance"))
    cosine = f"{_short(real.cosine)} {_short(said.cosine)}"
    shape = "x".join(map(str, real.shape))
    back = _pair(real.cotangent, said.cotangent)
    return f"{at:5} {node.op[:24]:24} {name[-34:]:34} {shape:20} | {pairs} | {cosine} | {back}"


def _pair(real: float, said: float) -> str:
    off = math.log10(said / real) if said > 0 and real > 0 else math.nan
    return f"{_figure(real)} {_figure(said)} {'' if math.isnan(off) else f'{off:+.2f}':>6}"


def _figure(value: float) -> str:
    return f"{'':>8}" if math.isnan(value) else f"{value:8.1e}"


def _short(value: float) -> str:
    return f"{'':>6}" if math.isnan(value) else f"{value:6.3f}"


if __name__ == "__main__":
    sys.exit(main())
