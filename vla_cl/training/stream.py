"""What the training of a task reads, step by step: a pure function of (seed, step)."""

from __future__ import annotations

import numpy as np

from vla_cl.data import Batch, WindowDataset, batch_indices, concatenate
from vla_cl.seeding import derive_seed, numpy_generator


class TaskStream:
    """The windows of one task, epoch after epoch.

    Args:
        data: The task's windows.
        batch_size: Windows a step.
        seed: Names the order.
    """

    def __init__(self, data: WindowDataset, batch_size: int, seed: int) -> None:
        self.data = data
        self.batch_size = batch_size
        self.seed = seed

    def read(self, step: int) -> Batch:
        """The batch of a step, whatever was read before."""
        return self.data.batch(batch_indices(len(self.data), self.batch_size, self.seed, step))


class BlurredStream(TaskStream):
    """A task whose boundaries are blurry: near them, some rows come from its neighbours in the sequence.

    Within the first `blur` of the steps, a row comes from the task before with a probability that falls from one half
    to 0; within the last `blur`, it comes from the task after with a probability that rises from 0 to one half. So at a
    boundary both tasks are equally likely, on both sides of it (the task mixtures of Aljundi et al., "Task-Free
    Continual Learning", arXiv 1812.03596, section 4; linear instead of Gaussian here).

    Args:
        data: The task's windows.
        before: Those of the task before; None at the beginning of the sequence.
        after: Those of the task after; None at its end.
        steps: Of the task.
        blur: Share of the steps, at either end, that is blurry, 0 to .5.
        batch_size: Windows a step.
        seed: Names the order.
    """

    def __init__(
        self,
        data: WindowDataset,
        before: WindowDataset | None,
        after: WindowDataset | None,
        *,
        steps: int,
        blur: float,
        batch_size: int,
        seed: int,
    ) -> None:
        super().__init__(data, batch_size, seed)
        self.before, self.after, self.steps, self.blur = before, after, steps, blur

    def share(self, step: int) -> tuple[WindowDataset | None, float]:
        """The neighbour that rows of a step may come from, and with which probability each does."""
        width = self.blur * self.steps
        if step < width:
            return self.before, 0.5 * (1 - step / width)
        ahead = self.steps - 1 - step
        return (self.after, 0.5 * (1 - ahead / width)) if ahead < width else (None, 0.0)

    def read(self, step: int) -> Batch:
        own = super().read(step)
        neighbour, probability = self.share(step)
        if neighbour is None:
            return own
        generator = numpy_generator("blur", self.seed, step)
        strangers = int(np.count_nonzero(generator.random(self.batch_size) < probability))
        if not strangers:
            return own
        seed = derive_seed(self.seed, "neighbour", neighbour.task)
        others = neighbour.batch(batch_indices(len(neighbour), strangers, seed, step))
        return concatenate([own[: self.batch_size - strangers], others])
