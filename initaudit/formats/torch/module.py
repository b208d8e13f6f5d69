"""A pickled nn.Module, from its record: the tree, the plain attributes, the tensors under the names of state_dict()."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from initaudit.errors import UnsafeFileError
from initaudit.formats.torch import arrays
from initaudit.formats.torch.pickle_values import Record, attributes
from initaudit.formats.torch.tensor import Found
from initaudit.types import Global, Module

MAX_MODULES = 100_000
MAX_DEPTH = 400
MAX_PACKED = 8  # depth and width of the parts of a packed parameter
MAX_VALUES = 64  # elements of a tuple, entries of a flattened attribute: more is data, not a setting
MAX_ATTRIBUTES = 4_000_000  # of all modules together
MAX_SETTINGS = 10_000
MAX_TEXT = 1000

# What nn.Module.__init__ sets up for itself; hooks are kept where there are any, for weight_norm is one.
_BOOKKEEPING = {
    "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "_backward_pre_hooks", "_backward_hooks",
    "_is_full_backward_hook", "_forward_hooks_with_kwargs", "_forward_hooks_always_called",
    "_forward_pre_hooks_with_kwargs", "_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks", "_backend", "_version",
}  # fmt: skip
_QUANTISED_CONV = (
    "in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "transposed", "output_padding",
    "groups", "padding_mode", "weight", "bias", "scale", "zero_point", "training",
)  # fmt: skip
_NOT_PLAIN = object()


def state_of(record: Record) -> dict[object, object]:
    """Return the attributes of an object, whether it has a __dict__, __slots__ or both."""
    return attributes(record.state)


def module_state(value: object) -> dict[object, object] | None:
    """Return the attributes of a pickled nn.Module, None for anything else."""
    if type(value) is not Record:
        return None
    state = state_of(value)
    if not state and value.args and type(value.args[0]) is dict:
        state = value.args[0]  # torch.fx.GraphModule: a function that takes the attributes
    if not state and type(value.state) is tuple and len(value.state) == len(_QUANTISED_CONV):
        state = _as_module(value)
    if type(state.get("_modules")) is dict and type(state.get("_parameters")) is dict:
        return state
    return None


def quantised_conv(record: Record) -> dict[object, object]:
    """Return as attributes the tuple that torch.ao.nn.quantized's convolutions save themselves as."""
    torch = record.name.startswith(("torch.", "__torch__.torch."))
    if not torch or ".quantized." not in record.name or type(record.state) is not tuple:
        return {}
    return dict(zip(_QUANTISED_CONV, record.state, strict=False)) if len(record.state) == len(_QUANTISED_CONV) else {}


def _as_module(record: Record) -> dict[object, object]:
    state = quantised_conv(record)
    if not state:
        return {}
    parameters: dict[object, object] = {key: state.pop(key) for key in ("weight", "bias")}
    return {**state, "_parameters": parameters, "_buffers": {}, "_modules": {}}


def class_name(record: Record) -> str:
    """Return the class of a module."""
    if record.name.endswith("reduce_graph_module"):
        return "torch.fx.graph_module.GraphModule"
    return record.name


def named(value: object, key: str) -> Iterator[tuple[str, object]]:
    """Yield an attribute as plain values, small objects and dicts flattened: ("act", ...), ("act.approximate", ...)."""
    if type(value) is Record and value.name == "functools.partial" and value.args:
        partial = value.state if type(value.state) is tuple else ()
        yield key, plain(value.args[0])
        yield from _entries(partial[2] if len(partial) > 2 else {}, key)
        return
    single = plain(value)
    if single is not _NOT_PLAIN:
        yield key, single
    if type(value) is dict:
        yield from _entries(value, key)
    elif type(value) is Record and type(single) is Global and module_state(value) is None:
        yield from _entries(state_of(value), key)


def _entries(entries: object, key: str) -> Iterator[tuple[str, object]]:
    if type(entries) is not dict or len(entries) > MAX_VALUES:
        return
    for name, value in entries.items():
        if not isinstance(name, (str, int)):
            continue
        single = plain(value)
        if single is not _NOT_PLAIN:
            yield f"{key}.{name}", single
        if type(value) is not Record or type(single) is not Global or module_state(value) is not None:
            continue
        if len(state_of(value)) <= MAX_VALUES:
            for inner, deeper in state_of(value).items():
                last = plain(deeper)
                if isinstance(inner, str) and last is not _NOT_PLAIN:
                    yield f"{key}.{name}.{inner}", last


def plain(value: object, budget: list[int] | None = None) -> object:
    """Return a number, text, Global or tuple of them for `value`; a marker that is none of these where there is none.

    `budget` counts the values that may still be looked at: tuples of one tuple many times over cost nothing to write.
    """
    if value is None or isinstance(value, (bool, int, float, Global)):
        return value
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, (tuple, list)):
        budget = [4 * MAX_VALUES] if budget is None else budget
        budget[0] -= len(value) + 1
        if len(value) > MAX_VALUES or budget[0] < 0:
            return _NOT_PLAIN
        items = tuple(plain(item, budget) for item in value)
        return _NOT_PLAIN if any(item is _NOT_PLAIN for item in items) else items
    if isinstance(value, Record):
        number = arrays.scalar(value)
        if number is not None:
            return number
        match value:
            case Record(name="builtins.getattr", args=(Record() as owner, str(attribute))):
                return Global(f"{owner.name}.{attribute}")
            case Record(args=(str() | int() | float() as only,), state=None, items=None, appended=None):
                return plain(only)  # an Enum member, a device, a path
        if arrays.numpy_name(value) or value.name.startswith("torch._utils."):
            return _NOT_PLAIN
        return Global(value.name)
    return _NOT_PLAIN


def is_plain(value: object) -> bool:
    """Whether `plain` found something."""
    return value is not _NOT_PLAIN


def settings(value: object, depth: int = 0, budget: list[int] | None = None) -> Any:
    """Return a configuration (dict, Namespace, dataclass, OmegaConf, HuggingFace config) as JSON-like values."""
    budget = [MAX_SETTINGS] if budget is None else budget
    budget[0] -= 1
    if depth > 16 or budget[0] < 0:
        return None
    if isinstance(value, Record):
        content = value.items if value.items is not None else state_of(value)
        for inner in ("_content", "_val"):  # OmegaConf wraps every value
            if inner in content:
                return settings(content[inner], depth + 1, budget)
        if content:
            return settings(content, depth + 1, budget)
    if type(value) is dict:
        some = list(value.items())[:MAX_SETTINGS]
        return {str(key): settings(item, depth + 1, budget) for key, item in some if isinstance(key, (str, int))}
    if isinstance(value, (list, tuple)):
        return [settings(item, depth + 1, budget) for item in value[:MAX_SETTINGS]]
    single = plain(value)
    if isinstance(single, Global):
        return single.name
    return single if is_plain(single) else None


class ModuleWalk:
    """The modules of one pickled model, root first, each before its children and these in order of registration."""

    def __init__(
        self, tensor: Callable[[object], Found | None], emit: Callable[[str, Found, bool], str | None]
    ) -> None:
        self._tensor = tensor
        self._emit = emit  # (name, tensor, whether it is a buffer) -> its name in the model
        self.modules: list[Module] = []
        self.problems: list[tuple[str, str]] = []
        self._attributes_left = MAX_ATTRIBUTES

    def walk(self, root: Record, prefix: str) -> None:
        """Add `root` and everything below it under the path `prefix`."""
        todo: list[tuple[Record, str, tuple[int, ...]]] = [(root, prefix, ())]
        while todo:
            record, path, parents = todo.pop()
            state = module_state(record)
            if state is None or id(record) in parents:
                why = "contains itself" if state is not None else f"of class {record.name}: no nn.Module by its state"
                self.problems.append((path, why))
                continue
            if len(self.modules) >= MAX_MODULES or len(parents) >= MAX_DEPTH:
                raise UnsafeFileError(f"more than {MAX_MODULES} modules, or nested deeper than {MAX_DEPTH}")
            above = (*parents, id(record))
            children = [
                (child, f"{path}.{name}" if path else str(name))
                for name, child in _dict(state.get("_modules")).items()
                if isinstance(child, Record)
            ]
            self.modules.append(
                Module(
                    path, class_name(record), self._attributes(state), self._tensors(state, path),
                    tuple(at for child, at in children if id(child) not in above and module_state(child) is not None),
                )
            )  # fmt: skip
            todo += [(child, child_path, above) for child, child_path in reversed(children)]

    def _tensors(self, state: dict[object, object], path: str) -> dict[str, str]:
        names: dict[str, str] = {}

        def add(local: str, value: object, buffer: bool) -> None:
            found = self._tensor(value) if value is not None else None
            if found is not None:
                full = self._emit(f"{path}.{local}" if path else local, found, buffer)
                if full is not None:
                    names[local] = full

        for kind in ("_parameters", "_buffers"):
            for local, value in _dict(state.get(kind)).items():
                add(str(local), value, kind == "_buffers")
        for key, value in state.items():
            if type(value) is Record and value.name == "torch.ScriptObject":
                for local, part in _packed(value, str(key)):
                    add(local, part, False)
        return names

    def _attributes(self, state: dict[object, object]) -> dict[str, object]:
        found: dict[str, object] = {}
        for key, value in state.items():
            if isinstance(key, str) and key not in _BOOKKEEPING and not (key.endswith("_hooks") and not value):
                found.update((name, single) for name, single in named(value, key) if is_plain(single))
        self._attributes_left -= len(found)
        if self._attributes_left < 0:
            raise UnsafeFileError(f"modules with more than {MAX_ATTRIBUTES} attributes")
        frozen = tuple(
            str(local)
            for local, value in _dict(state.get("_parameters")).items()
            if isinstance(value, Record) and len(value.args) > 1 and value.args[1] is False
        )
        if frozen:
            found["parameters.frozen"] = frozen  # no Python name, so it can hide no attribute
        return found


def _packed(value: object, name: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield what a packed parameter of a quantised module was made of."""
    if type(value) is Record and value.name == "torch.ScriptObject":
        content = value.state if type(value.state) is tuple and value.state else (None,)
        yield from _packed(content[0], name, depth + 1)
    elif isinstance(value, (tuple, list)) and depth < MAX_PACKED and len(value) <= MAX_PACKED:
        for index, item in enumerate(value):
            yield from _packed(item, f"{name}.{index}", depth + 1)
    elif type(value) is Record:
        yield name, value


def _dict(value: object) -> dict[object, object]:
    return value if type(value) is dict else {}
