"""Lines of torch code that draw one tensor by the law of its recipe, in the layout that torch's module keeps it in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from initaudit import schemes
from initaudit.edits import Recipe
from initaudit.repair import reparametrised
from initaudit.repair.calls_whole import whole
from initaudit.repair.drawing import original_name, padding
from initaudit.repair.forms import Form, form_of
from initaudit.schemes import Params, Scheme
from initaudit.types import Layer, Tensor

_RECURRENT = ("lstm", "gru", "rnn")
_BY_OPERATOR = ("orthogonal", "delta-orthogonal", "identity", "dirac", "sparse")  # entries are bound to each other


@dataclass(frozen=True, slots=True)
class Line:
    """A line of code around a parameter, apart from its name, so that the lines of repeated blocks can be compared."""

    before: str
    name: str = ""  # of the parameter; empty: `before` and `after` are all
    after: str = ""
    buffer: bool = False

    def code(self, name: str) -> str:
        """Return the line with an expression for the name in its place."""
        if not self.name:
            return self.before + self.after
        return f"{self.before}model.get_{'buffer' if self.buffer else 'parameter'}({name}){self.after}"

    def around(self, before: str, after: str) -> Line:
        """Return the line with more around it."""
        return replace(self, before=before + self.before, after=self.after + after)


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor as the user's model has it."""

    layer: Layer
    tensor: Tensor
    form: Form
    scales: Mapping[str, float]  # that LSUV came to, by part; empty where it had no say

    @property
    def place(self) -> int:
        """The axis of one operator that its parts and groups lie along."""
        inner = self.form.axes.lstrip("s")
        return 0 if self.form.inward else inner.index("o")

    def sizes(self, axes: str) -> tuple[int, ...]:
        """Return the extents of one operator of these axes: outputs, inputs, kernel, each as stored."""
        form, blocks = self.form, self.form.blocks
        inner = form.shape[len(form.shape) - len(axes) :]
        order = sorted(range(len(axes)), key=lambda n: ("oik".index(axes[n]), n))
        place = self.place
        return tuple(inner[n] // blocks if n == place else inner[n] for n in order)

    @property
    def chunks(self) -> str:
        """The call that cuts one operator into its parts, or groups."""
        return f".chunk({self.form.blocks}{f', dim={self.place}' if self.place else ''})"


def lines(recipe: Recipe, scales: Mapping[str, float], name: str) -> Iterator[Line]:
    """Yield the code for one recipe.

    Args:
        recipe: of a weight, or of a vector beside it.
        scales: what LSUV came to at its layer, by part.
        name: of the tensor in the user's model.
    """
    layer, tensor = recipe.measured.layer, recipe.tensor
    for role, other in reparametrised.beside(layer).items():
        if other.name == tensor.name:
            yield from _beside(layer, tensor, role, name)
            return
    target = Target(layer, tensor, in_torch(layer, tensor), scales if recipe.scheme.startswith("lsuv") else {})
    buffer = tensor.buffer or tensor.name.rpartition(".")[2].startswith(("running_", "num_batches"))
    own = Line("", name, "", buffer)
    if recipe.units is None:
        yield from _filled(recipe, target, own)
    else:
        units = [int(k) for k in form_of(layer, tensor).units(recipe.units)]
        yield own.around("w = ", "")
        scheme, params = schemes.resolve(recipe.scheme, layer, tensor)
        if scheme.law in ("orthogonal", "delta-orthogonal") and target.form.weight and not recipe.by_part:
            yield from _completed(scheme, _gain(scheme, params), target, units)
        else:
            yield Line("drawn = torch.empty_like(w)")
            yield from _filled(recipe, target, Line("drawn"))
            yield from _taken(target.form, units)
    row = padding(recipe) if target.form.weight else None
    if row is not None:
        yield own.around("", f"[{':, ' * target.form.axes.index('i')}{row}].zero_()")


def in_torch(layer: Layer, tensor: Tensor) -> Form:
    """Return how a tensor lies in torch's module: an exporter may have turned it and put gates in another order."""
    form = form_of(layer, tensor)
    if not form.weight:
        return Form((form.out,), "o", 1, form.ordered, weight=False) if form.shape else form
    if layer.kind in _RECURRENT:
        return Form((form.out, *form.operator[1:]), "oi", 1, form.ordered)
    renamed = not tensor.name.endswith(original_name(layer, tensor))
    if renamed and form.axes == "io" and layer.kind in ("linear", "attention"):
        return replace(form, shape=form.shape[::-1], axes="oi", parts=form.ordered)
    return replace(form, parts=form.ordered)


def _filled(recipe: Recipe, target: Target, at: Line) -> Iterator[Line]:
    """Yield what draws all of a tensor, then the parts that have a scheme of their own."""
    row, params = schemes.resolve(recipe.scheme, target.layer, target.tensor)
    if row.law in _BY_OPERATOR and target.form.weight:
        yield from _by_operator(row, params, target, at)
    else:
        yield at.around(*whole(row, params, target.layer, target.form, recipe.scheme))
    form = target.form
    for part, text in recipe.by_part.items():
        row, params = schemes.resolve(text, target.layer, target.tensor)
        place = form.axes.index("o")
        cut = f".chunk({len(form.parts)}{f', dim={place}' if place else ''})[{form.parts.index(part)}]"
        piece = at.around("", cut)
        if row.law in _BY_OPERATOR and form.weight:
            alone = replace(target, form=replace(form, parts=()), scales={})
            yield from _one(row, params, alone, form.axes.lstrip("s"), piece, _gain(row, params), view=True)
        else:
            yield piece.around(*whole(row, params, target.layer, replace(form, parts=(part,)), text))


# ---- laws that bind the entries of one operator to each other


def _by_operator(row: Scheme, params: Params, target: Target, at: Line) -> Iterator[Line]:
    """Yield a loop over operators that lie in one tensor, or one call."""
    form = target.form
    stacked = form.axes.count("s")
    inner = form.axes[stacked:]
    gain = _gain(row, params)
    gains = [gain * target.scales.get(part, target.scales.get("", 1.0)) for part in form.parts or ("",)]
    several = len(set(gains)) > 1
    indent = ""
    if stacked:
        word = "expert" if "expert" in target.layer.name else "operator"
        cut = f".flatten(0, {stacked - 1})" if stacked > 1 else ""
        named = [s for part, s in target.scales.items() if part and part not in form.parts]
        if len(named) == form.stack:  # LSUV's scale of each expert
            gains = [gain * s for s in named]
            several = len(set(gains)) > 1
            yield at.around(f"for {word}, gain in zip(", f"{cut}, {_listed(gains)}):")
        else:
            yield at.around(f"for {word} in ", f"{cut}:")
        at, indent = Line(word), "    "
    if form.blocks > 1:
        word = "gate" if target.layer.kind in _RECURRENT else "group" if form.groups > 1 else "part"
        zipped = several and not stacked and form.groups == 1
        head, tail = ("zip(", f", {_listed(gains)})") if zipped else ("", "")
        names = f"{word}, gain" if zipped else word
        yield at.around(f"{indent}for {names} in {head}", f"{target.chunks}{tail}:")
        at, indent = Line(word), indent + "    "
    for line in _one(row, params, target, inner, at, "gain" if several else gains[0], view=form.blocks > 1):
        yield line.around(indent, "")


def _gain(row: Scheme, params: Params) -> float:
    return float(row.params(params).get("gain", 1.0))


def _listed(numbers: Sequence[float]) -> str:
    return f"({', '.join(f'{n:.6g}' for n in numbers)})"


def _one(
    row: Scheme, params: Params, target: Target, axes: str, at: Line, gain: float | str, *, view: bool
) -> Iterator[Line]:
    """Yield what fills one operator; `view` tells that it is a piece of a larger tensor."""
    factor = gain if isinstance(gain, str) else f"{gain:.6g}"
    told = "" if factor == "1" else f", gain={factor}"
    times = "" if factor == "1" else f".mul_({factor})"
    turned = _turned(axes)
    half = target.tensor.dtype in ("float16", "bfloat16")  # LAPACK's QR knows no half precision
    straight = not turned or (axes == "io" and not view)
    several = axes.count("o") > 1 or axes.count("i") > 1
    if row.law == "orthogonal" and straight and not several and not half:
        yield at.around("torch.nn.init.orthogonal_(", f"{told})")  # a matrix and its transpose have one law
    elif row.law == "orthogonal" and not several:
        yield at.around("orthogonal_(", f"{turned}{told})")
    elif row.law == "delta-orthogonal" and not several:
        yield at.around("delta_orthogonal_(", f"{turned}{told})")
    elif row.law in ("dirac", "identity") and "k" in axes and not several:
        yield at.around("torch.nn.init.dirac_(", f"{turned}){times}")
    elif row.law in ("dirac", "identity") and not several:
        yield at.around("torch.nn.init.eye_(", f"){times}")
    elif row.law == "sparse" and not several and (not turned or axes == "io"):
        given = row.params(params)
        matrix = turned + (".flatten(1)" if "k" in axes else "")
        yield at.around(
            "torch.nn.init.sparse_(", f"{matrix}, sparsity={given['sparsity']:.6g}, std={given['std']:.6g})"
        )
    else:
        yield from _apart(row, params, target, axes, at, gain)


def _apart(row: Scheme, params: Params, target: Target, axes: str, at: Line, gain: float | str) -> Iterator[Line]:
    """Yield what fills a matrix apart and copies it to where it belongs: no view of the tensor is that matrix."""
    turned, outs = _turned(axes), axes.count("o")
    first = f".flatten(0, {outs - 1})" if outs > 1 else ""
    yield at.around("matrix = ", f"{turned}{first}.flatten(1)")
    yield from _one(row, params, target, "oi", Line("matrix"), gain, view=False)
    sizes = ", ".join(str(n) for n in target.sizes(axes))
    yield at.around("", f"{turned}.copy_(matrix.view({sizes}))")


def _turned(axes: str) -> str:
    """Return how a view is put into (out, in, *kernel) order."""
    order = sorted(range(len(axes)), key=lambda n: ("oik".index(axes[n]), n))
    if order == sorted(order):
        return ""
    if order == [1, 0, *range(2, len(axes))]:
        return ".transpose(0, 1)"
    return f".permute({', '.join(map(str, order))})"


def _completed(row: Scheme, gain: float, target: Target, units: Sequence[int]) -> Iterator[Line]:
    """Yield what draws some units of `w` so that each operator is orthogonal beside the units that stay."""
    form = target.form
    stacked = form.axes.count("s")
    inner = form.axes[stacked:]
    each = form.out // form.blocks
    chosen = [[u % each for u in units if u // each == n] for n in range(form.stack * form.blocks)]
    table: Sequence[object] = chosen
    at, indent, named = "w", "", str(chosen[0])
    if stacked:
        own = [chosen[n * form.blocks : (n + 1) * form.blocks] for n in range(form.stack)]
        table = own if form.blocks > 1 else chosen
        cut = f".flatten(0, {stacked - 1})" if stacked > 1 else ""
        yield Line(f"for operator, units in zip(w{cut}, {table}):")
        at, indent, named = "operator", "    ", "units"
    if form.blocks > 1:
        yield Line(f"{indent}for part, some in zip({at}{target.chunks}, {named if stacked else table}):")
        at, indent, named = "part", indent + "    ", "some"
    view, outs = f"{at}{_turned(inner)}", inner.count("o")
    if outs > 1:
        view = f"{view}.flatten(0, {outs - 1})"
    if row.law == "delta-orthogonal":
        yield Line(f"{indent}{view}[{named}] = 0")
        centre = [str(n // 2) for n, label in zip(form.shape, form.axes, strict=True) if label == "k"]
        view = f"{view}[{', '.join([':', ':', *centre])}]"
    yield Line(f"{indent}complete_({view}, {named}{'' if gain == 1 else f', gain={gain:.6g}'})")


# ---- what goes with a weight, and what is left of it


def _beside(layer: Layer, tensor: Tensor, role: str, name: str) -> Iterator[Line]:
    """Yield the norms or the singular vectors of a weight that was drawn just before."""
    if role == "norm":
        weight = f"{name[:-1]}1" if name.endswith("original0") else f"{name[:-2]}_v"
        long = [n for n, extent in enumerate(tensor.shape) if extent > 1]
        whole_norm = not long and tensor.shape != (1,) * len(layer.weight.shape)
        axis = long[0] if long else -1 if whole_norm else 0
        yield Line("v = ", weight)
        yield Line("", name, f".copy_(torch.norm_except_dim(v, 2, {axis}))")
    elif role == "left":
        new = name.endswith("0._u")
        stem = name[: -len("0._u" if new else "_u")]
        yield Line("w = ", f"{stem}original" if new else f"{stem}_orig")
        right = "right" in reparametrised.beside(layer)
        yield Line("v = ", f"{stem}0._v" if new else f"{stem}_v", "", buffer=True) if right else Line("v = None")
        yield Line("first_singular_(", name, ", v, w)", buffer=True)


def _taken(form: Form, units: Sequence[int]) -> Iterator[Line]:
    """Yield what copies only the units that are drawn."""
    listed = f"[{', '.join(map(str, units))}]"
    if not form.weight or re.fullmatch("oi*k*", form.axes):
        yield Line(f"w[{listed}] = drawn[{listed}]")
    elif form.groups == 1 and re.fullmatch("iok*", form.axes):
        yield Line(f"w[:, {listed}] = drawn[:, {listed}]")
    elif form.inward:
        width = form.out // form.groups
        pairs = ", ".join(f"({u // width}, {u % width})" for u in units)
        cut = f".unflatten(0, ({form.groups}, -1))"
        yield Line(f"for group, unit in ({pairs},):")
        yield Line(f"    w{cut}[group, :, unit] = drawn{cut}[group, :, unit]")
    else:
        outs = [n for n, axis in enumerate(form.axes) if axis in "so"]
        order = (*outs, *(n for n in range(len(form.axes)) if n not in outs))
        extents = [form.shape[n] for n in outs]
        at = []
        for u in units:
            place: list[int] = []
            above = u
            for extent in reversed(extents):
                above, left = divmod(above, extent)
                place.insert(0, left)
            at.append(f"({', '.join(map(str, place))})")
        view = f".permute({', '.join(map(str, order))})"
        yield Line(f"for unit in ({', '.join(at)},):")
        yield Line(f"    w{view}[unit] = drawn{view}[unit]")
