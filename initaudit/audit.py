"""The flow from a path to a Report."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from initaudit import formats, inferred, laws, layers, names_from, rules, schemes, signals, state, stats
from initaudit.errors import InitauditError, UsageError
from initaudit.naming import pattern
from initaudit.registry import Rule
from initaudit.signals import Notice, Progress
from initaudit.types import Audit, Finding, Layer, Measured, Model, Report, Skip, Stats, Tensor


def select(codes: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Return the rules that `codes` names (all if none) less those that `ignore` names.

    A code may be a prefix (INI1) or a rule's name (not-finite).

    Raises:
        UsageError: nothing is called so, or no rule is left.
    """
    every = rules.catalogue()

    def matches(rule: Rule, word: str) -> bool:
        return rule.code.startswith(word.upper()) or rule.name == word.lower()

    for word in (*codes, *ignore):
        if not word or not any(matches(rule, word) for rule in every):
            raise UsageError(f"no rule is called {word!r}; there are {', '.join(rule.code for rule in every)}")
    chosen = [rule for rule in every if not codes or any(matches(rule, word) for word in codes)]
    left = tuple(rule for rule in chosen if not any(matches(rule, word) for word in ignore))
    if not left:
        raise UsageError("no rule is left: everything that is selected is ignored")
    return left


def audit_path(
    path: str | Path,
    *,
    meant: Callable[[], Model] | None = None,
    names: Model | None = None,
    activation: str | None = None,
    chosen: Sequence[Rule] | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
    probe: bool = False,
    data: Any = None,
    seed: int = 0,
    notice: Notice | None = None,
) -> Report:
    """Read a file or folder and return what there is to say about it.

    Args:
        path: of the file or folder.
        meant: builds the module that the checkpoint is meant for (see `built`), whose graph it then gets.
        names: a checkpoint with the same values, whose names the layers get (see `initaudit.names_from`).
        activation: what follows plain weights of which nothing else is known.
        chosen: the rules to run, all by default.
        only: shell patterns on layer names.
        jobs: threads that measure.
        progress: told about elements done and in all, then (0, 0) while ties are looked for.
        probe: run a small batch through the graph, forward and backward.
        data: what the batch is made of: see `initaudit.check`.
        seed: of what the probe draws.
        notice: told what a probe that takes a while will cost, before it runs.

    Raises:
        InitauditError: the model could not be read, or holds nothing to audit.
    """
    try:
        report = audit_model(
            read(path, meant), names=names, activation=activation, chosen=chosen, only=only, jobs=jobs,
            progress=progress, probe=probe, data=data, seed=seed, notice=notice,
        )  # fmt: skip
    except InitauditError as error:
        raise error.at(str(path)) from None
    return replace(report, given=str(path))


def read(path: str | Path, meant: Callable[[], Model] | None = None) -> Model:
    """Return what a file or folder holds, with the graph of the module that it is meant for, if there is one.

    Raises:
        InitauditError: it could not be read, or the module is not its own.
    """
    model = replace(formats.read(path), path=shown(path))
    return model if meant is None else _fitted(model, meant)


def built(
    model: object, arch: str | None, examples: object = None, inputs: Sequence[str] = (), *, weights: bool,
    data: object = None,
) -> Model:  # fmt: skip
    """Return the module that `--model` or `--arch` names as a Model, with the graph of a forward pass.

    Args:
        model: "package.module:callable", "file.py:callable", a module or something that makes one.
        arch: "timm:NAME", "torchvision:NAME" or "hf:FOLDER".
        examples: what to feed it with; guessed by default.
        inputs: the same as `--input` gives it.
        weights: draw its weights; else only their shapes are there, where it can be built so.
        data: of the probe or LSUV, whose shapes it is traced with if nobody says what to feed it with.

    Raises:
        UsageError: there is no such thing, its code fails, or torch is not installed.
    """
    opened = _live()
    made: Model = opened.built(model, arch, examples, tuple(inputs), weights=weights, data=data)
    return made


def named_by(path: str | Path) -> Model:
    """Return the checkpoint that gives layers their names."""
    return formats.read(path)


def live(module: object, examples: object = None, inputs: Sequence[str] = (), data: object = None) -> Model:
    """Return an nn.Module with its weights as a Model, with the graph of a forward pass; `data` as for `built`."""
    made: Model = _live().live(module, examples, options=tuple(inputs), data=data)
    return made


def is_module(value: object) -> bool:
    """Whether a value is an nn.Module; torch is not imported to find out."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.nn.Module)


def _fitted(checkpoint: Model, meant: Callable[[], Model]) -> Model:
    if checkpoint.graph is not None:
        word = checkpoint.graph_source
        raise UsageError(f"the graph is already there ({word}); --model and --arch are for files without one")
    made: Model = _live().fitted(checkpoint, meant())
    return made


def _live() -> Any:
    try:
        from initaudit.live import opened  # noqa: PLC0415  imports torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UsageError("a live model needs torch: pip install torch") from None
    return opened


def shown(path: str | Path) -> str:
    """Return the path as reports give it: relative to the working folder, so that it says the same on every machine."""
    given = Path(path)
    try:
        return Path(os.path.relpath(given)).as_posix() if given.is_absolute() else given.as_posix()
    except ValueError:  # on another drive
        return given.name


def audit_model(
    model: Model,
    *,
    names: Model | None = None,
    activation: str | None = None,
    chosen: Sequence[Rule] | None = None,
    only: Sequence[str] = (),
    jobs: int | None = None,
    progress: Progress | None = None,
    probe: bool = False,
    data: Any = None,
    seed: int = 0,
    notice: Notice | None = None,
) -> Report:
    """Return what there is to say about a model that has been read.

    `only` holds shell patterns on layer names: the other layers are measured, since equal layers and the model's state
    show only in the whole, but neither listed nor judged.
    """
    model = inferred.graphed(model)
    found, unread = layers.infer(model, activation)
    found, absent = _present(model, found)
    if names is not None:
        told = names_from.renamed(found, names)
        if told == found:
            why = "no weight has the same values there: no name is taken from it"
            unread = (*unread, Skip(Path(names.path).name, why, parameter=False))
        found = told
    measured, failed = _measure(found, jobs or os.cpu_count() or 1, progress)
    if not any(m.stats.count for m in measured):
        why = next((f" ({one.name}: {one.why})" for one in (*failed, *model.skipped) if one.parameter), "")
        raise InitauditError(f"nothing to audit: no weight with values among {len(model.tensors)} tensors{why}")
    standing, reasons = state.judge(measured)
    model = inferred.chained(model, found, activation)
    whole = Audit(model, measured, standing, reasons, (*model.skipped, *unread, *absent, *failed))
    whole, crashes = signals.judged(whole, probe=probe, data=data, seed=seed, notice=notice, progress=progress)
    model = whole.model
    findings, crashed = _run(rules.catalogue() if chosen is None else chosen, whole, crashes)
    measured = shown = whole.measured
    if only:
        for glob in only:
            if not any(fnmatchcase(m.layer.name, glob) for m in measured):
                raise UsageError(f"no layer is called {glob!r}; the first is {measured[0].layer.name!r}")
        shown = tuple(m for m in measured if any(fnmatchcase(m.layer.name, glob) for glob in only))
        left = {m.layer.name for m in shown}
        findings = [f for f in findings if f.layer is None or left & {f.layer, *f.also}]
    parameters, judged = _coverage(model, shown, whole.skipped)
    return Report(
        model=model,
        measured=shown,
        findings=tuple(findings),
        skipped=whole.skipped,
        state=standing,
        state_reasons=reasons,
        parameters=parameters,
        coverage=judged / parameters if parameters else 0.0,
        crashed=crashed,
        probe=whole.probe,
        theory=whole.theory,
        risk=whole.risk,
        freedom=whole.freedom,
    )


def _present(model: Model, found: Sequence[Layer]) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """Leave out what the checkpoint lacks of the module that it is meant for: there is nothing to measure."""
    lacks = {
        one.name: "is not in the checkpoint" if one.found is None else "has another shape in the checkpoint"
        for one in model.mismatches
        if one.what != "unexpected"
    }
    if not lacks:
        return tuple(found), ()
    kept = [
        replace(
            layer,
            bias=None if layer.bias is not None and layer.bias.name in lacks else layer.bias,
            extra=tuple(t for t in layer.extra if t.name not in lacks),
        )
        for layer in found
        if layer.weight.name not in lacks
    ]
    return tuple(kept), tuple(Skip(name, why, parameter=False) for name, why in lacks.items())


def _measure(
    found: Sequence[Layer], workers: int, progress: Progress | None
) -> tuple[tuple[Measured, ...], tuple[Skip, ...]]:
    """Measure every tensor of every layer once; what cannot be read becomes a Skip."""
    jobs: list[stats.Job] = []
    for layer in found:
        jobs.append(stats.Job(layer.weight, layer.axes, layer.groups, max(1, len(layer.parts))))
        jobs.extend(stats.Job(t, "o" * len(t.shape)) for t in _others(layer))
    total = sum(job.tensor.size for job in jobs)
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(done, total)

    blocks = Counter(pattern(layer.name) for layer in found)
    results = iter(stats.measure_many(jobs, workers, step))
    measured: list[Measured] = []
    failed: list[Skip] = []
    for layer in found:
        own = next(results)
        rest = {t.name: next(results) for t in _others(layer)}
        failed.extend(Skip(name, r.reason) for name, r in rest.items() if isinstance(r, InitauditError))
        others: dict[str, Stats] = {name: r for name, r in rest.items() if not isinstance(r, InitauditError)}
        if isinstance(own, InitauditError):
            failed.append(Skip(layer.weight.name, own.reason))
            continue
        m = Measured(layer, own, others, schemes.expect(layer))
        measured.append(replace(m, identified=laws.identify(layer, own, blocks[pattern(layer.name)])))
    return tuple(measured), tuple(failed)


def _others(layer: Layer) -> Iterator[Tensor]:
    yield from (t for t in (layer.bias, *layer.extra) if t is not None and t.is_float)


def _run(chosen: Iterable[Rule], whole: Audit, crashes: Sequence[str]) -> tuple[list[Finding], bool]:
    """Return what the rules find, and whether one of them, or what they build on, failed."""
    broken = next(r for r in rules.catalogue() if r.code == "INI001")
    findings = [
        broken.at(None, why, failed=why.partition(" ")[0], remedy="please report it; the rest of the report holds")
        for why in crashes
    ]
    for rule in chosen:
        try:
            findings.extend(rule(whole))
        except Exception as error:
            findings.append(
                broken.at(
                    None,
                    f"{rule.code} {rule.name} failed: {type(error).__name__}: {error}",
                    failed=rule.code,
                    remedy=f"please report it; --ignore {rule.code} leaves the rule out",
                )
            )
    order = {m.layer.name: k for k, m in enumerate(whole.measured)}
    findings.sort(key=lambda f: (-f.severity, order.get(f.layer or "", -1), f.rule))
    return findings, any(f.rule == broken.code for f in findings)


def _coverage(model: Model, measured: Sequence[Measured], skipped: Sequence[Skip]) -> tuple[int, int]:
    """Return parameter elements in the model, and those in tensors that were measured; ties count once.

    Quantised weights count by their integers; what is known to be no parameter does not count.
    """
    seen = {name for m in measured for tensor, _ in m.tensors for name in (tensor.name, *tensor.parts)}
    told = {skip.name: skip.parameter for skip in skipped}  # False: no parameter; True: one that is not judged
    sizes: dict[object, int] = {}
    judged: dict[object, int] = {}
    for tensor in model.tensors:
        if tensor.buffer and tensor.is_float:
            continue
        unasked = tensor.is_float and not tensor.buffer
        if tensor.name not in seen and not told.get(tensor.name, unasked):
            continue
        sizes[tensor.identity] = tensor.size
        if tensor.name in seen:
            judged[tensor.identity] = tensor.size
    return sum(sizes.values()), sum(judged.values())
