"""Latent replay: replay what a frozen backbone made of earlier observations, not the observations.

Pellegrini et al., "Latent Replay for Real-Time Continual Learning", IROS 2020 (arXiv 1912.01100).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES, Strategy
from vla_cl.strategies.context_memory import PRECISIONS, ContextMemory
from vla_cl.strategies.features import CHUNK
from vla_cl.tasks import Task

FREEZE_AFTER = ("first_task", "pretraining", "never")


@STRATEGIES.decorator("latent_replay")
class LatentReplay(Strategy):
    """Latent replay, with the context between backbone and head as the replay layer.

    After each task, contexts of some of its windows are stored with their normalised actions. A batch of B windows
    gives up r B rows, and the head sees r B stored contexts in their place:

        (1 - r) mean L(head(backbone(x))) + r mean L(head(stored))

    which is what a batch that is replayed to a share r weighs in experience replay, at r fewer rows through the
    backbone. The frozen backbone keeps the stored contexts true; where it is never frozen they age, the paper's name
    for it. Ours: the context as the layer (the paper chooses among a convolutional network's), freezing in place of
    the paper's slowed learning, and every head's own loss on what is replayed. Contexts are stored as the images are,
    without augmentation. A strategy that trains adapters in the backbone does not go together with this one.
    """

    whole_batches: ClassVar[str] = "it draws what it replays inside its loss"

    @dataclass
    class Options:
        """Budget, mixture and what is frozen.

        Args:
            fraction: Share of each task's windows whose contexts are kept, 0 to 1; used unless `count` is set.
            count: Number of contexts kept of each task. The paper keeps 1500 altogether.
            ratio: Share of each batch that is replayed, 0 to less than 1. The paper's batches have 5 of 6.
            precision: In which contexts are stored: "float16", "bfloat16" or "float32".
            freeze_after: When the backbone stops learning: "first_task"; "pretraining", so that the first task trains
                the head alone; or "never".
        """

        fraction: float = 0.2
        count: int | None = None
        ratio: float = 0.5
        precision: str = "float16"
        freeze_after: str = "first_task"

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.fraction <= 1.0:
            raise ConfigurationError(f"strategy.fraction must be 0 to 1, got {options.fraction}")
        if options.count is not None and options.count < 0:
            raise ConfigurationError(f"strategy.count must be at least 0, got {options.count}")
        if not 0.0 <= options.ratio < 1.0:
            raise ConfigurationError(f"strategy.ratio must be 0 to less than 1, got {options.ratio}")
        if options.precision not in PRECISIONS:
            raise ConfigurationError(
                f"strategy.precision must be one of {', '.join(PRECISIONS)}, got {options.precision!r}"
            )
        if options.freeze_after not in FREEZE_AFTER:
            raise ConfigurationError(
                f"strategy.freeze_after must be one of {', '.join(FREEZE_AFTER)}, got {options.freeze_after!r}"
            )
        self.memory = ContextMemory(options.precision)
        self.draws = 0
        self.replayed, self.fresh = 0, 1  # rows of the present batch

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.memory.drop(task.name)  # while all of a task is there, its part is out of the memory
        freeze_after = self.options.freeze_after
        if freeze_after == "pretraining" or (freeze_after == "first_task" and self.stage > 0):
            policy.backbone.requires_grad_(False)
            policy.history.requires_grad_(False)

    def batch(self, batch: Batch) -> Batch:
        replayed = round(self.options.ratio * len(batch)) if len(self.memory) else 0
        self.replayed = min(replayed, len(batch) - 1)
        self.fresh = len(batch) - self.replayed
        return batch[: self.fresh] if self.replayed else batch

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        if not self.replayed:
            return 0.0
        rows = max(1, round(len(batch) * self.replayed / self.fresh))  # of this part of the batch
        generator = numpy_generator(self.seed, "latent replay", self.draws)
        noise = torch_generator(self.seed, "latent noise", self.draws)
        self.draws += 1
        head = self.policy.head
        context, actions, padding = self.memory.sample(rows, generator, output.context)
        stored = head.loss(context, actions, padding, head.sample_noise(rows, noise).to(actions.device))
        share = self.replayed / (self.replayed + self.fresh)
        return share * (stored.mean() - output.loss.mean())

    @torch.no_grad()
    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        device = next(policy.parameters()).device
        generator = numpy_generator(self.seed, "memory", self.stage)
        windows = sorted(generator.permutation(len(data))[: self._budget(len(data))].tolist())
        for start in range(0, len(windows), CHUNK):
            batch = data.batch(windows[start : start + CHUNK]).to(device)
            context, actions = policy.context(batch.observation), policy.normalise_actions(batch.actions)
            self.memory.add(task.name, context, actions, batch.padding)

    def _budget(self, windows: int) -> int:
        """Of a task of so many windows."""
        fraction: float = self.options.fraction
        count: int | None = self.options.count
        if count is not None:
            return min(count, windows)
        return max(1, round(fraction * windows)) if fraction else 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "memory": self.memory.state_dict(), "draws": self.draws}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.memory.load_state_dict(state["memory"])
        self.draws = int(state["draws"])
