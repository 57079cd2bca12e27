"""Short sequences of tasks, gone through as `vla_cl.experiment` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from tests.strategies.conftest import ACTION_DIM, STATE_DIM
from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.evaluation import PolicyController
from vla_cl.policies import Policy
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task, find_task
from vla_cl.training import IntervalCheckpoints, TrainingOptions, fit, load_tree, save_tree

OPTIONS = TrainingOptions(
    steps=6, batch_size=8, warmup_steps=2, checkpoint_every=2, log_every=6, learning_rate=3e-3, ema=0.5
)
NAMES = ("window-close", "faucet-close", "push")
SEED = 0

Actions = NDArray[np.float32]


def learn(
    policy: Policy,
    strategy: Strategy,
    stage: int,
    task: Task,
    data: WindowDataset,
    checkpoints: IntervalCheckpoints | None = None,
    on_step: Callable[[int], None] | None = None,
    options: TrainingOptions = OPTIONS,
) -> None:
    """One stage, as `vla_cl.experiment` goes through it."""
    strategy.begin_task(task, policy, data)
    fit(policy, data, strategy, options, seed=SEED, stage=stage, checkpoints=checkpoints, on_step=on_step)
    strategy.end_task(task, policy, data)


def save(policy: Policy, strategy: Strategy, folder: Path) -> None:
    policy.save_pretrained(folder)
    save_tree(strategy.state_dict(), folder, "strategy")


def load(name: str, folder: Path) -> tuple[Policy, Strategy]:
    policy, strategy = Policy.from_pretrained(folder).eval(), build_strategy(name, {}, SEED)
    strategy.load_state_dict(load_tree(folder, "strategy"))
    strategy.bind(policy)
    return policy, strategy


def acted(policy: Policy, strategy: Strategy) -> Actions:
    """Actions on four observations of three tasks."""
    generator = np.random.default_rng(7)
    seen = [NAMES[0], NAMES[1], NAMES[2], NAMES[1]]
    observation = ObservationBatch(
        instruction=tuple(find_task(name).instruction for name in seen),
        agent_pos=torch.from_numpy(generator.uniform(size=(4, ACTION_DIM)).astype(np.float32)),
        pixels={
            camera: torch.from_numpy(generator.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8))
            for camera in policy.features.cameras
        },
        environment_state=(
            torch.from_numpy(generator.uniform(size=(4, STATE_DIM)).astype(np.float32))
            if policy.features.environment_state_dim
            else None
        ),
        episode=tuple(f"episode {row}" for row in range(4)),
        task=tuple(seen) if strategy.needs.task_id_at_test else None,
    )
    return PolicyController(policy, strategy).act(observation, [0, 1, 2, 3])
