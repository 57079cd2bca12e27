"""What strategies share that learn from a frozen copy of the policy as it was before the present task."""

from __future__ import annotations

from copy import deepcopy
from typing import Any, ClassVar

import torch
from torch import Tensor

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.policies import Context, Policy
from vla_cl.policies.adapters import adapter_names, adapter_parameters
from vla_cl.strategies.base import Needs, Strategy
from vla_cl.tasks import Task


class Distillation(Strategy):
    """Base of strategies with a teacher: the policy as it is when a task begins, from the second task on.

    The teacher is no part of the state. Training that was killed inside a task goes on with `begin_task` on the policy
    of the last boundary, which is the teacher.

    Attributes:
        teacher: None in the first task, and between tasks.
    """

    needs: ClassVar[Needs] = Needs(teacher=True)

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        self.teacher: Policy | None = None

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.teacher = frozen_copy(policy) if self.stage > 0 else None

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        self.teacher = None

    @property
    def extra_passes(self) -> float:  # type: ignore[override]
        """The teacher's."""
        return 1.0 if self.stage > 0 else 0.0


def frozen_copy(policy: Policy) -> Policy:
    """A policy that computes what this one computes now, and goes on to while this one learns.

    What is frozen in the policy, but for adapters, is not copied but shared, so that beside a large frozen backbone a
    teacher weighs little.
    """
    of_adapters = {
        id(each) for name in adapter_names(policy) for each in adapter_parameters(policy, name).values()
    }  # which a task that comes again goes on training
    shared = {id(each): each for each in policy.parameters() if not each.requires_grad and id(each) not in of_adapters}
    return deepcopy(policy, shared).requires_grad_(False).eval()


@torch.no_grad()
def context_of(teacher: Policy, observation: ObservationBatch) -> Context:
    """What a teacher makes of observations."""
    return teacher.context(observation)


def divergence_from(
    teacher: Policy, policy: Policy, batch: Batch, noise: Tensor, context: Context, teachers: Context
) -> Tensor:
    """D(teacher | policy) (B,): how far what the policy predicts is from what its teacher does, by the measure of their
    head (`ActionHead.divergence`), at the same actions and the same noise.

    Args:
        teacher: Frozen.
        policy: That learns.
        batch: B windows.
        noise: (B, M).
        context: The policy's, of the windows' observations.
        teachers: The teacher's.
    """
    actions = policy.normalise_actions(batch.actions)
    with torch.no_grad():
        reference = teacher.head.predict(teachers, actions, noise)
    return policy.head.divergence(policy.head.predict(context, actions, noise), reference, batch.padding)
