"""Which module is running: its path, kept by hooks that every module calls."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, Self

from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


class Scopes:
    """The stack of running modules while it is entered; other modules than those of `root` count as their caller."""

    def __init__(self, root: nn.Module) -> None:
        self._paths = {id(module): (path, module) for path, module in root.named_modules()}
        self._running: list[tuple[nn.Module, str, int]] = []
        self._handles: list[Any] = []
        self._calls = 0
        self._failed: tuple[BaseException | None, str] = (None, "")

    @property
    def path(self) -> str:
        """Path of the innermost running module that has one."""
        return self._running[-1][1] if self._running else ""

    @property
    def call(self) -> int:
        """A number of its own for each call of a module."""
        return self._running[-1][2] if self._running else 0

    def failed_in(self, error: BaseException) -> str:
        """Return "path (Class)" of the innermost module that an error left."""
        held, path = self._failed
        if held is not error:
            path = self.path
        named = dict(self._paths.values())
        return f"{path or 'the model'} ({type(named[path]).__name__})" if path in named else path

    def __enter__(self) -> Self:
        self._handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        if kind is None:
            self._running.clear()

    def _enter(self, module: nn.Module, _args: object) -> None:
        known = self._paths.get(id(module))
        self._calls += 1
        self._running.append((module, known[0] if known else self.path, self._calls))

    def _leave(self, module: nn.Module, _args: object, _output: object) -> None:
        error = sys.exc_info()[1]
        if error is not None and error is not self._failed[0]:
            self._failed = (error, self.path)
        while self._running:  # what lies above left without saying so
            if self._running.pop()[0] is module:
                break
