"""MoELoRA: one mixture of low-rank experts, which every task goes on training.

Chen et al., "CoIN: A Benchmark of Continual Instruction tuNing for Multimodel Large Language Model", NeurIPS 2024
(arXiv 2403.08350), section 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import set_active
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.experts import TokenRouters, token_mixture, token_widths
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.strategies.own_modules import seeded_module
from vla_cl.tasks import Task

EXPERTS = "experts"
"""Name of the one adapter that all experts share."""


@STRATEGIES.decorator("moelora")
class MoELoRA(LowRankStrategy):
    """Each adapted layer adds alpha / r sum_i g_i(x) B_i A_i x with g(x) = softmax(W x) for every token x.

    The E experts share the rank r. All experts act on all tokens, experts and routers keep training in every task, and
    nothing guards what they knew: the experts are meant to specialise by themselves.

    Ours: what the first task does (`first_task`); with "full", experts begin with the second task.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Experts.

        Args:
            rank: r, of all experts together; a multiple of `experts`.
            alpha: The mixture is scaled by alpha / rank; the paper takes 2 r.
            experts: E; 8 in the paper.
        """

        rank: int = 32
        alpha: float = 64.0
        experts: int = 8

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        if options.experts < 1:
            raise ConfigurationError(f"strategy.experts must be at least 1, got {options.experts}")
        if options.rank % options.experts:
            raise ConfigurationError(
                f"strategy.rank must be a multiple of strategy.experts={options.experts}, got {options.rank}"
            )
        super().__init__(options, seed)
        self.routers: TokenRouters | None = None

    def adapter_name(self, task: Task) -> str:
        return EXPERTS

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        if self.routers is not None:
            self.routers.to(next(policy.parameters()).device)

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        if self.owners[task.name] is None:
            return
        set_active(policy, [])  # without their routers, they are none
        if self.routers is None:
            widths = token_widths(policy, EXPERTS)
            self.routers = seeded_module(lambda: TokenRouters(widths, self.options.experts), self.seed, "routers")
            self.bind(policy)

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """Nothing is frozen."""

    def modules(self) -> Mapping[str, nn.Module]:
        return {} if self.routers is None else {"routers": self.routers}

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        return self.mixed()

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        return self.mixed()

    def mixed(self) -> AbstractContextManager[Any]:
        """The mixture in force, once there are experts."""
        return nullcontext() if self.routers is None else token_mixture(self.policy, EXPERTS, self.routers)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "routers": {} if self.routers is None else self.routers.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if not state["routers"]:
            self.routers = None
        elif self.routers is None:
            self.routers = TokenRouters.like(state["routers"])
        else:
            self.routers.load_state_dict(state["routers"])
