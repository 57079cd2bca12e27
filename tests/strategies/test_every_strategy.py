"""What holds for every strategy: it goes on exactly after a kill, acts from its checkpoint, runs with other heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.strategies.conftest import make_policy
from tests.strategies.short_sequences import OPTIONS, SEED, acted, learn, load, save
from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies import STRATEGIES, build_strategy
from vla_cl.tasks import Task
from vla_cl.training import IntervalCheckpoints, fit

SIZES = {"width": 32, "layers": 2, "heads": 2}
EVERY = list(STRATEGIES)


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.parametrize("name", EVERY)
def test_a_killed_sequence_ends_with_the_same_parameters_and_acts_alike(
    name: str, tasks: list[Task], data: list[WindowDataset], tmp_path: Path
) -> None:
    policy, strategy = make_policy(backbone="lowdim_transformer", **SIZES), build_strategy(name, {}, SEED)
    for stage, (task, windows) in enumerate(zip(tasks, data, strict=True)):
        learn(policy, strategy, stage, task, windows)
        save(policy, strategy, tmp_path / f"whole_{stage}")

    checkpoints = IntervalCheckpoints(tmp_path / "interval")

    def kill(step: int) -> None:
        if step == 5:
            raise Killed

    resumed, follower = load(name, tmp_path / "whole_0")
    for stage in (1, 2):
        before = tmp_path / f"whole_{stage - 1}"
        with pytest.raises(Killed):
            resumed, follower = load(name, before)
            learn(resumed, follower, stage, tasks[stage], data[stage], checkpoints, kill)
        resumed, follower = load(name, before)
        learn(resumed, follower, stage, tasks[stage], data[stage], checkpoints)
        checkpoints.clear()
        whole = Policy.from_pretrained(tmp_path / f"whole_{stage}").state_dict()
        assert resumed.state_dict().keys() == whole.keys()
        different = [key for key, value in resumed.state_dict().items() if not torch.equal(value, whole[key])]
        assert not different, f"stage {stage}: {different[:5]}"

    restored = load(name, tmp_path / "whole_2")
    expected = acted(policy, strategy)
    assert np.isfinite(expected).all()
    np.testing.assert_array_equal(acted(resumed, follower), expected)
    np.testing.assert_array_equal(acted(*restored), expected)


@pytest.mark.parametrize(("head", "order"), [("gmm", (0, 1, 0, 1)), ("tokens", (0, 1))])
@pytest.mark.parametrize("name", EVERY)
def test_it_runs_with_other_kinds_of_heads_and_with_tasks_that_come_again(
    name: str, head: str, order: tuple[int, ...], tasks: list[Task], data: list[WindowDataset]
) -> None:
    options = {"width": 32, "layers": 1, "heads": 2} if head == "tokens" else {}
    policy = make_policy(head, backbone="lowdim_transformer", head_options=options, **SIZES)
    strategy = build_strategy(name, {}, SEED)
    for stage, task in enumerate(order):
        learn(policy, strategy, stage, tasks[task], data[task])
    assert np.isfinite(acted(policy, strategy)).all()


TASK_FREE = [(name, {}) for name in EVERY if STRATEGIES[name].task_free]
TASK_FREE += [(name, {"keep": "reservoir", "by": "transition"}) for name in ("replay", "agem", "mir")]


@pytest.mark.parametrize(("name", "options"), TASK_FREE)
def test_one_that_needs_no_boundaries_learns_without(
    name: str, options: dict[str, Any], tasks: list[Task], data: list[WindowDataset]
) -> None:
    policy, strategy = make_policy(backbone="lowdim_transformer", **SIZES), build_strategy(name, options, SEED)
    assert strategy.task_free
    strategy.begin_task(tasks[0], policy, data[0])
    for stage in range(3):
        fit(policy, data[stage], strategy, OPTIONS, seed=SEED, stage=stage)
    assert np.isfinite(acted(policy, strategy)).all()
