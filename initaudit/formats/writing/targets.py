"""Where the files of a repaired model go: beside the old ones, into a folder of their own, or in place of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from initaudit import formats
from initaudit.edits import FilePlan
from initaudit.errors import UsageError, WriteError
from initaudit.formats.beside import ADAPTER, CONFIG
from initaudit.formats.interrupted import PREFIX

_FIXED = ".fixed"
_FOLDERS = ("sharded", "dcp")  # one file leads to all the others of a folder


@dataclass(frozen=True, slots=True)
class Part:
    """A file that is written: what it is made of, and its name in the stage and below the root."""

    plan: FilePlan
    staged: str  # among the new files of the stage
    final: str  # below the root


@dataclass(frozen=True, slots=True)
class Layout:
    """What is written and what it is called; names are relative, with "/" between the parts."""

    root: Path  # the folder that everything is renamed in
    result: Path  # what was `path`, once all is done
    shown: str  # the same in the stage, "" for the folder of new files itself
    parts: tuple[Part, ...]  # in the order in which they take their names
    links: Mapping[str, Path] = field(default_factory=dict)  # name in the stage -> file that stays as it is
    whole: str = ""  # name of a new folder: the new files become it in one go
    over: bool = False  # files may be replaced
    alike: bool = False  # they keep owner, mode and attributes
    notes: tuple[str, ...] = ()


def default_target(path: str | Path) -> Path:
    """Return where a repaired model goes if nobody says: ckpt.fixed.pt, model.fixed.onnx, folder.fixed.

    Raises:
        ReadError: there is nothing at `path` that could be repaired.
    """
    where = Path(path)
    if where.is_dir() or formats.identify(where).name in _FOLDERS:
        folder = where if where.is_dir() else where.parent
        folder = folder if folder.name not in {"", ".."} else folder.resolve()
        return folder.with_name(folder.name + _FIXED)
    return where.with_name(f"{where.stem}{_FIXED}{where.suffix}")


def in_place(path: Path, plans: Sequence[FilePlan]) -> Layout:
    """Return the layout in which the files that change take the places of the old ones.

    Raises:
        UsageError: a file is not to be edited in place: others look at it too, or it lies elsewhere.
        WriteError: a file may not be written.
    """
    base = path if path.is_dir() else path.parent
    changed = [plan for plan in plans if plan.patches or plan.seal]
    finals = [plan.path.resolve() for plan in changed]
    for plan, final in zip(changed, finals, strict=True):
        _check_own(plan.path, final)
    root = finals[0].parent if len(finals) == 1 else base.resolve()
    for plan, final in zip(changed, finals, strict=True):
        if not final.is_relative_to(root):
            raise UsageError(
                f"{plan.path.name} is a link to another folder, and files change together only in one; {_OUT}"
            )
    if len(set(finals)) < len(finals):
        raise UsageError(f"two of its files are links to the same file; {_OUT}")
    parts = tuple(
        Part(plan, _name(plan.path, base), final.relative_to(root).as_posix())
        for plan, final in zip(changed, finals, strict=True)
    )
    return Layout(
        root, path, path.name if base != path else "", parts, _links(path, base, plans, parts), over=True, alike=True
    )  # fmt: skip


def beside(path: Path, plans: Sequence[FilePlan], target: Path, *, force: bool) -> Layout:
    """Return the layout in which a new model comes to be at `target`, and the old one stays as it is.

    Raises:
        UsageError: something is there and `force` is off, or the target is the model itself, or of another kind.
        WriteError: something is there that is not to be replaced even so.
    """
    target = Path(os.path.realpath(target))  # a link keeps pointing where it does, at the new file
    if not target.parent.is_dir():
        raise UsageError(f"the folder {target.parent} does not exist", str(target))
    if any(_same(target, plan.path) for plan in plans) or (_same(target, path) and not path.is_dir()):
        raise UsageError("is a file of the model itself; to change that, use --in-place", str(target))
    if path.is_dir() or (len(plans) > 1 and plans[0].named is None):
        return _folder(path, plans, target, force=force)
    return _file(plans, target, force=force)


_OUT = "use -o to write a new model"


def _same(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, also where upper and lower case are the same."""
    return one.exists() and one.samefile(other)


def _check_own(shown: Path, final: Path) -> None:
    """Refuse a file that is not this model's alone, or that its owner has protected."""
    stat = final.stat()
    if stat.st_nlink > 1:
        raise UsageError(f"{shown.name} has {stat.st_nlink} names (hard links), which others may rely on; {_OUT}")
    if _is_blob(final):
        raise UsageError(f"{shown.name} lies in a cache ({final.parent}) that others read too; {_OUT}")
    if not stat.st_mode & 0o222 or not os.access(final, os.W_OK):
        raise WriteError(f"{shown.name} is read-only")
    if not os.access(final.parent, os.W_OK | os.X_OK):
        raise WriteError(f"the folder {final.parent} is read-only")


def _is_blob(final: Path) -> bool:
    """Whether a file is stored in a cache by its content, as the HuggingFace hub has it: links lead to blobs/."""
    return final.parent.name == "blobs" and (final.parent.parent / "snapshots").is_dir()


def _name(path: Path, base: Path) -> str:
    return PurePath(os.path.relpath(path, base)).as_posix()


def _links(path: Path, base: Path, plans: Iterable[FilePlan], parts: Iterable[Part]) -> dict[str, Path]:
    """Return what stays as it is and is shown beside the new files, so that a reader finds all that it looks for."""
    found = {_name(plan.path, base): plan.path for plan in plans}
    around = list(base.iterdir()) if path.is_dir() else [base / CONFIG, base / ADAPTER]
    for entry in around:
        if not entry.name.startswith(PREFIX) and not any(name.startswith(f"{entry.name}/") for name in found):
            found.setdefault(entry.name, entry)
    new = {part.staged for part in parts}
    return {name: file.resolve() for name, file in found.items() if name not in new and file.exists()}


# -- a model of one file, or of one file and its data


def _file(plans: Sequence[FilePlan], target: Path, *, force: bool) -> Layout:
    if target.is_dir():
        raise UsageError("is a folder; name the file to write", str(target))
    model, *data = plans
    base = model.path.parent
    same = target.parent == base.resolve()
    parts: list[Part] = []
    links: dict[str, Path] = {}
    renamed: dict[Path, str] = {}
    taken = {plan.path.resolve() for plan in plans}
    for plan in data:
        name = _name(plan.path, base)
        if same and not (plan.patches or plan.seal):
            links[name] = plan.path.resolve()
            continue
        if same or os.path.lexists(target.parent / name):
            name = _free(target, taken)
            renamed[plan.path] = name
        taken.add(target.parent / name)
        parts.append(Part(plan, name, name))
    if renamed:
        if model.named is None:
            raise WriteError(f"the model names its file {data[0].path.name}, and cannot be told another name")
        model = model.named(renamed)
    parts.append(Part(model, target.name, target.name))
    for part in parts:
        _check_free(target.parent / part.final, force=force)
    for name in (CONFIG, ADAPTER):
        if (base / name).is_file():
            links.setdefault(name, (base / name).resolve())
    new = {part.staged for part in parts}
    links = {name: file for name, file in links.items() if name not in new}
    return Layout(target.parent, target, target.name, tuple(parts), links, over=force)


def _free(target: Path, taken: set[Path]) -> str:
    """Return a name for data of a model that is written: model.fixed.onnx.data, then model.fixed.onnx.1.data, ..."""
    count = 0
    while True:
        name = f"{target.name}.{count}.data" if count else f"{target.name}.data"
        if target.parent / name not in taken:
            return name
        count += 1


def _check_free(final: Path, *, force: bool) -> None:
    if not os.path.lexists(final):
        return
    if not force:
        raise UsageError("exists already; use --force to replace it", str(final))
    if final.is_dir() or not final.is_file():
        raise WriteError("is no file that could be replaced", str(final))
    if _is_blob(final):
        raise WriteError("lies in a cache that others read too", str(final))


# -- a model of several files


def _folder(path: Path, plans: Sequence[FilePlan], target: Path, *, force: bool) -> Layout:
    base = path if path.is_dir() else path.parent
    if _same(target, base):
        raise UsageError("is the folder of the model itself; to change that, use --in-place", str(target))
    if os.path.lexists(target) and not target.is_dir():
        raise UsageError("is a file; a model of several files goes into a folder", str(target))
    made = {_name(plan.path, base): plan for plan in plans}
    left: list[str] = []
    for entry in sorted(base.iterdir()):
        if entry.name in made or entry.name.startswith(PREFIX):
            continue
        if entry.is_file():
            made[entry.name] = FilePlan(entry, ())
        elif not any(name.startswith(f"{entry.name}/") for name in made):
            left.append(entry.name)
    told = f"folders in it are not copied: {', '.join(left)}; copy those that the model is loaded with"
    notes = (told,) if left else ()
    result, shown = (target, "") if base == path else (target / path.name, path.name)
    parts = tuple(Part(plan, name, name) for name, plan in made.items())
    if not target.is_dir() or not any(target.iterdir()):
        return Layout(target.parent, result, shown, parts, whole=target.name, notes=notes)
    if not force:
        raise UsageError("exists already; use --force to replace the files in it", str(target))
    others = sorted(entry.name for entry in target.iterdir() if not entry.name.startswith(PREFIX))
    others = [name for name in others if name not in made and not any(one.startswith(f"{name}/") for one in made)]
    if others:
        names = ", ".join(others[:4]) + (", ..." if len(others) > 4 else "")
        raise UsageError(f"holds what the repaired model does not ({names}); name another folder", str(target))
    for part in parts:
        _check_free(target / part.final, force=True)
    return Layout(target, result, shown, parts, over=True, notes=notes)
