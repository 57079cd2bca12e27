"""Experience replay and joint training: what is kept, what is mixed in, and what a restart restores."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.strategies.sequences import learn, learn_through_kills, learned, same, small_policy
from vla_cl.data import RESERVOIR_RULES, Batch, WindowDataset, phases_of
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies import STRATEGIES, Strategy, build_strategy
from vla_cl.tasks import Task
from vla_cl.training import TaskStream


def pass_boundaries(strategy: Strategy, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    for task, data in zip(tasks, datasets, strict=True):
        strategy.begin_task(task, policy, data)
        strategy.end_task(task, policy, data)


def instructions(batch: Batch) -> dict[str, int]:
    texts, counts = np.unique(batch.observation.instruction, return_counts=True)
    return dict(zip(texts.tolist(), counts.tolist(), strict=True))


def test_the_first_task_is_never_mixed(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = build_strategy("replay", {}, 0)
    strategy.begin_task(tasks[0], policy, datasets[0])
    batch = datasets[0].batch(range(8))
    assert strategy.batch(batch) is batch


@pytest.mark.parametrize(("ratio", "replayed"), [(0.0, 0), (0.25, 8), (0.5, 16), (1.0, 32)])
def test_a_share_of_every_batch_comes_from_earlier_tasks(
    ratio: float, replayed: int, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = build_strategy("replay", {"ratio": ratio, "fraction": 1.0}, 0)
    pass_boundaries(strategy, policy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    mixed = strategy.batch(datasets[2].batch(range(32)))
    assert len(mixed) == 32
    assert instructions(mixed).get("do task-2", 0) == 32 - replayed


def test_a_fraction_of_the_episodes_is_kept(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy: Any = build_strategy("replay", {"fraction": 0.5}, 0)
    pass_boundaries(strategy, policy, tasks[:1], datasets[:1])
    lengths = datasets[0].episode_lengths
    assert len(strategy.memory) in {int(sum(chosen)) for chosen in _subsets(lengths, 3)}


def test_a_count_of_windows_is_kept(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy: Any = build_strategy("replay", {"count": 7, "by": "transition"}, 0)
    pass_boundaries(strategy, policy, tasks, datasets)
    assert len(strategy.memory) == 21
    assert strategy.memory_bytes > 0


def test_joint_draws_in_proportion_to_what_was_seen(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = build_strategy("joint", {}, 0)
    pass_boundaries(strategy, policy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    batch = datasets[2].batch(np.arange(64) % len(datasets[2]))
    drawn = sum(instructions(strategy.batch(batch)).get("do task-2", 0) for _ in range(200))
    share = len(datasets[2]) / sum(map(len, datasets))
    spread = np.sqrt(share * (1 - share) / (200 * 64))
    assert abs(drawn / (200 * 64) - share) < 5 * spread


@pytest.mark.parametrize("name", ["replay", "joint"])
def test_a_restored_strategy_draws_what_the_other_would_have(
    name: str, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = build_strategy(name, {}, 3)
    pass_boundaries(strategy, policy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    strategy.batch(datasets[2].batch(range(16)))
    other = build_strategy(name, {}, 3)
    other.begin_task(tasks[2], policy, datasets[2])
    other.load_state_dict(strategy.state_dict())
    assert other.stage == strategy.stage == 2
    for _ in range(3):
        first, second = (each.batch(datasets[2].batch(range(16))) for each in (strategy, other))
        assert first.observation.instruction == second.observation.instruction
        assert first.actions.equal(second.actions)


@pytest.mark.parametrize(
    "options", [{"fraction": 0.0}, {"count": 0}, {"ratio": 0.0}, {"keep": "balanced", "capacity": 0}]
)
def test_a_budget_of_nothing_is_sequential(
    options: dict[str, Any], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    tasks, datasets = tasks[:2], datasets[:2]
    assert same(learned("replay", tasks, datasets, **options), learned("sequential", tasks, datasets))


@pytest.mark.parametrize("sequence", [[0, 1, 2], [0, 1, 0]])
def test_a_budget_of_everything_in_proportion_is_joint(
    sequence: list[int], tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    tasks, datasets = [tasks[each] for each in sequence], [datasets[each] for each in sequence]
    everything = learned("replay", tasks, datasets, fraction=1.0, by="transition", ratio=None)
    joint = learned("joint", tasks, datasets)
    assert same(everything, joint)
    assert not same(joint, learned("sequential", tasks, datasets))


@pytest.mark.parametrize("sequence", [[0, 1, 2], [0, 1, 0]])
def test_joint_training_sees_every_window_equally_often(
    sequence: list[int], policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    """Also where the last task was there before."""
    strategy = build_strategy("joint", {}, 0)
    *earlier, present = [datasets[each] for each in sequence]
    pass_boundaries(strategy, policy, tasks[:2], earlier)
    strategy.begin_task(tasks[2], policy, WindowDataset.from_description(present.describe()))
    stream = TaskStream(present, 32, seed=5)
    counts: Counter[tuple[str, int]] = Counter()
    for step in range(100):
        counts.update(origins(strategy.batch(stream.read(step))))
    windows = sum(len(datasets[each]) for each in set(sequence))
    expected = 100 * 32 / windows
    statistic = sum((count - expected) ** 2 for count in counts.values()) / expected
    assert len(counts) == windows
    assert statistic < windows + 5 * np.sqrt(2 * windows), "chi-square of about as many degrees of freedom"


def origins(batch: Batch) -> list[tuple[str, int]]:
    return [(dataset.task, int(window)) for dataset, windows in batch.origin for window in windows]


def test_a_task_that_comes_again_is_out_of_the_memory_while_it_is_learned_and_counts_once_afterwards(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy: Any = build_strategy("replay", {"count": 7, "by": "transition"}, 0)
    pass_boundaries(strategy, policy, tasks[:2], datasets[:2])
    again = WindowDataset.from_description(datasets[0].describe())
    strategy.begin_task(tasks[0], policy, again)
    assert len(strategy.memory) == len(strategy.memory.rows(datasets[1])) == 7
    strategy.end_task(tasks[0], policy, again)
    assert len(strategy.memory) == 14


def test_a_share_of_the_phases_is_kept(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy: Any = build_strategy("replay", {"by": "phase", "phases": 2, "fraction": 0.5}, 0)
    pass_boundaries(strategy, policy, tasks[:1], datasets[:1])
    units = datasets[0].window_episodes * 2 + phases_of(datasets[0], 2)
    kept = strategy.memory.windows
    assert len(set(units[kept].tolist())) == 6
    assert sorted(kept) == np.flatnonzero(np.isin(units, units[kept])).tolist()


@pytest.mark.parametrize("keep", RESERVOIR_RULES)
def test_without_boundaries_replay_comes_from_what_came_by(
    keep: str, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy: Any = build_strategy("replay", {"keep": keep, "by": "transition", "capacity": 20, "ratio": 0.25}, 0)
    assert strategy.task_free
    assert not build_strategy("replay", {}, 0).task_free and not STRATEGIES["replay"].task_free
    strategy.begin_task(tasks[0], policy, datasets[0])
    first = datasets[0].batch(range(16))
    assert strategy.batch(first) is first
    assert len(strategy.memory) == 16
    seen = set(origins(first))
    for data in (*datasets, datasets[0]):
        for step in range(8):
            batch = TaskStream(data, 16, 0).read(step)
            mixed = strategy.batch(batch)
            assert origins(mixed)[:12] == origins(batch)[:12]
            assert set(origins(mixed)[12:]) <= seen, "replay is of what came before"
            seen |= set(origins(batch))
            assert len(strategy.memory) <= 20
    assert len({int(owner) for owner in strategy.memory.owners}) == 3


@pytest.mark.parametrize("keep", RESERVOIR_RULES)
def test_killed_replay_without_boundaries_ends_with_the_same_weights(
    keep: str, tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    def build() -> Strategy:
        return build_strategy("replay", {"keep": keep, "capacity": 20, "by": "transition"}, 0)

    tasks, datasets = [tasks[0], tasks[1]], [datasets[0], datasets[1]]
    whole = learn(small_policy(), build(), tasks, datasets, boundaries=False)
    assert same(learn_through_kills(build, tasks, datasets, tmp_path, boundaries=False), whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 1.5}, "strategy.fraction must be 0 to 1, got 1.5"),
        ({"ratio": -0.1}, "strategy.ratio must be 0 to 1, got -0.1"),
        ({"ratio": None, "keep": "reservoir"}, "strategy.ratio must be a number with strategy.keep=reservoir"),
        ({"by": "frame"}, "got 'frame'"),
        ({"keep": "newest"}, "strategy.keep must be one of task, reservoir, ring, balanced, got 'newest'"),
        ({"phases": 0}, "strategy.phases must be at least 1, got 0"),
        ({"capacity": -1}, "strategy.capacity must be at least 0, got -1"),
        ({"count": -1}, "strategy.count must be at least 0, got -1"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_strategy("replay", options, 0)


def _subsets(lengths: np.ndarray, size: int) -> list[tuple[int, ...]]:
    import itertools

    return list(itertools.combinations(lengths.tolist(), size))
