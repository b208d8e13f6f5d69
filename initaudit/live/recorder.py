"""A forward pass written down: every torch function that runs, on which values, in which module."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from initaudit.live.answers import ASKS, Answers
from initaudit.live.constants import follow
from initaudit.live.fakes import Fakes
from initaudit.live.functions import Called, as_functional, by_shape, is_operator, mapped, name_of, reentrant, tensors
from initaudit.live.shapes import HANDLED, shaped
from initaudit.live.values import Values
from initaudit.torch_ops import known

MOST_REAL_CALLS = 300_000  # of torch functions in a pass with values: what does not converge must end as well

_COMPOSED = frozenset(
    {"multi_head_attention_forward", "gumbel_softmax"}
)  # in the table, but seen better in their parts
_SILENT = frozenset(
    {"requires_grad_", "retain_grad", "share_memory_", "pin_memory", "cuda", "xpu", "cpu", "register_hook"}
)
_SIZED = frozenset({"arange", "range", "linspace", "zeros", "ones", "full", "empty", "rand", "randn", "randint", "eye"})
_PLACING = frozenset({"cuda", "xpu", "pin_memory", "cpu"})
_LEAVES = frozenset({"numpy", "__array__"})
_ENTERS = frozenset({"tensor", "as_tensor", "from_numpy", "asarray", "frombuffer"})
_JOINS = frozenset({"cat", "concat", "concatenate"})
_DROPS = frozenset({
    "dropout", "alpha_dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "feature_alpha_dropout",
    "dropout_", "alpha_dropout_", "feature_dropout_", "feature_alpha_dropout_",
})  # fmt: skip
_PLACES = ("cuda", "meta", "mps", "xpu", "npu", "hpu")


class Recorder(TorchFunctionMode):
    """Writes down what torch functions do with `values`, while it is entered.

    With `fakes` and `answers` all tensors are stand-ins: they are put in the place of the user's own, and questions
    about their values are answered. Without, the pass is a real one.
    """

    def __init__(self, values: Values, fakes: Fakes | None = None, answers: Answers | None = None) -> None:
        super().__init__()
        self.values = values
        self.fakes = fakes
        self.answers = answers
        self.below = _Below(self)
        self._busy = False
        self._calls = 0
        self._left: list[torch.Tensor] = []  # whose values went where nobody sees what becomes of them
        self.returned = False  # whether such values came back
        self._entering: Any = None  # the function whose body is about to run
        self._names: dict[Any, str] = {}
        self._bodies: dict[Any, Callable[..., Any] | None] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one torch function and write it down."""
        if self._busy:
            return func(*args, **(kwargs or {}))
        if torch._C._functorch.peek_interpreter_stack() is not None:  # wrapped tensors: what they hold is seen below
            return func(*args, **(kwargs or {}))
        return self.see(func, args, dict(kwargs or {}))

    def see(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one function, or the functions that it is made of, and write down what had a tensor as its result."""
        name = self._name(func)
        self._busy = True
        try:
            if self.fakes is not None:
                args, kwargs = self._on_stand_ins(name, args, kwargs)
                if name in _PLACING and args:
                    return args[0]
            body = None if func is self._entering else self._body(func, name)
            self._entering = func if body is not None else None
            if body is None:
                return self._one(func, name, args, kwargs)
        finally:
            self._busy = False
        with self:
            return body(*args, **kwargs)

    def _one(self, func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if name == "data.__set__":
            func(*args)
            self.values.same(args[0], args[1])
            return None
        mutated = _mutated(func, name, args, kwargs)
        versions = [(t, _version(t)) for t in tensors(args)] if not mutated else []
        call = self._call(func, name, args, kwargs)
        if name in _LEAVES and args and args[0].is_floating_point() and not self._known(args[0]):
            self._left.append(args[0])
        result = self._run(name, func, args, kwargs)
        if versions and isinstance(result, torch.Tensor):
            mutated = [t for t, before in versions if t is result and _version(t) != before]
        if self.fakes is not None and self.answers is not None:
            follow(self.fakes, self.answers, func, name, args, kwargs, result, mutated)
        self._write(call, name, args, kwargs, result, mutated)
        return result

    def _on_stand_ins(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Put stand-ins in the place of the user's tensors, and the CPU in that of other devices."""
        args, kwargs = mapped(args, self._bring), mapped(kwargs, self._bring)
        if kwargs.get("device") is not None:
            kwargs["device"] = "cpu"
        if name == "to":
            args = tuple("cpu" if isinstance(a, str) and a.startswith(_PLACES) else a for a in args)
        return args, kwargs

    def _call(self, func: Any, name: str, args: Any, kwargs: Any) -> Called | None:
        """Return the call with values for tensors, as they are before it changes them."""
        if name in ASKS or name in _SILENT or name == "lift_fresh" or (name.endswith("__get__") and not known(name)):
            return None
        if not any(True for _ in tensors((args, kwargs))):
            return (name, args, kwargs)
        if name in _JOINS and args and isinstance(args[0], list | tuple):  # an empty list of numbers joins nothing
            args = ([t for t in args[0] if t.dim() != 1 or t.numel()] or args[0], *args[1:])
        return as_functional(func, name, args, kwargs)

    def _run(self, name: str, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        answers = self.answers
        if answers is None:
            self._calls += 1
            if self._calls > MOST_REAL_CALLS:
                raise RuntimeError("it does not come to an end")
            return func(*args, **kwargs)
        answers.calls += 1
        if name in ASKS:
            return answers.value(name, func, args, kwargs)
        result = shaped(answers, name, func, args, kwargs)
        if result is not NotImplemented:
            return result
        try:
            return func(*args, **kwargs)
        except (DataDependentOutputException, DynamicOutputShapeException):
            real = answers.real((args, kwargs))
            if real is not None:
                with _disable_current_modes():
                    result = func(*real[0], **real[1])
                return answers.known(result)
            kept = 0 if name in _SIZED else 1
            return func(*args[:kept], *answers.settled(args[kept:]), **answers.settled(kwargs))

    def _returns(self, tensor: torch.Tensor) -> bool:
        """Take a tensor made of numbers for what became of those that left, if there are any."""
        if not self._left or not tensor.dim() or not tensor.is_floating_point():
            return False
        self.returned = True
        if self.fakes is not None:
            tensor = self.fakes.of(tensor, known=False)
            self.fakes.forget(tensor)
        self.values.made(("outside_torch", tuple(self._left), {}), self._left, [tensor])
        return True

    def _known(self, tensor: torch.Tensor) -> bool:
        return self.fakes is not None and self.fakes.real(tensor) is not None

    def _bring(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.fakes.of(value) if self.fakes is not None else value
        return torch.device("cpu") if isinstance(value, torch.device) else value

    def _write(
        self,
        call: Called | None,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        result: Any,
        mutated: Sequence[torch.Tensor],
    ) -> None:
        if call is None:
            if name == "lift_fresh":
                self._returns(result)
            return
        values = self.values
        given = list(tensors((args, kwargs)))
        if mutated:
            values.wrote(call, mutated, given, list(tensors(result)))
            return
        results = list(tensors(result))
        if name in _DROPS and len(results) == 1 and given and results[0] is given[0]:
            if (kwargs.get("p", args[1] if len(args) > 1 else 0.5)) != 0:  # off as long as nothing is trained
                values.passed(call, given[0])
            return
        if not results or all(any(r is g for g in given) for r in results):
            return  # nothing new: a cast to what it was
        if not given and name in _ENTERS and results[0].dim():
            if not self._returns(results[0]):
                values.literal(results[0])
            return
        values.made(by_shape(name, args, kwargs, results[0]) or call, given, results)

    def _name(self, func: Any) -> str:
        try:
            return self._names[func]
        except KeyError:
            name = self._names[func] = name_of(func)
            return name

    def _body(self, func: Any, name: str) -> Callable[..., Any] | None:
        if func not in self._bodies:
            asked = name in ASKS or (name in HANDLED and self.answers is not None)
            again = (name in _COMPOSED or not known(name)) and not asked
            self._bodies[func] = reentrant(func) if again else None
        return self._bodies[func]


class _Below(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators that no torch function called: those of scripted code, of vmap, of code in C++."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._recorder = recorder

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        recorder = self._recorder
        if recorder._busy or func.namespace == "prim":
            return func(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():  # what we ask ourselves is not the model's doing
            return recorder.see(func, args, dict(kwargs or {}))


def _mutated(func: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Return the tensors that a function writes to, by its name and arguments."""
    if is_operator(func) and hasattr(func, "_schema"):
        written = [
            kwargs.get(a.name, args[at] if at < len(args) else None)
            for at, a in enumerate(func._schema.arguments)
            if a.alias_info is not None and a.alias_info.is_write
        ]
        return list(tensors(written))
    if name in _SILENT:
        return []
    out = list(tensors(kwargs.get("out")))
    if out:
        return out
    inplace = name == "__setitem__" or (
        name.startswith("__i") and name not in {"__iter__", "__int__", "__index__", "__invert__"}
    )
    inplace = inplace or (name.endswith("_") and not name.endswith("__"))
    return [args[0]] if inplace and args and isinstance(args[0], torch.Tensor) else []


def _version(tensor: torch.Tensor) -> int:
    try:
        return tensor._version
    except RuntimeError:  # made in inference mode
        return 0
