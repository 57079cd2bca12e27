"""A policy over several robots: narrower vectors are filled up with zeros, and a robot takes its first numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from vla_cl.data import (
    CollectionOptions,
    ObservationBatch,
    ReplayMemory,
    WindowDataset,
    compute_statistics,
    demonstrations_for,
)
from vla_cl.envs import ActionChunk, EnvironmentPool, EpisodeStart, ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins
from vla_cl.tasks import find_task

PUSHING = str(Path(__file__).parents[2] / "docs" / "examples" / "pushing.py")
WIDEST = {"actions": 4, "agent_pos": 4, "environment_state": 39}
SEEN = ObservationOptions(cameras=(), privileged=True)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Demonstrations of a robot with two actions, two numbers of proprioception and four of state."""
    load_plugins([PUSHING])
    folder = tmp_path_factory.mktemp("demonstrations")
    options = CollectionOptions(episodes=2)
    return demonstrations_for(find_task("push-left"), folder, options, SEEN, processes=1, plugins=[PUSHING])


def test_windows_are_filled_up_with_zeros(file):
    narrow = WindowDataset(file, 3, privileged=True)
    wide = WindowDataset(file, 3, privileged=True, dimensions=WIDEST)
    rows = [0, 7, len(wide) - 1]
    expected, batch = narrow.batch(rows), wide.batch(rows)
    assert batch.actions.shape == (3, 3, 4)
    assert torch.equal(batch.actions[..., :2], expected.actions)
    assert not batch.actions[..., 2:].any()
    assert batch.observation.agent_pos.shape == (3, 4) and batch.observation.environment_state.shape == (3, 39)
    assert torch.equal(batch.observation.environment_state[:, :4], expected.observation.environment_state)
    assert not batch.observation.environment_state[:, 4:].any()
    assert wide.window_bytes > narrow.window_bytes
    statistics = compute_statistics(wide)
    np.testing.assert_array_equal(statistics.action.max[2:], 0.0)
    np.testing.assert_array_equal(statistics.action.max[:2], compute_statistics(narrow).action.max)


def test_a_restored_memory_is_filled_up_too(file):
    memory, restored = ReplayMemory(), ReplayMemory()
    memory.add(WindowDataset(file, 3, privileged=True, dimensions=WIDEST), generator=np.random.default_rng(0), count=1)
    restored.load_state_dict(memory.state_dict())
    assert restored.sample(2, np.random.default_rng(0)).actions.shape == (2, 3, 4)


def test_windows_that_are_too_wide_are_refused(file):
    with pytest.raises(ConfigurationError, match="actions of task 'push-left' has 2 numbers, the policy 1"):
        WindowDataset(file, 3, dimensions={**WIDEST, "actions": 1})


def test_observations_are_filled_up_with_zeros():
    observed = ObservationBatch(("go",), torch.ones(1, 2), {}, torch.ones(1, 4))
    wide = observed.widened(4, 39)
    assert (wide.agent_pos.shape, wide.environment_state.shape) == ((1, 4), (1, 39))
    assert wide.agent_pos.sum() == 2 and wide.environment_state.sum() == 4
    assert observed.widened(2, 4).agent_pos is observed.agent_pos
    with pytest.raises(ConfigurationError, match="the task's agent_pos has 2 numbers, the policy takes 1 at most"):
        observed.widened(1, 4)


def test_a_robot_takes_the_first_numbers_of_a_wider_command():
    load_plugins([PUSHING])
    task = find_task("push-left")
    spec = task.environment_spec(SEEN, plugins=[PUSHING])
    command = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    with EnvironmentPool(1) as pool:
        pool.start({0: EpisodeStart(spec, 3)})
        seen = pool.advance({0: command})[0].observation
    env = ActionChunk(task.environment(SEEN), 5)
    env.reset(seed=3)
    expected, *_ = env.step(command[:, :2])
    np.testing.assert_array_equal(seen["environment_state"], expected["environment_state"])
