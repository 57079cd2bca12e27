"""After LLaVA-c: keep what the previous policy does when told other things; merge along singular directions.

Liu et al., "LLaVA-c: Continual Improved Visual Instruction Tuning", 2025 (arXiv 2506.08666). The paper's abstract names
spectral-aware consolidation, for the balance of tasks, and unsupervised inquiry regularisation, against the degradation
of the base model; the mechanics of both are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import numpy_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.distillation import Distillation, context_of, divergence_from
from vla_cl.strategies.weights import snapshot, trained_weights
from vla_cl.tasks import Task


@STRATEGIES.decorator("llava_c")
class LLaVAc(Distillation):
    """While learning: `loss + strength * mean D(old(o, i) | new(o, i))` on inquiries (o, i).

    Inquiries are unlabelled: what is seen in the present task (o), paired with what earlier tasks were told (i), in all
    their paraphrases. So the policy may not learn that nothing but the present instruction is ever meant. D is the
    head's divergence from the policy at the last boundary, at the window's actions and noise.

    At a boundary: each weight matrix's change is merged along its singular directions (`consolidated`): what carries
    little of it is dropped, and a direction that earlier tasks have moved the matrix along is gone only as far as
    balances them. The first task's changes are kept whole.
    """

    whole_batches: ClassVar[str] = "it draws inquiries inside its loss"

    @dataclass
    class Options:
        """Inquiries and consolidation.

        Args:
            strength: Weight of the divergence on inquiries, at least 0.
            inquiries: How many there are for each row of a batch, above 0 to 1.
            consolidation: Whether changes are merged at boundaries. Without, and with strength 0, this is sequential
                fine-tuning.
            energy: Share of a change's squared norm that its kept directions carry, above 0 to 1.
        """

        strength: float = 1.0
        inquiries: float = 0.5
        consolidation: bool = True
        energy: float = 0.99

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not options.strength >= 0:
            raise ConfigurationError(f"strategy.strength must be at least 0, got {options.strength}")
        for name in ("inquiries", "energy"):
            if not 0.0 < getattr(options, name) <= 1.0:
                raise ConfigurationError(f"strategy.{name} must be above 0, 1 at most, got {getattr(options, name)}")
        self.instructions: dict[str, tuple[str, ...]] = {}
        self.changes: dict[str, Tensor] = {}
        self.old: dict[str, Tensor] = {}
        self.others: list[str] = []
        self.draws = 0
        self.data: WindowDataset

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.data = data
        self.old = snapshot(trained_weights(policy)) if self.options.consolidation else {}
        own = task.instructions("paraphrased")
        told = [text for texts in self.instructions.values() for text in texts]
        self.others = [text for text in dict.fromkeys(told) if text not in own]

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        if self.teacher is None or not self.others or not self.options.strength:
            return 0.0
        inquiries = self.inquiries(batch)
        context = self.policy.context(inquiries.observation)
        teachers = context_of(self.teacher, inquiries.observation)
        noise = output.noise[: len(inquiries)]
        divergence = divergence_from(self.teacher, self.policy, inquiries, noise, context, teachers)
        loss: Tensor = self.options.strength * divergence.mean()
        return loss

    def inquiries(self, batch: Batch) -> Batch:
        """A part of a batch's windows, with instructions of earlier tasks."""
        generator = numpy_generator(self.seed, "inquiries", self.draws)
        self.draws += 1
        count = math.ceil(self.options.inquiries * len(batch))
        windows = batch[:count]
        if batch.observation.features:  # which may have been computed with the present instruction: look again
            seen = self.data.batch(generator.integers(len(self.data), size=count))
            windows = seen.to(batch.actions.device)
        texts = [self.others[int(each)] for each in generator.integers(len(self.others), size=count)]
        return replace(windows, observation=told(windows.observation, texts))

    @torch.no_grad()
    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        self.instructions[task.name] = task.instructions("paraphrased")
        for name, weight in trained_weights(policy).items():
            if name not in self.old:
                continue
            change = weight - self.old[name]
            if self.stage > 0:
                earlier = self.changes.get(name, torch.zeros_like(change)).to(change.device)
                change = consolidated(change, earlier, self.options.energy)
                weight.copy_(self.old[name] + change)
                change = earlier + change
            self.changes[name] = change
        self.old = {}

    @property
    def extra_passes(self) -> float:  # type: ignore[override]
        """Teacher and policy on the inquiries."""
        return 2.0 * self.options.inquiries if self.stage > 0 and self.options.strength else 0.0

    def state_dict(self) -> dict[str, Any]:
        instructions = [[name, list(texts)] for name, texts in self.instructions.items()]
        own = {"instructions": instructions, "changes": self.changes, "draws": self.draws}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.instructions = {str(name): tuple(texts) for name, texts in state["instructions"]}
        self.changes = dict(state["changes"])
        self.draws = int(state["draws"])


def told(observation: ObservationBatch, instructions: Sequence[str]) -> ObservationBatch:
    """The same observations under other instructions, one a row, at every moment."""
    past = tuple(replace(moment, instruction=tuple(instructions)) for moment in observation.past)
    return replace(observation, instruction=tuple(instructions), past=past)


def consolidated(change: Tensor, earlier: Tensor, energy: float) -> Tensor:
    """A weight's change, merged with that of earlier tasks along its own singular directions.

    With change = sum_i s_i u_i v_i^T and earlier changes E, the result is sum_i s_i a_i u_i v_i^T over the largest s_i
    that carry `energy` of sum_i s_i^2, where a_i = s_i / (s_i + |u_i^T E v_i|): 1 where earlier tasks have left the
    weight as it was, one half where they have gone as far.

    Args:
        change: Of this task, any shape; a matrix for each first index, a vector as one direction.
        earlier: The sum of earlier tasks' changes, of that shape.
        energy: Above 0 to 1.
    """
    rows = len(change) if change.dim() > 1 else max(1, change.numel())
    left, values, right = torch.linalg.svd(change.float().reshape(rows, -1), full_matrices=False)
    moved = ((left.T @ earlier.float().reshape(rows, -1)) * right).sum(dim=1).abs()
    carried = values.square().cumsum(dim=0) - values.square()  # by the larger ones
    kept = carried < energy * values.square().sum()
    share = torch.where(kept, values / (values + moved).clamp(min=torch.finfo(values.dtype).tiny), 0.0)
    merged: Tensor = (left * (values * share)) @ right
    return merged.reshape(change.shape).to(change.dtype)
