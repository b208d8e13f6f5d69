"""How a model draws its own weights: what the brothers of a layer say of a layer that is off.

Whoever wrote the model chose a law for each kind of layer. Where one layer is off and the others like it follow one
law, that law is what its author meant.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from initaudit import laws, schemes
from initaudit.grounds import OPERATORS
from initaudit.naming import pattern
from initaudit.types import Measured, Stats, Tensor

_AGREE = 0.8  # share of the brothers that follow one law, from which it is theirs
_CLOSE = 0.01  # of the logarithm of a std, beside its standard error
_WHOLE = 3  # layers of a model from which a law they all follow is that of the model
_CLOSED = frozenset({"dirac", "identity", "delta-orthogonal", "sparse", "sinusoidal", "log-range"})

Alike = Callable[[Measured, Measured], bool]


def _named(a: Measured, b: Measured) -> bool:
    return pattern(a.layer.name) == pattern(b.layer.name) and a.layer.kind == b.layer.kind


def _placed(a: Measured, b: Measured) -> bool:
    return (
        a.layer.kind == b.layer.kind
        and a.layer.role is b.layer.role
        and a.layer.activation == b.layer.activation
        and ("recurrent" in a.layer.tags) == ("recurrent" in b.layer.tags)
    )


_BROTHERS: tuple[tuple[Alike, str], ...] = (
    (_named, "as its brothers"),
    (_placed, "as others in its place"),
)


class Policy:
    """What laws the healthy layers of a model follow.

    Args:
        measured: all layers.
        faulty: identities of the tensors that are at fault: they say nothing.
    """

    def __init__(self, measured: Sequence[Measured], faulty: frozenset[object]) -> None:
        self.sound = [m for m in measured if m.layer.weight.identity not in faulty and not m.layer.tied]
        self.faulty = faulty

    def weight(self, m: Measured) -> tuple[str, str] | None:
        """Return the scheme of a weight's brothers, and who they are; None where they follow none, or not one."""
        drawn = [o for o in self.sound if o is not m and _random(o)]
        for alike, who in _BROTHERS:
            told = _shared([o for o in drawn if alike(m, o)])
            if told:
                return told, f"{who} in this model"
        every = [o for o in drawn if o.layer.kind in OPERATORS]
        bases = {_scheme(o).partition(":kind=")[0] for o in every}
        if m.layer.kind in OPERATORS and len(every) >= _WHOLE and len(bases) == 1:
            return bases.pop(), "as all of this model"
        return None

    def constant(self, m: Measured) -> tuple[str, str] | None:
        """Return the number that brothers of a norm's scale or a gate hold, as a scheme."""
        for alike, who in ((_named, "as its brothers"), (lambda a, b: a.layer.kind == b.layer.kind, "as all others")):
            own = [o for o in self.sound if o is not m and alike(m, o) and o.layer.role is m.layer.role]
            told = _agreed([_value(o.stats) for o in own if o.stats.count])
            if told:
                return told, f"{who} in this model"
        return None

    def vector(self, m: Measured, tensor: Tensor) -> tuple[str, str] | None:
        """Return how the brothers of a bias, or of another tensor beside a weight, were drawn."""
        ending = _ending(m, tensor)
        for alike in (_named, _placed, lambda a, b: a.layer.kind == b.layer.kind):
            told = _agreed(list(self._beside(m, ending, alike)))
            if told:
                return told, "as its brothers in this model"
        return None

    def _beside(self, m: Measured, ending: str, alike: Alike) -> Iterator[str]:
        for o in self.sound:
            if o is m or not alike(m, o):
                continue
            for tensor, stats in o.tensors[1:]:
                if _ending(o, tensor) != ending or tensor.identity in self.faulty:
                    continue
                law = laws.bias(o.layer, stats) if tensor == o.layer.bias else None
                yield law.scheme if law is not None and law.scheme else _value(stats)


def _ending(m: Measured, tensor: Tensor) -> str:
    return "bias" if tensor == m.layer.bias else tensor.name.rpartition(".")[2]


def _random(m: Measured) -> bool:
    law = m.identified
    return law is not None and bool(law.scheme) and law.law != "constant" and law.law not in _CLOSED


def _scheme(m: Measured) -> str:
    assert m.identified is not None
    return m.identified.scheme


def _shared(brothers: Sequence[Measured]) -> str:
    """Return the scheme that fits most brothers; empty where none does.

    Where fan_in is fan_out several schemes are one: what a brother was identified as is not all that fits it.
    """
    told = Counter(_scheme(o) for o in brothers)
    fits = {scheme: sum(_fits(scheme, o) for o in brothers) for scheme in told}
    best = max(told, key=lambda scheme: (fits[scheme], told[scheme]), default="")
    return best if best and fits[best] >= _AGREE * len(brothers) else ""


def _fits(scheme: str, m: Measured) -> bool:
    """Whether a layer may have been drawn by a scheme: the law is the same, and so is the std within its error."""
    row, given = schemes.parse(scheme)
    fans = schemes.fans_of(m.layer)
    if m.identified is None or row.law != m.identified.law or fans is None:
        return m.identified is not None and scheme == m.identified.scheme
    std = math.sqrt(row.variance(fans, **given))
    return scheme == m.identified.scheme or abs(math.log(max(m.stats.std, 1e-300) / max(std, 1e-300))) < _CLOSE + (
        4 / math.sqrt(2 * m.stats.count)
    )


def _value(stats: Stats) -> str:
    if not stats.constant:
        return ""
    return {0.0: "zeros", 1.0: "ones"}.get(stats.min, f"constant:value={stats.min:.9g}")


def _agreed(told: Sequence[str]) -> str:
    """Return what most say; empty where they differ, or say nothing."""
    if not told:
        return ""
    first, count = Counter(told).most_common(1)[0]
    return first if count >= _AGREE * len(told) else ""
