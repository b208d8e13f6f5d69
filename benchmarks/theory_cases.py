"""The cases of `benchmarks.theory`: each model's graph, its measured weights and what the probe says, kept on disk.

What the probe says does not change while the theory is worked on, so a case is made once: the module is built, traced
and measured, and probed three times, to tell the probe's own noise: as it is, with other inputs and another
cotangent, and with weights drawn anew.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from initaudit.types import Array, Graph, Layer, Measured, Signals, Tensor

INLINE = 1 << 16  # bytes; larger arrays lie in files of their own and are read when asked for
NETS = "nets"  # what the small networks of benchmarks.trainability_nets are called together


@dataclass(frozen=True, slots=True)
class Case:
    """One model with everything that theory takes and is held against."""

    name: str
    family: str  # the library, or the family of the small networks
    graph: Graph
    measured: tuple[Measured, ...]
    probed: Signals
    reseeded: Signals  # the same weights, other inputs and another cotangent
    redrawn: Signals | None  # other weights of the same laws; None where their layers differ


def names(only: list[str]) -> Iterator[tuple[str, str]]:
    """Yield name and family of the cases: of the zoo, and of the small networks."""
    from benchmarks import zoo
    from benchmarks.trainability_nets import pairs

    rows = [(row.name, row.library) for row in zoo.ZOO]
    rows += [(pair.name, f"{NETS}: {pair.family}") for pair in pairs()]
    for name, family in rows:
        words = {name, family, family.partition(":")[0]}
        if not only or words & set(only) or any(name.startswith(f"{word}/") for word in only):
            yield name, family


def path(folder: Path, name: str) -> Path:
    """Return where a case is kept."""
    return folder / f"{name.replace('/', '~')}.pickle"


def failure(folder: Path, name: str) -> str:
    """Return why a case could not be made, "" if that is not known."""
    told = path(folder, name).with_suffix(".failed")
    return told.read_text(encoding="utf-8") if told.exists() else ""


def fail(folder: Path, name: str, why: str) -> None:
    """Note why a case could not be made, so that it is not tried again."""
    folder.mkdir(parents=True, exist_ok=True)
    path(folder, name).with_suffix(".failed").write_text(why, encoding="utf-8")


def load(folder: Path, name: str) -> Case:
    """Return a case from disk."""
    with path(folder, name).open("rb") as file:
        case: Case = pickle.load(file)
    return case


def make(folder: Path, name: str, family: str) -> None:
    """Build and probe a model and write its case down."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    from initaudit import audit
    from initaudit.live.probe import probe

    made = _model(name, family, 0)
    report = audit.audit_model(made, jobs=1, probe=True)
    graph = made.graph
    assert graph is not None and report.probe is not None
    layers = [m.layer for m in report.measured]
    again = probe(graph, layers, seed=1)
    other = audit.audit_model(_model(name, family, 1), jobs=1, probe=True)
    same = _alike(layers, [m.layer for m in other.measured])
    case = Case(name, family, graph, report.measured, report.probe, again, other.probe if same else None)
    folder.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    _Pickler(buffer, folder / "arrays" / name.replace("/", "~")).dump(case)
    path(folder, name).write_bytes(buffer.getvalue())


def _model(name: str, family: str, seed: int) -> Any:
    import torch

    from benchmarks import trainability_nets, zoo
    from initaudit import audit

    if not family.startswith(NETS):
        module, inputs = zoo.build(zoo.row(name), seed)
        return audit.live(module, inputs)
    pair = next(p for p in trainability_nets.pairs() if p.name == name)
    if seed:  # the pair's own draws are seeded by its name
        real = torch.manual_seed
        torch.manual_seed = lambda value: real(int(value) + seed)  # type: ignore[assignment]
        try:
            module = trainability_nets.build(pair)
        finally:
            torch.manual_seed = real  # type: ignore[assignment]
    else:
        module = trainability_nets.build(pair)
    return audit.live(module.eval(), torch.randn(16, 64, generator=torch.Generator().manual_seed(0)))


def _alike(one: list[Layer], other: list[Layer]) -> bool:
    return [(a.name, a.weight.shape) for a in one] == [(b.name, b.weight.shape) for b in other]


class _Pickler(pickle.Pickler):
    """Writes tensors with their values, large ones into files beside it."""

    def __init__(self, file: io.BytesIO, folder: Path) -> None:
        super().__init__(file)
        self._folder = folder
        self._done: dict[Any, Kept] = {}

    def reducer_override(self, value: Any) -> Any:
        """Tell how a tensor is written."""
        if isinstance(value, Mapping) and not isinstance(value, dict):
            return dict, (dict(value),)
        if not isinstance(value, Tensor):
            return NotImplemented
        key = (value.identity, value.dtype)
        if key not in self._done:
            array = np.ascontiguousarray(np.asarray(value.load()))
            if array.nbytes > INLINE and array.dtype.kind in "biufc":
                self._folder.mkdir(parents=True, exist_ok=True)
                at = self._folder / f"{len(self._done)}.npy"
                np.save(at, array)
                self._done[key] = Kept(str(at), None)
            else:
                self._done[key] = Kept("", array)
        rest = {f.name: getattr(value, f.name) for f in fields(value) if f.name not in ("load", "release")}
        return _restored, (rest, self._done[key])


@dataclass(frozen=True, slots=True)
class Kept:
    """The values of a tensor: here, or in a file."""

    path: str
    array: Array | None

    def __call__(self) -> Array:
        """Return them."""
        return np.load(self.path, mmap_mode="r") if self.array is None else self.array


def _restored(rest: dict[str, Any], load: Kept) -> Tensor:
    return Tensor(load=load, **rest)
