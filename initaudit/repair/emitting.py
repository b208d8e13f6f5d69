"""A plan as a small Python module: `initialize(model)` draws the same laws in the user's own training script.

The module needs torch and nothing else. It has the laws of the plan, not its bits: torch's generator draws.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from initaudit import rules
from initaudit.edits import Plan, Reached, Recipe
from initaudit.layers.from_graph_names import anonymous
from initaudit.repair.calls import Line, lines
from initaudit.repair.drawing import companions, original_name
from initaudit.repair.folding import Block, Run, folded
from initaudit.repair.snippets import HELPERS
from initaudit.types import Measured

_WIDTH = 110


def emit(
    plan: Plan,
    *,
    source: str = "",
    names: Collection[str] = (),
    reached: Sequence[Reached] = (),
) -> str:
    """Return the text of a module whose `initialize(model)` does what a plan does.

    Args:
        plan: the recipes, in order.
        source: what was repaired, as the user calls it.
        names: of all tensors of the file; what a wrapper put before all of them is taken off.
        reached: what LSUV came to; its scales become gains.
    """
    recipes = list(_with_companions(plan.recipes))
    unnamed = [anonymous(original_name(r.measured.layer, r.tensor)) for r in recipes]
    known = [r for r, none in zip(recipes, unnamed, strict=True) if not none]
    scales: dict[str, dict[str, float]] = {}
    for one in reached:
        if not one.part.startswith("use "):
            scales.setdefault(one.layer, {})[one.part] = one.scale
    blocks = [block for _, own in _by_layer(known) if (block := _block(own, scales, names)).lines]
    body = [line for run in folded(blocks) for line in _printed(run)]
    nameless = sorted({r.tensor.name for r, none in zip(recipes, unnamed, strict=True) if none})
    helpers = [text for name, text in HELPERS.items() if any(f"{name}(" in re.sub(r"init\.\w+", "", b) for b in body)]
    head = f'"""{_documented(source, nameless, bool(scales))}"""\n\nimport torch\n\n'
    made = "".join(f"{text.rstrip()}\n\n" for text in helpers)
    start = '\n@torch.no_grad()\ndef initialize(model: torch.nn.Module) -> None:\n    """Draw the weights again."""\n'
    return head + made + start + "".join(f"    {line}".rstrip() + "\n" for line in body or ["pass"])


def _with_companions(recipes: Iterable[Recipe]) -> Iterator[Recipe]:
    """Yield recipes, each followed by those of what is written along with it, once."""
    told: set[tuple[str, str]] = set()
    for recipe in recipes:
        for each in (recipe, *companions(recipe)):
            key = (each.measured.layer.name, each.tensor.name)
            if key not in told:
                told.add(key)
                yield each


def _by_layer(recipes: Sequence[Recipe]) -> Iterator[tuple[str, list[Recipe]]]:
    found: dict[str, list[Recipe]] = {}
    for recipe in recipes:
        found.setdefault(recipe.measured.layer.name, []).append(recipe)
    yield from found.items()


def _block(recipes: Sequence[Recipe], scales: Mapping[str, Mapping[str, float]], names: Collection[str]) -> Block:
    """Return the lines of one layer and what is said above them."""
    first = recipes[0]
    layer = first.measured.layer
    own = tuple(line for r in recipes for line in lines(r, scales.get(layer.name, {}), _name(r, names)))
    titles = {rule.code: rule.name for rule in rules.catalogue()}
    why = dict.fromkeys(f"{r.why} {titles[r.why]}" if r.why in titles else r.why for r in recipes)
    now = dict.fromkeys(f"{r.scheme}{f' ({r.about})' if r.about else ''}" for r in recipes)
    return Block(layer.name, own, ", ".join(why), _was(first.measured, first), "; ".join(now))


def _name(recipe: Recipe, names: Collection[str]) -> str:
    """Return the name of a tensor in the user's model, which no wrapper is around."""
    name = original_name(recipe.measured.layer, recipe.tensor)
    module = recipe.tensor.name.startswith("module.") and not recipe.tensor.name.startswith("module._orig_mod.")
    return f"module.{name}" if module and names and not all(n.startswith("module.") for n in names) else name


def _was(m: Measured, recipe: Recipe) -> tuple[str, float]:
    """Say what the tensor held: a word, and the number that it is about."""
    stats = {t.name: s for t, s in m.tensors}.get(recipe.tensor.name, m.stats)
    if stats.nonfinite:
        return ("not finite:", float(stats.nonfinite))
    if stats.constant:
        return ("all", stats.min)
    return ("std", math.sqrt(stats.variance))


def _printed(run: Run) -> Iterator[str]:
    """Yield the lines of a run: a comment for each layer, and its calls."""
    if not run.numbers:
        for block in run.blocks[0]:
            yield from _comment(block.layer, [block])
            for line in block.lines:
                yield from _coded(line, _quoted(line.name))
        return
    first, last = run.numbers[0], run.numbers[-1]
    numbers = f"({', '.join(map(str, run.numbers))})"
    if run.numbers == tuple(range(first, last + 1)):
        numbers = f"range({f'{first}, ' if first else ''}{last + 1})"
    yield f"for n in {numbers}:"
    for at, block in enumerate(run.blocks[0]):
        comment = _comment(run.pattern(block.layer), [sequence[at] for sequence in run.blocks])
        yield from (f"    {text}" for text in comment)
        for line in block.lines:
            coded = _coded(line, _quoted(run.pattern(line.name), "f") if line.name else "")
            yield from (f"    {text}" for text in coded)


def _coded(line: Line, name: str) -> Iterator[str]:
    """Yield a line of code, with the tensor on a line of its own where that would be long."""
    code = line.code(name)
    if len(code) > _WIDTH and line.name and line.before and not line.before.endswith("= "):
        yield replace(line, before="w = ", after="").code(name)
        code = f"{line.before}w{line.after}"
    yield code


def _comment(name: str, blocks: Sequence[Block]) -> Iterator[str]:
    spans: dict[str, list[float]] = {}
    for word, value in (block.was for block in blocks):
        spans.setdefault(word, []).append(value)
    told = ((word, f"{min(values):.3g}", f"{max(values):.3g}") for word, values in spans.items())
    held = " or ".join(f"{word} {low}{'' if low == high else f' to {high}'}" for word, low, high in told)
    text = f"{name}: {blocks[0].why}; was {held}; now {blocks[0].now}"
    yield from (f"# {line}" for line in textwrap.wrap(_safe(text), _WIDTH, break_on_hyphens=False))


def _safe(text: str) -> str:
    """Return a text on one line, of printable characters only."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _quoted(text: str, prefix: str = "") -> str:
    """Return a string literal, in double quotes where that is plain."""
    return f'{prefix}"{text}"' if re.fullmatch(r"[ !#-\[\]-~]*", text) else f"{prefix}{text!r}"


def _documented(source: str, nameless: Sequence[str], scaled: bool) -> str:
    """Return the module's docstring."""
    of = f" for {_safe(source)}" if source else ""
    told = [f"Initialization that `initaudit fix` chose{of}: call initialize(model) before training."]
    told.append("It needs the model as it is before any wrapper or compiler. Seed torch for the same values each time.")
    if scaled:
        told.append(
            "Gains are the scales that LSUV came to on its calibration batch: another draw comes near its target, not"
            " within its tolerance."
        )
    if nameless:
        told.append(
            f"The file does not tell the names of {len(nameless)} tensors, left out here: {', '.join(nameless)}."
        )
    wrapped = "\n\n".join("\n".join(textwrap.wrap(_safe(text), _WIDTH)) for text in told)
    return wrapped.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') + "\n"
