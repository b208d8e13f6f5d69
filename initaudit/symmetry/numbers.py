"""The values of constants while a walk asks for them."""

from __future__ import annotations

import numpy as np

from initaudit.types import Array, Tensor

_SMALL = 1 << 14  # elements


class Numbers:
    """Values of constants: small ones are kept, the pages of large ones let go of when the node that asked is done."""

    def __init__(self) -> None:
        self._kept: dict[str, Array] = {}
        self._large: list[Tensor] = []

    def of(self, name: str, tensor: Tensor) -> Array:
        """Return the values of a constant, under a name of its own."""
        found = self._kept.get(name)
        if found is None:
            found = np.asarray(tensor.load()).reshape(tensor.shape)
            if tensor.size <= _SMALL:
                self._kept[name] = found
            else:
                self._large.append(tensor)
        return found

    def done(self) -> None:
        """Let go of what was asked for since the last time."""
        for tensor in self._large:
            tensor.release()
        self._large.clear()
