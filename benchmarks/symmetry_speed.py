"""Time and memory of the symmetry analysis against the number of parameters.

    python -m benchmarks.symmetry_speed [--most MILLIONS]

Chains of linear layers and ReLUs, of 1 M parameters to 500 M, with weights in float32; each in a process of its own. A
straight line through the origin means linear time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time

import numpy as np

from initaudit import symmetry
from initaudit.types import Graph, Layer, Node, Tensor

SIZES = ((1, 512), (4, 1024), (16, 2048), (64, 4096), (128, 4096), (256, 4096), (512, 4096))  # millions, width


def chain(millions: float, width: int) -> tuple[Graph, list[Layer]]:
    """Return a chain of linear layers; all weights are views of one array, each at a place of its own."""
    count = max(2, round(millions * 1e6 / width**2))
    base = np.random.default_rng(0).standard_normal(width * width + 97 * count, dtype=np.float32) / np.float32(
        width**0.5
    )
    nodes, constants, layers, shapes = [], {}, [], {}
    at = "x"
    for k in range(count):
        name = f"layers.{k}.weight"

        def load(k: int = k) -> np.ndarray:
            return base[97 * k : 97 * k + width * width].reshape(width, width)

        constants[name] = Tensor(name, (width, width), "float32", load, storage=name)
        nodes.append(Node("linear", (at, name, ""), (f"h{k}",)))
        nodes.append(Node("relu", (f"h{k}",), (f"r{k}",)))
        shapes |= {f"h{k}": (2, width), f"r{k}": (2, width)}
        layers.append(Layer(f"layers.{k}", "linear", constants[name], "oi"))
        at = f"r{k}"
    return Graph(tuple(nodes), {"x": (2, width)}, (at,), constants, shapes), layers


def measure(millions: float, width: int, queue: multiprocessing.Queue) -> None:
    """Run one size."""
    graph, layers = chain(millions, width)
    size = sum(t.size for t in graph.constants.values())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    told = symmetry.analyse(graph, layers)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert all(one is not None for one in told.layers)
    queue.put((size, seconds, (after - before) * 1024 / (4 * width * width), told.rounds))


def main() -> None:
    """Run all sizes and print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=float, default=512)
    most = parser.parse_args().most
    print("| parameters | seconds | seconds per 100 M | memory, in layers | rounds |\n|---|---|---|---|---|")
    for millions, width in SIZES:
        if millions > most:
            continue
        queue: multiprocessing.Queue = multiprocessing.get_context("spawn").Queue()
        process = multiprocessing.get_context("spawn").Process(target=measure, args=(millions, width, queue))
        process.start()
        size, seconds, layers, rounds = queue.get()
        process.join()
        print(
            f"| {size / 1e6:.0f} M | {seconds:.1f} | {seconds / size * 1e8:.1f} | {layers:.1f} | {rounds} |", flush=True
        )


if __name__ == "__main__":
    main()
