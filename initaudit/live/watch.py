"""Watches a forward pass from outside: from which argument each value comes, and where the pass fails."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from initaudit.errors import InitauditError, UnsupportedError

MOST_IN_A_PASS = 200_000  # calls of torch functions: a loop that waits for a value that never comes makes more

Path = tuple[Any, ...]  # of a value in the arguments: ("images", 0), ("batch", "mask")


@dataclass(frozen=True, slots=True)
class Operand:
    """A tensor that a failing call was given."""

    shape: tuple[int, ...]
    floating: bool
    origins: frozenset[Path]  # the arguments that it was worked out from; none for a weight


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a pass failed, as far as that helps to feed it better."""

    error: BaseException
    call: str = ""  # name of the torch function
    args: tuple[Any, ...] = ()  # Operands for tensors
    kwargs: Mapping[str, Any] | None = None
    module: nn.Module | None = None  # the innermost that was running
    inputs: tuple[Any, ...] = ()  # its arguments, Operands for tensors
    calls: int = 0  # of torch functions up to there

    @property
    def text(self) -> str:
        """The message."""
        return str(self.error)


def source(x: Any) -> Path | None:
    """Return the one argument that an operand was worked out from; None for any other, and where there are several."""
    return next(iter(x.origins)) if isinstance(x, Operand) and len(x.origins) == 1 else None


class EndlessError(UnsupportedError):
    """A pass that does not come to an end."""


class Limit(TorchFunctionMode):
    """While it is entered (outside of any other mode), stops what does not end."""

    def __init__(self) -> None:
        super().__init__()
        self._calls = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Count and run one torch function."""
        self.count(func)
        return func(*args, **(kwargs or {}))

    def count(self, func: Callable[..., Any]) -> None:
        """Count a call.

        Raises:
            EndlessError: there were too many.
        """
        self._calls += getattr(func, "__name__", "") != "__get__"
        if self._calls > MOST_IN_A_PASS:
            raise EndlessError(f"no end after {MOST_IN_A_PASS:,} calls of torch functions")


class Watch(Limit):
    """While it is entered (outside of any other mode), follows what becomes of the arguments of `root`."""

    def __init__(self, root: nn.Module) -> None:
        super().__init__()
        self._root = root
        self._from: Any = WeakTensorKeyDictionary()
        self._running: list[tuple[nn.Module, tuple[Any, ...]]] = []
        self._failed: tuple[BaseException, str, tuple[Any, ...], dict[str, Any]] | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what runs inside."""
        handles = [
            self._root.register_forward_pre_hook(self._entered, with_kwargs=True, prepend=True),
            register_module_forward_pre_hook(self._push),
            register_module_forward_hook(self._pop),
        ]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def failure(self, error: BaseException) -> Failure:
        """Return what is known of an error that left `watching`."""
        module, inputs = self._running[-1] if self._running else (None, ())
        inputs = tuple(map(self._operand, inputs))
        chain = set()
        cause: BaseException | None = error
        while cause is not None and id(cause) not in chain:
            chain.add(id(cause))
            cause = cause.__cause__ or cause.__context__
        if self._failed is None or id(self._failed[0]) not in chain:
            return Failure(_root_cause(error), module=module, inputs=inputs, calls=self._calls)
        inner, name, args, kwargs = self._failed
        return Failure(inner, name, args, kwargs, module, inputs, self._calls)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one torch function and note what its results come from."""
        settings = dict(kwargs or {})
        self.count(func)
        try:
            result = func(*args, **settings)
        except Exception as error:
            if self._failed is None or self._failed[0] is not error:
                name = getattr(func, "__name__", "")
                given = tuple(map(self._operand, args))
                self._failed = (error, name, given, {key: self._operand(value) for key, value in settings.items()})
            raise
        origins = frozenset().union(*map(self._origins, (*args, *settings.values())))
        if origins:
            self._mark(result, origins)
        return result

    def _entered(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            named = inspect.signature(module.forward).bind_partial(*args, **kwargs).arguments
        except (TypeError, ValueError):
            named = {**{str(k): value for k, value in enumerate(args)}, **kwargs}
        for name, value in named.items():
            self._arrive(value, (name,))

    def _arrive(self, value: Any, path: Path) -> None:
        if isinstance(value, torch.Tensor):
            self._from[value] = frozenset({path})
        elif isinstance(value, list | tuple):
            for key, item in enumerate(value):
                self._arrive(item, (*path, key))
        elif isinstance(value, Mapping):
            for name, item in value.items():
                self._arrive(item, (*path[:-1], name) if path == ("kwargs",) else (*path, name))

    def _push(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._running.append((module, args))

    def _pop(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._running and self._running.pop()[0] is not module:
            pass

    def _origins(self, value: Any) -> frozenset[Path]:
        if isinstance(value, torch.Tensor):
            return self._from.get(value, frozenset())  # type: ignore[no-any-return]
        if isinstance(value, list | tuple):
            return frozenset().union(*map(self._origins, value))
        return frozenset()

    def _mark(self, value: Any, origins: frozenset[Path]) -> None:
        if isinstance(value, torch.Tensor):
            self._from[value] = origins
        elif isinstance(value, list | tuple):
            for item in value:
                self._mark(item, origins)

    def _operand(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            floating = value.is_floating_point() or value.is_complex()
            return Operand(tuple(value.shape), floating, self._origins(value))
        if isinstance(value, list | tuple):
            return tuple(map(self._operand, value))
        return value


def _root_cause(error: BaseException) -> BaseException:
    """Return what the user's code raised, inside what we made of it."""
    while isinstance(error, InitauditError) and (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error
