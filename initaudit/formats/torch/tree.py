"""What a checkpoint holds besides weights, and where in it the model is.

A checkpoint is whatever someone put into torch.save. Its value is first pruned to the parts that hold tensors; then the
one model in it is looked for, by structure: optimizers, schedules, scalers and generators are known by their keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from initaudit.formats.torch.module import module_state, state_of
from initaudit.formats.torch.pickle_values import Record
from initaudit.formats.torch.tensor import Lost, Rebuilder
from initaudit.types import Tensor

MAX_DEPTH = 100
_MANY = 1 << 30

# One tensor of these per parameter is what an optimizer remembers.
_SLOTS = {
    "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col", "momentum_buffer", "square_avg",
    "grad_avg", "acc_delta", "exp_inf", "fp32_flat_groups", "base_optimizer_state", "fp32_from_fp16_params",
}  # fmt: skip
_WRAPPERS = {"state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights", "params"}
_RNG_BYTES = (5056, 816, 16)  # the states of torch's generators: CPU, older and newer CUDA


@dataclass(frozen=True, slots=True)
class Left:
    """A part that is no model, and what it is."""

    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A pickled nn.Module."""

    record: Record


@dataclass(slots=True, eq=False)
class Branch:
    """A container with tensors somewhere in it."""

    children: dict[str, Node] = field(default_factory=dict)
    other: set[str] = field(default_factory=set)  # keys of what holds no tensors: numbers, text, settings
    judged: bool = False  # a tensor or module lies below
    weights: int = 0  # matrices and kernels below
    values: int = 0  # other tensors of more than one element


Node = Tensor | Lost | Left | Whole | Branch


def weights(node: Node) -> int:
    """Return how many tensors of two or more dimensions lie in `node`; many for a whole module."""
    match node:
        case Tensor() | Lost():
            return int(isinstance(node, Lost) or (len(node.shape) >= 2 and node.size > 1))
        case Whole():
            return _MANY
        case Branch():
            return node.weights
    return 0


def _values(node: Node) -> int:
    if isinstance(node, Branch):
        return node.values
    return int(isinstance(node, Tensor) and node.size > 1)


def holds_tensors(node: Node | None) -> bool:
    """Whether anything in `node` could be judged."""
    return node.judged if isinstance(node, Branch) else isinstance(node, (Tensor, Whole))


def bookkeeping(keys: set[object]) -> str:
    """Return what an object with these attributes or entries is, "" if it may be a model."""
    if {"state", "param_groups"} <= keys:
        return "optimizer state, no weights of the model"
    if {"growth_factor", "backoff_factor"} <= keys or {"_growth_factor", "_backoff_factor"} <= keys:
        return "state of a gradient scaler"
    if "last_epoch" in keys and keys & {"base_lrs", "_step_count", "_last_lr"}:
        return "state of a learning-rate schedule"
    if "bit_generator" in keys:
        return "state of a random number generator"
    if keys & _SLOTS:
        return "optimizer state, no weights of the model"
    return ""


class Pruner:
    """Reduces a value to what holds tensors. Each container is looked at once, whatever refers to it."""

    def __init__(self, rebuilder: Rebuilder) -> None:
        self._rebuilder = rebuilder
        self._done: dict[int, Node | None] = {}
        self._open: set[int] = set()
        self._kept: list[object] = []  # what `_done` knows by its address must not go away

    def prune(self, value: object, depth: int = 0) -> Node | None:
        """Return the part of `value` that matters, None if nothing does."""
        value = self._rebuilder.inner(value)
        found = self._rebuilder.tensor(value)
        if found is not None:
            return found
        if type(value) is Record and value.name == "torch.ScriptObject" and type(value.state) is tuple and value.state:
            value = value.state[0]  # a packed parameter of a quantised module: its content and its class
        if not isinstance(value, (dict, list, tuple, Record)):
            return None
        if not value and not isinstance(value, Record):
            return None
        if id(value) in self._done:
            return self._done[id(value)]
        if id(value) in self._open:
            return None
        if depth > MAX_DEPTH:
            return Left(f"nested deeper than {MAX_DEPTH} levels, not read")
        self._open.add(id(value))
        node = self._container(value, depth)
        self._open.discard(id(value))
        self._done[id(value)] = node
        self._kept.append(value)
        return node

    def _container(self, value: object, depth: int) -> Node | None:
        if isinstance(value, Record) and module_state(value) is not None:
            return Whole(value)
        if isinstance(value, (list, tuple)):
            if len(value) > 1 and value[0] == "MT19937":
                return Left("state of a random number generator")
            pairs = enumerate(value)
            return self._branch(((str(i), item) for i, item in pairs), depth)
        entries = value if isinstance(value, dict) else _entries(value) if isinstance(value, Record) else {}
        why = bookkeeping(set(entries))
        if why:
            return Left(why)
        return self._branch(((_key(key), item) for key, item in entries.items()), depth)

    def _branch(self, pairs: Iterable[tuple[str, object]], depth: int) -> Node | None:
        branch = Branch()
        for key, item in pairs:
            node = None if item is None or type(item) in (int, float, str, bool) else self.prune(item, depth + 1)
            if node is None:
                branch.other.add(key)
                continue
            if _is_generator_state(key, node):
                node = Left("state of a random number generator")
            while key in branch.children:  # 1 and "1"
                key += "'"  # noqa: PLW2901
            branch.children[key] = node
            branch.judged = branch.judged or holds_tensors(node)
            branch.weights = min(branch.weights + weights(node), _MANY)
            branch.values = min(branch.values + _values(node), _MANY)
        return branch if branch.children else None


def _key(key: object) -> str:
    if isinstance(key, bytes):
        return key.decode("utf-8", "replace")
    return str(key) if isinstance(key, (str, int, float)) else f"<{type(key).__name__}>"


def _entries(record: Record) -> dict[object, object]:
    entries = dict(state_of(record))
    entries.update(record.items or {})
    if not entries:  # named tuples, partials, objects rebuilt by a function
        entries.update(enumerate(record.appended or record.args))
    return entries


def _is_generator_state(key: str, node: Node, depth: int = 0) -> bool:
    if isinstance(node, Tensor):
        flat = node.dtype == "uint8" and len(node.shape) == 1
        return flat and ("rng" in key.lower() or node.size in _RNG_BYTES)
    if isinstance(node, Branch) and "rng" in key.lower() and depth < 2 and len(node.children) <= 64:
        parts = node.children.values()
        return all(isinstance(part, Left) or _is_generator_state(key, part, depth + 1) for part in parts)
    return False


@dataclass(frozen=True, slots=True)
class Place:
    """Where the model was found: the path to it, the node, and what was left out on the way."""

    path: tuple[str, ...]
    node: Node
    kept: dict[str, Node]  # tensors beside it that may be weights
    left: tuple[tuple[str, str], ...]


def locate(root: Node) -> Place:
    """Return the one model in a checkpoint, or the branch in which several lie side by side."""
    path: tuple[str, ...] = ()
    kept: dict[str, Node] = {}
    left: list[tuple[str, str]] = []
    node = root
    while isinstance(node, Branch):
        lightning = "state_dict" in node.children and "pytorch-lightning_version" in node.other
        key = "state_dict" if lightning else _only_model(node)
        if key is None:
            node = _without_strays(node, path, left)
            break
        for name, child in node.children.items():
            full = ".".join((*path, name))
            if name == key:
                continue
            why = _why_left(child)
            if why:
                left.append((full, why))
            elif isinstance(child, Tensor) and weights(child) and not lightning:
                kept[name] = child
            else:
                left.append((full, "lies beside the model, not in it"))
        path, node = (*path, key), node.children[key]
    return Place(path, node, kept, tuple(left))


def _why_left(node: Node) -> str:
    """Return what a part is that holds no model, nor anything but one kind of bookkeeping; "" for any other."""
    if isinstance(node, Branch) and not node.judged and len(node.children) <= 64:
        reasons = {child.why for child in node.children.values() if isinstance(child, Left)}
        return reasons.pop() if len(reasons) == 1 else ""
    return node.why if isinstance(node, Left) else ""


def _inner(node: Branch) -> dict[str, Node]:
    return {key: child for key, child in node.children.items() if isinstance(child, (Branch, Whole))}


def _is_wrapper(node: Branch) -> bool:
    """Whether a dict is a checkpoint around a model rather than a part of one: it holds other things, or says so."""
    if node.other or any(isinstance(child, Left) for child in node.children.values()):
        return True
    return not _WRAPPERS.isdisjoint(node.children)


def _only_model(node: Branch) -> str | None:
    """Return the key of the one child that is the model, None if `node` is the model or holds several."""
    if any("." in key for key in node.children):
        return None  # a state_dict: only there keys are paths
    inner = _inner(node)
    models = [key for key, child in inner.items() if weights(child)] or [
        k for k, child in inner.items() if _values(child)
    ]
    if len(models) != 1:
        return None
    own = sum(weights(child) for child in node.children.values() if isinstance(child, (Tensor, Lost)))
    if own >= weights(inner[models[0]]):
        return None if own or (len(node.children) > 1 and not _is_wrapper(node)) else models[0]
    others = [key for key, child in node.children.items() if key != models[0] and not isinstance(child, Left)]
    return models[0] if not others or _is_wrapper(node) else None


def _without_strays(node: Branch, path: tuple[str, ...], left: list[tuple[str, str]]) -> Branch:
    """Return the branch without the counters and losses that lie between several models."""
    inner = _inner(node)
    if not _is_wrapper(node) or sum(bool(weights(child)) for child in inner.values()) < 2:
        return node
    stray = [
        key
        for key, child in node.children.items()
        if (isinstance(child, Tensor) and not weights(child)) or (key in inner and not weights(child))
    ]
    left += [(".".join((*path, key)), "lies beside the models, not in one") for key in stray]
    children = {key: child for key, child in node.children.items() if key not in stray}
    return Branch(children, node.other, node.judged, node.weights, node.values)
