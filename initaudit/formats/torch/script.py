"""TorchScript archives, as torch.jit.save and the lite interpreter's exporter write them.

    model/data.pkl               the modules, as objects of classes of the archive's own
    model/code/__torch__/**.py   those classes, in TorchScript's Python-like source
    model/constants.pkl          tensors that the source names CONSTANTS.c0, CONSTANTS.c1, ...
    model/data/0, constants/0    the values of the tensors

The source is parsed and followed with tensors as mere names; nothing of it is ever run.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from initaudit.errors import CorruptFileError, ReadError, UnsupportedError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.torch import script_stem
from initaudit.formats.torch.archive import Archive, load_pickle
from initaudit.formats.torch.files import collector_paused
from initaudit.formats.torch.model import hostile
from initaudit.formats.torch.pickle import MakeUnpickler, Unpickler
from initaudit.formats.torch.script_code import ClassCode, Code, NoGraphError, plain_name
from initaudit.formats.torch.script_graph import follow
from initaudit.formats.torch.script_objects import Reader, Tree
from initaudit.formats.torch.script_values import Sym
from initaudit.formats.torch.storage import Loaded, Storage
from initaudit.formats.torch.tensor import Lost, Rebuilder
from initaudit.types import Graph, Model, Skip, Tensor

CONSTANTS = "CONSTANTS.c"  # what the code calls the tensors of constants.pkl, with a number behind it
_PLAIN_DTYPES = ("float", "bfloat", "int", "uint", "bool")


def read(path: Path) -> Model:
    """Return the model in a TorchScript archive, with the graph of its forward where the code can be followed.

    Raises:
        CorruptFileError: a member contradicts the archive.
        ReadError: there are no tensors in it.
    """
    archive, stem = _open(path)
    with collector_paused():
        return _model(path, archive, stem)


def storages(path: Path, unpickler: MakeUnpickler) -> dict[str, Storage]:
    """Return the storages of a TorchScript archive by name."""
    archive, stem = _open(path)
    found = dict(_load(archive, stem, unpickler).storages)
    constants = _load_constants(archive, stem, unpickler)
    found.update(constants.storages if constants else {})
    return found


def _open(path: Path) -> tuple[Archive, str]:
    source = MappedFile(path)
    with path.open("rb") as file:
        archive = Archive(source, file)
    stem = script_stem(tuple(archive.members))
    if stem is None:
        raise CorruptFileError("a TorchScript archive without data.pkl")
    return archive, stem


def _load(archive: Archive, stem: str, unpickler: MakeUnpickler = Unpickler) -> Loaded:
    return load_pickle(archive, f"{stem}data.pkl", (f"{stem}data/", f"{stem}tensors/"), "data/", unpickler)


def _load_constants(archive: Archive, stem: str, unpickler: MakeUnpickler = Unpickler) -> Loaded | None:
    member = f"{stem}constants.pkl"
    if member not in archive.members:
        return None
    return load_pickle(archive, member, (f"{stem}constants/", f"{stem}tensors/"), "constants/", unpickler)


def _model(path: Path, archive: Archive, stem: str) -> Model:
    loaded = _load(archive, stem)
    names = set(loaded.names)
    rebuilder = Rebuilder(_nested)
    code = Code(archive, stem)
    reader = Reader(code, rebuilder)
    tree = reader.read(loaded.value)
    skipped = [
        Skip(name, "the file asks for a call of it; nothing in a file is ever called") for name in hostile(names)
    ]
    tree.constants = _constants(archive, stem, rebuilder, tree)
    if not tree.tensors:
        raise ReadError("a TorchScript archive that holds no tensors")
    graph: Graph | None = None
    try:
        if reader.unparsed:
            raise NoGraphError(reader.unparsed)
        graph = follow(code, tree)
    except NoGraphError as error:
        skipped.append(Skip("forward", f"no graph could be read from the code: {error}", parameter=False))
    kind = _kind(tree, code)
    detail = f"TorchScript archive, {kind}" if kind else "TorchScript archive"
    return Model(
        str(path), "torch", detail, tuple(tree.tensors.values()), graph=graph, modules=tuple(tree.modules),
        skipped=(*tree.skipped, *skipped), source="torchscript" if graph is not None else "",
    )  # fmt: skip


def _kind(tree: Tree, code: Code) -> str:
    """Return whether the model was traced, scripted or frozen, as far as its classes tell."""
    weights = [name for name, tensor in tree.tensors.items() if not tensor.buffer]
    if weights and all(name.startswith(CONSTANTS) for name in weights):
        return "frozen"
    try:
        found = [code.class_code(name) for name in sorted(tree.classes)]
    except NoGraphError:
        return ""
    modules = [made for made in found if made is not None and made.base == "Module"]
    if any(made.finals or _further(made) for made in modules):
        return "scripted"  # tracing records what ran: no constants, no other methods
    return "traced" if any(plain_name(made.name).startswith("torch.nn.") for made in modules) else ""


def _further(made: ClassCode) -> bool:
    """Whether a class has methods that tracing does not make: forward1, forward2 are further calls of a module."""
    return any(not re.fullmatch(r"forward\d*", name) for name in made.methods)


def _nested(data: bytes | memoryview) -> object:
    raise UnsupportedError("a torch file inside a TorchScript archive")


def _constants(archive: Archive, stem: str, rebuilder: Rebuilder, tree: Tree) -> list[Any]:
    """Return what the code names CONSTANTS: tensors become the model's own, single numbers are taken as such."""
    loaded = _load_constants(archive, stem)
    if loaded is None:
        return []
    values = loaded.value if isinstance(loaded.value, (tuple, list)) else ()
    frozen = not any(not tensor.buffer for tensor in tree.tensors.values())  # its parameters became constants
    found: list[Any] = []
    for index, value in enumerate(values):
        tensor = rebuilder.tensor(value)
        if isinstance(tensor, Tensor):
            if not tensor.shape and tensor.dtype.startswith(_PLAIN_DTYPES):
                found.append(tensor.load().item())
                continue
            name = f"{CONSTANTS}{index}"
            buffer = not frozen or not tensor.is_float
            tree.tensors[name] = replace(tensor, name=name, buffer=buffer)
            found.append(Sym(name, tensor.shape, tensor.dtype))
        elif isinstance(tensor, Lost):
            tree.skipped.append(Skip(f"{CONSTANTS}{index}", tensor.why))
            found.append(Sym(f"{CONSTANTS}{index}"))
        else:
            found.append(value if isinstance(value, (bool, int, float, str)) else None)
    return found
