"""measure_many: the same to the last bit for any number of workers, little memory, refusals in their place."""

import math
import pickle
import tracemalloc
from dataclasses import asdict

import numpy as np
import pytest

from initaudit.errors import CorruptFileError, InitauditError, UnsupportedError
from initaudit.stats import Job, layout, measure, measure_many, measuring
from initaudit.types import Tensor
from tests.stats.reference import tensor


def jobs():
    rng = np.random.default_rng(0)
    large = (rng.standard_normal((700, 600)) * 0.1 + 3).astype("f4")
    return [
        Job(tensor(large), "oi", parts=4),
        Job(tensor(large.T), "oi", groups=3),
        Job(tensor(rng.standard_normal((40, 30, 5, 5)).astype("f2")), "iokk", groups=2),
        Job(tensor(rng.standard_normal(500_000)), "o"),
        *(Job(tensor(rng.standard_normal(50).astype("f4")), "o") for _ in range(40)),
    ]


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_workers_does_not_change_a_bit(monkeypatch, workers):
    monkeypatch.setattr(layout, "CHUNK", 1 << 13)
    monkeypatch.setattr(layout, "SEGMENT", 1 << 15)
    monkeypatch.setattr(measuring, "SEGMENT", 1 << 15)
    monkeypatch.setattr(measuring, "_ALONE", 0)
    work = jobs()
    done = []
    alone = [measure(job.tensor, job.axes, groups=job.groups, parts=job.parts) for job in work]
    many = measure_many(work, workers, done.append)
    assert [pickle.dumps(asdict(s)) for s in many] == [pickle.dumps(asdict(s)) for s in alone]
    assert sum(done) == sum(job.tensor.size for job in work)


@pytest.mark.parametrize("workers", [1, 3])
def test_refusals_stand_in_their_place_and_every_tensor_is_released(workers):
    released = []

    def broken():
        raise CorruptFileError("data ends at byte 7")

    def one(name, shape, load):
        return Tensor(name, shape, "float32", load, release=lambda: released.append(name))

    good = np.ones((3, 4), "f4")
    work = [
        Job(one("a", (3, 4), lambda: good), "oi"),
        Job(one("b", (3, 4), broken), "oi"),
        Job(one("c", (9000, 9000), broken), "oi"),
        Job(one("d", (3, 4), lambda: good), "oi", groups=2),
        Job(one("e", (3, 4), lambda: good), "oi"),
    ]
    told = []
    a, b, c, d, e = measure_many(work, workers, told.append)
    assert isinstance(b, CorruptFileError)
    assert isinstance(c, CorruptFileError)
    assert isinstance(d, UnsupportedError)
    assert not isinstance(a, InitauditError)
    assert not isinstance(e, InitauditError)
    assert a.digest == e.digest
    assert sorted(released) == list("abcde")
    assert sum(told) == sum(job.tensor.size for job in work)


def test_nothing_to_do():
    assert measure_many([], 4) == []


@pytest.mark.parametrize(("shape", "axes"), [((4000, 12500), "oi"), ((12500, 4000), "io")])
def test_no_copy_of_the_tensor(tmp_path, shape, axes):
    path = tmp_path / "w.bin"
    with path.open("wb") as file:
        file.truncate(4 * math.prod(shape))  # 200 MB of nothing on disk
    mapped = np.memmap(path, "f4", "r", shape=shape)
    tracemalloc.start()
    try:
        stats = measure(Tensor("w", shape, "float32", lambda: mapped), axes)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert stats.zeros == math.prod(shape)
    assert peak < 25_000_000
