"""A module left as it was found: its attributes, and the random numbers that others draw after us."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Undo what a pass did to the attributes of a module and its submodules, and to the random number generators."""
    held = [_Held(each) for each in module.modules()]
    drawn = random.getstate()
    numpy_random = sys.modules.get("numpy.random")
    numpy_drawn = numpy_random.get_state() if numpy_random else None
    torch_drawn = torch.get_rng_state()
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    silent = logger.disabled
    fast = torch.backends.mha.get_fastpath_enabled()
    try:
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # nothing is compiled while we look on
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            torch.backends.mha.set_fastpath_enabled(False)
            logger.disabled = True  # it prints a traceback for every error, ours to report in one line
            yield
    finally:
        logger.disabled = silent
        torch.backends.mha.set_fastpath_enabled(fast)
        for each in held:
            each.restore()
        random.setstate(drawn)
        if numpy_random and numpy_drawn is not None:
            numpy_random.set_state(numpy_drawn)
        torch.set_rng_state(torch_drawn)


class _Held:
    """The attributes of one module, and what its lists, dicts and sets hold."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kind = type(module)
        self.scripted = isinstance(module, torch.jit.ScriptModule)
        self.training = getattr(module, "training", False)
        self.attributes = dict(vars(module))
        self.contents = {
            name: _copy(value) for name, value in self.attributes.items() if isinstance(value, list | dict | set)
        }

    def restore(self) -> None:
        if self.scripted:  # lives in C++, and its Python side does not change
            if getattr(self.module, "training", None) is not self.training:
                self.module.training = self.training
            return
        if type(self.module) is not self.kind:
            self.module.__class__ = self.kind
        now = vars(self.module)
        if now.keys() != self.attributes.keys() or any(now[k] is not v for k, v in self.attributes.items()):
            now.clear()
            now.update(self.attributes)
        for name, content in self.contents.items():
            _refill(self.attributes[name], content)


def _refill(container: Any, content: Any) -> None:
    if isinstance(container, list):
        if len(container) != len(content) or any(a is not b for a, b in zip(container, content, strict=True)):
            container[:] = content
    elif isinstance(container, dict):
        if container.keys() != content.keys() or any(container[key] is not content[key] for key in content):
            container.clear()
            container.update(content)
    elif container != content:
        container.clear()
        container.update(content)


def _copy(container: Any) -> Any:
    kind = next(kind for kind in (list, dict, set) if isinstance(container, kind))
    return kind(container)
