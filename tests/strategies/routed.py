"""Three small tasks that text and observation tell apart, and a small policy that learns them under a strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.strategies.conftest import make_dataset, make_policy
from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies import Strategy
from vla_cl.tasks import Task, find_task
from vla_cl.training import TrainingOptions, fit

NAMES = ("window-close", "faucet-close", "push")
TRAINING = TrainingOptions(
    steps=4, batch_size=8, warmup_steps=1, log_every=4, learning_rate=1e-2, weight_decay=0.1, ema=0.0
)


def three_tasks(folder: Path) -> list[tuple[Task, WindowDataset]]:
    """Tasks and their demonstrations."""
    return [(find_task(name), make_dataset(folder, name, episodes=4, seed=seed)) for seed, name in enumerate(NAMES)]


def small_policy(head: str = "regression", seed: int = 0) -> Policy:
    """One with layers for adapters."""
    return make_policy(head, seed, backbone="lowdim_transformer", width=16, layers=2, heads=2)


def learn(strategy: Strategy, policy: Policy, tasks: list[tuple[Task, WindowDataset]], first: int = 0) -> None:
    """Tasks one after another, as a run does; `first` is the stage of the first of them."""
    for stage, (task, data) in enumerate(tasks, first):
        strategy.begin_task(task, policy, data)
        fit(policy, data, strategy, TRAINING, seed=0, stage=stage)
        strategy.end_task(task, policy, data)


def observations(tasks: list[tuple[Task, WindowDataset]], count: int = 8) -> tuple[ObservationBatch, list[int]]:
    """The last windows of every task in one batch, and which task each is of."""
    from vla_cl.data import concatenate_observations

    parts = [data.batch(range(len(data) - count, len(data))).observation for _, data in tasks]
    return concatenate_observations(parts), [index for index in range(len(tasks)) for _ in range(count)]


def speak(policy: Policy, adapter: str, std: float = 0.2) -> None:
    """Give an adapter an effect, as if it had been trained for long."""
    from vla_cl.policies.adapters import factors

    generator = torch.Generator().manual_seed(len(adapter))
    with torch.no_grad():
        for each in factors(policy, adapter).values():
            each.up.copy_(torch.randn(each.up.shape, generator=generator) * std)


def snapshot(module: Any) -> dict[str, Tensor]:
    """Copies of all parameters."""
    return {name: each.detach().clone() for name, each in module.named_parameters()}
