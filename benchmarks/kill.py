"""What is left of a model when `fix --in-place` is killed: `python -m benchmarks.kill [--moments 50] [--folder DIR]`.

SIGKILL at random moments of the whole run, of the time in which files are written (from the appearance of the
temporary folder to its disappearance), and, where several files change, of the time in which they are renamed (from
the appearance of the journal). Then every file is compared by sha256 with the original and with the result of a run
that nobody killed, and once more after the step with which every `fix` begins.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

RESULT = Path(__file__).parent / "results" / "kill.md"
WIDTH = 2048
LAYERS = 12  # of WIDTH x WIDTH float32: 201 MB
SHARDS = 4
STAGE, JOURNAL = ".initaudit-", ".initaudit-journal"
WHOLE, WRITING, RENAMING = "the whole run", "files are written", "files are renamed"
MB = 1e6
_SHORTER = 0.97


@dataclass
class Outcome:
    """What became of the killed runs of one kind."""

    model: str
    moment: str
    states: Counter[str] = field(default_factory=Counter)  # original, result, waiting for the next run, damaged
    ended: int = 0  # runs that had ended before the signal
    recovered: Counter[str] = field(default_factory=Counter)


def write_safetensors(path: Path, names: list[str], rng: np.random.Generator) -> None:
    """Write a file of square weights that are all drawn too small."""
    header, at = {}, 0
    for name in names:
        header[name] = {"dtype": "F32", "shape": [WIDTH, WIDTH], "data_offsets": [at, at + WIDTH * WIDTH * 4]}
        at += WIDTH * WIDTH * 4
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _ in names:
            file.write((rng.standard_normal((WIDTH, WIDTH), np.float32) * np.float32(1e-3)).data)


def build(folder: Path, shards: int) -> Path:
    """Write a model of one file, or of several and an index; return what `fix` is called with."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    names = [f"layers.{number}.weight" for number in range(LAYERS)]
    if shards == 1:
        write_safetensors(folder / "model.safetensors", names, rng)
        return folder / "model.safetensors"
    places: dict[str, str] = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        held = names[number * LAYERS // shards : (number + 1) * LAYERS // shards]
        write_safetensors(folder / file, held, rng)
        places |= dict.fromkeys(held, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return folder / "model.safetensors.index.json"


def fix(path: Path) -> subprocess.Popen[bytes]:
    """Begin to draw every layer again, in place."""
    command = [sys.executable, "-m", "initaudit", "fix", str(path), "--in-place", "--all", "--scheme", "he", "--force"]
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, stdout=quiet, stderr=quiet, env={**os.environ, "OMP_NUM_THREADS": "1"})


def check(path: Path) -> int:
    """Return the exit code of `check`."""
    command = [sys.executable, "-m", "initaudit", "check", str(path), "-q"]
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode


def sums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of the model."""
    found = {}
    for path in sorted(folder.iterdir()):
        if not path.name.startswith(STAGE):
            with path.open("rb") as file:
                found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def writes(folder: Path) -> bool:
    """Whether a temporary folder is there."""
    return any(path.name.startswith(STAGE) for path in folder.iterdir())


def renames(folder: Path) -> bool:
    """Whether a journal is there."""
    return os.path.lexists(folder / JOURNAL)


def wait(run: subprocess.Popen[bytes], until: Callable[[], bool], pause: float = 0.0002) -> None:
    """Wait for something to happen, or for the run to end."""
    while run.poll() is None and not until():
        if pause:
            time.sleep(pause)


def timed(path: Path) -> tuple[float, float, float]:
    """Return how long a run takes, how long files are being written, and how long the journal is there."""
    folder = path.parent
    start = time.perf_counter()
    run = fix(path)
    wait(run, lambda: writes(folder))
    staged = time.perf_counter()
    wait(run, lambda: renames(folder) or not writes(folder), pause=0)
    begun = time.perf_counter()
    wait(run, lambda: not renames(folder), pause=0)
    renamed = time.perf_counter() - begun
    wait(run, lambda: not writes(folder))
    written = time.perf_counter() - staged
    if run.wait() not in {0, 1}:
        raise SystemExit(f"fix {path} ended with {run.returncode}")
    return time.perf_counter() - start, written, renamed


def kill(path: Path, moment: str, length: float) -> bool:
    """Kill a run at a moment; return whether it was still there."""
    folder = path.parent
    run = fix(path)
    if moment == WRITING:
        wait(run, lambda: writes(folder))
    elif moment == RENAMING:
        wait(run, lambda: renames(folder), pause=0)
    time.sleep(length)
    running = run.poll() is None
    run.send_signal(signal.SIGKILL)
    run.wait()
    return running


def study(work: Path, shards: int, moments: int) -> list[Outcome]:
    """Kill runs on one model; return what became of them."""
    pristine, folder = work / f"pristine{shards}", work / f"model{shards}"
    path = folder / build(pristine, shards).name

    def restore() -> None:
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(pristine, folder)

    restore()
    times = timed(path)
    original, result = sums(pristine), sums(folder)
    assert original != result
    kinds = {WHOLE: times[0], WRITING: times[1]} | ({RENAMING: times[2]} if shards > 1 else {})
    name = f"{shards} files" if shards > 1 else "one file"
    outcomes = []
    rng = random.Random(shards)
    restore()
    for moment, length in kinds.items():
        outcome = Outcome(name, moment)
        while (count := outcome.states.total()) < moments:
            if not kill(path, moment, rng.uniform(0, length)):  # no kill: the run was through before
                outcome.ended += 1
                length *= _SHORTER  # noqa: PLW2901  the machine is less busy than it was when it was timed
                restore()
                continue
            outcome.states[judged(path, original, result)] += 1
            recover(path)
            after = sums(folder)
            outcome.recovered["original" if after == original else "result" if after == result else "damaged"] += 1
            if after != original or writes(folder):
                restore()
            print(f"{name}, {moment}: {count + 1} of {moments}", dict(outcome.states), file=sys.stderr, flush=True)
        outcomes.append(outcome)
    shutil.rmtree(folder)
    shutil.rmtree(pristine)
    return outcomes


def judged(path: Path, original: dict[str, str], result: dict[str, str]) -> str:
    """Return the word for what a killed run left."""
    now = sums(path.parent)
    if now == original:
        return "original"
    if now == result:
        return "result"
    mixed = now.keys() == original.keys() and all(now[name] in (original[name], result[name]) for name in now)
    if mixed and renames(path.parent) and check(path) == 2:
        return "waiting"
    return "damaged"


def recover(path: Path) -> None:
    """Do what every `fix` does before it reads: finish or undo what was left."""
    run = [sys.executable, "-c", "import sys; from initaudit.formats import writing; writing.recover(sys.argv[1])"]
    subprocess.run([*run, str(path)], check=True)


def report(outcomes: list[Outcome], moments: int) -> str:
    """Return the page."""
    size = LAYERS * WIDTH * WIDTH * 4 / MB
    lines = [
        "# Kill -9",
        "",
        "Written by `python -m benchmarks.kill`.",
        "",
        f"`initaudit fix --in-place --all --scheme he` on {size:.0f} MB of float32 in safetensors, as one file and as",
        f"{SHARDS} with an index, killed with SIGKILL at {moments} random moments each: of the whole run, of the time",
        "in which the temporary folder is there, of the time in which the journal is. Files are compared by sha256.",
        "*Waiting*: some files are renamed and others not yet, `check` refuses to read them and says why, and the next",
        "`fix` finishes first. *Then*: after the step with which every `fix` begins. Runs that were through before the",
        "signal came are not counted, only told (*ended*).",
        "",
        "| model | killed while | original | result | waiting | damaged | then original | result | damaged | ended |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in outcomes:
        cells = [*(one.states[key] for key in ("original", "result", "waiting", "damaged"))]
        cells += [*(one.recovered[key] for key in ("original", "result", "damaged")), one.ended]
        lines.append(f"| {one.model} | {one.moment} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run all, write the page, and return 1 if anything was damaged."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="where the models are written; a temporary folder by default")
    parser.add_argument("--print", action="store_true", help="print the page instead of writing it")
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=wish.folder) as work:
        outcomes = [one for shards in (1, SHARDS) for one in study(Path(work), shards, wish.moments)]
    page = report(outcomes, wish.moments)
    if wish.print:
        print(page)
    else:
        RESULT.write_text(page)
    return int(any(one.states["damaged"] + one.recovered["damaged"] for one in outcomes))


if __name__ == "__main__":
    sys.exit(main())
