"""Archives of torch.export.save: where the program, its weights and its constants lie, and what they make up.

torch 2.7 and later    STEM/models/NAME.json, STEM/data/weights/, STEM/data/constants/: raw bytes with a table
                       NAME_weights_config.json (2.9), or one torch.save file NAME.pt
torch 2.1 to 2.6       serialized_exported_program.json, serialized_state_dict.pt, serialized_constants.pt (both
                       with .json for an ending at first), each but the first a torch.save file
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.exported.graph import Flattener
from initaudit.formats.exported.records import Given, at, givens, outputs, sizes, union, value_names
from initaudit.formats.exported.weights import MAX_JSON, Weights, check_order
from initaudit.formats.json_text import json_object
from initaudit.formats.mapped import MappedFile
from initaudit.formats.torch.archive import Archive
from initaudit.formats.torch.storage import Storage
from initaudit.formats.torch.tensor import Lost
from initaudit.naming import STATISTICS
from initaudit.torch_ops.builder import Builder
from initaudit.types import Graph, Model, Ref, Skip, Tensor

_PROGRAM = re.compile(r"(?P<stem>(?:.*/)?)models/(?P<name>[^/]+)\.json$")
_FIRST = "serialized_exported_program.json"
_MOST = 64  # programs in one archive
_FORMS = {"parameter", "buffer", "tensor_constant"}


@dataclass(frozen=True, slots=True)
class _Program:
    """One program of an archive, and where its tensors are listed."""

    name: str
    member: str
    weights: tuple[tuple[str, str], ...]  # (member, folder of raw bytes, "" for a torch.save file)


def read(path: Path) -> Model:
    """Read an archive of torch.export.save.

    Raises:
        CorruptFileError: the archive, a program or a table contradicts itself.
        UnsafeFileError: it is larger or deeper than any program.
    """
    archive = _open(path)
    programs = _programs(archive)
    several = len(programs) > 1
    builder = Builder("aten")
    tensors: dict[str, Tensor] = {}
    flat = Flattener(builder, tensors)
    skipped: list[Skip] = []
    ends: list[str] = []
    details: list[str] = []
    for program in programs:
        prefix = f"{program.name}." if several else ""
        record = json_object(archive.read(program.member, MAX_JSON), program.member, strict=False)
        weights = _weights(archive, program)
        ends += _add(record, weights, prefix, builder, flat, tensors, skipped)
        details.append(_detail(record))
    graph = builder.graph(tuple(dict.fromkeys(ends)))
    names = f", programs {', '.join(p.name for p in programs[:4])}" if several else ""
    return Model(
        str(path), "exported", details[0] + names, tuple(tensors.values()), _checked(graph), skipped=tuple(skipped),
        source="exported",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Contents:
    """Where the values of an archive lie."""

    storages: Mapping[str, Storage]  # by name
    tables: tuple[tuple[str, str], ...]  # (member, folder) of each table of raw payloads


def contents(path: Path) -> Contents:
    """Return where the values of an archive of torch.export.save lie.

    Raises:
        CorruptFileError: a table is a weight, too.
    """
    archive = _open(path)
    found: dict[str, Storage] = {}
    programs = _programs(archive)
    for program in programs:
        found.update(_weights(archive, program).storages)
    for program in programs:
        for member in (program.member, *(member for member, _ in program.weights)):
            if member in found:
                raise CorruptFileError(f"{member} is said to be a weight, too")
    tables = dict.fromkeys(table for program in programs for table in program.weights if table[1])
    return Contents(found, tuple(tables))


def _open(path: Path) -> Archive:
    source = MappedFile(path)
    with path.open("rb") as file:
        return Archive(source, file)


def _programs(archive: Archive) -> list[_Program]:
    members = archive.members
    if _FIRST in members:
        tables: list[tuple[str, str]] = []
        for stem in ("serialized_state_dict", "serialized_constants"):
            names = [f"{stem}{ending}" for ending in (".pt", ".json") if f"{stem}{ending}" in members]
            tables += [(name, "") for name in names[:1]]
        if not tables:
            raise CorruptFileError("the archive has no serialized_state_dict.pt")
        return [_Program("model", _FIRST, tuple(tables))]
    made = []
    for member in members:
        match = _PROGRAM.fullmatch(member)
        if match is None:
            continue
        lists: list[tuple[str, str]] = []
        for kind in ("weights", "constants"):
            folder = f"{match['stem']}data/{kind}/"
            options = ((f"{folder}{match['name']}_{kind}_config.json", folder), (f"{folder}{match['name']}.pt", ""))
            found = [option for option in options if option[0] in members]
            if not found and kind == "weights":
                raise CorruptFileError(f"the archive has no {options[0][0]}")
            lists += found[:1]
        made.append(_Program(match["name"], member, tuple(lists)))
    if not made:
        raise UnsupportedError("an archive without a program in it")
    if len(made) > _MOST:
        raise UnsupportedError(f"an archive of {len(made)} programs; at most {_MOST} are read")
    return made


def _weights(archive: Archive, program: _Program) -> Weights:
    stem = program.member[: program.member.rfind("models/")] if "models/" in program.member else ""
    weights = Weights(archive, check_order(archive, stem))
    for member, folder in program.weights:
        if folder:
            weights.table(member, folder)
        else:
            weights.pickled(member)
    return weights


def _add(
    record: Any, weights: Weights, prefix: str, builder: Builder, flat: Flattener, tensors: dict[str, Tensor],
    skipped: list[Skip],
) -> list[str]:  # fmt: skip
    """Add one program to the graph, its tensors to the list; return the names of its outputs."""
    module = at(record, "graph_module", dict, "the program")
    graph = at(module, "graph", dict, "the program")
    signature = at(module, "signature", dict, "the program")
    given = {one.name: one for one in givens(signature) if one.name}
    marked = {one.target: one for one in given.values() if one.kind in _FORMS}
    for name, found in weights.found.items():
        if isinstance(found, Lost):
            skipped.append(Skip(prefix + name, found.why, parameter=name in weights.parameters))
            continue
        mark = marked.get(name)
        parameter = mark.kind == "parameter" if mark else name in weights.parameters or not name.endswith(STATISTICS)
        tensors[prefix + name] = replace(found, name=prefix + name, buffer=not parameter or not found.is_float)
    env: dict[str, Any] = {}
    first: dict[object, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(tensor.identity, name)
    shapes = at(graph, "tensor_values", dict, "the graph")
    for argument in at(graph, "inputs", list, "the graph"):
        for name in value_names(*union(argument, "an input")):
            if name:
                one = given.get(name, Given(name, "user_input"))
                env[name] = _input(one, shapes, prefix, builder, weights, tensors, first)
    made = flat.run(graph, env)
    wanted = outputs(signature)
    found_values = made if wanted is None else [flat.find(name, env) for name in wanted if name]
    return [value.name for value in found_values if isinstance(value, Ref)]


def _input(
    one: Given, shapes: Any, prefix: str, builder: Builder, weights: Weights, tensors: Mapping[str, Tensor],
    first: Mapping[object, str],
) -> Ref | Any:  # fmt: skip
    """Declare an input of the graph, and return what its name stands for."""
    if one.kind in _FORMS:
        name = prefix + one.target
        if one.target not in weights.found:
            raise CorruptFileError(f"the {one.kind.replace('_', ' ')} {one.target[:80]!r} is not among the weights")
        if name in tensors:
            name = first[tensors[name].identity]  # of tied ones, whichever the exporter happened to take
            builder.tensor(name, tensors[name])
        else:  # without values in the file: what depends on it is not known
            builder.input(name, sizes(shapes[one.name]) if one.name in shapes else None)
        return Ref(name)
    if one.kind != "user_input":
        return one.value
    name = prefix + one.name
    while name in tensors:
        name += "'"
    builder.input(name, sizes(shapes[one.name]) if one.name in shapes else ())
    return Ref(name)


def _checked(graph: Graph) -> Graph:
    if not graph.nodes:
        raise CorruptFileError("the program has no nodes")
    return graph


def _detail(record: Any) -> str:
    version = record.get("torch_version")
    schema = record.get("schema_version")
    parts = ["exported program"]
    if isinstance(version, str) and version and "<" not in version:
        parts.append("torch " + "".join(c for c in version if c.isprintable())[:40])
    if isinstance(schema, dict) and all(type(schema.get(key)) is int for key in ("major", "minor")):
        parts.append(f"schema {schema['major']}.{schema['minor']}")
    return ", ".join(parts)
