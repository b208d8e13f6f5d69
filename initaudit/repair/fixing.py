"""The flow of one repair: audit, plan, draw, stage, audit again, compare, and only then write.

    audit -> planning.plan -> drawing.draw or live.lsuv -> Edit... -> writing.stage -> audit -> comparing -> commit

Nothing is at its place before the second audit has passed: what is staged goes away with whatever ends the flow.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from initaudit import audit, formats, schemes
from initaudit.edits import Edit, Plan, Reached, Recipe, Repair, Row
from initaudit.errors import InitauditError, UsageError
from initaudit.formats import writing
from initaudit.formats.writing import interrupts
from initaudit.repair import comparing, copies, drawing, guarding, overlaying, planning, steps
from initaudit.repair.steps import Step
from initaudit.reporters.base import by_layer
from initaudit.types import Array, Evidence, Measured, Model, Report

_LSUV: Mapping[str, Callable[[Any], Any]] = {"tol": float, "tmax": int, "target": float, "norms": str}


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Judge:
    """Both audits of a repair: the same options on both sides."""

    meant: Callable[[], Model] | None = None  # as in audit.audit_path
    names: Model | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # activation, chosen, jobs, probe, data, seed, notice
    step: Step = steps.silent

    def first(self, path: str) -> Report:
        """Return what there is to say of the file or folder as it is."""
        return audit.audit_path(
            path, meant=self.meant, names=self.names, progress=partial(self.step, "reading"), **self.settings
        )

    def second(self, path: Path, before: Report) -> Report:
        """Return the same of what was staged, told under the names of the first audit."""
        model = replace(formats.read(path), path=before.model.path)
        if self.meant is not None:
            from initaudit.live import opened  # noqa: PLC0415  imports torch, as the first audit did

            model = opened.fitted(model, self.meant())
        return self.third(model, before)

    def third(self, model: Model, before: Report) -> Report:
        """Return what there is to say of a model that holds the new values."""
        quiet = {**self.settings, "notice": None}  # what it costs was said the first time
        after = audit.audit_model(model, progress=partial(self.step, "auditing again"), **quiet)
        return replace(comparing.aligned(after, before), given=before.given)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a repair is to do, as the user said it."""

    scheme: str = "auto"
    only: tuple[str, ...] = ()  # shell patterns on layer names
    every: bool = False
    seed: int = 0
    force: bool = False
    data: Any = None  # of LSUV's batch
    dry: bool = False


@dataclass(frozen=True, slots=True)
class _Drawn:
    """The edits of a plan, and what came of drawing them."""

    edits: tuple[Edit, ...]
    reached: tuple[Reached, ...] = ()
    notes: tuple[str, ...] = ()
    silent: frozenset[int] = frozenset()  # places of recipes that nothing is written for


@dataclass(frozen=True, slots=True)
class Pending:
    """A repair that has been proven and waits to be put in place; it says what is there once it is."""

    repair: Repair
    commit: Callable[[], None] = _nothing


def fix(
    path: str | Path, wish: Wish, judge: Judge, *, output: str | Path | None = None, in_place: bool = False
) -> Repair:
    """Repair a file or folder and return what came of it; see `pending`."""
    with pending(path, wish, judge, output=output, in_place=in_place) as waiting:
        waiting.commit()
        return waiting.repair


@contextmanager
def pending(
    path: str | Path,
    wish: Wish,
    judge: Judge,
    *,
    output: str | Path | None = None,
    in_place: bool = False,
    written: bool = True,
) -> Iterator[Pending]:
    """Yield the repair of a file or folder, audited again and staged: `commit` puts it in place, leaving discards it.

    Args:
        path: of the file or folder.
        wish: which layers, how they are drawn.
        judge: of both audits.
        output: where to; beside it by default.
        in_place: write over it.
        written: False: draw and audit, but write nothing (as a dry run does).

    Raises:
        InitauditError: it could not be read, drawn or written; then it is as it was.
    """
    where, target = Path(path), None if output is None else Path(output)
    written = written and not wish.dry
    recovered = () if wish.dry else writing.recover(where)
    if written:
        target = guarding.destination(where, target, in_place, wish.force)
    seen = guarding.fingerprints(where)
    before = judge.first(str(path))
    plan = _planned(before, wish)
    repair = Repair(before, plan, wish.scheme, wish.seed, dry=wish.dry, recovered=recovered)
    if not plan.recipes:
        yield Pending(repair)
        return
    drawn = _draw(before.model, plan, wish, judge)
    repair = _told(repair, (*_assumed(plan), *drawn.notes), drawn.reached)
    with _staged(where, drawn.edits, target if written else None, in_place, wish.force, judge.step) as staged:
        if staged is None:
            note = "what comes of it is not told: there is no room for a copy among the temporary files"
            yield Pending(replace(_told(repair, (note,)), rows=_rows(plan, before, None, drawn)))
            return
        try:
            after = judge.second(staged.path, before)
        except InitauditError as error:  # the name of what is staged would mean nothing to anyone
            raise type(error)(f"what was made of it cannot be audited: {error.reason}", str(path)) from error.__cause__
        repair = _judged(_told(repair, staged.notes), drawn, after)
        guarding.unchanged(seen)
        repair = replace(repair, inputs=_shown(staged.inputs))
        if not written or repair.worse or target is None:
            yield Pending(repair)
            return
        # as it was typed; an index leads into the folder that is written
        inside = () if staged.target.name == target.name else (staged.target.name,)
        repair = replace(repair, output=audit.shown(target.joinpath(*inside)), outputs=_shown(staged.outputs))
        yield Pending(repair, staged.commit)


def fix_module(module: Any, wish: Wish, judge: Judge, examples: Any = None, inputs: Sequence[str] = ()) -> Repair:
    """Repair a live nn.Module in place and return what came of it; it changes only after the second audit.

    Args:
        module: whose parameters (and norms' statistics) take the new values, ties, dtypes and devices as they are.
        wish: which layers, how they are drawn.
        judge: of both audits.
        examples: what it is fed with, as for `initaudit.check`.
        inputs: the same as `--input` gives it.
    """
    model = audit.live(module, examples, inputs, wish.data)
    before = audit.audit_model(model, **judge.settings)
    plan = _planned(before, wish)
    repair = Repair(before, plan, wish.scheme, wish.seed, dry=wish.dry)
    if not plan.recipes:
        return repair
    drawn = _draw(model, plan, wish, judge)
    kept = overlaying.kept(drawn.edits)
    repair = _judged(
        _told(repair, (*_assumed(plan), *drawn.notes), drawn.reached),
        drawn,
        judge.third(overlaying.overlaid(model, kept), before),
    )
    if not repair.worse and not wish.dry:
        from initaudit.live import assigning  # noqa: PLC0415  imports torch

        assigning.assign(module, kept)
        repair = replace(repair, output=before.model.path)
    return repair


def _planned(before: Report, wish: Wish) -> Plan:
    plan = planning.plan(before, scheme=wish.scheme, only=wish.only, every=wish.every, force=wish.force)
    return replace(plan, recipes=copies.alike(plan.recipes, before.model, before.measured))


def _draw(model: Model, plan: Plan, wish: Wish, judge: Judge) -> _Drawn:
    total = len(plan.recipes)

    last: dict[int, Array] = {}  # a writer may ask for one tensor several times in a row

    def values(k: int, recipe: Recipe) -> Array:
        if k not in last:
            judge.step("drawing", k, total)
            last.clear()
            last[k] = drawing.draw(recipe, wish.seed)
        return last[k]

    scaled = [recipe for recipe in plan.recipes if _row(recipe.scheme) == "lsuv"]
    if not scaled:
        return _Drawn(tuple(Edit(r.tensor, partial(values, k, r)) for k, r in enumerate(plan.recipes)))
    try:
        from initaudit.live.lsuv import calibrate  # noqa: PLC0415  imports torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError("lsuv runs the model and needs torch: pip install torch") from None
    said = schemes.parse(scaled[0].scheme)[1]
    asked: dict[str, Any] = {key: kind(said[key]) for key, kind in _LSUV.items() if key in said}
    done = calibrate(
        model, plan.recipes, partial(drawing.draw, seed=wish.seed), data=wish.data, seed=wish.seed,
        notice=judge.settings.get("notice"), **asked,
    )  # fmt: skip
    edits = tuple(Edit(r.tensor, done.values[k]) for k, r in enumerate(plan.recipes) if k in done.values)
    silent = frozenset(range(total)) - frozenset(done.values)
    return _Drawn(edits, tuple(done.reached), tuple(done.notes), silent)


def _assumed(plan: Plan) -> Iterator[str]:
    """Yield a note where gains stand on an activation that nothing tells."""
    layers = [r.measured.layer for r in plan.recipes if r.about.startswith(("followed by", "activation not known"))]
    count = len({one.name for one in layers if one.activation_evidence is Evidence.ASSUMED})
    if count:
        which = f"{count} layer{'s' * (count != 1)}"
        yield f"what follows {which} is assumed, relu as a rule: --activation NAME, --model or --arch tells it"


def _row(scheme: str) -> str:
    return scheme.partition(":")[0]


def _told(repair: Repair, notes: Sequence[str], reached: tuple[Reached, ...] = ()) -> Repair:
    plan = replace(repair.plan, notes=(*repair.plan.notes, *notes))
    return replace(repair, plan=plan, reached=reached or repair.reached)


def _judged(repair: Repair, drawn: _Drawn, after: Report) -> Repair:
    before = repair.before
    touched = {r.measured.layer.name for k, r in enumerate(repair.plan.recipes) if k not in drawn.silent}
    return replace(
        repair,
        after=after,
        rows=_rows(repair.plan, before, after, drawn),
        worse=comparing.worse(before, after, touched),
        at_fault=comparing.at_fault(after, touched),
    )


def _rows(plan: Plan, before: Report, after: Report | None, drawn: _Drawn) -> tuple[Row, ...]:
    found: dict[str, Measured] = {} if after is None else {m.layer.name: m for m in after.measured}
    old, new = by_layer(before), {} if after is None else by_layer(after)
    reached: dict[str, list[Reached]] = {}
    for one in drawn.reached:
        reached.setdefault(one.layer, []).append(one)
    rows = []
    for k, recipe in enumerate(plan.recipes):
        name = recipe.measured.layer.name
        if k in drawn.silent:
            continue
        weight = recipe.tensor == recipe.measured.layer.weight
        rows.append(
            Row(recipe, found.get(name), old.get(name, "ok"), new.get(name), tuple(reached.get(name, ())) * weight)
        )
    return tuple(rows)


@contextmanager
def _staged(
    path: Path, edits: Sequence[Edit], target: Path | None, in_place: bool, force: bool, step: Step
) -> Iterator[writing.Staged | None]:
    """Yield the staged result; without a target in a folder of its own, and None if there is no room for that."""
    told = partial(step, "copying")
    if target is not None:
        with writing.stage(
            path, edits, None if in_place else target, in_place=in_place, force=force, progress=told
        ) as staged:
            yield staged
        return
    with interrupts.terminable(), tempfile.TemporaryDirectory(prefix="initaudit-") as folder:
        if guarding.size(path) > shutil.disk_usage(folder).free:
            yield None
            return
        place = Path(folder, writing.default_target(path).name)
        with writing.stage(path, edits, place, progress=told) as staged:
            yield staged


def _shown(digests: Mapping[str, str]) -> dict[str, str]:
    return {audit.shown(path): digest for path, digest in digests.items()}
