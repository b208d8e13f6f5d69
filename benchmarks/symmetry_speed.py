"""Time and memory of the symmetry analysis against the number of parameters.

    python -m benchmarks.symmetry_speed [--most MILLIONS] [--only NAME] [--times N]

Three families of models of 1 M parameters to 500 M, weights in float32, each model in a process of its own:

    chain        linear layers and ReLUs, drawn at random: no two units are alike
    tied         the same, half of the units of every layer in tied pairs, through and through; the weights of two
                 tied units differ one by one, only their sums over pairs agree
    transformer  blocks of attention and a perceptron with norms, biases and zero-initialised output projections

Seconds of one thread, the least of N times. Memory is the peak during the analysis beyond what the model itself takes,
in multiples of the largest layer. The last line of a family compares the seconds per parameter of its largest and
smallest model: near 1 on a straight line through the origin, below 1 where small models pay for their nodes.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from initaudit import symmetry
from initaudit.types import Graph, Layer, Node, Tensor

SIZES = ((1, 512), (4, 1024), (16, 2048), (64, 4096), (128, 4096), (256, 4096), (512, 4096))  # millions, width


@dataclass
class Build:
    """A model being put together."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)

    def held(self, name: str, shape: tuple[int, ...], load: Callable[[], np.ndarray], axes: str, kind: str) -> str:
        """Add a parameter."""
        self.constants[name] = Tensor(name, shape, "float32", load, storage=name)
        if axes:
            self.layers.append(Layer(name.rpartition(".")[0], kind, self.constants[name], axes))
        return name

    def made(self, op: str, inputs: tuple[str, ...], shape: tuple[int, ...], **attrs: object) -> str:
        """Add an operation."""
        out = f"v{len(self.nodes)}"
        self.nodes.append(Node(op, inputs, (out,), attrs))
        self.shapes[out] = shape
        return out

    def graph(self, inputs: dict[str, tuple[int, ...]], output: str) -> Graph:
        """Return all of it."""
        return Graph(tuple(self.nodes), inputs, (output,), self.constants, self.shapes)


class Pool:
    """Random numbers that all weights are views of, each at a place of its own, so that memory holds them once."""

    def __init__(self, size: int) -> None:
        self.numbers = np.random.default_rng(0).standard_normal(size + (1 << 16), dtype=np.float32)
        self.at = 0

    def take(self, *shape: int) -> Callable[[], np.ndarray]:
        """Return the function that loads another weight."""
        self.at = (self.at + 97) % (1 << 16)
        size = int(np.prod(shape))
        return lambda at=self.at: self.numbers[at : at + size].reshape(shape)


def chain(millions: float, width: int) -> tuple[Graph, list[Layer]]:
    """Return a chain of linear layers."""
    pool, b, x = Pool(width * width), Build(), "x"
    for k in range(max(2, round(millions * 1e6 / width**2))):
        weight = b.held(f"layers.{k}.weight", (width, width), pool.take(width, width), "oi", "linear")
        x = b.made("relu", (b.made("linear", (x, weight, ""), (2, width)),), (2, width))
    return b.graph({"x": (2, width)}, x), b.layers


def tied(millions: float, width: int) -> tuple[Graph, list[Layer]]:
    """Return a chain whose first half of units are tied in pairs; the first layer reads all inputs alike by pairs."""
    b, x = Build(), "x"
    count = max(2, round(millions * 1e6 / width**2))
    shared = _paired(width)
    first, last = shared.copy(), np.random.default_rng(1).standard_normal((width, width), dtype=np.float32)
    half = width // 2
    first[:half:2] = first[1:half:2]
    last[:, :half:2] = last[:, 1:half:2]
    for k in range(count):
        own = first if k == 0 else last if k == count - 1 else shared
        weight = b.held(f"layers.{k}.weight", (width, width), lambda own=own: own, "oi", "linear")
        x = b.made("relu", (b.made("linear", (x, weight, ""), (2, width)),), (2, width))
    return b.graph({"x": (2, width)}, x), b.layers


def _paired(width: int) -> np.ndarray:
    """Return weights of units in pairs: each block of two by two is [[a, b], [b, a]] with exact sums."""
    whole = np.random.default_rng(0).integers(-(2**11), 2**11, (width, width)).astype(np.float32) / 2**15
    half = width // 2
    block = whole[:half, :half].reshape(half // 2, 2, half // 2, 2)
    block[:, 1, :, 1], block[:, 1, :, 0] = block[:, 0, :, 0], block[:, 0, :, 1]
    whole[1:half:2, half:] = whole[0:half:2, half:]
    whole[half:, 1:half:2] = whole[half:, 0:half:2]
    return whole


def transformer(millions: float, width: int) -> tuple[Graph, list[Layer]]:
    """Return blocks of attention and a perceptron as drawn: norms of one, biases and last projections of zero."""
    width //= 2
    heads, time_ = max(1, width // 64), 4
    pool, b = Pool(4 * width * width), Build()
    ones, zeros = np.ones(4 * width, np.float32), np.zeros(4 * width, np.float32)
    nought = np.zeros((width, 4 * width), np.float32)
    shape = (1, time_, width)

    def linear(name: str, x: str, ins: int, outs: int, *, zero: bool = False) -> str:
        load = pool.take(outs, ins) if not zero else lambda: nought[:outs, :ins]
        weight = b.held(f"{name}.weight", (outs, ins), load, "oi", "linear")
        bias = b.held(f"{name}.bias", (outs,), lambda: zeros[:outs], "", "")
        return b.made("linear", (x, weight, bias), (1, time_, outs))

    def norm(name: str, x: str) -> str:
        scale = b.held(f"{name}.weight", (width,), lambda: ones[:width], "o", "norm")
        bias = b.held(f"{name}.bias", (width,), lambda: zeros[:width], "", "")
        return b.made("layer_norm", (x, scale, bias), shape, normalized_shape=(width,), epsilon=1e-5)

    def split(x: str) -> str:
        apart = b.made("reshape", (x,), (1, time_, heads, width // heads))
        return b.made("transpose", (apart,), (1, heads, time_, width // heads), perm=(0, 2, 1, 3))

    x = "x"
    for k in range(max(1, round(millions * 1e6 / (12 * width**2)))):
        y = norm(f"{k}.norm1", x)
        q, key, v = (split(linear(f"{k}.{part}", y, width, width)) for part in ("q", "k", "v"))
        mixed = b.made("scaled_dot_product_attention", (q, key, v), (1, heads, time_, width // heads))
        back = b.made("transpose", (mixed,), (1, time_, heads, width // heads), perm=(0, 2, 1, 3))
        y = linear(f"{k}.out", b.made("reshape", (back,), shape), width, width, zero=True)
        x = b.made("add", (x, y), shape)
        y = linear(f"{k}.up", norm(f"{k}.norm2", x), width, 4 * width)
        y = linear(f"{k}.down", b.made("gelu", (y,), (1, time_, 4 * width)), 4 * width, width, zero=True)
        x = b.made("add", (x, y), shape)
    return b.graph({"x": shape}, linear("head", norm("norm", x), width, width)), b.layers


FAMILIES = {"chain": chain, "tied": tied, "transformer": transformer}


class Peak:
    """The most memory that this process holds while something runs."""

    def __enter__(self) -> Peak:
        self.before = self.most = _resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.most = max(self.most, _resident())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _resident() -> int:
    """Return the bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(family: str, millions: float, width: int, times: int, queue: multiprocessing.Queue) -> None:
    """Run one size."""
    graph, layers = FAMILIES[family](millions, width)
    size = sum(t.size for t in graph.constants.values())
    largest = 4 * max(t.size for t in graph.constants.values())
    small, few = FAMILIES[family](0, 64)
    symmetry.analyse(small, few)
    for tensor in graph.constants.values():
        float(tensor.load().sum())  # in memory before anything is measured
    with Peak() as peak:
        told = symmetry.analyse(graph, layers)
    seconds = []
    for _ in range(times):
        start = time.process_time()
        symmetry.analyse(graph, layers)
        seconds.append(time.process_time() - start)
    widths = [one.width / one.units for one in told.layers if one is not None]
    assert len(widths) == len(layers)
    wanted = 0.75 if family == "tied" else 1
    assert {round(share, 3) for share in widths[: len(widths) - (family == "tied")]} == {wanted}
    queue.put((size, min(seconds), (peak.most - peak.before) / largest, told.rounds))


def main() -> None:
    """Run all sizes and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=float, default=512)
    parser.add_argument("--only", choices=FAMILIES)
    parser.add_argument("--times", type=int, default=2)
    given = parser.parse_args()
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    context = multiprocessing.get_context("spawn")
    for family in [given.only] if given.only else FAMILIES:
        print(f"\n{family}\n\n| parameters | seconds | seconds per 100 M | memory, in layers | rounds |")
        print("|---|---|---|---|---|")
        each = []
        for millions, width in SIZES:
            if millions > given.most:
                continue
            queue: multiprocessing.Queue = context.Queue()
            process = context.Process(target=measure, args=(family, millions, width, given.times, queue))
            process.start()
            size, seconds, layers, rounds = queue.get()
            process.join()
            each.append(seconds / size)
            row = f"{size / 1e6:.1f} M", f"{seconds:.2f}", f"{seconds / size * 1e8:.2f}", f"{layers:.1f}", rounds
            print("| " + " | ".join(map(str, row)) + " |", flush=True)
        print(f"\nseconds per parameter, largest over smallest: {each[-1] / each[0]:.2f}")


if __name__ == "__main__":
    main()
