"""From the value of a torch file or pickle to a Model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from initaudit.errors import ReadError, UnsafeFileError
from initaudit.formats.torch.module import ModuleWalk, class_name, module_state, settings, state_of
from initaudit.formats.torch.pickle_values import Record
from initaudit.formats.torch.tensor import Found, Lost, Rebuilder
from initaudit.formats.torch.tree import Branch, Left, Node, Pruner, Whole, holds_tensors, locate
from initaudit.naming import STATISTICS
from initaudit.types import Model, Module, Skip, Tensor

MAX_TENSORS = 200_000
MAX_WRAPPERS = 4  # modules with one child that a configuration is looked for in
_BUFFERS = (*STATISTICS, "_extra_state")
_CONFIGS = ("config", "model_config", "model_args", "hyper_parameters", "hparams", "args", "cfg", "opt")
_MODULES = {  # what a file that asks for these wants done, no weight needs
    "os", "posix", "nt", "subprocess", "sys", "shutil", "socket", "runpy", "importlib", "imp", "pty", "ctypes",
    "commands", "webbrowser", "code", "codeop", "bdb", "pdb", "timeit", "asyncio", "signal", "platform", "http",
    "urllib", "requests", "ftplib", "smtplib", "pip", "pydoc", "cProfile", "profile", "trace", "linecache", "tempfile",
    "sqlite3",
}  # fmt: skip
_BUILTINS = {
    "eval",
    "exec",
    "compile",
    "open",
    "__import__",
    "breakpoint",
    "input",
    "globals",
    "locals",
    "execfile",
    "apply",
}


def hostile(names: Iterable[str]) -> list[str]:
    """Return the names that no weight file has a use for."""
    found = []
    for name in names:
        package, _, rest = name.partition(".")
        if package in _MODULES or (package == "builtins" and rest in _BUILTINS):
            found.append(name)
    return sorted(found)


class _Builder:
    """Collects tensors, modules and skips under names that are unique."""

    def __init__(self, rebuilder: Rebuilder) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.modules: list[Module] = []
        self.skipped: list[Skip] = []
        self._rebuilder = rebuilder

    def emit(self, name: str, found: Found, buffer: bool) -> str | None:
        """Add a tensor, or why there is none, and return its name."""
        if len(self.tensors) + len(self.skipped) >= MAX_TENSORS:
            raise UnsafeFileError(f"more than {MAX_TENSORS} tensors, many of them the same")
        name = name or "tensor"
        if isinstance(found, Lost):
            self.skipped.append(Skip(name, found.why))
            return None
        while name in self.tensors:
            name += "'"
        # integers take no gradient; the others are known by the names that torch gives them
        buffer = buffer or not found.is_float or name.endswith(_BUFFERS)
        self.tensors[name] = replace(found, name=name, buffer=buffer)
        return name

    def add(self, node: Node, prefix: str) -> None:
        """Add everything in `node`."""
        match node:
            case Tensor() | Lost():
                self.emit(prefix, node, False)
            case Left():
                self.skipped.append(Skip(prefix or "file", node.why))
            case Whole():
                walk = ModuleWalk(self._rebuilder.tensor, self.emit)
                walk.walk(node.record, prefix)
                self.modules += walk.modules
                self.skipped += [Skip(path or "model", why) for path, why in walk.problems]
            case Branch():
                for key, child in node.children.items():
                    self.add(child, f"{prefix}.{key}" if prefix else key)


def build(value: object, names: Iterable[str], path: str, kind: str, detail: str, rebuilder: Rebuilder) -> Model:
    """Return the model in the value of a file; `names` are the classes and functions that the file mentions.

    Raises:
        UnsafeFileError: there is none, but a call of something no weight file needs.
        ReadError: there are no tensors in it.
    """
    root = Pruner(rebuilder).prune(value)
    calls = hostile(names)
    if not holds_tensors(root):
        if calls:
            raise UnsafeFileError(f"asks for a call of {', '.join(calls[:3])} and holds no tensors; nothing was called")
        raise ReadError(f"no tensors in it: {_without_tensors(value, root)}")
    assert root is not None
    place = locate(root)
    builder = _Builder(rebuilder)
    builder.add(place.node, "")
    for key, node in place.kept.items():
        builder.add(node, key)
    if builder.modules and builder.modules[0].path:  # several models side by side
        tops = [m.path for m in builder.modules if not any(m.path in other.children for other in builder.modules)]
        builder.modules.insert(0, Module("", "dict", {}, {}, tuple(tops)))
    builder.skipped += [Skip(name, why) for name, why in place.left]
    builder.skipped += [
        Skip(name, "the file asks for a call of it; nothing in a file is ever called") for name in calls
    ]
    where = f" under '{'.'.join(place.path)}'" if place.path else ""
    return Model(
        path, kind, f"{detail}, {_kind(place.node)}{where}", tuple(builder.tensors.values()),
        modules=tuple(builder.modules), config=_config(value, place.path, place.node), skipped=tuple(builder.skipped),
    )  # fmt: skip


def _kind(node: Node) -> str:
    match node:
        case Whole():
            return f"whole module {class_name(node.record).rpartition('.')[2]}"
        case Tensor():
            return "one tensor"
        case Branch():
            whole = [key for key, child in node.children.items() if isinstance(child, (Whole, Branch))]
            if any(isinstance(child, Tensor) for child in node.children.values()) or not whole:
                return "state_dict"
            return f"checkpoint of {', '.join(whole[:4])}{', ...' if len(whole) > 4 else ''}"
    return "checkpoint"


def _without_tensors(value: object, root: Node | None) -> str:
    if isinstance(root, Left):
        return root.why
    if isinstance(root, Branch):
        lefts = [f"{key}: {child.why}" for key, child in root.children.items() if isinstance(child, (Left, Lost))]
        if lefts:
            return "; ".join(lefts[:3])
    if isinstance(value, Record):
        return f"a {value.name}"
    if isinstance(value, dict):
        return f"a dict with {', '.join(repr(k)[:30] for k in list(value)[:4]) or 'no keys'}"
    return f"a {type(value).__name__}"


def _config(value: object, path: tuple[str, ...], node: Node) -> dict[str, Any]:
    """Return the settings of the model: the config of a whole module, or what lies beside a state_dict."""
    module: object = node.record if isinstance(node, Whole) else None
    for _ in range(MAX_WRAPPERS):
        state = module_state(module) or {}
        for key in ("config", "_internal_dict", "hparams", "_hparams"):
            found = settings(state[key]) if isinstance(state.get(key), (dict, Record)) else None
            if isinstance(found, dict) and found:
                return found
        children = state.get("_modules")
        if not isinstance(children, dict) or len(children) != 1:
            break
        module = next(iter(children.values()))  # DataParallel and the like
    for key in path:
        entries = state_of(value) if isinstance(value, Record) else value
        if not isinstance(entries, dict):
            return {}
        for name in _CONFIGS:
            found = settings(entries[name]) if isinstance(entries.get(name), (dict, Record)) and name != key else None
            if isinstance(found, dict) and found:
                return found
        value = entries.get(key)
    return {}
