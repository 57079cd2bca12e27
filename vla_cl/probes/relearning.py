"""Fine-tuning on one task, as the run would act on it: no strategy but how the run's chooses what acts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from torch import Tensor

from vla_cl.data import Batch, ObservationBatch
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_names, adapter_parameters
from vla_cl.strategies import Strategy
from vla_cl.tasks import Task


class Relearning(Strategy):
    """Plain fine-tuning, in training and acting under what another strategy lets act; that one learns nothing more.

    Args:
        acting: The strategy of a run, bound to the policy.
        task: What is learned.
    """

    def __init__(self, acting: Strategy, task: Task) -> None:
        super().__init__(None, acting.seed)
        self.acting, self.task = acting, task
        self.needs = acting.needs  # type: ignore[misc]

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        self.acting.bind(policy)

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        observation = batch.observation
        if self.needs.task_id_at_test:
            observation = replace(observation, task=(self.task.name,) * len(observation))
        return self.acting.acting_pass(observation)

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        return self.acting.acting_pass(observation)

    def decide(self, observation: ObservationBatch, actions: Tensor) -> Tensor:
        return self.acting.decide(observation, actions)


def trained_at_first(policy: Policy) -> dict[str, bool]:
    """Which parameters a policy trains, by names that do not depend on adapters."""
    return {name.replace(".base_layer.", "."): each.requires_grad for name, each in policy.named_parameters()}


def let_train(policy: Policy, first: Mapping[str, bool]) -> bool:
    """Train what the run's first task trained, and every adapter: whatever strategies have frozen since may move.

    Args:
        policy: Any state of the run's.
        first: `trained_at_first` of the run's first checkpoint.

    Returns:
        Whether that is anything.
    """
    adapters = {name for adapter in adapter_names(policy) for name in adapter_parameters(policy, adapter)}
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name in adapters or first.get(name.replace(".base_layer.", "."), False))
    return any(parameter.requires_grad for parameter in policy.parameters())
