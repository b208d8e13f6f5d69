"""A chain that the numbers in a state_dict's names prove, but for what stands between its weights.

    0.weight 0.bias   2.weight 2.bias   4.weight 4.bias     or the same behind one prefix: net.0.weight ...

torch.nn.Sequential numbers its children, also those that have nothing to save: a number that is missing is a module
without parameters. A ModuleList of weights, which may be added, joined or skipped in a forward pass of one's own, has
no such gaps. So the file has to hold one run of numbers with a gap between any two weights, each of which takes as many
inputs as the one before has outputs, and nothing else.

Which activation stands in the gaps is not known: there is one candidate for each that is common.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from initaudit.layers.chains import PARALLEL
from initaudit.types import Graph, Layer, Model, Ref, Tensor

_KEY = re.compile(r"(?P<prefix>(?:.*\.)?)(?P<number>\d{1,6})\.(?P<leaf>[a-z_]+)$", re.DOTALL)
_STATISTICS = frozenset({"running_mean", "running_var", "num_batches_tracked"})
_LEAST = 2  # weights of a chain
_BATCH = 2


@dataclass(frozen=True, slots=True)
class Between:
    """What may stand in the gaps of a chain."""

    activation: str  # as torch.nn.functional spells it, "" for none
    params: Mapping[str, Any] = field(default_factory=dict)
    frequency: float = 1.0  # that its input is multiplied by


NOTHING = Between("")
# Between them they cover what keeps a chain alive: weights of any variance from that which suits an identity to that
# which suits a SiLU, large ones behind what saturates, and tiny ones behind the sine of Sitzmann et al. (2020, section
# 3.2). SELU is none of them: it brings any signal back to variance 1, so that nothing could be told of any chain.
COMMON = (
    Between("relu"), NOTHING, Between("tanh"), Between("elu"), Between("gelu"), Between("silu"), Between("sigmoid"),
    Between("sin", frequency=30.0),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Link:
    """One numbered module that has parameters."""

    number: int
    kind: str  # linear, norm, prelu
    tensors: Mapping[str, Tensor]

    @property
    def sides(self) -> tuple[int, int]:
        """Inputs and outputs."""
        shape = next(iter(self.tensors.values())).shape if self.kind != "linear" else self.tensors["weight"].shape
        return (shape[1], shape[0]) if self.kind == "linear" else (shape[0], shape[0])


@dataclass(frozen=True, slots=True)
class Chain:
    """Modules with parameters in the order of their numbers."""

    prefix: str
    links: tuple[Link, ...]

    @property
    def closed(self) -> bool:
        """Whether nothing stands between its weights that is not in the file."""
        return not self._gaps()

    def graph(self, between: Between) -> Graph:
        """Return the graph with one thing in all gaps."""
        from initaudit.torch_ops import Builder  # noqa: PLC0415  takes longer to load than most files to find no chain

        builder = Builder("function")
        width = self.links[0].sides[0]
        builder.input("input", (_BATCH, width))
        gaps = self._gaps()
        value = "input"
        made = 0

        def call(target: str, args: Sequence[Any], kwargs: Mapping[str, Any], scope: str = "") -> None:
            nonlocal value, made
            made += 1
            builder.call(target, (Ref(value), *args), kwargs, [f"%{made}"], {f"%{made}": (_BATCH, width)}, scope=scope)
            value = f"%{made}"

        for link in self.links:
            own: dict[str, Ref] = {}
            for name, tensor in link.tensors.items():
                if tensor.is_float:
                    builder.tensor(tensor.name, tensor)
                    own[name] = Ref(tensor.name)
            width = link.sides[1]
            call(*_called(link, own), scope=f"{self.prefix}{link.number}")
            if link.number not in gaps:
                continue
            if between.frequency != 1:
                call("mul", (between.frequency,), {})
            if between.activation:
                call(between.activation, (), between.params)
        return builder.graph([value])

    def _gaps(self) -> frozenset[int]:
        """Return the numbers behind which an activation may stand: one between any two weights, behind their norms."""
        rooms = {a.number: b.number - a.number - 1 for a, b in pairwise(self.links)}
        found: set[int] = set()
        weights = [at for at, link in enumerate(self.links) if link.kind == "linear"]
        for start, end in pairwise(weights):
            own = [link.number for link in self.links[start:end] if rooms[link.number]]
            if own and not any(link.kind == "prelu" for link in self.links[start:end]):
                found.add(own[-1])
        return frozenset(found)


def chain(model: Model, found: Sequence[Layer]) -> Chain | None:
    """Return the chain that a file without graph and modules consists of, None where its names prove none.

    Args:
        model: as it was read.
        found: its layers, by names and shapes.
    """
    prefixes: set[str] = set()
    groups: dict[int, dict[str, Tensor]] = defaultdict(dict)
    for tensor in model.tensors:
        match = _KEY.match(tensor.name)
        if match is None or (not tensor.is_float and match["leaf"] not in _STATISTICS):
            return None
        prefixes.add(match["prefix"])
        groups[int(match["number"])][match["leaf"]] = tensor
    if len(prefixes) != 1 or sum(map(len, groups.values())) != len(model.tensors):
        return None
    if PARALLEL.search(next(iter(prefixes))) or any(skip.parameter for skip in model.skipped):
        return None
    kinds = {a.weight.name: a for a in found}
    links = [_link(number, groups[number], kinds) for number in sorted(groups)]
    known_links = [link for link in links if link is not None]
    whole = Chain(next(iter(prefixes)), tuple(known_links))
    return whole if len(known_links) == len(links) and _holds(whole) else None


def between(activation: str) -> Between | None:
    """Return what the user says stands in the gaps; None where the table has no such function."""
    if activation in ("", "none", "identity", "linear"):
        return NOTHING
    from initaudit.torch_ops import known  # noqa: PLC0415  as above

    return Between(activation) if known(activation) else None


def _link(number: int, own: Mapping[str, Tensor], found: Mapping[str, Layer]) -> Link | None:
    """Return a module by what it has saved, None where that may be several things."""
    weight, bias = own.get("weight"), own.get("bias")
    told = found.get(weight.name) if weight is not None else None
    names, sizes = set(own), {t.shape for name, t in own.items() if name != "num_batches_tracked"}
    if weight is not None and len(weight.shape) == 2:
        plain = told is not None and told.kind == "linear" and told.axes == "oi" and not told.parts and not told.extra
        fits = names <= {"weight", "bias"} and (bias is None or bias.shape == weight.shape[:1])
        return Link(number, "linear", own) if plain and fits else None
    if len(sizes) != 1 or len(next(iter(sizes))) != 1:
        return None
    if names == {"weight"}:  # of more than one number it may be the scale of a norm
        return Link(number, "prelu", own) if next(iter(sizes)) == (1,) else None
    statistics = names & _STATISTICS
    learned = names - _STATISTICS
    whole = learned in ({"weight", "bias"}, set()) and {"running_mean", "running_var"} <= statistics
    return Link(number, "norm", own) if whole or names == {"weight", "bias"} else None


def _holds(whole: Chain) -> bool:
    """Whether each takes what the one before gives, with something between any two weights."""
    weights = [link for link in whole.links if link.kind == "linear"]
    if len(weights) < _LEAST or whole.links[0].number > _LEAST:
        return False
    if not all(b.kind == "prelu" or a.sides[1] == b.sides[0] for a, b in pairwise(_wide(whole.links))):
        return False
    for a, b in pairwise(weights):
        within = [link for link in whole.links if a.number < link.number < b.number]
        room = b.number - a.number - 1 - len(within)
        if room < 1 and not any(link.kind == "prelu" for link in within):
            return False
    return True


def _wide(links: Sequence[Link]) -> list[Link]:
    return [link for link in links if link.kind != "prelu"]


def _called(link: Link, own: Mapping[str, Ref]) -> tuple[str, Sequence[Any], Mapping[str, Any]]:
    if link.kind == "linear":
        return "linear", (own["weight"], own.get("bias")), {}
    if link.kind == "prelu":
        return "prelu", (own["weight"],), {}
    both = {"weight": own.get("weight"), "bias": own.get("bias")}
    if "running_var" in own:
        return "batch_norm", (own["running_mean"], own["running_var"]), {**both, "training": False}
    return "layer_norm", ((link.sides[0],),), both
