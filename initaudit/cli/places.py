"""Where a repair is told to write: the model, its manifest, code. No slip of the keyboard lets one replace another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from initaudit.cli.asked import refuse_model
from initaudit.cli.streams import check_file
from initaudit.errors import UsageError


def refuse_clashes(
    path: str, target: Path | None, records: Mapping[str, str], read: Mapping[str, str | None], *, force: bool
) -> None:
    """Refuse places that would fall on each other or on what is there, before any work is done.

    Args:
        path: of the model.
        target: where a repaired model goes that is not written in place.
        records: the files that are written besides, by option.
        read: what else is read, by option.
        force: files that are there may be replaced, but none of those that are read.

    Raises:
        UsageError: two places are the same, a file is there already, or it is one of the model's.
        WriteError: no file can be written there.
    """
    from initaudit.repair import guarding  # noqa: PLC0415  not for --help

    places = {option: place for option, place in read.items() if place is not None and Path(place).exists()}
    originals = {os.path.realpath(one) for one in guarding.originals(Path(path))} if records else set()
    for option, place in records.items():
        if place in {"", "-"}:
            raise UsageError(f"{option} takes the name of a file")
        if os.path.realpath(place) in originals:
            raise UsageError("is a file of the model itself; choose another file", place)
        refuse_model(place, [path])
        check_file(place)
        _refuse_same(option, place, places)
        if target is not None and _within(place, target):
            raise UsageError(f"{option} is where the repaired model goes; choose another file", place)
        # a pipe or a device takes what it is given
        if not force and os.path.lexists(place) and not (Path(place).exists() and not Path(place).is_file()):
            raise UsageError("exists already; --force writes over it, or choose another file", place)
        places[option] = place
    if target is not None:
        _refuse_same("-o", str(target), {option: read for option, read in places.items() if option not in records})


def refuse_written(records: Iterable[str], written: Sequence[str]) -> None:
    """Refuse a file that is one of the repaired model's: data beside it have names that are known only once it is made.

    Raises:
        UsageError: it is.
    """
    taken = {os.path.realpath(one) for one in written}
    for place in records:
        if os.path.realpath(place) in taken:
            raise UsageError("is a file of the repaired model; choose another file", place)


def _refuse_same(option: str, place: str, others: Mapping[str, str]) -> None:
    for other, there in others.items():
        if os.path.realpath(place) == os.path.realpath(there):
            raise UsageError(f"{option} and {other} name the same file", place)


def _within(place: str, target: Path) -> bool:
    return Path(os.path.realpath(place)).is_relative_to(os.path.realpath(target))
