"""A checkpoint's tensors under the names that a module gives them, and where the two differ."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from initaudit.errors import UnsupportedError, UsageError
from initaudit.live.respelled import Meant, Spelling
from initaudit.types import Array, Graph, Mismatch, Model, Module, Tensor

_MOST_PREFIXES = 24  # of the commonest are tried, alone and in pairs
_FEW = 10  # where less than one in ten of either side's tensors fits, it is another model

# What wrappers put into a name, and what they call one thing in two ways.
_SPELLINGS = (
    (re.compile(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)(?=\.)"), ""),
    (re.compile(r"(\.lora_\w+)\.default(?=\.|$)"), r"\1"),
    (re.compile(r"\.parametrizations\.(\w+)\.original0$"), r".\1_g"),
    (re.compile(r"\.parametrizations\.(\w+)\.original1$"), r".\1_v"),
    (re.compile(r"\.parametrizations\.(\w+)\.original$"), r".\1_orig"),
    (re.compile(r"(LayerNorm)\.gamma$"), r"\1.weight"),
    (re.compile(r"(LayerNorm)\.beta$"), r"\1.bias"),
)
_STATISTICS = ("running_mean", "running_var")  # the buffers without which a model does something else
_ASIDE = re.compile(  # what older versions saved and nobody misses
    r"(^|\.)(num_batches_tracked|position_ids|inv_freq|masked_bias|attn\.bias|attention\.bias|relative_position_index|"
    r"attn_mask|total_ops|total_params|_extra_state|_metadata|causal_mask|mask)$"
)


def match(checkpoint: Model, module: Model, asked: str) -> Model:
    """Return the checkpoint with the module's graph over its own tensors, and where the two differ.

    Args:
        checkpoint: as its reader returned it.
        module: the module as `model.read` returned it; its values are not looked at.
        asked: how the user named the module.

    Raises:
        UsageError: no tensor of the checkpoint belongs to the module.
    """
    spelling = module.spell(checkpoint.tensors) if isinstance(module, Meant) else Spelling()
    pairs = _paired(checkpoint.tensors, module.tensors, spelling)
    fits = {name: held for name, (wanted, held) in pairs.items() if wanted.shape == held.shape}
    matrices = any(len(t.shape) > 1 and not t.buffer for t in module.tensors)
    if not any(len(tensor.shape) > matrices for tensor in fits.values()):  # a few vectors meet by accident
        first = next((t.name for t in module.tensors if not t.buffer), "nothing")
        there = next((t.name for t in checkpoint.tensors), "nothing")
        raise UsageError(f"no tensor of it fits {asked}: that has {first!r}, and the checkpoint {there!r}")
    sizes = [len(_weights(checkpoint.tensors)), len(_weights(module.tensors))]
    if len(_weights(fits.values())) * _FEW < min(sizes):  # as a head that two architectures have alike
        raise UsageError(f"no checkpoint of {asked}: {len(fits)} of its {sizes[0]} tensors fit the {sizes[1]} there")
    own = {t.name: t for t in module.tensors}
    tied: dict[object, Tensor] = {own[name].identity: held for name, held in fits.items()}
    told = {held.name: own[name].buffer for name, held in fits.items()}
    tensors = {t.name: replace(t, buffer=told.get(t.name, t.buffer)) for t in checkpoint.tensors}

    def held(tensor: Tensor) -> Tensor:
        """The checkpoint's tensor for one of the module's; a parameter that is not in it has no values."""
        found = fits.get(tensor.name) or tied.get(tensor.identity)
        if found is not None and found.shape == tensor.shape:
            return tensors.get(found.name, found)
        return replace(tensor, load=_unknown(tensor, known=tensor.buffer or tensor.name not in own))

    names = {name: found.name for name, tensor in own.items() if (found := held(tensor)).name in tensors}
    return replace(
        checkpoint,
        detail=", ".join(part for part in (checkpoint.detail, f"as {asked}: {module.detail}") if part),
        tensors=tuple(tensors.values()),
        graph=_over(module.graph, held) if module.graph is not None else None,
        other=tuple(_over(graph, held) for graph in module.other),
        modules=tuple(_renamed(one, names) for one in module.modules),
        config={**module.config, **checkpoint.config},
        skipped=(*checkpoint.skipped, *module.skipped),
        source=module.source,
        mismatches=tuple(_mismatches(checkpoint, module, pairs, tied)),
        examples=module.examples,
    )


def _weights(tensors: Iterable[Tensor]) -> list[Tensor]:
    return [t for t in tensors if t.is_float and not t.buffer]


def _unknown(tensor: Tensor, *, known: bool) -> Callable[[], Array]:
    """Return a loader for what a checkpoint lacks: the module's own values if it has some, else NaN throughout."""

    def load() -> Array:
        if known:
            with suppress(UnsupportedError):  # built without values
                return tensor.load()
        return np.broadcast_to(np.float32(np.nan), tensor.shape)

    return load


def _over(graph: Graph, held: Callable[[Tensor], Tensor]) -> Graph:
    return replace(graph, constants={value: held(tensor) for value, tensor in graph.constants.items()})


def _renamed(module: Module, names: Mapping[str, str]) -> Module:
    return replace(module, tensors={local: names[name] for local, name in module.tensors.items() if name in names})


def _mismatches(
    checkpoint: Model, module: Model, pairs: Mapping[str, tuple[Tensor, Tensor]], tied: Mapping[object, Tensor]
) -> Iterable[Mismatch]:
    for name, (wanted, found) in pairs.items():
        if wanted.shape != found.shape:
            yield Mismatch("shape", name, wanted.shape, found.shape)
    for tensor in module.tensors:
        if tensor.name in pairs or tensor.identity in tied:
            continue
        if not tensor.buffer or tensor.name.endswith(_STATISTICS):
            yield Mismatch("missing", tensor.name, wanted=tensor.shape)
    used = {name for _, found in pairs.values() for name in (found.name, *found.parts)}
    same = {found.identity for _, found in pairs.values()}
    for tensor in checkpoint.tensors:
        if tensor.name in used or tensor.identity in same or not tensor.is_float or _ASIDE.search(tensor.name):
            continue
        yield Mismatch("unexpected", tensor.name, found=tensor.shape)


# ---- names


@dataclass(frozen=True, slots=True)
class _Renaming:
    """One prefix taken away, then one put before."""

    strip: str = ""
    add: str = ""

    def __call__(self, name: str) -> str:
        if self.strip and not name.startswith(self.strip):
            return name
        return self.add + name[len(self.strip) :]


def _plain(name: str) -> str:
    for pattern, plain in _SPELLINGS:
        name = pattern.sub(plain, name)
    return name.lstrip(".")


def _paired(found: Iterable[Tensor], wanted: Iterable[Tensor], spelling: Spelling) -> dict[str, tuple[Tensor, Tensor]]:
    """Return by the module's name each tensor of it with the checkpoint's, under the renaming that pairs the most.

    Names are those that the module's library reads them as, where it spells them otherwise.
    """
    gone = {name for one in spelling.joined for name in one.parts}
    named = {spelling.names.get(t.name, t.name): t for t in found if t.name not in gone}
    there = _by_plain({**named, **{one.name: one for one in spelling.joined}})
    own = _by_plain({t.name: t for t in wanted})
    rename = _best(there, own)
    pairs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, tensor in there.items():
        mine = own.get(rename(name))
        if mine is not None:
            pairs.setdefault(mine.name, (mine, tensor))
    return pairs


def _by_plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        named.setdefault(_plain(name), tensor)
    return named


def _best(there: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> _Renaming:
    """Return the renaming by which most names meet, those of equal shape first; the plainest of equally good ones."""
    names = list(there)
    if all(name in own for name in names):
        return _Renaming()
    strips, adds = ["", *_prefixes(names)], ["", *_prefixes(own)]
    if min(len({name.rpartition(".")[0] for name in side}) for side in (there, own)) > 1:
        strips, adds = _wide(strips, there), _wide(adds, own)
    shapes = {name: tensor.shape for name, tensor in own.items()}
    best, most = _Renaming(), (-1, -1)
    for strip in strips:
        for add in adds:
            rename = _Renaming(strip, add)
            met = {new: name for name in reversed(names) if (new := rename(name)) in shapes}
            score = (sum(there[name].shape == shapes[new] for new, name in met.items()), len(met))
            if score > most:
                best, most = rename, score
    return best


def _wide(prefixes: Iterable[str], names: Iterable[str]) -> list[str]:
    """Leave out beginnings that are all of one module's path: what differs there is no wrapper but another layer."""
    modules = {name.rpartition(".")[0] + "." for name in names}
    return [one for one in prefixes if not one or sum(path.startswith(one) for path in modules) > 1]


def _prefixes(names: Iterable[str]) -> list[str]:
    """Return the commonest beginnings of names, up to a dot; of those that begin the same names the shortest."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:k]) + "." for k in range(1, min(len(parts), 5)))
    return [prefix for prefix, _ in counts.most_common(_MOST_PREFIXES)]
