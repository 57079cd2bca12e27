"""What tests of strategies with adapters share: a small policy with layers for them, real training, its outputs."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_parameters
from vla_cl.seeding import torch_generator
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task
from vla_cl.training import IntervalCheckpoints, TrainingOptions, fit

RANK = 4
TRAINING = TrainingOptions(
    steps=4, batch_size=8, warmup_steps=0, schedule="constant", learning_rate=1e-2, weight_decay=0.1, checkpoint_every=0
)
"""Large steps and much weight decay: whatever may move does."""


def small_policy(head: str = "flow") -> Policy:
    return make_policy(head, backbone="lowdim_transformer", width=32, layers=2, heads=2)


def build(name: str, **options: Any) -> Any:
    importlib.import_module(f"vla_cl.strategies.{name}")  # registers itself
    return build_strategy(name, {"rank": RANK, "alpha": 8.0, **options}, 0)


def learn(
    strategy: Strategy,
    policy: Policy,
    tasks: list[Task],
    datasets: list[WindowDataset],
    training: TrainingOptions = TRAINING,
    first: int = 0,
) -> None:
    """Go through some stages as an experiment does."""
    for stage, (task, data) in enumerate(zip(tasks, datasets, strict=True), start=first):
        begin(strategy, policy, stage, task, data, training)
        strategy.end_task(task, policy, data)


def begin(
    strategy: Strategy,
    policy: Policy,
    stage: int,
    task: Task,
    data: WindowDataset,
    training: TrainingOptions = TRAINING,
) -> None:
    """A stage up to its boundary."""
    strategy.begin_task(task, policy, data)
    fit(policy, data, strategy, training, seed=0, stage=stage)


def weights(policy: Policy) -> dict[str, Tensor]:
    """Copies of the base weights, under the names that they have without adapters."""
    return {
        name.replace(".base_layer.", "."): each.detach().clone()
        for name, each in policy.named_parameters()
        if ".lora_" not in name
    }


def adapter(policy: Policy, name: str) -> dict[str, Tensor]:
    """Copies of an adapter's weights."""
    return {key: each.detach().clone() for key, each in adapter_parameters(policy, name).items()}


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Names of what is not bit for bit the same."""
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@torch.no_grad()
def losses(policy: Policy, data: WindowDataset, windows: int = 16) -> Tensor:
    """Per-sample losses at fixed noise, which every layer takes part in."""
    return policy.loss(data.batch(range(windows)), torch_generator(7))


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def learn_killed_inside(
    build_learner: Callable[[], tuple[Policy, Any]], task: Task, data: WindowDataset, folder: Path
) -> tuple[Policy, Any]:
    """A first task whose training is killed, and goes on from its latest checkpoint with all that is built anew."""
    training = replace(TRAINING, checkpoint_every=2)
    checkpoints = IntervalCheckpoints(folder)

    def kill(step: int) -> None:
        if step == 3:
            raise Killed

    policy, strategy = build_learner()
    strategy.begin_task(task, policy, data)
    with pytest.raises(Killed):
        fit(policy, data, strategy, training, seed=0, stage=0, checkpoints=checkpoints, on_step=kill)
    policy, strategy = build_learner()
    strategy.begin_task(task, policy, data)
    fit(policy, data, strategy, training, seed=0, stage=0, checkpoints=checkpoints)
    strategy.end_task(task, policy, data)
    return policy, strategy


def equal(first: Any, second: Any) -> bool:
    """Whether two trees of tensors and values are the same, bit for bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping):
        return first.keys() == second.keys() and all(equal(each, second[key]) for key, each in first.items())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second)
