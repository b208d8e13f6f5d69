"""What a weight is for, told by names, shapes and the configuration: evidence NAMED at most.

The role decides how a zero, a tiny or a repeated weight is to be read, so the words come first that make it harmless
(gates, adapters, closed forms, branch ends), and a weight counts as plain trunk only where numbering and fans together
prove a chain.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from initaudit.layers import chains, words
from initaudit.layers.drafts import OPERATORS, sides
from initaudit.layers.groups import split
from initaudit.layers.places import paired, place
from initaudit.naming import pattern
from initaudit.types import Evidence, Layer, Role

_EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_routed_experts")
_RESIDUAL = re.compile(
    r"(?:^|[._])(?:downsample|shortcut|skip\w*|residual\w*|conv_skip|conv_shortcut|identity_conv|nin_shortcut)(?:[._]|$)"
)
_FEED_FORWARD = re.compile(
    r"(?:^|[._])(?:mlp|ffn?|feed_?forward|net|mlps?_\w+|ffn_\w+)(?:[._]|$)|linear\d$|fc\d$", re.I
)


_MLP = re.compile(r"(?:^|[._])(?:mlp\.fc\d|pwconv\d|ffn\.\w+)$")


@dataclass(frozen=True, slots=True)
class File:
    """What roles depend on beyond a layer itself."""

    experts: frozenset[int]
    residual: frozenset[str]  # patterns of the paths of blocks that have a shortcut
    chains: Mapping[str, chains.Link]  # by name of the weight
    config: Mapping[str, Any]
    last: str  # name of the last operator's weight, "" if the order is not known
    pictures: Counter[int]  # how many convolutions store each number of input channels
    mates: Mapping[str, Layer]  # path of a module -> its weight of two axes or more
    beside: Mapping[str, frozenset[str]]  # path of a module -> first steps below it that have weights


def assign(layers: Sequence[Layer], config: Mapping[str, Any], ordered: bool) -> list[Layer]:
    """Return the layers with role and norm as far as names tell them.

    Args:
        layers: with kind and fans settled.
        config: of the model; {} if there is none.
        ordered: whether the layers stand in the order of registration.
    """
    operators = [a for a in layers if a.kind in OPERATORS]
    beside: dict[str, set[str]] = defaultdict(set)
    for a in layers:
        parent, _, step = place(a).path.rpartition(".")
        beside[parent].add(step)
        beside[parent.rpartition(".")[0]].add(parent.rpartition(".")[2])
    file = File(
        experts=_experts(layers, config),
        residual=frozenset(
            pattern(a.weight.name[: m.start()]) for a in layers if (m := _RESIDUAL.search(a.weight.name))
        ),
        chains=chains.links(layers, ordered),
        config=config,
        last=operators[-1].weight.name if operators and ordered else "",
        pictures=Counter(a.weight.shape[1] for a in operators if a.kind == "conv" and a.axes.startswith("oi")),
        mates={place(a).path: a for a in operators},
        beside={path: frozenset(steps) for path, steps in beside.items()},
    )
    norms: dict[str, list[tuple[int, Layer]]] = defaultdict(list)
    for n, a in enumerate(layers):
        if a.kind == "norm":
            norms[place(a).path.rpartition(".")[0]].append((n, a))
    blocks = _block_ends(layers, file)
    made = (_assigned(a, file, blocks) for a in layers)
    before = frozenset() if ordered else _normed_before(layers, norms)
    return [_normed(a, norms, n if ordered else -1, before) for n, a in enumerate(made)]


def _assigned(a: Layer, file: File, blocks: Mapping[str, Evidence]) -> Layer:
    role, sure, why = _role(a, file, blocks)
    if role is a.role and sure <= a.role_evidence:
        return a
    return replace(a, role=role, role_evidence=sure, reasons=(*a.reasons, f"{role}: {why}") if why else a.reasons)


def _role(a: Layer, file: File, blocks: Mapping[str, Evidence]) -> tuple[Role, Evidence, str]:
    path, name = place(a).path, a.weight.name
    local = split(name)[1].partition("@")[0]
    named = Evidence.NAMED
    if words.ADAPTER.search(name) and not re.search(r"base_layer|original_module", name):
        end = (
            "meets the input"
            if words.ADAPTER_DOWN.search(name)
            else "ends in the output"
            if words.ADAPTER_UP.search(name)
            else ""
        )
        return Role.ADAPTER, named, f"by name; the factor that {end}" if end else "by name"
    if a.kind in ("parameter", "bias") and words.CLOSED_FORM.search(name):
        return Role.CLOSED_FORM, named, "by name"
    if a.kind == "parameter" and words.GATE_WHOLE.search(name.removesuffix(".weight")):
        return Role.GATE, named, "multiplies a signal, by name"
    if a.kind == "parameter" and words.ATTENTION_BIAS.search(name):
        return Role.OTHER, named, "added to attention logits, by name"
    if a.kind == "parameter" and words.EMBEDDING_PARAMETER.search(name.removesuffix(".weight")):
        return Role.EMBEDDING, named, "by name"
    if a.kind == "norm":
        return Role.NORM, a.fan_evidence, ""
    if a.kind not in OPERATORS:
        return a.role, a.role_evidence, ""
    if words.GATE_PATH.search(path) or words.SQUEEZE_LEAF.search(path):
        return Role.GATE, named, "modulates another signal, by name"
    if words.ROUTER.search(path) and sides(a)[1] in file.experts:
        return Role.ROUTER, named, f"one output for each of {sides(a)[1]} experts"
    link = file.chains.get(name)
    if link is not None and link.squeezes and a.kind == "conv" and re.search(r"(?:^|[._])fc\d$", path):
        return Role.GATE, named, "squeezes and excites: two pointwise layers, narrower in between"
    if link is not None and link.whole:
        return (
            (Role.HEAD, named, "the last of a plain chain")
            if link.last
            else (Role.TRUNK, named, "inside a plain chain")
        )
    if words.HEAD.search(path) or words.HEAD_TOP.search(path):
        return Role.HEAD, named, "by name"
    if name in blocks:
        return Role.BRANCH_END, blocks[name], "the last weight of a residual block"
    if words.BRANCH_END.search(path) or (local in ("down_proj", "w2", "output_proj") and "s" in a.axes):
        return Role.BRANCH_END, named, "by name"
    if why := _trunk(a, file, link):
        return Role.TRUNK, named, why
    if link is not None and link.last and link.returns and re.search(r"\.\d+\.", f".{path}."):
        feed = bool(_FEED_FORWARD.search(path))
        sure = named if feed or a.kind == "conv" else Evidence.ASSUMED
        return Role.BRANCH_END, sure, "the last of a block that returns to its own width"
    if name == file.last and a.kind == "linear":
        return Role.HEAD, Evidence.ASSUMED, "the last matrix of the file"
    return a.role, a.role_evidence, ""


def _trunk(a: Layer, file: File, link: chains.Link | None) -> str:
    """Why a weight is plain trunk, though the file is no plain chain; "" if nothing says so."""
    path = place(a).path
    if a.kind in ("lstm", "gru", "rnn"):
        return "what enters the cell" if "weight_ih" in a.weight.name else ""
    if words.NOT_TRUNK.search(path):
        return ""
    if link is not None and not link.last and not link.squeezes:
        return f"its {sides(a)[1]} units go on to {link.after}"
    if a.kind == "conv" and a.groups == 1 and a.axes.startswith("oi") and words.STEM.search(path):
        channels = a.weight.shape[1]
        if channels in words.PICTURE and file.pictures[channels] == 1 and a.fan_evidence > Evidence.ASSUMED:
            return f"the only convolution on {channels} channels, by name the first"
    for first, second in words.FFN_PAIRS:
        if path != first and not path.endswith(("." + first, "_" + first)):
            continue
        mate = file.mates.get(path.removesuffix(first) + second)
        if mate is not None and sides(mate) == sides(a)[::-1] and sides(a)[1] > sides(a)[0]:
            return f"first matrix of a feed-forward block, by name; {mate.name} leads back"
    return ""


def _experts(layers: Sequence[Layer], config: Mapping[str, Any]) -> frozenset[int]:
    counts = {v for k in _EXPERT_KEYS if isinstance(v := config.get(k), int) and v > 1}
    indices: dict[str, set[int]] = defaultdict(set)
    for a in layers:
        if "s" in a.axes and a.kind == "linear":
            counts.add(a.weight.shape[a.axes.index("s")])
        match = re.match(r"^(.*experts)\.(\d+)\.", a.weight.name)
        if match:
            indices[match[1]].add(int(match[2]))
    return frozenset(counts | {len(i) for i in indices.values()})


def _block_ends(layers: Sequence[Layer], file: File) -> dict[str, Evidence]:
    """Weights that end a residual block, by name: conv3 beside a shortcut."""
    found: dict[str, Evidence] = {}
    blocks: dict[str, list[Layer]] = defaultdict(list)
    for a in layers:
        prefix = _block(a.weight.name, file.residual)
        if (
            prefix is not None
            and not _RESIDUAL.search(a.weight.name[len(prefix) :])
            and not words.GATE_PATH.search(a.weight.name)
        ):
            blocks[prefix].append(a)
    for members in blocks.values():
        convs = [a for a in members if a.kind == "conv"]
        if len(convs) < 2 or any(a.kind == "linear" and _MLP.search(place(a).path) for a in members):
            continue  # of the two, the feed-forward part comes last
        greatest = max(_numbers(a) for a in convs)
        for last in (a for a in convs if _numbers(a) == greatest):  # the order of several is not known
            found[last.weight.name] = Evidence.NAMED
    return found


def _numbers(a: Layer) -> list[int]:
    """What counts in a path, letters included: layer1.0.conv2 (1, 0, 2), stage1.0.conv_b (1, 0, 1)."""
    return [int(n) if n else ord(x) - ord("a") for n, x in re.findall(r"(\d+)|_([a-h])(?=\.|$)", place(a).path)]


def _block(name: str, residual: frozenset[str]) -> str | None:
    """The path of the residual block that a tensor belongs to, with its closing dot."""
    steps = name.split(".")
    for n in range(len(steps) - 1, 0, -1):
        prefix = ".".join(steps[:n])
        if pattern(prefix) in residual:
            return f"{prefix}."
    return None


def _normed(a: Layer, norms: Mapping[str, Sequence[tuple[int, Layer]]], position: int, before: frozenset[str]) -> Layer:
    """Say that a norm takes the output, where numbering or naming pairs the two and their sizes agree."""
    if a.kind not in ("linear", "conv", "conv_transpose") or a.normed is not None or not a.weight.shape:
        return a
    here = place(a)
    units = sides(a)[1]
    if position < 0 and pattern(here.path) in before:
        return a
    for n, norm in norms.get(here.path.rpartition(".")[0], ()):
        if n < position or norm.weight.shape != (units,) or not paired(here, place(norm)):
            continue  # it takes what this layer takes, not what it gives
        # A batch norm stands before the addition, a layer norm may stand after it.
        statistics = any(t.name.endswith("running_var") for t in norm.extra)
        if a.role is not Role.BRANCH_END or statistics:
            return replace(a, normed=True)
    return a


def _normed_before(layers: Sequence[Layer], norms: Mapping[str, Sequence[tuple[int, Layer]]]) -> frozenset[str]:
    """Patterns of the paths of layers whose norm takes what they take: its size says so in one of them at least.

    Where all are square, a norm with running statistics is taken to follow, as in most networks, and any other not.
    """
    before: set[str] = set()
    open_: dict[str, bool] = {}
    for a in layers:
        if a.kind not in ("linear", "conv", "conv_transpose"):
            continue
        here = place(a)
        takes, gives = sides(a)
        for _, norm in norms.get(here.path.rpartition(".")[0], ()):
            if not paired(here, place(norm)) or len(norm.weight.shape) != 1:
                continue
            (size,) = norm.weight.shape
            key = pattern(here.path)
            if size == takes != gives:
                before.add(key)
            elif size == gives != takes:
                open_[key] = False
            elif size == gives and not any(t.name.endswith("running_var") for t in norm.extra):
                open_.setdefault(key, True)
    return frozenset(before | {key for key, is_open in open_.items() if is_open})
