"""Well-known families of networks, told by the names of their modules: the shape of the tables, and how they are read.

A table row is a `Family`: module paths that stand together below one root wherever that root is (`layer1.0.conv1` of a
ResNet, also inside a detector), and what follows each of its weights. A path's steps are compared one by one:

    #    a number             conv#  a step with numbers in it       *   any step      {a,b}  one of these
    $    the greatest number that stands there: the last module of a Sequential        **  any steps, at the start only

and what follows is

    relu          the activation, by torch.nn.functional's name        -     none: the next thing is linear
    relu|silu     either, the first is the likelier
    act=gelu      what the configuration says, gelu if there is none   key=gelu   the same, by that key of it
    ~relu         mostly: where a weight stands in its network decides too, so that it is never more than assumed
"""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache

from initaudit.types import Evidence

Told = Callable[[str, str], str | None]  # key of a configuration, path of a module -> activation
Rows = tuple[tuple[tuple[str, ...], str], ...]  # steps of a pattern, what follows
_WRAPPERS = frozenset(
    {"base_layer", "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "original_module"}
)


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One family: how its keys look, and what follows its weights."""

    name: str
    source: str  # module and classes that the rows were read from, or a paper
    keys: tuple[str, ...]  # paths below the root; the first is literal and stands at one place only
    rows: Mapping[str, str]  # patterns of paths, apart by blanks -> what follows; the first that fits counts
    without: tuple[str, ...] = ()  # paths that must not be there
    sure: bool = True  # False: networks with the same keys are published with other activations
    needs: tuple[str, ...] = ()  # keys of the configuration without which it is not this family
    norms: Mapping[str, str] = field(default_factory=dict)  # the same for norms that no weight beside them tells of
    style: Mapping[str, str] = field(
        default_factory=dict
    )  # for what no row knows: "conv", "mlp", "se", "gate" -> usual


@dataclass(frozen=True, slots=True)
class Reading:
    """What a family says of one weight."""

    activation: str | None
    evidence: Evidence
    reason: str


@lru_cache(maxsize=1 << 16)
def plain(path: str) -> str:
    """Return a module's path without the steps that wrappers add.

    >>> plain("module.model.layers.0.q_proj.base_layer")
    'model.layers.0.q_proj'
    """
    if "modules_to_save." in path:
        path = re.sub(r"modules_to_save\.\w+(\.|$)", r"\1", path).strip(".")
    steps = re.split(r"[./]", path)
    return ".".join(s for s in steps if s not in _WRAPPERS)


class Matches:
    """The families found among the paths of one file."""

    def __init__(
        self,
        families: Sequence[Family],
        paths: Iterable[str],
        config: Mapping[str, object],
        architectures: Mapping[str, str] | None = None,
    ) -> None:
        self.config = config
        self.architecture = _longest(architectures or {}, config)
        self.paths = frozenset(paths)
        self.numberless = frozenset(_numberless(p) for p in self.paths)
        self.roots: dict[str, list[Family]] = defaultdict(list)
        self.greatest: dict[str, int] = {}
        order = {id(f): n for n, f in enumerate(families)}
        by_anchor = _anchors(tuple(families))
        for path in self.paths:
            start = 0
            while True:
                for family in by_anchor.get(path[start:], ()):
                    if self._there(family, path[:start]):
                        self.roots[path[:start]].append(family)
                dot = path.find(".", start)
                if dot < 0:
                    break
                step = path[start:dot]
                if step.isdigit():
                    self._count(path[:start], int(step))
                start = dot + 1
            if path[start:].isdigit():
                self._count(path[:start], int(path[start:]))
        for found in self.roots.values():
            found.sort(key=lambda f: order[id(f)])

    def _count(self, prefix: str, number: int) -> None:
        if number > self.greatest.get(prefix, -1):
            self.greatest[prefix] = number

    def _there(self, family: Family, root: str) -> bool:
        return (
            all(self._has(root, key) for key in family.keys[1:])
            and not any(self._has(root, key) for key in family.without)
            and all(key in self.config for key in family.needs)
        )

    def _has(self, root: str, key: str) -> bool:
        if "#" in key:
            return _numberless(root + key) in self.numberless
        return root + key in self.paths

    def read(self, path: str, told: Told, norm: bool = False) -> Reading | None:
        """Return what a family says of the weight at a path; the one that sees most of it knows best.

        Args:
            path: of the module.
            told: what the configuration says.
            norm: whether it is the scale of a norm, for which families have rows of their own.
        """
        start = 0
        while self.roots and start >= 0:
            root = path[:start]
            for family in self.roots.get(root, ()):
                value = self._row(_rows(family, norm), root, path[start:])
                if value is not None:
                    return self._reading(family, value, path, told)
            start = path.find(".", start) + 1 or -1
        return None

    def style(self, path: str, what: str) -> str:
        """Return the activation that the family around a path uses for what its rows do not name, "" if it says none.

        Args:
            path: of the module.
            what: "conv", "mlp", "se" (between the two layers of a squeeze-excite) or "gate" (after them).
        """
        start = len(path)
        while self.roots and start >= 0:
            for family in self.roots.get(path[:start], ()):
                value = family.style.get(what, "")
                if value:
                    return (self.architecture if what == "conv" else "") or value
            start = -1 if start == 0 else path.rfind(".", 0, start - 1) + 1
        return self.architecture if what == "conv" else ""

    def _row(self, rows: Rows, root: str, below: str) -> str | None:
        steps = below.split(".")
        for row, value in rows:
            if row[0] == "**":
                if len(steps) >= len(row) - 1 and self._fits(row[1:], steps[1 - len(row) :], ""):
                    return value
            elif len(row) == len(steps) and self._fits(row, steps, root):
                return value
        return None

    def _fits(self, row: Sequence[str], steps: Sequence[str], root: str) -> bool:
        for n, (want, step) in enumerate(zip(row, steps, strict=True)):
            if want in (step, "*"):
                continue
            if want == "#" and step.isdigit():
                continue
            if want == "$" and step.isdigit():
                prefix = root + "".join(f"{s}." for s in steps[:n])
                if int(step) == self.greatest.get(prefix):
                    continue
                return False
            if "#" in want and len(want) > 1 and _numberless(step) == want:
                continue
            return False
        return True

    def _reading(self, family: Family, value: str, path: str, told: Told) -> Reading:
        mostly = value.startswith("~")
        value = value.removeprefix("~")
        certain = Evidence.ASSUMED if mostly else Evidence.NAMED
        sure = certain if family.sure else Evidence.ASSUMED
        source = f"{family.name} ({family.source})"
        if value == "-":
            return Reading(None, sure, f"no activation follows: {source}")
        key, _, default = value.rpartition("=")
        if key:
            name = told(key, path)
            if name:
                return Reading(name, certain, f"{name} follows, as configured: {source}")
            if key == "act" and self.architecture:
                name = self.architecture
                return Reading(name, certain, f"{name} follows, by the architecture in config.json: {source}")
        first, *others = default.split("|")
        if others:
            both = " or ".join((first, *others))
            return Reading(first, Evidence.ASSUMED, f"{both} follows, the first is the likelier: {source}")
        if first == "-":
            return Reading(None, sure, f"no activation follows: {source}")
        return Reading(first, sure, f"{first} follows: {source}")


def _longest(architectures: Mapping[str, str], config: Mapping[str, object]) -> str:
    """Return what the longest start of the architecture in timm's config.json stands for, "" if there is none."""
    name = config.get("architecture")
    starts = [s for s in architectures if name.startswith(s)] if isinstance(name, str) else []
    return architectures[max(starts, key=len)] if starts else ""


@cache
def _anchors(families: tuple[Family, ...]) -> Mapping[str, tuple[Family, ...]]:
    found: dict[str, list[Family]] = defaultdict(list)
    for family in families:
        found[family.keys[0]].append(family)
    return {key: tuple(group) for key, group in found.items()}


@cache
def _rows(family: Family, norm: bool) -> Rows:
    return tuple(
        (tuple(one.split(".")), value)
        for patterns, value in (family.norms if norm else family.rows).items()
        for written in patterns.split()
        for one in _spelled(written)
    )


def _spelled(written: str) -> list[str]:
    """Write out the braces: a{b,c} is ab and ac."""
    parts = re.split(r"\{([^}]*)\}", written)
    choices = [part.split(",") if n % 2 else [part] for n, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@lru_cache(maxsize=1 << 16)
def _numberless(text: str) -> str:
    return re.sub(r"\d+", "#", text)
