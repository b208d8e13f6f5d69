"""New values for one tensor: drawn in (out, in, *kernel) order, handed over in the order in which it is stored.

A draw depends on the seed, the name that the tensor had in its model, its shape as an operator and the scheme, and on
nothing else: not on other tensors, on the format, on the dtype, or on how many threads there are. So the same model
gets the same values in every format that keeps its names.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from initaudit import schemes
from initaudit.draws import centre
from initaudit.draws.completing import completed
from initaudit.draws.orthogonal import orthonormal, turned
from initaudit.edits import Recipe
from initaudit.errors import UsageError
from initaudit.layers.from_graph_names import anonymous
from initaudit.repair import reparametrised
from initaudit.repair.forms import Form, form_of
from initaudit.types import Array, Layer, Tensor

_WRAPPERS = re.compile(r"^(?:module\.)+|(?<![^.])_orig_mod\.")  # DataParallel and FSDP, torch.compile
_SMALLEST, _LARGEST = 1 << 16, 1 << 24  # elements of a matrix that LSUV starts from in common
_LOCAL = re.compile(r"(?:^|_)weight(?:_|$)")  # the last part of a layer's name that is its parameter's own


def original_name(layer: Layer, tensor: Tensor) -> str:
    """Return the name that a tensor has in the model, where an exporter gave it another one.

    The layer's name then comes from the module that it belongs to. What torch's wrappers put before a name is no part
    of it.
    """
    name = tensor.name
    if not name.startswith(layer.name) and anonymous(name):
        bias = layer.bias is not None and name == layer.bias.name
        name = _named(layer)
        if bias:
            name = re.sub(r"weight(?=[^.]*$)", "bias", name)
    return _WRAPPERS.sub("", name)


def drawn_name(recipe: Recipe, tensor: Tensor | None = None) -> str:
    """Return the name that a draw depends on: that in the model, whichever of its copies this one is of."""
    name = original_name(recipe.measured.layer, tensor or recipe.tensor)
    return _WRAPPERS.sub("", name.removeprefix(recipe.within)) if recipe.within else name


def _named(layer: Layer) -> str:
    """Return the name of a weight whose layer is named after its module, after itself, or after its bias."""
    own = layer.name.rpartition(".")[2]
    if _LOCAL.search(own):
        return layer.name
    joint = "_" if layer.bias is not None and layer.bias.name == f"{layer.name}_bias" else "."
    return f"{layer.name}{joint}weight"


def companions(recipe: Recipe) -> tuple[Recipe, ...]:
    """Return recipes for what is written along with a weight: norms of weight_norm, vectors of spectral_norm.

    They have the scheme of the weight; `draw` works them out from its draw.
    """
    layer = recipe.measured.layer
    if recipe.tensor.name != layer.weight.name:
        return ()
    return tuple(replace(recipe, tensor=tensor) for tensor in reparametrised.beside(layer).values())


def draw(recipe: Recipe, seed: int) -> Array:
    """Return new values of `recipe.tensor`, in float64 and its stored order.

    Raises:
        UsageError: the scheme does not fit the tensor: no fans, no matrix, an even kernel.
    """
    layer, tensor = recipe.measured.layer, recipe.tensor
    for role, other in reparametrised.beside(layer).items():
        if other.name == tensor.name:
            return _beside(recipe, role, seed)
    form = form_of(layer, tensor)
    drawn = _whole(recipe, recipe.scheme, form, seed)
    for part, scheme in recipe.by_part.items():
        span = form.part(part)
        drawn[:, span] = _whole(recipe, scheme, form, seed)[:, span]
    if form.weight and (row := padding(recipe)) is not None:
        drawn[:, :, row] = 0.0
    if recipe.units is not None:
        drawn = _with_others(drawn, form.canonical(np.asarray(tensor.load())), _marked(recipe, form))
    return form.stored(drawn)


def generator(seed: int, name: str, index: int | None, shape: tuple[int, ...], scheme: str) -> np.random.Generator:
    """Return the generator of one operator's draw."""
    key = json.dumps([seed, name, index, shape, scheme]).encode()
    entropy = int.from_bytes(hashlib.blake2b(key, digest_size=32).digest(), "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _whole(recipe: Recipe, text: str, form: Form, seed: int) -> Array:
    """Return (stack, out, in, *kernel), or (1, out) of a vector: every operator of a stack is drawn by itself."""
    layer, tensor = recipe.measured.layer, recipe.tensor
    named = reparametrised.effective_name(layer, drawn_name(recipe))
    row, params = schemes.resolve(text, layer, tensor)
    fans = schemes.fans_of(layer)
    if row.fans and (fans is None or not form.weight):
        raise UsageError(f"{tensor.name}: {row.name} needs a matrix with inputs and outputs")
    shown = schemes.parse(text)[0].name if schemes.parse(text)[0] is not row else row.spell(**_said(row, params))
    made = np.empty((form.stack, *form.operator))
    bound = recipe.units is not None and form.weight and row.law in ("orthogonal", "delta-orthogonal")
    if bound:
        stored, marked = form.canonical(np.asarray(tensor.load(), np.float64)), _marked(recipe, form)
    for n in range(form.stack):
        rng = generator(seed, named, n if form.stack > 1 else None, form.key, shown)
        try:
            if bound:
                at = centre(form.operator, form.blocks) if row.law == "delta-orthogonal" else (...,)
                gain = float(row.params(params).get("gain", 1.0))
                made[n] = _completed(stored[n], marked[n], form.blocks, gain, rng, at)
                continue
            if row.name == "orthonormal" and schemes.parse(text)[0] is not row and _shared(form):
                made[n] = _start(form, seed, rng)
                continue
            made[n] = row.sample(form.operator, fans or schemes.Fans(1, 1), rng, blocks=form.blocks, **params)
        except UsageError as error:
            raise UsageError(f"{tensor.name}: {error}") from None
    return made


def _completed(
    old: Array, drawn: Array, blocks: int, gain: float, rng: np.random.Generator, at: tuple[Any, ...]
) -> Array:
    """Return one operator whose rows that are drawn make it orthogonal beside those that are kept, block by block."""
    made = np.zeros(old.shape)
    rows = len(old) // blocks
    for start in range(0, len(old), rows):
        own = slice(start, start + rows)
        new = drawn[own]
        matrix = old[own][at].reshape(rows, -1)
        part = made[own][at]
        part[new] = completed(rng, matrix[~new], int(new.sum()), gain).reshape(part[new].shape)
    return made


def _shared(form: Form) -> bool:
    """Whether operators of one shape start from one matrix: drawing each by itself takes most of LSUV's time."""
    size = math.prod(form.operator) // form.blocks
    return len(form.operator) > 1 and form.operator[0] % form.blocks == 0 and _SMALLEST <= size <= _LARGEST


def _start(form: Form, seed: int, rng: np.random.Generator) -> Array:
    """Return orthonormal values (out, in, *kernel), block by block, from the matrix that this shape shares."""
    rows, columns = form.operator[0] // form.blocks, math.prod(form.operator[1:])
    base = _base(seed, max(rows, columns), min(rows, columns))
    blocks = [turned(base, rng) for _ in range(form.blocks)]
    return np.stack([one if rows >= columns else one.T for one in blocks]).reshape(form.operator)


@lru_cache(maxsize=4)
def _base(seed: int, long: int, short: int) -> Array:
    made: Array = orthonormal(generator(seed, "lsuv", None, (long, short), "orthonormal"), 1, long, short)[0]
    made.flags.writeable = False
    return made


def _said(row: schemes.Scheme, params: Mapping[str, schemes.Value]) -> dict[str, schemes.Value]:
    """Return what differs from the defaults, by name: two ways to write one scheme are one key."""
    return {key: value for key, value in sorted(params.items()) if value != row.defaults[key]}


def padding(recipe: Recipe) -> int | None:
    """Return the row of an embedding that stays zero: as the model says, else the only one that is zero in the file."""
    layer, rows = recipe.measured.layer, recipe.measured.stats.columns.nonzero
    if layer.padding is not None or layer.kind != "embedding":
        return layer.padding
    empty = np.flatnonzero(rows == 0)
    return int(empty[0]) if empty.size == 1 and rows.size > 2 else None


def _marked(recipe: Recipe, form: Form) -> Array:
    """Return which units are drawn, (stack, out)."""
    drawn = np.zeros(form.stack * form.out, bool)
    try:
        drawn[form.units(recipe.units or ())] = True
    except UsageError as error:
        raise UsageError(f"{recipe.tensor.name}: {error}") from None
    return drawn.reshape(form.stack, form.out)


def _with_others(drawn: Array, old: Array, marked: Array) -> Array:
    """Return what is drawn for the units that are marked, beside the stored values of all others."""
    if np.iscomplexobj(old):
        drawn = drawn.astype(np.complex128)
    drawn[~marked] = old[~marked]
    return drawn


def _beside(recipe: Recipe, role: str, seed: int) -> Array:
    layer, tensor = recipe.measured.layer, recipe.tensor
    weight = draw(replace(recipe, tensor=layer.weight), seed)
    if role == "norm":
        made = reparametrised.norm(weight, tensor)
        if recipe.units is None:
            return made
        # The units that stay keep their g, whatever length their v has.
        stored = np.asarray(tensor.load(), np.float64)
        same = reparametrised.norm(weight - np.asarray(layer.weight.load(), np.float64), tensor) == 0
        return np.asarray(np.where(same, stored, made))
    left = reparametrised.beside(layer)["left"]
    named = reparametrised.effective_name(layer, drawn_name(recipe, layer.weight))
    u, v = reparametrised.singular(weight, left, generator(seed, named, None, weight.shape, "spectral"))
    return np.asarray((u if role == "left" else v).reshape(tensor.shape))
