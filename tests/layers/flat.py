"""Models for tests of this package: tensors by name and shape, or a live module as an inert record."""

from __future__ import annotations

from typing import Any

import numpy as np

from initaudit.types import Array, Global, Layer, Model, Module, Tensor


def tensor(name: str, *shape: int, values: Array | None = None, dtype: str = "float32", **fields: Any) -> Tensor:
    made = np.zeros(shape, np.float32) if values is None else values
    return Tensor(name, made.shape, dtype, lambda: made, **fields)


def model(*tensors: Tensor, config: dict[str, Any] | None = None, modules: tuple[Module, ...] = ()) -> Model:
    return Model("x.pt", "torch", "by hand", tensors, modules=modules, config=config or {})


def shapes(config: dict[str, Any] | None = None, **named: tuple[int, ...]) -> Model:
    """A bare checkpoint; two underscores stand for a dot."""
    return model(*(tensor(name.replace("__", "."), *shape) for name, shape in named.items()), config=config)


def by_weight(layers: tuple[Layer, ...]) -> dict[str, Layer]:
    return {a.weight.name: a for a in layers}


def stored(state: Any) -> tuple[Tensor, ...]:
    """The tensors of a live state_dict, ties kept."""
    return tuple(
        Tensor(
            name,
            tuple(value.shape),
            str(value.dtype).removeprefix("torch."),
            lambda v=value: v.detach().numpy(),  # type: ignore[misc]
            storage=str(value.untyped_storage().data_ptr()),
        )
        for name, value in state.items()
    )


def pickled(live: Any) -> Model:
    """What a reader makes of torch.save(live): class names and plain attributes."""
    records = []
    for path, module in live.named_modules():
        dot = f"{path}." if path else ""
        local = {n: f"{dot}{n}" for n in (*module._parameters, *module._buffers) if getattr(module, n) is not None}
        attrs = {k: _plain(v) for k, v in vars(module).items() if not k.startswith("_")}
        cls = f"{type(module).__module__}.{type(module).__qualname__}"
        records.append(Module(path, cls, attrs, local, tuple(f"{dot}{n}" for n in module._modules)))
    return model(*stored(live.state_dict(keep_vars=True)), modules=tuple(records))


def _plain(value: Any) -> object:
    if isinstance(value, bool | int | float | str) or value is None:
        return value
    if isinstance(value, tuple | list):
        return tuple(_plain(v) for v in value)
    return Global(f"torch.nn.functional.{value.__name__}") if callable(value) and hasattr(value, "__name__") else None
