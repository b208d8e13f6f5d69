"""The held-out networks: rebuilt to the bit from their names, and runnable on their own tasks."""

from __future__ import annotations

import json
from itertools import groupby

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sklearn")

from benchmarks import trainability_more, trainability_nets  # noqa: E402  they need both
from benchmarks.trainability_labels import IGNORED, OUT, accuracy  # noqa: E402
from benchmarks.trainability_nets import Pair  # noqa: E402

PAIRS = list(trainability_more.pairs())
FIRST_OF_FAMILY = [next(group) for _, group in groupby(sorted(PAIRS, key=lambda p: p.family), lambda p: p.family)]


def test_every_pair_has_a_name_of_its_own_and_none_is_of_the_first_set() -> None:
    names = [pair.name for pair in PAIRS]
    assert len(set(names)) == len(names) >= 220
    assert not {pair.family for pair in PAIRS} & {pair.family for pair in trainability_nets.pairs()}
    assert {pair.family for pair in PAIRS} == set(trainability_more.FAMILIES)


@pytest.mark.parametrize("pair", FIRST_OF_FAMILY, ids=lambda pair: pair.name)
def test_a_pair_is_rebuilt_to_the_bit_and_answers(pair: Pair) -> None:
    net = trainability_more.build(pair)
    torch.manual_seed(1)
    again = trainability_more.build(pair)
    for (name, one), (other_name, other) in zip(net.named_parameters(), again.named_parameters(), strict=True):
        assert name == other_name and torch.equal(one, other)
    task, x = trainability_more.task(pair), trainability_more.example(pair)
    assert x.dtype == task.x.dtype and x.shape[1:] == task.x.shape[1:]
    logits = net(x)
    assert logits.shape[:-1] == (len(x), *task.y.shape[1:])
    assert logits.shape[-1] > int(task.y.max())


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair.name)
def test_every_initialization_can_be_drawn(pair: Pair) -> None:
    assert all(p.isfinite().all() for p in trainability_more.build(pair).parameters())


@pytest.mark.parametrize("name", trainability_more.TASKS)
def test_a_task_has_no_class_so_common_that_naming_it_passes(name: str) -> None:
    task = trainability_more.TASKS[name]()
    scored = task.y[task.y != IGNORED]
    assert float(scored.bincount().max()) / len(scored) < 0.5 < task.fails < task.trains < 1


def test_training_tells_a_sound_network_from_a_dead_one() -> None:
    """Zero layers beside the input still leave it to the head: what a linear model makes of spirals is no success."""
    sound, dead = (Pair("concat", f"elu-16x{depth}", init) for depth, init in ((8, "he"), (2, "constant=0")))
    task = trainability_more.task(sound)
    assert accuracy(trainability_more.build(sound), "adam", 0.003, task) >= task.trains
    assert accuracy(trainability_more.build(dead), "adam", 0.003, task) < task.fails


def test_every_pair_has_a_label() -> None:
    labels = json.loads((OUT.parent / "trainability_more_labels.json").read_text())
    assert set(labels) == {pair.name for pair in PAIRS}
