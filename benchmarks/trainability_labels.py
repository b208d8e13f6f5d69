"""Train every pair of a set of networks once and write down which of them train.

    python -m benchmarks.trainability_labels [--nets MODULE] [--out FILE] [--only GLOB] [--jobs 2]

The criterion: a network *trains* under an optimizer if for some learning rate of the grid its accuracy on the whole
training set reaches 0.9 within 400 steps of 64 examples; it does *not* if no learning rate reaches 0.5; between the
two it is *unclear*. Optimizers: SGD with momentum 0.9, and Adam. A run that is not finite has ended. Pairs that are in
the file already are left alone, so an interrupted run goes on.

The networks are those of benchmarks.trainability_nets on scikit-learn's 1797 digits, pixels standardised as one.
Another module has `pairs()` and `build(pair)` likewise; with `task(pair)` it gives data of its own and what 0.9 and
0.5 are there, with `optimizers(pair)` it trains a pair under fewer of them.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import json
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol, cast

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.trainability_nets import Pair

RATES = {
    "sgd": (0.1, 0.03, 0.3, 0.01, 1.0, 0.003, 0.001),
    "adam": (1e-3, 3e-3, 3e-4, 1e-2, 1e-4, 3e-2),
}  # the likeliest first: the first that trains ends the search
STEPS, BATCH, EVERY = 400, 64, 50
TRAINS, FAILS = 0.9, 0.5
IGNORED = -100  # the class of a position that is not scored
NETS = "benchmarks.trainability_nets"
OUT = Path(__file__).parent / "results" / "trainability_labels.json"


@dataclass(frozen=True, slots=True)
class Task:
    """Inputs, classes (`IGNORED` where none), and the accuracies from which a network trains and below which not."""

    x: Tensor
    y: Tensor
    trains: float = TRAINS
    fails: float = FAILS


class Nets(Protocol):
    """What a module of networks gives."""

    def pairs(self) -> Iterator[Pair]:
        """Yield every pair, in a fixed order."""

    def build(self, pair: Pair) -> nn.Module:
        """Return the network of a pair, the same to the bit at every call."""


@cache
def digits() -> Task:
    """Return standardised pixels (1797, 64) and classes (1797,)."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return Task((x - x.mean()) / x.std(), torch.tensor(data.target))


def accuracy(net: nn.Module, optimizer: str, rate: float, task: Task) -> float:
    """Return the best accuracy on the training set that one run reaches; it ends where it trains."""
    x, y = task.x, task.y
    scored = y != IGNORED
    steps = torch.Generator().manual_seed(0)
    if optimizer == "sgd":
        step: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    else:
        step = torch.optim.Adam(net.parameters(), rate)
    best = 0.0
    for k in range(1, STEPS + 1):
        rows = torch.randint(len(x), (BATCH,), generator=steps)
        loss = nn.functional.cross_entropy(net(x[rows]).flatten(0, -2), y[rows].flatten(), ignore_index=IGNORED)
        if not math.isfinite(float(loss)):
            break
        step.zero_grad()
        loss.backward()
        step.step()
        if k % EVERY == 0:
            net.eval()
            with torch.no_grad():
                best = max(best, float((net(x).argmax(-1) == y)[scored].float().mean()))
            net.train()
            if best >= task.trains:
                break
    return best


def label(pair: Pair, module: str = NETS) -> dict[str, object]:
    """Return the best accuracy of a pair under each optimizer, and at which learning rate."""
    torch.set_num_threads(1)
    nets = cast(Nets, importlib.import_module(module))
    task: Task = nets.task(pair) if hasattr(nets, "task") else digits()
    optimizers = nets.optimizers(pair) if hasattr(nets, "optimizers") else tuple(RATES)
    told: dict[str, object] = {}
    for optimizer in optimizers:
        rates = RATES[optimizer]
        best, at = 0.0, rates[0]
        for rate in rates:
            net = nets.build(pair)
            torch.manual_seed(0)  # what dropout draws
            reached = accuracy(net, optimizer, rate, task)
            if reached > best:
                best, at = reached, rate
            if best >= task.trains:
                break
        word = "trains" if best >= task.trains else "fails" if best < task.fails else "unclear"
        told[optimizer] = {"label": word, "accuracy": round(best, 3), "rate": at}
    return told


def main() -> None:
    """Label what has no label yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default=NETS, help="the module of networks")
    parser.add_argument("--out", type=Path, help="default: results/<what the module's name ends with>_labels.json")
    parser.add_argument("--only", default="*", help="names of pairs, as a glob")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    stem = options.nets.rpartition(".")[2]
    out: Path = options.out or (OUT if options.nets == NETS else OUT.parent / f"{stem}_labels.json")
    listed = list(cast(Nets, importlib.import_module(options.nets)).pairs())
    known = json.loads(out.read_text()) if out.exists() else {}
    todo = [pair for pair in listed if pair.name not in known and fnmatch.fnmatchcase(pair.name, options.only)]
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(label, pair, options.nets): pair for pair in todo}
        for done in as_completed(waiting):
            known[waiting[done].name] = done.result()
            ordered = {pair.name: known[pair.name] for pair in listed if pair.name in known}
            out.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
