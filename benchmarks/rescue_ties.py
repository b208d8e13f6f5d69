"""Repairs of tied units: what is drawn, what stays, and what training makes of it.

    python -m benchmarks.rescue_ties [--nets N] [--seed S] [--family NAME]

Random small networks with planted ties (see benchmarks.symmetry) are repaired by `fix`. Counted are the networks in
which no byte changed outside the units of a tied set, in which every set with a fair draw kept one, in which all units
can differ after it, and in which they do after 50 steps. Networks that are ill before anything is planted, and plants
that tie nothing, are left out.
"""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import torch
from torch import nn

import initaudit
from benchmarks.symmetry import ALL, _name, silent, train, truth
from benchmarks.symmetry_nets import seeded
from benchmarks.symmetry_plants import PLANTS, Net, plant
from initaudit.edits import Repair
from initaudit.repair.forms import form_of
from initaudit.repair.rows import again, copies
from initaudit.types import Array, Measured, Report

KINDS = tuple(kind for kind in dict.fromkeys(PLANTS) if kind not in ("none", "zeros"))


@torch.no_grad()
def fresh(module: nn.Module) -> None:
    """Set biases and norms as a net starts with them: what is planted in them would make it look trained."""
    slopes = {id(part.weight) for part in module.modules() if isinstance(part, nn.PReLU)}
    for name, p in module.named_parameters():
        if p.dim() == 1:
            p.fill_(0.25 if id(p) in slopes else 1.0 if name.endswith("weight") else 0.0)


def widths(report: Report) -> list[tuple[int, int]]:
    """Return units and effective width of each layer of which they are known."""
    return [(m.freedom.units, m.freedom.width) for m in report.measured if m.freedom is not None]


def candidate(family: str, kind: str, seed: int) -> tuple[Net, torch.Tensor] | None:
    """Return a healthy network with ties in it; None where this seed gives none."""
    rng = np.random.default_rng([seed, KINDS.index(kind)])
    torch.manual_seed(seed)
    net = ALL[family](rng)
    net.module.double()
    fresh(net.module)
    x = net.inputs(torch.Generator().manual_seed(seed), 8)
    if initaudit.check(net.module, x, probe=False).verdict != "healthy":
        return None
    plant(net, kind, rng)
    fresh(net.module)
    before = initaudit.check(net.module, x, probe=False)
    return (net, x) if any(width < units for units, width in widths(before)) else None


def inside(m: Measured, old: Array, new: Array) -> int:
    """Return how many elements of a weight changed in units of tied sets or copies."""
    form = form_of(m.layer, m.layer.weight)
    differ = (form.canonical(new) != form.canonical(old)).reshape(form.stack * form.out, -1)
    units = form.units(sorted({k for one in _sets(m) for k in one}))
    return int(differ[units].sum())


def told(net: Net, x: torch.Tensor, seed: int) -> Counter[str]:
    """Return what came of one repair."""
    old = {name: p.detach().clone() for name, p in net.module.named_parameters()}
    before = initaudit.check(net.module, x, probe=False)
    values = {m.layer.name: np.array(m.layer.weight.load()) for m in before.measured}
    most = {m.layer.name: _most(m) for m in before.measured}
    repair: Repair = initaudit.fix(net.module, x, probe=False)
    found = Counter(nets=1, narrow=sum(units - width for units, width in widths(before)))
    found["drawn"] = sum(len(r.units) if r.units is not None else r.measured.layer.units for r in repair.plan.recipes)
    changed = sum(int((p.detach() != old[name]).sum()) for name, p in net.module.named_parameters())
    after = initaudit.check(net.module, x, probe=False)
    now = {m.layer.name: np.array(m.layer.weight.load()) for m in after.measured}
    own = [inside(m, values[m.layer.name], now[m.layer.name]) for m in before.measured if not m.layer.tied]
    beside = {r.tensor.name: r for r in repair.plan.recipes if r.tensor.name != r.measured.layer.weight.name}
    for name, p in net.module.named_parameters():  # lengths that weight_norm keeps beside a weight
        if name in beside:
            own.append(int((p.detach() != old[name])[list(beside[name].units or ())].sum()))
    found["kept outside"] = int(sum(own) == changed)
    found["one of each stays"] = int(
        all(
            len(recipe.units or range(recipe.measured.layer.units)) <= most[recipe.measured.layer.name]
            for recipe in repair.plan.recipes
        )
    )
    found["all can differ"] = int(all(units == width for units, width in widths(after)))
    if silent(net, seed):
        found["not trained"] = 1
        return found
    real = truth(net, train(net, False, seed), seed)
    counts = {
        m.layer.name: (m.layer.units, real.get(_name(m.layer, real))) for m in before.measured if "i" in m.layer.axes
    }
    found["all differ"] = int(all(count in (None, units) for units, count in counts.values()))
    return found


def _sets(m: Measured) -> list[tuple[int, ...]]:
    return [*(m.freedom.classes if m.freedom is not None else ()), *copies(m)]


def _most(m: Measured) -> int:
    """Return how many units may be drawn at most: of each set all but one, and all where none is a fair draw."""
    return len({k for one in _sets(m) for k in again(m, [one])})


def main() -> None:
    """Run all of it and print a table."""
    chosen = seeded(100).parse_args()
    torch.set_num_threads(1)
    families = [chosen.family] if chosen.family else list(ALL)
    start = time.time()
    by_family: dict[str, Counter[str]] = {family: Counter() for family in families}
    columns = ("kept outside", "one of each stays", "all can differ", "all differ", "not trained")
    k = count = 0
    while count < chosen.nets and k < 20 * chosen.nets:
        family, kind = families[k % len(families)], KINDS[(k // len(families)) % len(KINDS)]
        made = candidate(family, kind, chosen.seed + k)
        k += 1
        if made is None:
            continue
        count += 1
        found = told(*made, chosen.seed + k)
        by_family[family] += found
        failed = [name for name in columns[:3] if not found[name]]
        failed += ["all differ"] if not found["all differ"] + found["not trained"] else []
        if failed:
            print(f"{family} {kind} seed {chosen.seed + k - 1}: not {', not '.join(failed)}", flush=True)
    head = ("", "nets", "tied too many", "units drawn", *columns)
    print(" | ".join(head))
    total: Counter[str] = Counter()
    for family, found in by_family.items():
        total += found
        print(_line(family, found, columns))
    print(_line("all", total, columns))
    print(f"{time.time() - start:.0f} s")


def _line(name: str, found: Counter[str], columns: tuple[str, ...]) -> str:
    return " | ".join([name, *(str(found[key]) for key in ("nets", "narrow", "drawn", *columns))])


if __name__ == "__main__":
    main()
