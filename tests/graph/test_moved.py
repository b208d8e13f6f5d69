"""Constants that nodes turn, reshape or cut, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from initaudit.graph.view import View
from initaudit.torch_ops import Builder
from initaudit.types import Ref, Tensor

W = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)


def oriented(*calls: tuple, outputs: int = 1) -> list[Tensor]:
    """Return what a chain of calls makes of W, its last outputs."""
    b = Builder()
    b.tensor("w", Tensor("w", W.shape, "float32", lambda: W))
    at = "w"
    for number, (target, *args) in enumerate(calls):
        last = number == len(calls) - 1
        names = [f"%{number}.{k}" for k in range(outputs if last else 1)]
        b.call(target, (Ref(at), *args), {}, names)
        at = names[0]
    view = View(b.graph(names))
    return [view.oriented(name) for name in names]


def viewed(tensor: Tensor) -> np.ndarray:
    """Return the values that offset and strides point at."""
    flat = W.ravel()
    steps = tensor.strides if tensor.strides is not None else np.empty(tensor.shape, np.int8).strides
    out = np.empty(tensor.shape, np.float32)
    for place in np.ndindex(tensor.shape):
        out[place] = flat[tensor.offset + sum(k * s for k, s in zip(place, steps, strict=True))]
    return out


@pytest.mark.parametrize(
    ("calls", "wanted"),
    [
        ([("transpose", 1, 2)], W.transpose(0, 2, 1)),
        ([("permute", (2, 0, 1))], W.transpose(2, 0, 1)),
        ([("__getitem__", 1)], W[1]),
        ([("__getitem__", (slice(None), slice(1, 3)))], W[:, 1:3]),
        ([("__getitem__", (Ellipsis, slice(None, None, 2)))], W[..., ::2]),
        ([("select", -1, -1)], W[..., -1]),
        ([("narrow", 1, 1, 2)], W[:, 1:3]),
        ([("transpose", 0, 1), ("__getitem__", 2)], W.transpose(1, 0, 2)[2]),
        ([("__getitem__", 1), ("t",)], W[1].T),
        ([("unsqueeze", 0), ("squeeze", 0), ("T.__get__",)], W.T),
        ([("reshape", 6, -1)], W.reshape(6, 4)),
        ([("view", (2, -1)), ("t",)], W.reshape(2, -1).T),
        ([("flatten", 1)], W.reshape(2, 12)),
        ([("unflatten", -1, (2, 2))], W.reshape(2, 3, 2, 2)),
        ([("transpose", 0, 1), ("contiguous",), ("to", "float32")], W.transpose(1, 0, 2)),
    ],
)
def test_a_weight_as_its_operator_finds_it(calls, wanted):
    (tensor,) = oriented(*calls)
    assert tensor.shape == wanted.shape and tensor.name == "w"
    assert np.array_equal(tensor.load(), wanted)
    assert np.array_equal(viewed(tensor), wanted)


def test_a_turned_tensor_in_another_shape_is_no_view_of_the_file():
    (tensor,) = oriented(("transpose", 1, 2), ("reshape", 2, -1))
    assert np.array_equal(tensor.load(), W.transpose(0, 2, 1).reshape(2, -1))
    (plain,) = oriented(("reshape", 2, -1))
    assert tensor.identity != plain.identity


@pytest.mark.parametrize(
    ("call", "outputs", "wanted"),
    [
        (("chunk", 2, -1), 2, np.split(W, 2, -1)),
        (("split", 2, 1), 2, [W[:, :2], W[:, 2:]]),
        (("split", [1, 3], 2), 2, [W[..., :1], W[..., 1:]]),
        (("unbind", 1), 3, [W[:, 0], W[:, 1], W[:, 2]]),
    ],
)
def test_each_piece_is_its_own(call, outputs, wanted):
    for tensor, one in zip(oriented(call, outputs=outputs), wanted, strict=True):
        assert tensor.shape == one.shape
        assert np.array_equal(tensor.load(), one) and np.array_equal(viewed(tensor), one)


def test_what_is_not_understood_leaves_the_constant_as_it_is():
    for call in (("reshape", 7, 7), ("permute", (0, 0, 1)), ("__getitem__", 9), ("roll", 1)):
        (tensor,) = oriented(call)
        assert tensor is None or tensor.shape == W.shape
