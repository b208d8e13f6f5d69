"""Names for the tensors of a pass: which value of the graph each one is, also after it was written to.

A tensor that looks into another one's memory is tied to it: a write to either makes a new value of both. The one that
was written through gets it at once, by a scatter; others are taken anew from it when they are next used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.weak import WeakIdKeyDictionary

from initaudit.live.captured import Captured
from initaudit.live.functions import Called, mapped, plain
from initaudit.torch_ops import Builder
from initaudit.types import Ref, Tensor

_SELF_INVERSE = frozenset(
    {"t", "T.__get__", "mT.__get__", "transpose", "swapaxes", "swapdims", "H.__get__", "mH.__get__"}
)


@dataclass(slots=True)
class _Value:
    name: str
    parent: torch.Tensor | None = None  # whose memory it looks into
    seen: str = ""  # the parent's value at that time
    view: Called | None = None  # how it was taken from the parent
    place: tuple[int, int] = (0, 1)  # which of how many results it was


class Values:
    """The values of one pass, and the graph that they are written down in.

    Args:
        builder: takes the calls.
        scope: path of the running module.
        captured: gives the name and record of a tensor that no call made.
    """

    def __init__(
        self,
        builder: Builder,
        scope: Callable[[], str],
        captured: Captured,
    ) -> None:
        self._builder = builder
        self._scope = scope
        self._captured = captured
        self._literal: Any = WeakIdKeyDictionary()  # tensors made of numbers
        self._of: Any = WeakIdKeyDictionary()
        self._named: Any = WeakIdKeyDictionary()  # parameters and buffers -> their records, until they are used
        self._count = 0
        self.read: dict[str, None] = {}

    def input(self, tensor: torch.Tensor, name: str) -> None:
        """Name a tensor that the pass is given."""
        self._builder.input(name, tuple(tensor.shape))
        self._of[tensor] = _Value(name)

    def parameter(self, tensor: torch.Tensor, record: Tensor) -> None:
        """Name a parameter or buffer; it enters the graph when it is used."""
        if tensor not in self._named:
            self._named[tensor] = record

    def literal(self, tensor: torch.Tensor) -> None:
        """Take a tensor for a constant, to be named when it is used."""
        self._literal[tensor] = True

    def name(self, tensor: torch.Tensor) -> str:
        """Return the value that a tensor has now."""
        value = self._of.get(tensor)
        if value is None:
            return self._adopt(tensor)
        if value.parent is not None:
            now = self.name(value.parent)
            if now != value.seen:
                self._retake(tensor, value, now)
        return str(value.name)

    def made(self, call: Called, given: Sequence[torch.Tensor], results: Sequence[torch.Tensor]) -> None:
        """Write down a call that made new tensors."""
        target, args, kwargs = self._encoded(call)
        names: list[str] = []
        shapes: list[tuple[int, ...] | None] = []
        for at, tensor in enumerate(results):
            if any(tensor is g for g in given) or any(tensor is r for r in results[:at]):
                names.append("")
                shapes.append(None)
                continue
            names.append(self._fresh())
            shapes.append(tuple(tensor.shape))
            parent = next((g for g in given if _aliases(tensor, g)), None)
            value = _Value(names[-1])
            if parent is not None:
                value = _Value(names[-1], parent, self.name(parent), (target, args, kwargs), (at, len(results)))
            self._of[tensor] = value
        self._builder.call(target, args, kwargs, names, shapes, self._scope())

    def wrote(
        self,
        call: Called,
        written: Sequence[torch.Tensor],
        given: Sequence[torch.Tensor],
        results: Sequence[torch.Tensor],
    ) -> None:
        """Write down a call that changed tensors in place: they are new values from here on."""
        target, args, kwargs = call
        if target == "__setitem__" and len(args) == 3 and self._own_view(args):
            return
        target, args, kwargs = self._encoded((target, args, {k: v for k, v in kwargs.items() if k != "out"}))
        new = [tensor for tensor in results if not any(tensor is w for w in written)]
        outs = [*written, *new]
        names = [self._fresh() for _ in outs]
        shapes = [tuple(tensor.shape) for tensor in outs]
        self._builder.call(target, args, kwargs, names, shapes, self._scope())
        for tensor, name in zip(written, names, strict=False):
            self._renew(tensor, name)
        for tensor, name in zip(new, names[len(written) :], strict=True):
            self._of[tensor] = _Value(name)

    def passed(self, call: Called, tensor: torch.Tensor) -> None:
        """Write down a call that hands on its argument: it is behind it from here on."""
        value = self._of.get(tensor)
        if value is None or value.name in self.read:
            return  # a parameter
        target, args, kwargs = self._encoded(call)
        value.name = self._fresh()
        self._builder.call(target, args, kwargs, [value.name], [tuple(tensor.shape)], self._scope())

    def same(self, tensor: torch.Tensor, other: torch.Tensor) -> None:
        """Make a tensor be the value that another one is."""
        self._of[tensor] = _Value(self.name(other))

    def _fresh(self) -> str:
        self._count += 1
        return f"%{self._count}"

    def _encoded(self, call: Called) -> Called:
        target, args, kwargs = call
        return target, mapped(args, self._encode), mapped(kwargs, self._encode)

    def _encode(self, item: Any) -> Any:
        if isinstance(item, torch.Tensor):
            return Ref(self.name(item))
        if isinstance(item, np.ndarray):
            return tuple(item.ravel().tolist()) if item.size <= 16 else None
        return plain(item)

    def _adopt(self, tensor: torch.Tensor) -> str:
        """Name a tensor that no recorded call made: a parameter, another Python object for a value, a constant."""
        record = self._named.get(tensor)
        if record is None and tensor not in self._literal and not self._captured.is_own(tensor):
            name = self._known_otherwise(tensor)
            if name:
                return name
        record = record or self._captured.record(tensor)
        self._builder.tensor(record.name, record)
        name = str(record.name)
        self._of[tensor] = _Value(name)
        self.read[name] = None
        return name

    def _known_otherwise(self, tensor: torch.Tensor) -> str:
        """Return the value that a tensor is where another Python object looks into its memory, or ""."""
        for known, value in [*self._of.items()]:
            if _aliases(known, tensor) and _geometry(known) == _geometry(tensor):
                name = self.name(known)
                self._of[tensor] = _Value(name, value.parent, value.seen, value.view, value.place)
                return name
        for known in [*self._named.keys()]:
            if _aliases(known, tensor):
                name = self._part(tensor, known)
                self._of[tensor] = _Value(name)
                return name
        return ""

    def _part(self, tensor: torch.Tensor, whole: torch.Tensor) -> str:
        if _geometry(tensor) == _geometry(whole):
            return self.name(whole)
        name = self._fresh()
        args = (Ref(self.name(whole)), tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset()))
        self._builder.call("as_strided", args, {}, [name], [tuple(tensor.shape)], self._scope())
        return name

    def _retake(self, tensor: torch.Tensor, value: _Value, now: str) -> None:
        """Take a view anew from a parent that was written to since."""
        if value.view is None:
            value.name, value.seen = now, now
            return
        target, args, kwargs = _renamed(value.view, value.seen, now)
        at, count = value.place
        name = self._fresh()
        names = ["" if i != at else name for i in range(count)]
        self._builder.call(target, args, kwargs, names, {name: tuple(tensor.shape)}, self._scope())
        value.name, value.seen, value.view = name, now, (target, args, kwargs)

    def _renew(self, tensor: torch.Tensor, name: str) -> None:
        """Give a tensor a new value, and so all whose memory it looks into."""
        while True:
            value = self._of.get(tensor)
            if value is None:
                value = self._of[tensor] = _Value(name)
            value.name = name
            parent = value.parent
            if parent is None:
                return
            before = value.seen
            name = self._written_back(parent, before, tensor, name, value)
            if value.view is not None:
                value.view = _renamed(value.view, before, name)
            value.seen = name
            tensor = parent

    def _written_back(self, parent: torch.Tensor, before: str, tensor: torch.Tensor, name: str, value: _Value) -> str:
        """Return the parent's value after one of its views became `name`."""
        if _geometry(parent) == _geometry(tensor):
            return name
        target, args, kwargs = value.view or ("", (), {})
        new = self._fresh()
        back: Called
        if target == "__getitem__":
            back = "__setitem__", (Ref(before), args[1], Ref(name)), {}
        elif target in _SELF_INVERSE:
            back = target, (Ref(name), *args[1:]), kwargs
        elif parent.numel() == tensor.numel() and parent.is_contiguous() and tensor.is_contiguous():
            back = "reshape", (Ref(name), tuple(parent.shape)), {}
        else:
            where = tuple(tensor.shape), tuple(tensor.stride()), int(tensor.storage_offset())
            back = "as_strided_scatter", (Ref(before), Ref(name), *where), {}
        self._builder.call(*back, [new], [tuple(parent.shape)], self._scope())
        return new

    def _own_view(self, args: tuple[Any, ...]) -> bool:
        """Whether x[i] = v writes a view of x back to where it is: the end of x[i] += y."""
        into, index, value = args
        held = self._of.get(value) if isinstance(value, torch.Tensor) else None
        if held is None or held.parent is not into or held.view is None or held.seen != self.name(into):
            return False
        target, taken, _ = held.view
        return bool(target == "__getitem__" and taken[1] == mapped(index, self._encode))


def _renamed(call: Called, old: str, new: str) -> Called:
    target, args, kwargs = call
    change: Callable[[Any], Any] = lambda v: Ref(new) if isinstance(v, Ref) and v.name == old else v  # noqa: E731
    return target, mapped(args, change), mapped(kwargs, change)


def _aliases(one: torch.Tensor, other: torch.Tensor) -> bool:
    try:
        return one is other or bool(torch._C._is_alias_of(one, other))  # type: ignore[attr-defined]
    except (RuntimeError, NotImplementedError):  # no storage
        return False


def _geometry(tensor: torch.Tensor) -> tuple[Any, ...]:
    try:
        return (tuple(tensor.shape), tensor.stride(), tensor.storage_offset(), tensor.dtype)
    except (RuntimeError, NotImplementedError):
        return (id(tensor),)
