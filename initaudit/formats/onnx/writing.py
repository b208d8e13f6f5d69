"""New values in an ONNX file: which bytes of the model and of the data files beside it change.

    edits -> writing_sources: what the file stores of them -> writing_encodings: patches and splices -> FilePlan...

The first plan is the model's, then comes one for each file of external data, changed or not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan, Patch
from initaudit.errors import UnsupportedError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.onnx import writing_encodings as encodings
from initaudit.formats.onnx.graph import collect
from initaudit.formats.onnx.proto import parse_model
from initaudit.formats.onnx.scope import Flat
from initaudit.formats.onnx.tensors import Source
from initaudit.formats.onnx.writing_external import data_files, retold
from initaudit.formats.onnx.writing_sources import Gathered, Sources
from initaudit.formats.onnx.writing_splices import Splice, frames, spliced
from initaudit.formats.patching import in_order


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return the plan of the model, then one for each file of external data.

    Raises:
        UnsupportedError: new values of a tensor have no place in the file.
        ReadError: the file cannot be read any more.
    """
    flat = Flat(parse_model((source := Source(MappedFile(path))).message), source)
    collect(flat)
    return _Writing(flat).plans(edits)


class _Writing:
    """All that changes in one model and its data files."""

    def __init__(self, flat: Flat) -> None:
        self.source = flat.source
        self.model = flat.model
        self.sources = Sources(flat)
        self.files = data_files(flat.model, flat.source)
        self.patches: dict[str, list[Patch]] = {}  # by the real path of the file
        self.splices: list[Splice] = []

    def plans(self, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
        self._change(self.sources.gather(edits))
        paths: dict[str, Path] = {}
        for path in self.files.values():
            paths.setdefault(os.path.realpath(path), path)
        mine = os.path.realpath(self.source.file.path)
        paths.pop(mine, None)
        others = (FilePlan(path, in_order(self.patches.get(real, ()))) for real, path in paths.items())
        return self._own({}), *others

    def _own(self, names: Mapping[Path, str]) -> FilePlan:
        """Return the plan of the model itself, with data files named otherwise."""
        new = {os.path.realpath(path): name for path, name in names.items()}
        real = {location: os.path.realpath(path) for location, path in self.files.items()}
        locations = {location: new[path] for location, path in real.items() if path in new}
        stale = {location for location, path in real.items() if self.patches.get(path)}
        splices = [*self.splices, *retold(self.model, self.source.message, locations, stale)]
        file = self.source.file
        patches = [*self.patches.get(os.path.realpath(file.path), ()), *spliced(splices, file.size)]
        return FilePlan(file.path, in_order(patches), named=self._own)

    def _change(self, gathered: Gathered) -> None:
        message = self.source.message
        records = self.sources.records
        starts = [records[key].at for key in gathered.stored if _coded(key)]
        around = frames(message, [*starts, *gathered.numbers, *gathered.remade])
        own = self.patches.setdefault(os.path.realpath(self.source.file.path), [])
        for key, edits in gathered.stored.items():
            record, tensor = records[key], self.sources.stored[key][0]
            if _coded(key).startswith("sparse"):
                self.splices += encodings.densified(message, record, tensor, edits, around[record.at])
            elif _coded(key):
                patches, splices = encodings.typed(message, record, tensor, edits, around[record.at])
                own += patches
                self.splices += splices
            else:
                self._plain(key, edits)
        for at, edits in gathered.numbers.items():
            patches, splices = encodings.floats(message, at, around[at], edits)
            own += patches
            self.splices += splices
        for at, remade in gathered.remade.items():
            self.splices += encodings.constant(message, remade, around[at])

    def _plain(self, key: str, edits: Sequence[Edit]) -> None:
        """Note what changes where numbers lie one after the other, in the model or in a file of its data."""
        label, _, start = key.rpartition("@")
        file = self.source.open(edits[0].tensor.name, label) if label else self.source.file
        real = os.path.realpath(file.path)
        if label and real == os.path.realpath(self.source.file.path):
            raise UnsupportedError(f"{edits[0].tensor.name}: its external data lie in the model's own file")
        whole = max(self.sources.stored[key], key=lambda tensor: tensor.size)
        self.patches.setdefault(real, []).extend(encodings.plain(file, int(start), whole, edits))


def _coded(storage: str) -> str:
    """Return how numbers are encoded that do not lie one after the other, as their storage says; "" where they do."""
    return storage.rpartition("@")[2].partition(":")[2]
