"""Semi-parametric wake-sleep: an episodic memory that acts when awake, and is consolidated when asleep.

After Liu et al., "Semi-parametric Memory Consolidation: Towards Brain-like Deep Continual Learning", 2025 (arXiv
2504.14727).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vla_cl.data import Batch, ObservationBatch, WindowDataset, concatenate
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.instruction import resolve_instruction_encoder
from vla_cl.seeding import numpy_generator, torch_generator
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.episodic_memory import EpisodicMemory, memory_keys
from vla_cl.strategies.features import CHUNK
from vla_cl.strategies.rehearsal import Rehearsal
from vla_cl.tasks import Task


@STRATEGIES.decorator("wake_sleep")
class WakeSleep(Rehearsal):
    """Semi-parametric memory with wake-sleep consolidation.

    A task's steps are cut into equal days, each of which ends with a night. Awake, the policy learns the present task
    alone. Asleep, it rehearses all tasks equally: each row comes from a random earlier task's memory or, as one task
    among them, from the present one; some of the memory's rows are dreamt, i.e. seen through noise while the actions
    stay. When acting, the memory has a say: with d the distance of the nearest stored key in units of its task's scale,

        actions = (1 - w) policy + w memory,    w = trust exp(-(d / bandwidth)^2),

    where the memory's actions are the mean of the nearest neighbours' chunks. Keys and chunks are in the state, so that
    they act where no demonstrations are; consolidation reads the demonstration files.

    From the paper's abstract: a semi-parametric memory, and wake and sleep phases that consolidate it, for classifiers;
    the mechanics are not public to us. Ours: all of the above, for policies.
    """

    @dataclass
    class Options(Rehearsal.Options):
        """Those of `Rehearsal` (`keep=task` alone), sleep and retrieval.

        Args:
            days: Into how many days a task's steps are cut, at least 1.
            sleep: Share of a day that is night, 0 to 1.
            dreams: Share of the memory's rows in a night that are dreamt, 0 to 1.
            noise: Of dreams, at least 0: of a vector, in standard deviations of each number in the batch; of images,
                relative to half the range of a pixel.
            neighbours: Memories that are asked, at least 1.
            bandwidth: Distance at which the memory's say has fallen to 1/e of `trust`, above 0.
            trust: The memory's say where it knows exactly this, 0 to 1; 0 acts by the policy alone.
        """

        days: int = 4
        sleep: float = 0.5
        dreams: float = 0.25
        noise: float = 0.05
        neighbours: int = 4
        bandwidth: float = 1.0
        trust: float = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.keep != "task":
            raise ConfigurationError(f"strategy.keep must be task, since what was kept acts, got {options.keep!r}")
        for name in ("sleep", "dreams", "trust"):
            if not 0.0 <= getattr(options, name) <= 1.0:
                raise ConfigurationError(f"strategy.{name} must be 0 to 1, got {getattr(options, name)}")
        for name in ("days", "neighbours"):
            if getattr(options, name) < 1:
                raise ConfigurationError(f"strategy.{name} must be at least 1, got {getattr(options, name)}")
        if options.noise < 0:
            raise ConfigurationError(f"strategy.noise must be at least 0, got {options.noise}")
        if options.bandwidth <= 0:
            raise ConfigurationError(f"strategy.bandwidth must be above 0, got {options.bandwidth}")
        resolve_instruction_encoder("minilm")  # which keys need; refuses where it is not installed
        self.episodic = EpisodicMemory()
        self.step = 0  # of the present task
        self.nights = 0  # steps asleep in all

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.step = 0

    def batch(self, batch: Batch) -> Batch:
        night = is_asleep(self.step, self.training_steps, self.options.days, self.options.sleep)
        self.step += 1
        if not night or not len(self.memory):
            return batch
        generator = numpy_generator(self.seed, "sleep", self.nights)
        noise = torch_generator(self.seed, "dreams", self.nights)
        self.nights += 1
        tasks = np.unique(self.memory.owners)
        drawn = generator.integers(len(tasks) + 1, size=len(batch))  # the last is the present task
        rows = [
            generator.choice(np.flatnonzero(self.memory.owners == tasks[each])) for each in drawn if each < len(tasks)
        ]
        if not rows:
            return batch
        remembered = self.memory.read(rows)
        dreamt = round(self.options.dreams * len(rows))
        dreams = [dreamed(remembered[:dreamt], self.options.noise, noise)] if dreamt else []
        rest = [part for part in (remembered[dreamt:], batch[: len(batch) - len(rows)]) if len(part)]
        return concatenate([*dreams, *rest])

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        windows = self.memory.windows[self.memory.rows(data)]
        if not len(windows):
            return
        seen, device = _unfeatured(data), next(policy.parameters()).device
        keys, chunks = [], []
        for start in range(0, len(windows), CHUNK):
            batch = seen.batch(windows[start : start + CHUNK])
            keys.append(memory_keys(policy, batch.observation.to(device)).cpu())
            chunks.append(batch.actions)
        episodes = torch.from_numpy(data.window_episodes[windows])
        self.episodic.store(task.name, torch.cat(keys), torch.cat(chunks), episodes)

    def decide(self, observation: ObservationBatch, actions: Tensor) -> Tensor:
        if not len(self.episodic) or not self.options.trust:
            return actions
        keys = memory_keys(self.policy, observation)
        recalled, distance = self.episodic.recall(keys, self.options.neighbours)
        say: Tensor = self.options.trust * torch.exp(-((distance / self.options.bandwidth) ** 2))[:, None, None]
        return (1 - say) * actions + say * recalled.to(actions.dtype)

    def state_dict(self) -> dict[str, Any]:
        own = {"episodic": self.episodic.state_dict(), "step": self.step, "nights": self.nights}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.episodic.load_state_dict(state["episodic"])
        self.step, self.nights = int(state["step"]), int(state["nights"])


def is_asleep(step: int, steps: int, days: int, share: float) -> bool:
    """Whether a step of so many, cut into days, falls into a night, which is the last share of each day."""
    if step >= steps:
        return False
    hour = (step * days / steps) % 1.0
    return hour >= 1.0 - share


def dreamed(batch: Batch, noise: float, generator: torch.Generator) -> Batch:
    """Windows seen through noise; their actions stay."""

    def blurred(tensor: Tensor) -> Tensor:
        if tensor.dtype != torch.uint8 and not tensor.is_floating_point():
            return tensor
        drawn = torch.randn(tensor.shape, generator=generator)
        if tensor.dtype == torch.uint8:
            return (tensor + 127.5 * noise * drawn).round().clamp(0, 255).to(torch.uint8)
        spread = tensor.float().std(dim=0, unbiased=False)
        return (tensor + noise * spread * drawn).to(tensor.dtype)

    return Batch(batch.observation.map(blurred), batch.actions, batch.padding, batch.origin)


def _unfeatured(data: WindowDataset) -> WindowDataset:
    """The same windows with their pixels, where they hold features of them."""
    if data.features is None:
        return data
    return WindowDataset.from_description({k: each for k, each in data.describe().items() if k != "features"})
