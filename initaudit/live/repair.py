"""Better inputs, from the call at which a forward pass failed: what the weight there wants tells what to feed.

A call with a weight (linear, conv, embedding, ...) fixes one axis of the argument that reached it; numbers in an error
message ("doesn't match model (224*224)") and sizes that networks are commonly made for serve where nothing else does.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from initaudit.live.spec import Spec
from initaudit.live.watch import Failure, Path, source
from initaudit.live.wishes import BATCH, LENGTH, LENGTHS, SIZES, WIDE, wishes

Values = Mapping[str, Any]

_ENTRIES = 3  # of the guesses at one entry of a dict


def at(values: Any, path: Path) -> Any:
    """Return the value at a path, None if there is none."""
    for key in path:
        try:
            values = values[key]
        except (KeyError, IndexError, TypeError):
            return None
    return values


def put(values: Any, path: Path, value: Any) -> Any:
    """Return a copy of `values` with another value at a path."""
    if not path:
        return value
    key, *rest = path
    if isinstance(values, list | tuple):
        return type(values)(put(old, tuple(rest), value) if k == key else old for k, old in enumerate(values))
    old = values.get(key) if isinstance(values, Mapping) else None
    return {**(values if isinstance(values, Mapping) else {}), key: put(old, tuple(rest), value)}


def specs(values: Any, path: Path = ()) -> Iterator[tuple[Path, Spec]]:
    """Yield every tensor to be made, with its path."""
    if isinstance(values, Spec):
        yield path, values
    elif isinstance(values, Mapping):
        for key, value in values.items():
            yield from specs(value, (*path, key))
    elif isinstance(values, list | tuple):
        for k, value in enumerate(values):
            yield from specs(value, (*path, k))


def repairs(
    failure: Failure, values: Values, floating: str = "float32", called: Callable[[str], list[Any]] = lambda name: []
) -> list[Values]:
    """Return better values, the likeliest first; none where the failure says nothing.

    Args:
        failure: of the pass with `values`.
        values: by argument name.
        floating: the dtype of floating tensors.
        called: returns what something of a name may be, an entry of a dict here.
    """
    found: list[Values] = []
    for path, change in wishes(failure):
        spec = at(values, path)
        if isinstance(spec, Spec):
            found += [put(values, path, better) for better in change(spec)]
    found += _structure(failure, values, called)
    return [_cast(one, floating) for one in found if one != values]


def hinted(failure: Failure, values: Values) -> list[Values]:
    """Return values with the numbers that the error message mentions, which may be what is wanted."""
    found = [put(values, path, better) for path, better in _by_message(failure, values)]
    return [one for one in found if one != values][:8]


def _cast(values: Any, floating: str) -> Any:
    for path, spec in specs(values):
        if spec.dtype == "float32":
            values = put(values, path, replace(spec, dtype=floating))
    return values


# ---- what else there is to go by


def _structure(failure: Failure, values: Values, called: Callable[[str], list[Any]]) -> list[Values]:
    """An argument that is asked for a key is a dict; one without the right number of axes gets it."""
    found: list[Values] = []
    x = failure.args[0] if failure.args else None
    path = source(x)
    key = failure.args[1] if failure.call == "__getitem__" and len(failure.args) > 1 else None
    if path is not None and isinstance(key, str):
        return [put(values, path, {key: value}) for value in (*called(key)[:_ENTRIES], at(values, path))]
    if isinstance(failure.error, KeyError) and failure.error.args and isinstance(failure.error.args[0], str):
        dicts = [key for key, value in values.items() if isinstance(value, Mapping)]
        like = next((spec for _, spec in specs(values)), Spec((BATCH, LENGTH)))
        name = failure.error.args[0]
        return [put(values, (key, name), value) for value in (*called(name)[:_ENTRIES], like) for key in dicts]
    axis = re.search(
        r"Dimension out of range \(expected to be in range of \[-(\d), \d\], but got (-?\d)\)", failure.text
    )
    if axis:
        more = int(axis[2]) + 1 if int(axis[2]) >= 0 else -int(axis[2])
        for path, spec in specs(values):
            if len(spec.shape) == int(axis[1]) and spec.shape:
                ones = (1,) * (more - len(spec.shape))
                found.append(put(values, path, replace(spec, shape=(spec.shape[0], *ones, *spec.shape[1:]))))
    axes = re.search(r"(?:not enough|too many) values to unpack \(expected (\d)", failure.text)
    if axes:
        wanted = int(axes[1])
        for path, spec in specs(values):
            if len(spec.shape) != wanted:
                found.append(put(values, path, replace(spec, shape=_with_axes(spec.shape, wanted))))
    return found


def _with_axes(shape: tuple[int, ...], wanted: int) -> tuple[int, ...]:
    if wanted <= 1:
        return (BATCH,)
    if len(shape) > wanted:
        return (*shape[: wanted - 1], shape[-1]) if len(shape) < 4 else shape[:wanted]
    if 4 <= wanted == len(shape) + 1:
        return (shape[0], 1, *shape[1:])
    plain = {2: (BATCH, LENGTH), 3: (BATCH, LENGTH, shape[-1] if shape else 16), 4: (BATCH, 3, 64, 64)}
    return plain.get(wanted, (BATCH, 3, *WIDE[3])[:wanted])


def _by_message(failure: Failure, values: Values) -> Iterator[tuple[Path, Spec]]:
    """Numbers in the message that no axis has yet may be what an image's side or a sequence's length should be."""
    numbers = [int(n) for n in re.findall(r"(?<![\w.])\d{1,5}(?![\w.]\d)", failure.text)]
    inputs = list(specs(values))
    present = {n for _, spec in inputs for n in spec.shape}
    wanted = [n for n in dict.fromkeys(numbers) if n not in present and 4 <= n <= 65536]
    if not any(n in present for n in numbers) and "match" not in failure.text and "expect" not in failure.text.lower():
        return
    for n in wanted[:4]:
        for path, spec in inputs:
            if len(spec.shape) > 2:
                yield path, replace(spec, shape=(*spec.shape[:2], *(n for _ in spec.shape[2:])))
        for path, spec in inputs:
            for axis in range(1, len(spec.shape)):
                if spec.shape[axis] in numbers:
                    yield path, replace(spec, shape=(*spec.shape[:axis], n, *spec.shape[axis + 1 :]))


def resized(values: Values) -> list[Values]:
    """Return the values with other sizes behind the channels, the same for all arguments that have such."""
    found: list[Values] = []
    grids = [(path, spec) for path, spec in specs(values) if len(spec.shape) > 3 and spec.dtype != "int64"]
    signals = [(path, spec) for path, spec in specs(values) if len(spec.shape) == 3 and spec.shape[1] != LENGTH]
    for group, sizes in ((grids, SIZES), (signals if not grids else [], LENGTHS)):
        for size in sizes if group else ():
            changed = values
            for path, spec in group:
                lead = 3 if len(spec.shape) == 5 else 2
                sides = (size for _ in spec.shape[lead:])
                changed = put(changed, path, replace(spec, shape=(*spec.shape[:lead], *sides)))
            if changed != values:
                found.append(changed)
    return found


def distance(old: Values, new: Values) -> float:
    """Return how far apart sizes are, in doublings, where nothing else behind the channels differs; else 0."""
    before, after = dict(specs(old)), dict(specs(new))
    if before.keys() != after.keys():
        return 0.0
    most = 0.0
    for path, one in before.items():
        other = after[path]
        if one == other:
            continue
        if len(one.shape) != len(other.shape) or len(one.shape) < 3 or one.shape[:2] != other.shape[:2]:
            return 0.0
        pairs = zip(one.shape[2:], other.shape[2:], strict=True)
        most = max(most, *(abs(math.log2(max(b, 1) / max(a, 1))) for a, b in pairs))
    return most
