"""What follows a layer in a module tree.

Inside an exact torch.nn.Sequential the order of registration is the order of execution, so what follows is certain.
Elsewhere the order in which a class registers its children, and the activation it holds, are good hints and no more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from initaudit.layers import words
from initaudit.layers.drafts import OPERATORS
from initaudit.types import Evidence, Global, Layer, Module, Role

_SEQUENTIAL = "torch.nn.modules.container.Sequential"
_CONTAINER = re.compile(r"^torch\.nn\.modules\.container\.")
_PASSES = re.compile(
    r"(?:^Identity$|Drop(?:out|path|block)|Pool|^Flatten$|^Unflatten$|PixelShuffle|PixelUnshuffle|^Upsampl|Pad\w*$|Permute"
    r"|ChannelShuffle|Rearrange|Reshape|Transpose$)",
    re.IGNORECASE,
)
_NORM = re.compile(r"Norm", re.IGNORECASE)
_SQUASHING = frozenset({"sigmoid", "hardsigmoid", "tanh", "softmax", "log_softmax"})  # gates and ends
_WEIGHT = re.compile(
    r"^(?:Lazy)?(?:Linear|Bilinear|Conv(?:Transpose)?\dd|Embedding(?:Bag)?|LSTM|GRU|RNN|MultiheadAttention)$"
)


@dataclass(frozen=True, slots=True)
class Next:
    """What follows: an activation, a weight or the end, or neither is known ("")."""

    what: str
    activation: str | None
    normed: bool
    sure: Evidence
    where: str = ""


def trace(layers: Sequence[Layer], modules: Iterable[Module], owners: Mapping[str, Module]) -> list[Layer]:
    """Return the layers with activation, role and norm read from the module tree.

    Args:
        layers: in the order of registration, with roles by name.
        modules: the whole tree.
        owners: the module of each layer, by the name of its weight.
    """
    tree = {m.path: m for m in modules}
    return [_followed(a, owners.get(a.weight.name), tree) for a in layers]


class Held:
    """Which activations the classes of a module tree hold: what a configuration says of a bare checkpoint."""

    def __init__(self, modules: Iterable[Module]) -> None:
        self._tree = {m.path: m for m in modules}
        found = {words.activation(m.cls) for m in self._tree.values() if not m.tensors} - {None, *_SQUASHING}
        self.usual = next(iter(found)) or "" if len(found) == 1 else ""

    def told(self, key: str, path: str) -> str | None:
        """Return the one activation held by the module around a path, or the next one up; the key does not matter."""
        for _ in range(2):
            path = path.rpartition(".")[0]
            module = self._tree.get(path)
            held = _held(module, self._tree) if module else None
            if held:
                return held
        return None


def _followed(a: Layer, owner: Module | None, tree: Mapping[str, Module]) -> Layer:
    if owner is not None and a.kind == "norm":
        return _norm(a, owner, tree)
    if owner is None or a.kind not in OPERATORS:
        return a
    if a.kind == "rnn":
        spelled = owner.attrs.get("nonlinearity") or str(owner.attrs.get("mode", "")).partition("_")[2]
        name = words.activation(str(spelled)) if spelled else None
        return replace(a, activation=name, activation_evidence=Evidence.TRACED) if name else a
    if a.kind in ("lstm", "gru"):
        return replace(a, activation_evidence=Evidence.TRACED, reasons=(*a.reasons, words.OWN_GATES))
    if a.kind == "attention":
        return replace(a, activation_evidence=Evidence.NAMED, reasons=(*a.reasons, "a dot product follows"))
    found = _after(owner.path, tree, Evidence.TRACED, 0)
    feed = _feed_forward(a, owner, tree) if found.sure is Evidence.ASSUMED else None
    if feed is None and found.sure is Evidence.ASSUMED and found.activation is not None and _later(owner, tree):
        return a
    if feed is not None and (found.activation is None or found.activation == feed.activation):
        found = feed
    if found.sure is Evidence.ASSUMED and (found.activation in _SQUASHING or a.role is Role.GATE):
        return a  # the order of registration says nothing of scores and gates
    why = ""
    if found.activation is not None:
        how = {
            Evidence.TRACED: "next in its Sequential",
            Evidence.NAMED: "by name",
            Evidence.ASSUMED: "next registered",
        }
        why = f"{found.activation} follows: {found.where or how[found.sure]}"
    elif found.what and found.sure > Evidence.ASSUMED:
        why = "no activation follows" if found.what == "weight" else "last in its Sequential"
    if found.what == "" and found.activation is None:
        return a if not found.normed else replace(a, normed=True if a.normed is None else a.normed)
    if a.activation_evidence >= found.sure and a.activation is not None:
        return a
    changed = replace(
        a,
        activation=found.activation,
        activation_evidence=found.sure,
        normed=True if found.normed else False if found.sure is Evidence.TRACED else a.normed,
        reasons=(*a.reasons, why) if why else a.reasons,
    )
    return _role(changed, found, owner)


def _norm(a: Layer, owner: Module, tree: Mapping[str, Module]) -> Layer:
    """What follows a norm: the activation in it, or what its Sequential hands its output on to."""
    held = [name for c in owner.children if c in tree and (name := words.activation(tree[c].cls))]
    if len(held) == 1:
        why = f"{held[0]} follows: {owner.kind} holds it"
        return replace(a, activation=held[0], activation_evidence=Evidence.NAMED, reasons=(*a.reasons, why))
    found = _after(owner.path, tree, Evidence.TRACED, 0)
    sure = found.sure if owner.cls.startswith("torch.nn.") else min(found.sure, Evidence.NAMED)
    if sure is Evidence.ASSUMED or (found.activation is None and not found.what):
        return a
    why = f"{found.activation} follows: next in its Sequential" if found.activation else "no activation follows"
    return replace(a, activation=found.activation, activation_evidence=sure, reasons=(*a.reasons, why))


def _role(a: Layer, found: Next, owner: Module) -> Layer:
    """A weight that an exact Sequential hands on to the next one is plain trunk; its last one is the head."""
    if found.sure is not Evidence.TRACED or a.role in (Role.ADAPTER, Role.GATE, Role.CLOSED_FORM):
        return a
    if not owner.cls.startswith("torch.nn."):
        return a
    if found.what == "weight":
        return replace(
            a, role=Role.TRUNK, role_evidence=Evidence.TRACED, reasons=(*a.reasons, "its Sequential hands it on")
        )
    if found.what == "end":
        return replace(a, role=Role.HEAD, role_evidence=Evidence.TRACED, reasons=(*a.reasons, "nothing comes after it"))
    return a


def _after(path: str, tree: Mapping[str, Module], sure: Evidence, depth: int) -> Next:
    """Walk on from a module through its siblings, then through those of its container."""
    activation: str | None = None
    normed = False
    while path and depth < 64:
        depth += 1
        parent = tree.get(path.rpartition(".")[0])
        if parent is None or path not in parent.children:
            return Next("", activation, normed, Evidence.ASSUMED if activation is None else sure)
        kept = _flow(parent, tree)
        if kept is None:
            return Next("", activation, normed, Evidence.ASSUMED if activation is None else sure)
        here = min(sure, kept)
        for child in parent.children[parent.children.index(path) + 1 :]:
            step = _enter(child, tree)
            if step.what == "activation" and activation is None:
                activation, sure = step.activation, here
                normed = normed or step.normed
            elif step.what in ("activation", "pass"):
                normed = normed or (step.normed and activation is None)
            elif step.what == "weight":
                # A foreign module that merely registers its weights in a row says nothing about what lies between.
                told = "weight" if here > Evidence.ASSUMED or activation is not None else ""
                return Next(told if here is Evidence.TRACED else "", activation, normed, _rank(activation, sure, here))
            else:
                return Next("", activation, normed, _rank(activation, sure, Evidence.ASSUMED))
        if activation is None:
            sure = here
        if kept is Evidence.ASSUMED:
            return Next("", activation, normed, _rank(activation, sure, Evidence.ASSUMED))
        path = parent.path
        if not path:
            return Next(
                "end" if here is Evidence.TRACED else "", activation, normed, here if activation is None else sure
            )
    return Next("", activation, normed, sure if activation is not None else Evidence.ASSUMED)


def _rank(activation: str | None, sure: Evidence, here: Evidence) -> Evidence:
    return sure if activation is not None else here


def _flow(parent: Module, tree: Mapping[str, Module]) -> Evidence | None:
    """How far the children of a module run in the order in which they are registered; None: they do not."""
    if parent.cls == _SEQUENTIAL:
        return Evidence.TRACED
    if _CONTAINER.match(parent.cls):
        return None
    names = [c.rpartition(".")[2] for c in parent.children]
    if not parent.tensors and len(names) > 1 and names == [str(i) for i in range(len(names))]:
        return Evidence.NAMED  # a class of its own, made like a Sequential
    return Evidence.ASSUMED


def _enter(path: str, tree: Mapping[str, Module], depth: int = 0) -> Next:
    """What a module does with the signal that enters it."""
    module = tree.get(path)
    nothing = Next("", None, False, Evidence.ASSUMED)
    if module is None or depth > 16:
        return nothing
    own = module.cls.startswith("torch.nn.")
    if _PASSES.search(module.kind) and not module.tensors:
        return Next("pass", None, False, Evidence.TRACED)
    name = words.activation(module.cls)
    if name is not None and not (module.tensors and name != "prelu"):
        return Next("activation", name, False, Evidence.TRACED)
    if _NORM.search(module.kind) and not any(_WEIGHT.match(tree[c].kind) for c in module.children if c in tree):
        inner = [_enter(c, tree, depth + 1) for c in module.children]
        acts = [n for n in inner if n.what == "activation"]
        return (
            Next("activation", acts[0].activation, True, Evidence.NAMED)
            if acts
            else Next("pass", None, True, Evidence.TRACED)
        )
    if own and _WEIGHT.match(module.kind):
        return Next("weight", None, False, Evidence.TRACED)
    if module.cls == _SEQUENTIAL:
        for child in module.children:
            step = _enter(child, tree, depth + 1)
            if step.what != "pass" or step.normed:
                return step
        return Next("pass", None, False, Evidence.TRACED)
    return nothing


def _feed_forward(a: Layer, owner: Module, tree: Mapping[str, Module]) -> Next | None:
    """The activation that the surrounding class holds, for the matrix that it is known to follow."""
    parent = tree.get(owner.path.rpartition(".")[0]) if owner.path else None
    if parent is None or a.kind not in ("linear", "conv", "conv_transpose") or _CONTAINER.match(parent.cls):
        return None
    held = _held(parent, tree)
    if held is None:
        return None
    weights = [
        c for c in parent.children if c in tree and "weight" in tree[c].tensors and not _NORM.search(tree[c].kind)
    ]
    leaves = {c.rpartition(".")[2] for c in weights}
    leaf = owner.path.rpartition(".")[2]
    earlier = parent.children[: parent.children.index(owner.path)] if owner.path in parent.children else ()
    before = any(words.activation(tree[c].cls) == held for c in earlier if c in tree)
    depthwise = [c for c in parent.children if words.DEPTHWISE & set(words.tokens(c.rpartition(".")[2]))]
    if depthwise and (len(weights) < 3 or depthwise[0] not in earlier):
        return None  # a depthwise convolution stands between the two
    if (len(weights) == 1 and not before) or (
        words.FFN_FIRST.search(leaf) and not (leaf == "up_proj" and "gate_proj" in leaves)
    ):
        return Next("", held, False, Evidence.NAMED, f"{parent.kind} holds it, and this is its first matrix")
    norms = [c for c in parent.children if c in tree and _NORM.search(tree[c].kind)]
    if a.kind == "conv" and len(norms) >= len(weights) > 1 and "attn" not in parent.path:
        return Next("", held, True, Evidence.ASSUMED, f"the only activation of {parent.kind}")
    return None


def _later(owner: Module, tree: Mapping[str, Module]) -> bool:
    """Whether another matrix beside this one is the one that an activation registered after both follows."""
    parent = tree.get(owner.path.rpartition(".")[0]) if owner.path else None
    if parent is None or words.FFN_FIRST.search(owner.path):
        return False
    index = parent.children.index(owner.path) if owner.path in parent.children else 0
    return any(words.FFN_FIRST.search(c) and "weight" in tree[c].tensors for c in parent.children[:index] if c in tree)


def _held(parent: Module, tree: Mapping[str, Module]) -> str | None:
    """The one activation that a module holds, as child or attribute."""
    found = {words.activation(tree[c].cls) for c in parent.children if c in tree and not tree[c].tensors}
    for key in words.MODULE_ACTIVATION:
        value = parent.attrs.get(key)
        if isinstance(value, Global):
            found.add(words.activation(value.name))
        elif isinstance(value, str):
            found.add(words.activation(value))
    found -= {None, "softmax", "log_softmax"}
    return found.pop() if len(found) == 1 else None
