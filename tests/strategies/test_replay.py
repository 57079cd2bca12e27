"""Experience replay and joint training: what is kept, what is mixed in, and what a restart restores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task


def learn(strategy: Strategy, policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
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
    learn(strategy, policy, tasks[:2], datasets[:2])
    strategy.begin_task(tasks[2], policy, datasets[2])
    mixed = strategy.batch(datasets[2].batch(range(32)))
    assert len(mixed) == 32
    assert instructions(mixed).get("do task-2", 0) == 32 - replayed


def test_a_fraction_of_the_episodes_is_kept(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy: Any = build_strategy("replay", {"fraction": 0.5}, 0)
    learn(strategy, policy, tasks[:1], datasets[:1])
    lengths = datasets[0].episode_lengths
    assert len(strategy.memory) in {int(sum(chosen)) for chosen in _subsets(lengths, 3)}


def test_a_count_of_windows_is_kept(policy: Policy, tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy: Any = build_strategy("replay", {"count": 7, "by": "transition"}, 0)
    learn(strategy, policy, tasks, datasets)
    assert len(strategy.memory) == 21
    assert strategy.memory_bytes > 0


def test_joint_draws_in_proportion_to_what_was_seen(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    strategy = build_strategy("joint", {}, 0)
    learn(strategy, policy, tasks[:2], datasets[:2])
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
    learn(strategy, policy, tasks[:2], datasets[:2])
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
    ("options", "message"),
    [
        ({"fraction": 1.5}, "strategy.fraction must be 0 to 1, got 1.5"),
        ({"ratio": -0.1}, "strategy.ratio must be 0 to 1, got -0.1"),
        ({"by": "frame"}, "got 'frame'"),
        ({"count": -1}, "strategy.count must be at least 0, got -1"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        build_strategy("replay", options, 0)


def _subsets(lengths: np.ndarray, size: int) -> list[tuple[int, ...]]:
    import itertools

    return list(itertools.combinations(lengths.tolist(), size))
