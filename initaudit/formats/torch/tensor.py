"""Tensors from the records of the functions that would rebuild them, one handler per function of torch._utils."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.torch import arrays, sparse
from initaudit.formats.torch.pickle_values import Record, attributes
from initaudit.formats.torch.storage import (
    MAX_EXPANDED,
    PACKED,
    QUANTISED,
    Storage,
    checked_shape,
    strided,
)
from initaudit.types import Array, Global, Tensor


@dataclass(frozen=True, slots=True)
class Lost:
    """A tensor whose values are not in the file, or not in a form that is read."""

    why: str


Found = Tensor | Lost
CAST = "cast"  # behind the name of a storage whose values are read as another type
MAX_DEPTH = 16  # parameter of a subclass of a subclass of ...


def torch_function(record: Record) -> str:
    """Return the last part of a name of torch's own, "" for any other."""
    package, _, rest = record.name.partition(".")
    return rest.rpartition(".")[2] if package == "torch" else ""


def dtype_name(value: object) -> str:
    """Return torch's name of a pickled torch.dtype.

    Raises:
        CorruptFileError: it is none.
    """
    if isinstance(value, Global) and value.name.startswith("torch."):
        return value.name.removeprefix("torch.")
    raise CorruptFileError("a tensor without an element type")


class Rebuilder:
    """Turns values of a pickle into nameless tensors; the same value into the same tensor.

    `nested` reads a torch file that lies inside the pickle and returns its value.
    """

    def __init__(self, nested: Callable[[bytes | memoryview], object]) -> None:
        self._nested = nested
        self._known: dict[int, tuple[object, Found | None]] = {}
        self._inner: dict[int, tuple[object, object]] = {}
        self.arrays: dict[str, Storage] = {}  # what pickled numpy arrays look at
        self._depth = 0

    def tensor(self, value: object) -> Found | None:
        """Return the tensor that `value` stands for, why it cannot be had, or None for anything else.

        Raises:
            CorruptFileError: it is a tensor that contradicts itself or its storage.
        """
        if not isinstance(value, (Record, Storage)):
            return None
        known = self._known.get(id(value))
        if known is None:
            self._known[id(value)] = value, None  # a tensor made of itself is none
            self._depth += 1
            if self._depth > MAX_DEPTH:
                raise CorruptFileError(f"a tensor wrapped more than {MAX_DEPTH} times")
            try:
                known = value, self._rebuild(value)
            except UnsupportedError as error:
                known = value, Lost(error.reason)
            self._depth -= 1
            self._known[id(value)] = known
        return known[1]

    def inner(self, value: object) -> object:
        """Return the content of a torch file pickled as bytes; any other value as it is."""
        if isinstance(value, Record) and torch_function(value) == "_load_from_bytes":
            known = self._inner.get(id(value))
            if known is None:
                if len(value.args) != 1 or not isinstance(value.args[0], (bytes, memoryview)):
                    raise CorruptFileError("a nested torch file that is no bytes")
                known = self._inner[id(value)] = value, self._nested(value.args[0])
            return known[1]
        return value

    def _storage(self, value: object) -> Storage:
        storage = self.inner(value)
        if isinstance(storage, Record) and torch_function(storage) in ("TypedStorage", "UntypedStorage"):
            storage = next((self.inner(arg) for arg in storage.args), None)
        if not isinstance(storage, Storage):
            raise CorruptFileError("a tensor without a storage")
        return storage

    def _rebuild(self, value: Record | Storage) -> Found | None:
        if isinstance(value, Storage):
            return self._plain(value, value.dtype, 0, (value.numel,), (1,))
        function = torch_function(value)
        handler = _HANDLERS.get(function)
        if handler is not None:
            least, rebuild = handler
            if len(value.args) < least:
                raise CorruptFileError(f"{function} with {len(value.args)} arguments")
            return rebuild(self, *value.args)
        if function in ("UninitializedParameter", "UninitializedBuffer"):
            return Lost("a lazy parameter that has no values yet")
        if function in ("Parameter", "Variable", "Tensor", "Buffer") and value.args:
            return self.tensor(value.args[0])
        found = arrays.array(value, f"array/{len(self.arrays)}", self.arrays)
        return Lost(found) if isinstance(found, str) else found

    def _plain(self, storage: Storage, dtype: str, offset: object, size: object, stride: object) -> Found:
        shape, strides = checked_shape(size), checked_shape(stride, "stride")
        if type(offset) is not int:
            raise CorruptFileError("a tensor whose offset is no number")
        if dtype in PACKED:
            return Lost(f"element type {dtype}: several values in a byte are not read yet")
        tensor = strided(storage, dtype, offset, shape, strides)
        if (
            tensor.size > MAX_EXPANDED
            and tensor.size > storage.nbytes // numpy_dtype(QUANTISED.get(dtype, dtype)).itemsize
        ):
            return Lost(f"{storage.name} expanded to {tensor.size} values")
        return tensor

    # -- one method per function of torch

    def _v1(self, storage: object, offset: object, size: object, stride: object, *rest: object) -> Found:
        place = self._storage(storage)
        return self._plain(place, place.dtype, offset, size, stride)

    def _v2(self, storage: object, offset: object, size: object, stride: object, *rest: object) -> Found:
        return _with_bits(self._v1(storage, offset, size, stride), rest[2] if len(rest) > 2 else None)

    def _v3(
        self, storage: object, offset: object, size: object, stride: object, grad: object, hooks: object, dtype: object,
        metadata: object = None, *rest: object,
    ) -> Found:  # fmt: skip
        return _with_bits(self._plain(self._storage(storage), dtype_name(dtype), offset, size, stride), metadata)

    def _quantised(
        self, storage: object, offset: object, size: object, stride: object, quantizer: object, *rest: object
    ) -> Found:
        raw = self._v1(storage, offset, size, stride)
        if isinstance(raw, Lost):
            return raw
        if not isinstance(quantizer, tuple) or raw.dtype not in QUANTISED:
            raise CorruptFileError("a quantised tensor without its scale")
        match quantizer:
            case (Global("torch.per_tensor_affine"), float() | int() as scale, float() | int() as zero):
                scales, zeros = np.float32(scale), np.float32(zero)
                return replace(raw, load=lambda: (raw.load().astype(np.float32) - zeros) * scales)
            case (Global(), scale, zero, int() as axis) if 0 <= axis < len(raw.shape):
                wide = [1] * len(raw.shape)
                wide[axis] = raw.shape[axis]
                parts = [self._channel_values(values, wide, axis) for values in (scale, zero)]
                return replace(raw, load=lambda: (raw.load().astype(np.float32) - parts[1]()) * parts[0]())
        raise CorruptFileError("a quantised tensor without its scale")

    def _channel_values(self, values: object, wide: list[int], axis: int) -> Callable[[], Array]:
        if isinstance(values, list) and all(isinstance(value, (int, float)) for value in values):
            if len(values) != wide[axis]:
                raise CorruptFileError(f"{len(values)} scales for {wide[axis]} channels")
            return lambda: np.array(values, np.float32).reshape(wide)
        tensor = self.tensor(values)
        if not isinstance(tensor, Tensor) or tensor.size != wide[axis]:
            raise CorruptFileError(f"a quantised tensor without {wide[axis]} scales")
        return lambda: tensor.load().astype(np.float32).reshape(wide)

    def _sparse(self, layout: object, data: object, *rest: object) -> Found:
        name = layout.name if isinstance(layout, Global) else ""
        if isinstance(layout, Record) and layout.args:
            name = str(layout.args[0])
        if not isinstance(data, tuple) or not 3 <= len(data) <= 4:
            raise CorruptFileError("a sparse tensor without its parts")
        kind = name.removeprefix("torch.sparse_")
        count = 2 if kind == "coo" else 3
        parts = [self.tensor(part) for part in data[:count]]
        if any(not isinstance(part, Tensor) for part in parts) or len(data) <= count:
            raise CorruptFileError("a sparse tensor without its parts")
        tensors = [part for part in parts if isinstance(part, Tensor)]
        dense = sparse.dense(kind, tensors, checked_shape(data[count]))
        return Lost(dense) if isinstance(dense, str) else dense

    def _parameter(self, data: object, *rest: object) -> Found | None:
        return self.tensor(data)

    def _from_type(self, func: object, cls: object, args: object, state: object = None, *rest: object) -> Found | None:
        name = cls.name if isinstance(cls, Global) else "a tensor subclass"
        if not isinstance(args, tuple):
            raise CorruptFileError(f"{name} without its arguments")
        if isinstance(func, Global) and func.name.endswith("._rebuild_wrapper_subclass"):
            return self._wrapped(name, args, state)
        found = self.tensor(Record(func, args))
        return Lost(f"{name}: rebuilt by a function that is not known here") if found is None else found

    def _wrapped(self, name: str, args: tuple[object, ...], state: object = None) -> Found:
        if len(args) < 3:
            raise CorruptFileError(f"{name} without its shape")
        shape = checked_shape(args[2])
        fields = attributes(state)
        parts = {key: found for key, value in fields.items() if (found := self.tensor(value)) is not None}
        if len(parts) == 1:
            part = next(iter(parts.values()))
            if isinstance(part, Lost) or part.shape == shape:
                return part
            return Lost(f"{name}: the file holds a part of shape {part.shape} of {shape}")
        return Lost(f"{name}: made of {', '.join(map(str, parts)) or 'no tensor'}, which is not read yet")

    def _wrapper_alone(self, cls: object, *args: object) -> Found:
        name = cls.name if isinstance(cls, Global) else "a tensor subclass"
        return self._wrapped(name, (cls, *args))

    def _meta(self, *args: object) -> Found:
        return Lost("a meta tensor: the file has no values for it")

    def _nested_tensor(self, *args: object) -> Found:
        return Lost("a nested (ragged) tensor is not read yet")

    def _from_device(self, data: object, dtype: object, *rest: object) -> Found | None:
        tensor = self.tensor(data)
        wanted = dtype_name(dtype)
        if not isinstance(tensor, Tensor) or tensor.dtype == wanted:
            return tensor
        kind = numpy_dtype(wanted)
        stored = f"{tensor.storage} {CAST}"
        return replace(tensor, dtype=wanted, load=lambda: tensor.load().astype(kind), storage=stored)


def _with_bits(found: Found, metadata: object) -> Found:
    """Apply the lazy conjugation and negation that a tensor may carry."""
    bits = [bit for bit in ("conj", "neg") if isinstance(metadata, dict) and metadata.get(bit) is True]
    if isinstance(found, Lost) or not bits:
        return found

    def load() -> Array:
        values = found.load()
        if "conj" in bits:
            values = np.conj(values)
        return -values if "neg" in bits else values

    return replace(found, load=load, storage=f"{found.storage} {' '.join(bits)}")


_HANDLERS: dict[str, tuple[int, Callable[..., Found | None]]] = {  # with the fewest arguments each may have
    "_rebuild_tensor": (4, Rebuilder._v1),
    "_rebuild_tensor_v2": (4, Rebuilder._v2),
    "_rebuild_tensor_v3": (7, Rebuilder._v3),
    "_rebuild_qtensor": (5, Rebuilder._quantised),
    "_rebuild_sparse_tensor": (2, Rebuilder._sparse),
    "_rebuild_sparse_csr_tensor": (2, Rebuilder._sparse),
    "_rebuild_parameter": (1, Rebuilder._parameter),
    "_rebuild_parameter_with_state": (1, Rebuilder._parameter),
    "_rebuild_from_type": (3, Rebuilder._from_type),
    "_rebuild_from_type_v2": (3, Rebuilder._from_type),
    "_rebuild_wrapper_subclass": (1, Rebuilder._wrapper_alone),
    "_rebuild_meta_tensor_no_storage": (0, Rebuilder._meta),
    "_rebuild_nested_tensor": (0, Rebuilder._nested_tensor),
    "_rebuild_device_tensor_from_numpy": (2, Rebuilder._from_device),
    "_rebuild_device_tensor_from_cpu_tensor": (2, Rebuilder._from_device),
    "_rebuild_xla_tensor": (2, Rebuilder._from_device),
}
