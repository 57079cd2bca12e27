"""What a memory of bounded size keeps of a stream."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vla_cl.data import RESERVOIR_RULES, Reservoir, WindowDataset, concatenate, units_of
from vla_cl.errors import ConfigurationError
from vla_cl.training.state import load_tree, save_tree

Rows = set[tuple[str, int]]


@pytest.fixture(scope="module")
def tasks(make_file: Callable[..., Path]) -> list[WindowDataset]:
    """Of 12, 30 and 5 windows."""
    lengths = {"push": (4, 5, 3), "reach": (10, 10, 10), "drawer-open": (5,)}
    paths = [make_file(each, task=task, cameras=()) for task, each in lengths.items()]
    return [WindowDataset(path, 4) for path in paths]


def pass_by(reservoir: Reservoir, dataset: WindowDataset, seed: int = 0, size: int = 3) -> None:
    """An epoch of a task, in random order, in small batches."""
    order = np.random.default_rng(seed).permutation(len(dataset))
    for start in range(0, len(order), size):
        reservoir.offer(dataset.batch(order[start : start + size]))


def kept(reservoir: Reservoir) -> Rows:
    memory = reservoir.memory
    batch = memory.read(range(len(memory)))
    rows = [(dataset.task, int(window)) for dataset, windows in batch.origin for window in windows]
    assert len(rows) == len(set(rows)), "nothing is kept twice"
    return set(rows)


def sizes(reservoir: Reservoir) -> dict[str, int]:
    return dict(Counter(task for task, _ in kept(reservoir))) if len(reservoir.memory) else {}


@pytest.mark.parametrize("rule", RESERVOIR_RULES)
def test_all_is_kept_while_there_is_room_and_no_more_than_fits(rule: str, tasks: list[WindowDataset]) -> None:
    roomy, small, none = (Reservoir(capacity, rule, 0) for capacity in (100, 7, 0))
    for task in tasks:
        for reservoir in (roomy, small, none):
            pass_by(reservoir, task)
            assert len(reservoir.memory) <= reservoir.capacity
    assert sizes(roomy) == {task.task: len(task) for task in tasks}
    assert len(small.memory) == 7
    assert len(none.memory) == 0


def test_a_reservoir_is_a_uniform_sample_of_all_that_came_by(tasks: list[WindowDataset]) -> None:
    capacity, trials = 8, 150
    counts: Counter[tuple[str, int]] = Counter()
    for seed in range(trials):
        reservoir = Reservoir(capacity, "reservoir", seed)
        for task in tasks:
            pass_by(reservoir, task, seed, size=15)
        counts.update(kept(reservoir))
    total = sum(map(len, tasks))
    share = capacity / total
    expected = trials * share
    assert len(counts) == total
    # sum of squared standardised counts: chi-square of total - 1 degrees of freedom, since each trial keeps `capacity`
    statistic = sum((count - expected) ** 2 for count in counts.values()) / (expected * (1 - share))
    assert abs(statistic - (total - 1)) < 5 * np.sqrt(2 * (total - 1))


@pytest.mark.parametrize("rule", RESERVOIR_RULES)
def test_neither_epochs_nor_order_nor_a_task_that_comes_again_change_what_is_kept(
    rule: str, tasks: list[WindowDataset]
) -> None:
    once, often = Reservoir(15, rule, 0), Reservoir(15, rule, 0)
    for task in tasks:
        pass_by(once, task)
    for epoch, task in enumerate([tasks[1], tasks[0], tasks[0], tasks[2], WindowDataset(tasks[0].path, 4)]):
        pass_by(often, task, seed=epoch, size=epoch + 1)
    assert kept(once) == kept(often)


@pytest.mark.parametrize("rule", ["balanced", "ring"])
def test_tasks_have_equal_shares_recut_when_tasks_come_and_small_ones_leave_theirs(
    rule: str, tasks: list[WindowDataset]
) -> None:
    push, reach, drawer = tasks
    reservoir = Reservoir(20, rule, 0)
    pass_by(reservoir, reach)
    assert sizes(reservoir) == {"reach": 20}
    pass_by(reservoir, push)
    assert sizes(reservoir) == {"reach": 10, "push": 10}
    pass_by(reservoir, drawer)
    shares = sizes(reservoir)
    assert shares["drawer-open"] == 5, "all that there is of it"
    assert sorted(shares.values()) == [5, 7, 8]


def test_a_class_is_sampled_uniformly_however_late_the_others_come(tasks: list[WindowDataset]) -> None:
    push, reach, _ = tasks
    trials, counts = 150, Counter[int]()
    for seed in range(trials):
        reservoir = Reservoir(8, "balanced", seed)
        order = np.random.default_rng(seed).permutation(len(reach))
        reservoir.offer(reach.batch(order[:15]))
        pass_by(reservoir, push, seed, size=12)
        reservoir.offer(reach.batch(order[15:]))
        counts.update(window for task, window in kept(reservoir) if task == "reach")
    expected = trials * 4 / len(reach)
    statistic = sum((counts[window] - expected) ** 2 for window in range(len(reach))) / (expected * (1 - 4 / 30))
    assert abs(statistic - 29) < 5 * np.sqrt(2 * 29)


def test_a_ring_keeps_the_newest_of_each_task(tasks: list[WindowDataset]) -> None:
    reservoir = Reservoir(8, "ring", 0)
    pass_by(reservoir, tasks[0])
    pass_by(reservoir, tasks[1])
    assert kept(reservoir) == {("push", window) for window in range(8, 12)} | {
        ("reach", window) for window in range(26, 30)
    }


@pytest.mark.parametrize("rule", RESERVOIR_RULES)
@pytest.mark.parametrize("by", ["episode", "phase"])
def test_whole_units_stay_and_go(rule: str, by: str, tasks: list[WindowDataset]) -> None:
    reservoir = Reservoir(17, rule, 0, by=by, phases=2)
    for epoch in range(2):
        for task in tasks[:2]:
            pass_by(reservoir, task, epoch)
    assert 0 < len(reservoir.memory) <= 17
    for task in tasks[:2]:
        units = units_of(task, by, 2)
        mine = [window for name, window in kept(reservoir) if name == task.task]
        assert sorted(mine) == np.flatnonzero(np.isin(units, units[mine])).tolist()


@pytest.mark.parametrize("rule", RESERVOIR_RULES)
def test_a_mixed_batch_is_taken_apart(rule: str, tasks: list[WindowDataset]) -> None:
    mixed, apart = Reservoir(9, rule, 0), Reservoir(9, rule, 0)
    mixed.offer(concatenate([tasks[0].batch(range(12)), tasks[1].batch(range(30))]))
    pass_by(apart, tasks[0])
    pass_by(apart, tasks[1])
    assert kept(mixed) == kept(apart)


@pytest.mark.parametrize("rule", RESERVOIR_RULES)
def test_a_restored_reservoir_goes_on_as_the_other_would_have(
    rule: str, tasks: list[WindowDataset], tmp_path: Path
) -> None:
    reservoir = Reservoir(9, rule, 4)
    pass_by(reservoir, tasks[0])
    pass_by(reservoir, tasks[1])
    save_tree(reservoir.state_dict(), tmp_path, "reservoir")
    again = Reservoir(9, rule, 4)
    again.load_state_dict(load_tree(tmp_path, "reservoir"))
    for each in (reservoir, again):
        pass_by(each, tasks[2])
        pass_by(each, tasks[1], seed=1)
    assert again.memory.windows.tolist() == reservoir.memory.windows.tolist()
    assert again.memory.owners.tolist() == reservoir.memory.owners.tolist()
    assert again.state_dict()["limits"] == reservoir.state_dict()["limits"]


def test_unusable_arguments_are_named() -> None:
    with pytest.raises(ConfigurationError, match="capacity must be at least 0, got -1"):
        Reservoir(-1, "ring", 0)
    with pytest.raises(ConfigurationError, match="one of reservoir, ring, balanced, got 'newest'"):
        Reservoir(1, "newest", 0)
