"""Networks that do not learn, before and after `initaudit fix`: does what was repaired really train?

    python -m benchmarks.rescue [--only WORDS]

Each network of benchmarks.rescue_nets is trained on scikit-learn's digits as it starts, after `fix` (scheme auto) and
after `fix --scheme lsuv`: SGD with momentum 0.9, 300 steps of 64 examples, at each of four learning rates; told is the
accuracy on 450 digits that are not trained on, for the rate whose last training loss is least. All runs see the same
batches. Writes benchmarks/results/rescue.md.
"""

from __future__ import annotations

import argparse
import copy
import math
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import initaudit
from benchmarks import rescue_nets
from initaudit.edits import Repair

RATES = (0.1, 0.03, 0.01, 0.003)
STEPS, BATCH, HELD_OUT = 300, 64, 450
SCHEMES = ("auto", "lsuv")
OUT = Path(__file__).parent / "results" / "rescue.md"

Data = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and classes to train on, and those held out


def digits() -> Data:
    """Return standardised pixels and classes, in an order that does not depend on the class."""
    known = load_digits()
    x = torch.tensor(known.data, dtype=torch.float32)
    x, y = (x - x.mean()) / x.std(), torch.tensor(known.target)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    return x[HELD_OUT:], y[HELD_OUT:], x[:HELD_OUT], y[:HELD_OUT]


def trained(net: nn.Module, rate: float, data: Data) -> tuple[float, float]:
    """Return the mean loss of the last steps and the held-out accuracy; infinite and 0 where it diverges."""
    x, y, x_out, y_out = data
    batches = torch.Generator().manual_seed(0)
    step = torch.optim.SGD(net.parameters(), rate, momentum=0.9)
    losses: list[float] = []
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,), generator=batches)
        loss = nn.functional.cross_entropy(net(x[rows]), y[rows])
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            return math.inf, 0.0
        step.zero_grad()
        loss.backward()
        step.step()
    net.eval()
    with torch.no_grad():
        right = (net(x_out).argmax(-1) == y_out).float().mean().item()
    return sum(losses[-20:]) / 20, right


def best(net: nn.Module, data: Data) -> float:
    """Return the accuracy at the rate that learns best."""
    return min((trained(copy.deepcopy(net), rate, data) for rate in RATES), key=lambda told: told[0])[1]


def repaired(name: str, scheme: str, example: Tensor) -> tuple[nn.Module, Repair]:
    """Return a network after `fix`, and what came of it."""
    net = rescue_nets.build(name)
    return net, initaudit.fix(net, example, scheme=scheme, probe=False)


def row(name: str, data: Data) -> str:
    """Return one row of the table."""
    example = data[0][:BATCH]
    net = rescue_nets.build(name)
    before = initaudit.check(net, example, probe=False)
    cells = [name, before.verdict, f"{100 * best(net, data):.0f} %"]
    for scheme in SCHEMES:
        net, repair = repaired(name, scheme, example)
        after = repair.after.verdict if repair.after is not None else "-"
        cells += [after, f"{100 * best(net, data):.0f} %"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Train them all and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="networks whose names hold this")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = digits()
    lines = [
        "| network | as it starts | learns | after `fix` | learns | after `fix --scheme lsuv` | learns |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in rescue_nets.NETS:
        if options.only in name:
            lines.append(row(name, data))
            print(lines[-1], flush=True)
    if not options.only:
        told = (
            f"Accuracy on {HELD_OUT} held-out digits (chance: 10 %) after {STEPS} steps of SGD with momentum 0.9 and"
            f" batches of {BATCH}, the best of the rates {', '.join(map(str, RATES))}; printed by"
            " `python -m benchmarks.rescue`."
        )
        text = ["# Networks that do not learn, before and after `initaudit fix`", "", told, "", *lines, ""]
        OUT.write_text("\n".join(text))


if __name__ == "__main__":
    main()
