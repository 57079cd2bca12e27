"""Sequential low-rank adaptation: fine-tune an adapter on each task in turn and do nothing else about forgetting.

LoRA: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", ICLR 2022 (arXiv 2106.09685), eq. 3. That it is
a strong baseline for vision-language-action models: "Simple Recipe Works: Vision-Language-Action Models are Natural
Continual Learners with Reinforcement Learning", arXiv 2603.11653.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.tasks import Task

SHARED = "shared"
"""Name of the one adapter."""


@STRATEGIES.decorator("sequential_lora")
class SequentialLoRA(LowRankStrategy):
    """`h = W x + alpha / rank B A x` with one (A, B) for all tasks; or, merged, `W <- W + alpha / rank B A` and a new
    (A, B) at each boundary.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Those of every low-rank strategy, and one.

        Args:
            merge: Whether the adapter is added to the base weights at each boundary, so that the change over all tasks
                may have any rank and acting costs nothing more.
        """

        merge: bool = False

    options: Options

    def adapter_name(self, task: Task) -> str:
        return f"task_{self.stage}" if self.options.merge else SHARED

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        name = self.owners[task.name]
        if self.options.merge and name is not None:
            self.fold_adapter(policy, name)
