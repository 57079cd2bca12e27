"""Small real demonstration files and a small real policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vla_cl.data import Episode, Header, Statistics, WindowDataset, write_demonstrations
from vla_cl.data.schema import image_key
from vla_cl.policies import Policy, PolicyConfig, PolicyFeatures, build_policy
from vla_cl.tasks import Task, find_task

ACTION_DIM, STATE_DIM, CHUNK = 4, 39, 4


def make_dataset(
    folder: Path,
    name: str,
    *,
    episodes: int = 6,
    seed: int = 0,
    states: tuple[float, float] = (0.0, 1.0),
    cameras: Sequence[str] = (),
    chunk: int = CHUNK,
) -> WindowDataset:
    """Episodes of 10 to 20 random steps, written and opened as any demonstration file is; `states` are bounds."""
    generator = np.random.default_rng(seed)

    def episode(attempt: int) -> Episode:
        steps = int(generator.integers(10, 21))
        actions = generator.uniform(-1, 1, (steps, ACTION_DIM)).astype(np.float32)
        pixels = {
            image_key(camera): generator.integers(0, 256, (steps + 1, 64, 64, 3), dtype=np.uint8) for camera in cameras
        }
        return Episode(
            seed=attempt,
            attempt=attempt,
            actions=actions,
            executed_actions=actions,
            states=generator.normal(size=(steps, 5)),
            rewards=np.zeros(steps, np.float32),
            observations={
                "agent_pos": generator.uniform(size=(steps + 1, ACTION_DIM)).astype(np.float32),
                "environment_state": generator.uniform(*states, (steps + 1, STATE_DIM)).astype(np.float32),
                **pixels,
            },
        )

    header = Header(
        task=name,
        instruction=f"do {name}",
        expert="random",
        env_name="none",
        environment={"backend": "meta_world", "arguments": {}, "horizon": 20},
        observation={"cameras": list(cameras), "image_size": 64, "privileged": True},
        rendering={},
    )
    path = folder / f"{name}.hdf5"
    write_demonstrations(path, header, [episode(attempt) for attempt in range(episodes)])
    return WindowDataset(path, chunk, privileged=True)


def make_policy(
    head: str = "flow",
    seed: int = 0,
    *,
    backbone: str = "lowdim",
    head_options: dict[str, Any] | None = None,
    **sizes: int,
) -> Policy:
    """A privileged policy of the built-in parts, untrained; backbone `lowdim_transformer` has layers for adapters."""
    config = PolicyConfig(
        name="small",
        backbone=backbone,
        backbone_options={"instruction_encoder": "learned", **sizes},
        head=head,
        head_options=head_options or {},
        chunk=CHUNK,
        execute=CHUNK,
        pixels=False,
        privileged=True,
    )
    features = PolicyFeatures(action_dim=ACTION_DIM, agent_pos_dim=ACTION_DIM, environment_state_dim=STATE_DIM)
    policy = build_policy(config, features, seed)
    policy.set_statistics(
        Statistics.from_ranges(
            {
                "action": ((-1.0,) * ACTION_DIM, (1.0,) * ACTION_DIM),
                "agent_pos": ((0.0,) * ACTION_DIM, (1.0,) * ACTION_DIM),
                "environment_state": ((0.0,) * STATE_DIM, (1.0,) * STATE_DIM),
            }
        )
    )
    return policy


@pytest.fixture
def datasets(tmp_path: Path) -> list[WindowDataset]:
    return [make_dataset(tmp_path, f"task-{index}", seed=index) for index in range(3)]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> list[WindowDataset]:
    """Of the tasks of `tests.strategies.short_sequences`, in order."""
    folder = tmp_path_factory.mktemp("data")
    names = ("window-close", "faucet-close", "push")
    return [make_dataset(folder, name, episodes=4, seed=index) for index, name in enumerate(names)]


@pytest.fixture
def tasks() -> list[Task]:
    return [find_task(name) for name in ("window-close", "faucet-close", "push")]


@pytest.fixture
def policy() -> Policy:
    return make_policy()
