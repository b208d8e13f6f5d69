"""Plain chains: weights that numbering and fans prove to follow one another."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, permutations

from initaudit.layers import words
from initaudit.layers.drafts import sides
from initaudit.layers.places import place
from initaudit.types import Evidence, Layer

_MOST_FAMILIES = 3
_PLAIN = frozenset({"linear", "conv", "conv_transpose"})
# Words for parts that lie beside one another, or whose output is added or multiplied to something.
PARALLEL = re.compile(
    r"(?:^|[._])(?:heads?|experts?|branch\w*|towers?|parallel|fpn|lateral\w*|attn\w*|attention\w*|res\w*|skip\w*|shortcut"
    r"|downsample|upsample|lora\w*|adapter\w*|query|key|value|[qkv](?:_?proj)?|w\d|gate\w*|se|scale\w*|to_\w+|proj\w*"
    r"|dense_?layers?|linears|convs|\w+_list|embed\w*|blocks?|groups?|stages?)(?:[._\d]|$)",
    re.IGNORECASE,
)
_NUMBERED = re.compile(r"(?:(\d+)(?:x\d+)?|(?<=_)([a-h]))$")


@dataclass(frozen=True, slots=True)
class Link:
    """The place of a weight in a chain."""

    last: bool
    whole: bool  # the chain is all there is
    returns: bool  # the chain ends in as many units as it took
    after: str = ""  # name of the next layer
    squeezes: bool = False  # two matrices, narrower in between than at their ends: squeeze and excitation, or alike


def links(layers: Sequence[Layer], ordered: bool) -> Mapping[str, Link]:
    """Return the links by name of the weight.

    Args:
        layers: in the order of the file.
        ordered: whether that is the order of registration; if not, only numbering counts.
    """
    operators = [a for a in layers if a.kind in _PLAIN]
    if chain := _whole(layers, operators, ordered):
        operators = list(chain)
        names = [a.name for a in operators]
        return {
            a.weight.name: Link(n == len(operators) - 1, True, False, names[n + 1] if n + 1 < len(names) else "")
            for n, a in enumerate(operators)
        }
    found: dict[str, Link] = {}
    for run in _runs(operators):
        returns = sides(run[0])[0] == sides(run[-1])[1]
        narrow = len(run) == 2 and returns and sides(run[0])[1] < sides(run[0])[0]
        squeezes = narrow and all(n == 1 for a in run for n in a.weight.shape[2:])
        for n, a in enumerate(run):
            last = n == len(run) - 1
            found[a.weight.name] = Link(last, False, returns, "" if last else run[n + 1].name, squeezes)
    return found


def _whole(layers: Sequence[Layer], operators: Sequence[Layer], ordered: bool) -> Sequence[Layer]:
    """The weights in a row if the file is one chain: each takes what the one before it gives, no name speaks of more.

    Where the order of registration is not known, containers and stems (features and classifier, conv and fc) may stand
    in any order, but only one may fit.
    """
    if len(operators) < 2 or any(a.kind not in _PLAIN | {"norm", "prelu", "bias"} for a in layers):
        return ()
    if any(len(place(a).steps) > 2 or PARALLEL.search(place(a).path) for a in operators):
        return ()
    if ordered:
        return operators if all(_hands_on(a, b) for a, b in pairwise(operators)) else ()
    families: dict[str, list[Layer]] = defaultdict(list)
    for a in operators:
        families[re.sub(r"\d+", "", place(a).path)].append(a)
    if len(families) > _MOST_FAMILIES:
        return ()
    rows = [[a for family in order for a in family] for order in permutations(families.values())]
    fitting = [row for row in rows if all(_hands_on(a, b) for a, b in pairwise(row))]
    return fitting[0] if len(fitting) == 1 else ()


def _hands_on(a: Layer, b: Layer) -> bool:
    gives, takes = sides(a)[1], sides(b)[0]
    if gives == takes:
        return True
    if a.kind != "linear" and b.kind == "linear":
        return gives > 0 and takes % gives == 0  # flattened
    if a.kind == "linear" and b.kind != "linear":
        return takes not in {0, *words.PICTURE} and gives % takes == 0  # unflattened; no decoder starts on so few
    return False


def _runs(operators: Sequence[Layer]) -> list[list[Layer]]:
    """Runs of numbered siblings, each taking what the one before gives: fc1 fc2, 0 3 6, conv1 conv2."""
    families: dict[tuple[str, str], list[tuple[int, Layer]]] = defaultdict(list)
    for a in operators:
        steps = place(a).steps
        match = _NUMBERED.search(steps[-1]) if steps else None
        if match is None:
            continue
        parent = ".".join(steps[:-1])
        stem = steps[-1][: match.start()]
        near = f"{steps[-2]}.{stem}" if len(steps) > 1 else stem
        if (
            PARALLEL.search(stem)
            or PARALLEL.search(steps[-2] if stem == "" and len(steps) > 1 else "")
            or near.endswith(".w")
        ):
            continue
        number = int(match[1]) if match[1] else ord(match[2]) - ord("a")
        families[parent, stem].append((number, a))
    runs: list[list[Layer]] = []
    for family in families.values():
        run: list[Layer] = []
        for _, a in sorted(family, key=lambda item: item[0]):
            if run and not (_hands_on(run[-1], a) and _gives(run[-1]) and _sure(a)):
                runs.append(run)
                run = []
            run.append(a)
        runs.append(run)
    return [run for run in runs if len(run) > 1]


def _gives(a: Layer) -> bool:
    """Whether its number of outputs is certain: a convolution's is, whatever its groups, unless it is transposed."""
    return _sure(a) or (a.kind == "conv" and not words.TRANSPOSED.search(place(a).path))


def _sure(a: Layer) -> bool:
    return a.fan_evidence > Evidence.ASSUMED or a.kind == "conv_transpose"
