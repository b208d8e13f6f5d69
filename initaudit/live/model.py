"""A live nn.Module as a Model: its tensors, its modules, and the graph of one forward pass."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.errors import InitauditError, UsageError
from initaudit.live import tree
from initaudit.live.callables import where
from initaudit.live.fakes import has_values
from initaudit.live.feeding import given as given_tensors
from initaudit.live.inputs import Guesses, described, given
from initaudit.live.spec import Feed
from initaudit.live.trace import Traced, attempt, trace, unwrapped
from initaudit.live.watch import EndlessError, Limit, Watch
from initaudit.types import Array, Graph, Model, Skip, Tensor

FORMAT = "module"


def read(module: nn.Module, examples: Any = None, *, options: Sequence[str] = (), path: str = "") -> Model:
    """Return a live module as a Model, with the graph of one forward pass in evaluation mode.

    Args:
        module: left as it was.
        examples: what to feed it with: a tensor, a tuple of arguments, a dict by name, or a Feed.
        options: the same as `--input` gives it: "name=1,3,224,224:dtype".
        path: what reports call it; its class by default.

    Raises:
        UsageError: the inputs that the user gave do not fit.
    """
    why = _cannot(module)
    root = module if why else unwrapped(module)
    content = tree.read(root)
    name = str(getattr(root, "original_name", type(root).__name__))  # a scripted module's own class
    fed: Feed | None = None
    traced: Traced | None = None
    by_user = False
    if why and (examples is not None or options):
        raise UsageError(f"{name} cannot be run: {why}")
    if not why:
        fed, guesses = given(root, examples, tuple(options))
        if fed is not None:
            traced, by_user = _by_word(root, fed), True
        else:
            fed, traced, why = _guessed(root, guesses)
            if traced is None and options:
                raise UsageError(f"{name} cannot be run on {why}")
            if traced is None:
                tried = f"{guesses.tried} guesses at its inputs failed, the first with " if guesses.tried > 1 else ""
                why = f"{tried}{why}; say what it takes with --input"
    detail, skipped = [name], list(content.skipped)
    if traced is not None and fed is not None:
        detail.append(f"traced on {described(fed, root) or 'no inputs'}")
        detail += [fed.told] if fed.told else []
        detail += ["depends on values"] if traced.other else []
        skipped += [Skip("graph", note, parameter=False) for note in traced.notes]
    else:
        detail.append("not traced (-v says why)")
        skipped.append(Skip("graph", f"not traced, layers are read in order of registration: {why}", parameter=False))
    return Model(
        path or name, FORMAT, ", ".join(detail), tuple(content.tensors.values()),
        graph=_with_records(traced.graph, content) if traced is not None else None,
        modules=tuple(content.modules), config=_config(root), skipped=tuple(skipped),
        source="traced" if traced is not None else "",
        other=tuple(_with_records(graph, content) for graph in traced.other) if traced is not None else (),
        examples=_examples(root, fed, traced.graph) if by_user and traced is not None and fed is not None else (),
    )  # fmt: skip


def _examples(root: nn.Module, fed: Feed, graph: Graph) -> tuple[Tensor, ...]:
    """Return the values that the user feeds a module with, where they are inputs of its graph."""

    def record(name: str, value: torch.Tensor) -> Tensor:
        def load() -> Array:
            plain = value.detach().to("cpu")
            made: Array = (plain.float() if plain.is_floating_point() else plain).numpy()
            return made

        return Tensor(name, tuple(value.shape), str(value.dtype).removeprefix("torch."), load, buffer=True)

    found = given_tensors(root, fed)
    return tuple(
        record(name, value)
        for name, value in found.items()
        if name in graph.inputs and not value.is_meta and has_values(value)
    )


def _cannot(module: nn.Module) -> str:
    """Return why a module cannot be traced whatever it is fed with, "" if it may."""
    if isinstance(module, torch.jit.ScriptModule):
        return "a scripted module runs outside of Python; save it with torch.jit.save and audit the file"
    lazy = next((name for name, p in module.named_parameters() if is_lazy(p)), "")
    return f"{lazy} gets its shape in the first forward pass: run the model once before" if lazy else ""


def _by_word(root: nn.Module, fed: Feed) -> Traced:
    try:
        with Limit():
            return trace(root, fed)
    except InitauditError as error:
        on = described(fed, root) or "no inputs"
        raise UsageError(f"{type(root).__name__} cannot be run on {on}: {error.reason}{where(error)}") from error


def _guessed(root: nn.Module, guesses: Guesses) -> tuple[Feed | None, Traced | None, str]:
    """Return the first feed that passes and its trace, or why none does: where the likeliest one failed."""
    why = ""
    likeliest: Feed | None = None
    for fed in guesses:
        watch = Watch(root)
        try:
            with watch.watching():
                first = attempt(root, fed)
        except InitauditError as error:
            why = why or f"{described(fed, root) or 'no inputs'}: {error.reason}{where(error)}"
            if isinstance(error, EndlessError):
                return None, None, why
            likeliest = likeliest or fed
            guesses.failed(watch.failure(error))
            continue
        return fed, trace(root, fed, first=first), ""
    if likeliest is not None:
        try:
            with Limit():
                return likeliest, trace(root, likeliest), ""
        except InitauditError:
            pass
    return None, None, why


def _with_records(graph: Graph, content: tree.Tree) -> Graph:
    """Give the graph the records of the module's tensors: one tensor is one object everywhere."""
    constants = {value: content.tensors.get(tensor.name, tensor) for value, tensor in graph.constants.items()}
    return replace(graph, constants=constants)


def _config(root: nn.Module) -> dict[str, Any]:
    """Return the configuration that HuggingFace's modules carry, as config.json would hold it."""
    config = getattr(root, "config", None)
    if config is None or not any(name in sys.modules for name in ("transformers", "diffusers")):
        return dict(config) if isinstance(config, Mapping) else {}
    if isinstance(config, Mapping):
        return dict(config)
    if hasattr(config, "model_type") and hasattr(config, "to_dict"):
        try:
            return dict(config.to_dict())
        except Exception:  # of a configuration that is not whole: the graph says more anyway
            return {}
    return {}
