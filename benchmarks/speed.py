"""How fast tensors are measured, and what `check` costs next to the least it could: `python -m benchmarks.speed`.

Times are the best of several runs, since a shared machine only ever adds to them; ratios carry from machine to machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from initaudit.stats import Job, measure, measure_many
from initaudit.types import Array, Tensor

RESULT = Path(__file__).parent / "results" / "speed.md"
ROUNDS = 7
DTYPES = ["float32", "bfloat16", "float16", "float8_e4m3fn", "float64", "int8"]
READINGS = [("linear", "oi", (3072, 3840)), ("MatMul", "io", (3072, 3840)), ("conv 3x3", "oikk", (1024, 1280, 3, 3)),
            ("transposed conv 3x3", "iokk", (1024, 1280, 3, 3)), ("depthwise 3x3", "oikk", (1310720, 1, 3, 3)),
            ("vector", "o", (11796480,))]  # fmt: skip
LEAST = "import sys, numpy, rich, typer; float(numpy.memmap(sys.argv[1], 'f4', 'r').sum())"


def best(run: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Return the shortest of several times, in seconds."""
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def tensor(values: Array) -> Tensor:
    return Tensor("w", values.shape, str(values.dtype), lambda: values)


def resnet18() -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield names and shapes of ResNet-18 (11.7 million parameters, 45 MB)."""

    def norm(name: str, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"{name}.{part}", (size,)

    yield "conv1.weight", (64, 3, 7, 7)
    yield from norm("bn1", 64)
    before = 64
    for stage, width in enumerate((64, 128, 256, 512), 1):
        for block in range(2):
            base = f"layer{stage}.{block}"
            yield f"{base}.conv1.weight", (width, before, 3, 3)
            yield from norm(f"{base}.bn1", width)
            yield f"{base}.conv2.weight", (width, width, 3, 3)
            yield from norm(f"{base}.bn2", width)
            if before != width:
                yield f"{base}.downsample.0.weight", (width, before, 1, 1)
                yield from norm(f"{base}.downsample.1", width)
            before = width
    yield "fc.weight", (1000, 512)
    yield "fc.bias", (1000,)


def weights() -> dict[str, Array]:
    """Draw a fresh ResNet-18."""
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in resnet18():
        if len(shape) > 1:
            std = (2 / (shape[0] * int(np.prod(shape[2:])))) ** 0.5
            made[name] = (rng.standard_normal(shape) * std).astype("f4")
        else:
            made[name] = np.full(shape, 1.0 if name.endswith(("weight", "var")) else 0.0, "f4")
    return made


def write_safetensors(path: Path, tensors: dict[str, Array]) -> None:
    header, at = {}, 0
    for name, values in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [at, at + values.nbytes]}
        at += values.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for values in tensors.values():
            file.write(values.tobytes())


def write_torch(path: Path, tensors: dict[str, Array]) -> bool:
    try:
        import torch
    except ImportError:
        return False
    torch.save({name: torch.from_numpy(values) for name, values in tensors.items()}, path)
    return True


def tensors_table() -> list[str]:
    rng = np.random.default_rng(0)
    size = 11_796_480
    plain = (rng.standard_normal(size) * 0.02).astype("f4")
    total, extremes = best(plain.sum), best(lambda: (plain.min(), plain.max()))
    sums, ends = f"{total * 1e9 / size:.2f}", f"{extremes * 1e9 / size:.2f}"
    lines = [
        f"One tensor of {size:,} elements (45 MB of float32), one thread, all measures together. Plain numpy on",
        f"the same float32 values: sum {sums}, min and max {ends} ns per element.",
        "",
        "| tensor | ms | ns per element | times sum | times min and max | GB/s |",
        "|---|---:|---:|---:|---:|---:|",
    ]

    def row(name: str, values: Array, axes: str, groups: int = 1) -> str:
        seconds = best(lambda: measure(tensor(values), axes, groups=groups))
        return (
            f"| {name} | {seconds * 1e3:.0f} | {seconds * 1e9 / size:.2f} | {seconds / total:.0f} "
            f"| {seconds / extremes:.0f} | {values.nbytes / seconds / 1e9:.1f} |"
        )

    for dtype in DTYPES:
        scaled = plain * 1000 if dtype == "int8" else plain
        values = scaled.astype(getattr(ml_dtypes, dtype, dtype)).reshape(3072, -1)
        lines.append(row(f"linear, {dtype}", values, "oi"))
    for name, axes, shape in READINGS[1:]:
        lines.append(row(f"{name}, float32", plain.reshape(shape), axes, shape[0] if name.startswith("depth") else 1))
    return lines


def models_table() -> list[str]:
    resnet = [Job(tensor(v), "oikk"[: v.ndim] if v.ndim > 1 else "o") for v in weights().values()]
    rng = np.random.default_rng(0)
    block = [(768, 768)] * 4 + [(3072, 768), (768, 3072)] + [(768,)] * 9 + [(3072,)]
    shapes = [(30522, 768), (512, 768), (2, 768)] + block * 12
    drawn = {shape: (rng.standard_normal(shape) * 0.02).astype("f4") for shape in set(shapes)}
    bert = [Job(tensor(drawn[shape]), "oi"[: len(shape)]) for shape in shapes]
    lines = ["| model | parameters | tensors | workers | ms |", "|---|---:|---:|---:|---:|"]
    for name, jobs in (("ResNet-18", resnet), ("BERT-base", bert)):
        count = sum(job.tensor.size for job in jobs)
        for workers in sorted({1, 2, os.cpu_count() or 1}):
            seconds = best(lambda jobs=jobs, workers=workers: measure_many(jobs, workers), 3)  # type: ignore[misc]
            lines.append(f"| {name} | {count:,} | {len(jobs)} | {workers} | {seconds * 1e3:.0f} |")
    return lines


def command_table() -> list[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
    lines = [
        "| file | MB | least, s | check, s | ratio | least, cpu s | check, cpu s | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]

    def run(arguments: list[str], accepted: tuple[int, ...]) -> tuple[float, float]:
        start, used = time.perf_counter(), os.times()
        done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, check=False)
        if done.returncode not in accepted:
            raise SystemExit(f"{' '.join(arguments)} exited {done.returncode}: {done.stderr.decode()[-2000:]}")
        end = os.times()
        cpu = end.children_user + end.children_system - used.children_user - used.children_system
        return time.perf_counter() - start, cpu

    with tempfile.TemporaryDirectory() as folder:
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder) / "bytecode")
        tensors = weights()
        files = [Path(folder) / "resnet18.safetensors"]
        write_safetensors(files[0], tensors)
        archive = Path(folder) / "resnet18.pt"
        if write_torch(archive, tensors):
            files.append(archive)
        for path in files:
            size = path.stat().st_size
            plain = Path(folder) / "bytes"  # the same bytes as a whole number of float32
            plain.write_bytes(path.read_bytes()[: size // 4 * 4])
            commands = (["-c", LEAST, str(plain)], ["-m", "initaudit", "check", str(path)])
            # In turn, so that both see the same machine; the first round writes the bytecode.
            rounds = [[run(command, (0, 1)) for command in commands] for _ in range(ROUNDS + 1)][1:]
            row = f"| {path.name} | {size / 1e6:.0f} |"
            for clock in range(2):
                least, check = (min(r[command][clock] for r in rounds) for command in range(2))
                row += f" {least:.2f} | {check:.2f} | {check / least:.2f} |"
            lines.append(row)
    return lines


def main() -> None:
    parts = [
        "# Speed",
        "",
        "Written by `python -m benchmarks.speed`. Best of several runs; ratios carry from machine to machine.",
        "",
        "## Measures",
        "",
        *tensors_table(),
        "",
        "## Whole models in memory",
        "",
        *models_table(),
        "",
        "## The command",
        "",
        'Least: `python -c "import numpy, rich, typer"` and one pass over the bytes, in one process. Check:',
        "`python -m initaudit check FILE`. Both have their bytecode cached, as after an install; a first run from a",
        "source tree compiles it and takes longer. Seconds by the clock and of processor time (user and system), which",
        "other work on the machine disturbs less. The aim is a ratio below 3.",
        "",
        *command_table(),
        "",
    ]
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(parts))
    print("\n".join(parts))


if __name__ == "__main__":
    main()
