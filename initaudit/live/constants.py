"""Values of stand-ins that follow from constants alone: positions, masks, sizes, tables."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from initaudit.live.answers import ASKS, Answers
from initaudit.live.fakes import KNOWN_VALUES, Fakes
from initaudit.live.functions import mapped, tensors

_RANDOM = frozenset({
    "rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like",
    "randint_like", "dropout", "empty", "empty_like", "new_empty", "empty_strided", "poisson", "rrelu", "uniform",
    "scaled_dot_product_attention", "gumbel_softmax", "exponential", "trunc_normal", "log_normal", "random",
})  # fmt: skip
_LIKE = frozenset({"zeros_like", "ones_like", "new_zeros", "new_ones", "full_like", "new_full"})


def follow(
    fakes: Fakes,
    answers: Answers,
    func: Callable[..., Any],
    name: str,
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    result: Any,
    mutated: Sequence[torch.Tensor],
) -> None:
    """Do to the known values what a function did to their stand-ins; forget those that it made unknown."""
    if name in ASKS:
        return
    results = list(tensors(result))
    if not mutated:
        answers.follow_bounds(name, args, kwargs, results)
        if not results or all(fakes.real(tensor) is not None for tensor in results):
            return
    given = list(tensors((args, kwargs)))
    alike = name in _LIKE and bool(given)
    known = all(fakes.real(tensor) is not None for tensor in given) and name.removesuffix("_") not in _RANDOM
    small = sum(tensor.numel() for tensor in results) <= KNOWN_VALUES
    value = _computed(fakes, func, args, kwargs, alike and not known) if small and (known or alike) else None
    if value is None:
        for tensor in mutated:
            fakes.forget(tensor)
        return
    for fake, real in zip(results, tensors(value), strict=False):
        if fake.shape == real.shape and fake.dtype == real.dtype and not any(fake is t for t in mutated):
            fakes.know(fake, real)


def _computed(
    fakes: Fakes, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], alike: bool
) -> Any:
    """Return what a function makes of the known values, () if nothing; None if it fails."""

    def real(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        held = fakes.real(value)
        return torch.empty(tuple(value.shape), dtype=value.dtype) if held is None and alike else held

    try:
        with _disable_current_modes(), torch.no_grad():
            value = func(*mapped(args, real), **mapped(kwargs, real))
    except Exception:  # whatever it is: the values are not known
        return None
    return () if value is None else value
