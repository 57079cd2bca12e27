"""Cumulative training: from the initial weights, on everything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.strategies.sequences import learn, learn_through_kills, learned, same, small_policy
from vla_cl.data import WindowDataset
from vla_cl.strategies import Strategy
from vla_cl.strategies.cumulative import Cumulative
from vla_cl.strategies.joint import Joint
from vla_cl.tasks import Task


def build() -> Strategy:
    return Cumulative(Cumulative.Options(), 0)


def test_every_stage_starts_from_the_initial_weights(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    policy, strategy = small_policy(), build()
    for stage, (task, data) in enumerate(zip(tasks, datasets, strict=True)):
        strategy.begin_task(task, policy, data)
        assert same(dict(policy.state_dict()), dict(small_policy().state_dict()))
        with torch.no_grad():
            for parameter in policy.parameters():
                parameter += stage + 1
        strategy.end_task(task, policy, data)


def test_its_last_stage_is_joint_training_of_a_fresh_policy(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    strategy = Joint(Joint.Options(), 0)
    fresh = small_policy()
    for task, data in zip(tasks[:2], datasets[:2], strict=True):  # nothing is learned of these, only kept
        strategy.begin_task(task, fresh, data)
        strategy.end_task(task, fresh, data)
    strategy.draws = 6  # those of the stage between; the first draws none
    expected = learn(fresh, strategy, tasks[2:], datasets[2:], first=2)
    policy, cumulative = small_policy(), build()
    assert same(learn(policy, cumulative, tasks, datasets), expected)
    assert not same(expected, learned("joint", tasks, datasets)), "which carries its weights over"


def test_with_one_task_it_is_sequential(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    assert same(learn(small_policy(), build(), tasks[:1], datasets[:1]), learned("sequential", tasks[:1], datasets[:1]))


@pytest.mark.parametrize("sequence", [[0, 1, 0]])
def test_a_killed_run_ends_with_the_same_weights(
    sequence: list[int], tasks: list[Task], datasets: list[WindowDataset], tmp_path: Path
) -> None:
    tasks, datasets = [tasks[each] for each in sequence], [datasets[each] for each in sequence]
    whole = learn(small_policy(), build(), tasks, datasets)
    assert same(learn_through_kills(build, tasks, datasets, tmp_path), whole)
