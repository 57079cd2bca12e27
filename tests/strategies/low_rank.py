"""What tests of strategies with adapters share: a small policy with layers for them, real training, its outputs."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_parameters
from vla_cl.seeding import torch_generator
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

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
