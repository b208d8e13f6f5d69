"""Train every pair of benchmarks.trainability_nets once and write down which of them train.

    python -m benchmarks.trainability_labels [--out FILE] [--only GLOB] [--jobs 2]

The criterion: a network *trains* under an optimizer if for some learning rate of the grid its accuracy on the whole
training set (scikit-learn's 1797 digits, pixels standardised as one) reaches 0.9 within 400 steps of 64 digits; it does
*not* if no learning rate reaches 0.5; between the two it is *unclear*. Optimizers: SGD with momentum 0.9, and Adam.
A run that is not finite has ended. Pairs that are in the file already are left alone, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import math
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.trainability_nets import Pair, build, pairs

RATES = {
    "sgd": (0.1, 0.03, 0.3, 0.01, 1.0, 0.003, 0.001),
    "adam": (1e-3, 3e-3, 3e-4, 1e-2, 1e-4, 3e-2),
}  # the likeliest first: the first that trains ends the search
STEPS, BATCH, EVERY = 400, 64, 50
TRAINS, FAILS = 0.9, 0.5
OUT = Path(__file__).parent / "results" / "trainability_labels.json"


def digits() -> tuple[Tensor, Tensor]:
    """Return standardised pixels (1797, 64) and classes (1797,)."""
    data = load_digits()
    x = torch.tensor(data.data, dtype=torch.float32)
    return (x - x.mean()) / x.std(), torch.tensor(data.target)


def accuracy(net: nn.Module, optimizer: str, rate: float, data: tuple[Tensor, Tensor]) -> float:
    """Return the best accuracy on the training set that one run reaches; it ends where it trains."""
    x, y = data
    steps = torch.Generator().manual_seed(0)
    if optimizer == "sgd":
        step: torch.optim.Optimizer = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    else:
        step = torch.optim.Adam(net.parameters(), rate)
    best = 0.0
    for k in range(1, STEPS + 1):
        rows = torch.randint(len(x), (BATCH,), generator=steps)
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        if not math.isfinite(float(loss)):
            break
        step.zero_grad()
        loss.backward()
        step.step()
        if k % EVERY == 0:
            net.eval()
            with torch.no_grad():
                best = max(best, float((net(x).argmax(1) == y).float().mean()))
            net.train()
            if best >= TRAINS:
                break
    return best


def label(pair: Pair) -> dict[str, object]:
    """Return the best accuracy of a pair under each optimizer, and at which learning rate."""
    torch.set_num_threads(1)
    data = digits()
    told: dict[str, object] = {}
    for optimizer, rates in RATES.items():
        best, at = 0.0, rates[0]
        for rate in rates:
            reached = accuracy(build(pair), optimizer, rate, data)
            if reached > best:
                best, at = reached, rate
            if best >= TRAINS:
                break
        word = "trains" if best >= TRAINS else "fails" if best < FAILS else "unclear"
        told[optimizer] = {"label": word, "accuracy": round(best, 3), "rate": at}
    return told


def main() -> None:
    """Label what has no label yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--only", default="*", help="names of pairs, as a glob")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    known = json.loads(options.out.read_text()) if options.out.exists() else {}
    todo = [pair for pair in pairs() if pair.name not in known and fnmatch.fnmatchcase(pair.name, options.only)]
    with ProcessPoolExecutor(options.jobs) as pool:
        waiting = {pool.submit(label, pair): pair for pair in todo}
        for done in as_completed(waiting):
            known[waiting[done].name] = done.result()
            ordered = {pair.name: known[pair.name] for pair in pairs() if pair.name in known}
            options.out.write_text(json.dumps(ordered, indent=1) + "\n")


if __name__ == "__main__":
    main()
