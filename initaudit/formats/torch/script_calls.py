"""TorchScript's operators on what a variable may hold: answered where the answer is known, else put on the tape."""

from __future__ import annotations

from typing import Any

from initaudit.formats.torch.script_code import NoGraphError
from initaudit.formats.torch.script_lists import on_container
from initaudit.formats.torch.script_machine import Machine
from initaudit.formats.torch.script_scalars import NO_VALUE, evaluate
from initaudit.formats.torch.script_shapes import MisfitError, result, wanted_rank
from initaudit.formats.torch.script_values import Device, Many, Obj, Shape, Sym, known, leaves, syms, truth, words

DTYPES = (
    "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "complex32", "complex64",
    "complex128", "bool", "qint8", "quint8", "qint32", "bfloat16", "quint4x2", "quint2x4", "bits1x8", "bits2x4",
    "bits4x2", "bits8", "bits16", "float8_e5m2", "float8_e4m3fn", "float8_e5m2fnuz", "float8_e4m3fnuz", "uint16",
    "uint32", "uint64",
)  # fmt: skip
_DTYPE_PLACES = {"to": (1, 2), "softmax": (2,), "log_softmax": (2,), "cumsum": (2,), "_to_copy": (1,)}
_FLOAT = DTYPES.index("float32")
_VIEWS = words("""
    select slice narrow view transpose permute t unsqueeze squeeze flatten unflatten diagonal detach alias view_as
    swapaxes movedim expand reshape
""")  # fmt: skip
_LISTS = words("""
    chunk unsafe_chunk split unsafe_split split_with_sizes unsafe_split_with_sizes tensor_split unbind hsplit vsplit
    dsplit meshgrid broadcast_tensors align_tensors ConstantChunk
""")  # fmt: skip
_NUMBERS = words("""
    add sub rsub mul div true_divide floordiv floor_divide remainder fmod pow neg abs eq ne lt gt le ge __not__ __and__
    __or__ __xor__ floor ceil round sqrt exp log min max Int Float Bool len __contains__ __is__ __isnot__ format str
    item IntImplicit FloatImplicit ScalarImplicit all any trunc isnan isinf hash __derive_index __range_length
""")  # fmt: skip
_ALWAYS_NUMBERS = words("item IntImplicit FloatImplicit ScalarImplicit Int Float Bool numel is_nonzero")
_ANSWERS: dict[str, Any] = {  # questions about where and how it runs: on a CPU, as while training, not traced
    "is_grad_enabled": True, "is_autocast_enabled": False, "is_autocast_cpu_enabled": False, "is_cuda": False,
    "is_nested": False, "requires_grad": True, "is_scripting": True, "is_tracing": False, "is_sparse": False,
    "is_quantized": False, "is_mkldnn": False, "is_xla": False, "is_xpu": False, "is_mps": False, "is_meta": False,
    "is_ipu": False, "is_vulkan": False, "is_complex": False, "layout": 0, "warn": None, "Print": None, "grad": None,
    "set_grad_enabled": None, "manual_seed": None, "seed": None, "get_default_dtype": _FLOAT, "is_contiguous": True,
    "is_inference": False, "has_torch_function": False, "profile_ivalue": None, "retain_grad": None,
    "requires_grad_": None, "dequantize_on": None, "is_leaf": True, "_version": 0, "is_sparse_csr": False,
    "get_device": -1, "AutogradAnyNonZero": True, "memory_format": 0, "get_autocast_dtype": _FLOAT,
}  # fmt: skip
_PASS = words("to clone detach contiguous alias type_as cpu double float long int half")


class RaisedError(Exception):
    """The code followed raises an exception wherever it gets here."""


def call(machine: Machine, space: str, name: str, args: list[Any], kwargs: dict[str, Any], wanted: int = 0) -> Any:
    """Return what an operator gives.

    Args:
        machine: where a call goes that has no known answer.
        space: "aten", or the name of another library of operators.
        name: the operator.
        args: by position.
        kwargs: by name.
        wanted: how many values the result is unpacked into at once, 0 where it is not.

    Raises:
        RaisedError: the operator is a raise.
    """
    machine.step(1 + len(args))
    if space in ("aten", "prim"):
        found = _known(machine, space, name, args, kwargs)
        if found is not NO_VALUE:
            return found
        return operate(machine, name, args, kwargs, wanted)
    return operate(machine, _spelled(space, name), args, kwargs, wanted)


def _spelled(space: str, name: str) -> str:
    return name if space == "torchvision" else f"{space}_{name}"


def _known(machine: Machine, space: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return an answer that needs no call, NO_VALUE if there is none."""
    if name == "RaiseException":
        raise RaisedError(str(args[0])[:200] if args and isinstance(args[0], str) else "an exception")
    if name in _ANSWERS and (space == "prim" or name not in ("is_complex", "grad", "layout", "seed")):
        return args[0] if name == "requires_grad_" else _ANSWERS[name]
    if space == "prim":
        found = _prim(machine, name, args)
        if found is not NO_VALUE:
            return found
    found = on_container(machine, name, args)
    if found is not NO_VALUE:
        return found
    if name in ("__is__", "__isnot__") and len(args) == 2:
        same = _same(args[0], args[1])
        return same if name == "__is__" else not same
    if name in ("__and__", "__or__") and all(isinstance(arg, bool) or _is_number(arg) for arg in args):
        decided = name == "__or__"
        if any(truth(arg) is decided for arg in args):
            return decided
    if name in ("all", "any") and args and isinstance(args[0], list):
        decided = name == "any"
        if any(truth(item) is decided for item in args[0]):
            return decided
    if name == "device":
        return Device(str(args[0]) if args and isinstance(args[0], str) else "cpu")
    if name in _PASS and args and isinstance(args[0], (bool, int, float)):
        return args[0]  # a tensor made of one number
    if name == "tensor" and args and isinstance(args[0], (bool, int, float)):
        return args[0]
    if name == "is_floating_point":
        return not (isinstance(args[0], Sym) and args[0].dtype) or args[0].dtype.startswith(("float", "bfloat"))
    if known(args) and known(list(kwargs.values())):
        return evaluate(name, args, kwargs)
    return NO_VALUE


def _is_number(value: Any) -> bool:
    return isinstance(value, Sym) and value.number


def _same(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    if isinstance(one, Sym) and isinstance(other, Sym):
        return one is other or one.name == other.name
    return one is other or (known(one) and known(other) and bool(one == other))


def _prim(machine: Machine, name: str, args: list[Any]) -> Any:
    value = args[0] if args else None
    match name:
        case "NumToTensor" | "unchecked_unwrap_optional" | "_unwrap_optional" | "data" | "annotate":
            return value
        case "dtype":
            return DTYPES.index(value.dtype) if isinstance(value, Sym) and value.dtype in DTYPES else _FLOAT
        case "device":
            return Device()
        case "type" | "index" if isinstance(value, Device):
            return "cpu" if name == "type" else None
        case "shape":
            return call(machine, "aten", "size", args, {})
        case "ndim":
            return call(machine, "aten", "dim", args, {})
        case "rangelist" if isinstance(value, int) and 0 <= value <= 100_000:
            machine.step(value)
            return list(range(value))
    return NO_VALUE


def operate(machine: Machine, name: str, args: list[Any], kwargs: dict[str, Any], wanted: int = 0) -> Any:
    """Put an operator on the tape and return what stands for its results."""
    if any(isinstance(arg, Obj) for arg in leaves(args)):
        args = [None if isinstance(arg, Obj) else arg for arg in args]
    args, kwargs = _dtypes(name, args, kwargs)
    first = args[0] if args else None
    rank = wanted_rank(name, args) if isinstance(first, Sym) and first.shape is None else None
    if (
        isinstance(first, Sym)
        and rank is not None
        and not (len(args) > 1 and name == "lstm" and isinstance(args[1], Sym))
    ):
        machine.touch(first)
        first.shape = (None,) * rank
    if name in _LISTS:
        return _list(machine, name, args, kwargs, wanted)
    shape = shape_of_result(machine, name, args, kwargs)
    inside = syms(args)
    if wanted > 1:
        found = machine.emit(name, args, kwargs, wanted)
        machine.shaped(found[0], shape)
        return tuple(found)
    made = machine.emit(name, args, kwargs)[0]
    machine.shaped(made, shape)
    made.dtype = _dtype(name, args, kwargs)
    made.ranked = any(sym.ranked for sym in inside)
    if name in _ALWAYS_NUMBERS or (name in _NUMBERS and all(sym.number for sym in inside)):
        made.number, made.shape = True, ()
    if isinstance(first, Sym):
        if name.endswith("_") and not name.endswith("__"):
            return _changed(machine, first, made)
        if name in _VIEWS:
            made.view = first, name, tuple(args[1:])
    if isinstance(kwargs.get("out"), Sym):
        return _changed(machine, kwargs["out"], made)
    return made


def shape_of_result(machine: Machine, name: str, args: list[Any], kwargs: dict[str, Any]) -> Shape | None:
    """Return the shape of an operator's result; one that no run could have counts against how the inputs were taken."""
    try:
        return result(name, args, kwargs)
    except MisfitError:
        machine.misfits += 1
        return None


def _dtypes(name: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with element types by name."""
    args = list(args)
    for place in _DTYPE_PLACES.get(name, ()):
        if place < len(args) and type(args[place]) is int and 0 <= args[place] < len(DTYPES):
            args[place] = DTYPES[args[place]]
            break
    code = kwargs.get("dtype")
    if type(code) is int and 0 <= code < len(DTYPES):
        kwargs = {**kwargs, "dtype": DTYPES[code]}
    return args, kwargs


def _dtype(name: str, args: list[Any], kwargs: dict[str, Any]) -> str:
    """Return the element type of a result, "" where it is not known."""
    if isinstance(kwargs.get("dtype"), str):
        return str(kwargs["dtype"])
    if name == "to":
        return next((arg for arg in args[1:] if isinstance(arg, str)), "")
    if name == "arange" or name in ("argmax", "argmin", "long"):
        return "int64"
    if name in ("eq", "ne", "lt", "gt", "le", "ge", "logical_not", "logical_and", "logical_or", "isnan"):
        return "bool"
    if name in _VIEWS and args and isinstance(args[0], Sym):
        return args[0].dtype
    return ""


def _list(machine: Machine, name: str, args: list[Any], kwargs: dict[str, Any], wanted: int) -> Any:
    name = "chunk" if name == "ConstantChunk" else name
    count = wanted or _length(name, args, kwargs)
    made = machine.record(name, args, kwargs, [machine.fresh() for _ in range(max(count, 1))])
    base = args[0] if args and isinstance(args[0], Sym) else None
    items = [Sym(output, _piece(name, args, kwargs, base, at)) for at, output in enumerate(made.outputs)]
    machine.shapes.update({item.name: item.shape for item in items if item.shape is not None})
    return items if count else Many(made.outputs, items)


def _length(name: str, args: list[Any], kwargs: dict[str, Any]) -> int:
    """Return how many tensors there are in the list, 0 where that is not known."""
    if name in ("meshgrid", "broadcast_tensors", "align_tensors"):
        return len(args[0]) if args and isinstance(args[0], (list, tuple)) else 0
    how = args[1] if len(args) > 1 else kwargs.get("chunks", kwargs.get("split_size", kwargs.get("split_sizes", 0)))
    if name == "unbind":
        shape = args[0].shape if isinstance(args[0], Sym) else None
        axis = args[1] if len(args) > 1 else kwargs.get("dim", 0)
        extent = shape[axis] if shape and isinstance(axis, int) and -len(shape) <= axis < len(shape) else 0
        return min(extent or 0, 10_000)
    if isinstance(how, (list, tuple)):
        return min(len(how) + (name == "tensor_split"), 10_000)
    if not isinstance(how, int) or name not in ("chunk", "unsafe_chunk", "tensor_split", "split", "unsafe_split"):
        return 0
    if name in ("split", "unsafe_split"):
        shape = args[0].shape if isinstance(args[0], Sym) else None
        axis = args[2] if len(args) > 2 else kwargs.get("dim", 0)
        extent = shape[axis] if shape and isinstance(axis, int) and -len(shape) <= axis < len(shape) else None
        return min(-(-extent // how), 10_000) if extent and how > 0 else 0
    return min(max(how, 0), 10_000)


def _piece(
    name: str, args: list[Any], kwargs: dict[str, Any], base: Sym | None, at: int
) -> tuple[int | None, ...] | None:
    """Return the shape of one tensor of the list."""
    if base is None or base.shape is None or name in ("meshgrid", "broadcast_tensors"):
        return None
    place = 1 if name == "unbind" else 2
    axis = args[place] if len(args) > place else kwargs.get("dim", 0)
    if not isinstance(axis, int) or not -len(base.shape) <= axis < len(base.shape):
        return None
    axis %= len(base.shape)
    if name == "unbind":
        return (*base.shape[:axis], *base.shape[axis + 1 :])
    how, extent = args[1] if len(args) > 1 else None, base.shape[axis]
    size: int | None = None
    if isinstance(how, (list, tuple)) and at < len(how) and isinstance(how[at], int):
        size = how[at]
    elif name in ("chunk", "unsafe_chunk") and isinstance(how, int) and how > 0 and extent is not None:
        size = max(min(-(-extent // how), extent - at * -(-extent // how)), 0)
    elif name in ("split", "unsafe_split") and isinstance(how, int) and extent is not None:
        size = max(min(how, extent - at * how), 0)
    return (*base.shape[:axis], size, *base.shape[axis + 1 :])


def item_of(machine: Machine, many: Many, index: Any) -> Any:
    """Return one tensor of a list of unknown length."""
    if not isinstance(index, int):
        return many.items[0]  # some round of a loop that is followed once: they are all treated alike
    if index < 0:
        return machine.emit("__getitem__", (many, index))[0]
    if index > 10_000:
        raise NoGraphError(f"item {index} of a list that one operation gives")
    while len(many.items) <= index:
        many.outputs.append(machine.fresh())
        many.items.append(Sym(many.outputs[-1], many.items[0].shape if many.items else None))
    return many.items[index]


def _changed(machine: Machine, target: Sym, made: Sym) -> Sym:
    """Give a tensor the value that an operation left in it, and the tensor that it is a view of likewise."""
    for _ in range(64):  # a view of a view ...
        machine.touch(target)
        target.name = made.name
        target.shape = target.shape if target.shape is not None else made.shape
        if target.view is None:
            break
        base, how, rest = target.view
        made = _written(machine, base, how, rest, target)
        target = base
    return target if target.view is None else made


def _written(machine: Machine, base: Sym, how: str, rest: tuple[Any, ...], value: Sym) -> Sym:
    """Return a tensor as it is after a view of it was overwritten."""
    match how:
        case "select" | "slice" | "diagonal":
            return machine.emit(f"{how}_scatter", (base, value, *rest))[0]
        case "narrow" if len(rest) == 3:
            stop = rest[1] + rest[2] if isinstance(rest[1], int) and isinstance(rest[2], int) else None
            return machine.emit("slice_scatter", (base, value, rest[0], rest[1], stop, 1))[0]
        case "transpose" | "swapaxes" | "t":
            return machine.emit(how, (value, *rest))[0]
        case "permute" if rest and known(rest[0]) and sorted(rest[0]) == list(range(len(rest[0]))):
            order = list(rest[0])
            return machine.emit("permute", (value, [order.index(axis) for axis in range(len(order))]))[0]
    return machine.emit("view_as", (value, base))[0]
