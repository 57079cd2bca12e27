"""The strategy contract: seven verbs and a state.

The training loop calls the verbs at fixed places and never asks which strategy it talks to. A verb that a strategy
leaves alone does nothing, so the base class, used as it is, is sequential fine-tuning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.registry import Registry
from vla_cl.tasks import Task


@dataclass(frozen=True)
class Needs:
    """What a strategy requires beyond the present task's data; the report prints it.

    Args:
        task_id_at_test: It must be told at test which task it faces.
        raw_data: It keeps demonstrations of earlier tasks.
        teacher: It keeps a copy of an earlier policy.
        lora: It needs a policy with low-rank adapters.
    """

    task_id_at_test: bool = False
    raw_data: bool = False
    teacher: bool = False
    lora: bool = False


class Strategy:
    """Base class of continual-learning strategies, built as `Strategy(options, seed)`.

    A subclass declares `Options` (a dataclass: its configuration keys) and `needs`, and overrides the verbs it uses.
    Randomness comes from generators derived from `seed` and from counters kept in the state, so that a resumed run
    draws what an uninterrupted one would have.
    """

    @dataclass
    class Options:
        """No options."""

    needs: ClassVar[Needs] = Needs()

    def __init__(self, options: Any, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.stage = -1

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """Before training on a task: grow, freeze, snapshot a teacher. Call `super().begin_task` first."""
        self.stage += 1

    def batch(self, batch: Batch) -> Batch:
        """Before the forward pass: mix in replay."""
        return batch

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        """A scalar added to the mean imitation loss."""
        return 0.0

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """After the backward pass, before clipping: project or mask `.grad` in place."""

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """After the optimiser's step: restore what must not move."""

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """After training on a task: estimate importances, prune, merge, store exemplars."""

    def route(self, observation: ObservationBatch) -> Any:
        """Which adapters act on these observations, without a task id; None: the policy as it is."""
        return None

    @property
    def memory_bytes(self) -> int:
        """What the demonstrations that the strategy refers to weigh; its state's tensors are counted apart."""
        return 0

    def state_dict(self) -> dict[str, Any]:
        """Everything above, as a tree of dicts with string keys, tensors and JSON values. Extend the parent's."""
        return {"stage": self.stage}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict()`."""
        self.stage = int(state["stage"])


STRATEGIES: Registry[type[Strategy]] = Registry("strategy", "vla_cl.strategies", "vla-cl strategies")


def build_strategy(name: str, options: Mapping[str, Any], seed: int) -> Strategy:
    """Build a registered strategy from plain options (checked against its `Options`)."""
    strategy = STRATEGIES[name]
    return strategy(strategy.Options(**options), seed)
