"""The strategy contract: seven verbs and a state.

The training loop and the evaluator call the verbs at fixed places and never ask which strategy they talk to. A verb
that a strategy leaves alone does nothing, so the base class, used as it is, is sequential fine-tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.policies.adapters import Route, mixture
from vla_cl.registry import Registry
from vla_cl.strategies.averaging import ClientUpdate, federated_average
from vla_cl.strategies.choice import Choice
from vla_cl.tasks import Task


@dataclass(frozen=True)
class Needs:
    """What a strategy requires beyond the present task's data; the report prints it.

    Args:
        task_id_at_test: It must be told at test which task it faces (`ObservationBatch.task`).
        raw_data: It keeps demonstrations of earlier tasks.
        teacher: It keeps a copy of an earlier policy.
        lora: It needs a policy with layers that low-rank adapters fit into.
        prompts: It needs a policy with a transformer that soft prompts can pass through.
    """

    task_id_at_test: bool = False
    raw_data: bool = False
    teacher: bool = False
    lora: bool = False
    prompts: bool = False

    def __or__(self, other: Needs) -> Needs:
        """What two strategies need that run together."""
        return Needs(
            task_id_at_test=self.task_id_at_test or other.task_id_at_test,
            raw_data=self.raw_data or other.raw_data,
            teacher=self.teacher or other.teacher,
            lora=self.lora or other.lora,
            prompts=self.prompts or other.prompts,
        )


Precision = Callable[[], AbstractContextManager[Any]]
"""Makes contexts of mixed precision."""


class Strategy:
    """Base class of continual-learning strategies, built as `Strategy(options, seed)`.

    A subclass declares `Options` (a dataclass: its configuration keys) and `needs`, and overrides the verbs it uses.
    Randomness comes from generators derived from `seed` and from counters kept in the state, so that a resumed run
    draws what an uninterrupted one would have.

    The seven verbs are `begin_task`, `batch`, `loss`, `gradients`, `after_step`, `end_task` and `route`. What few
    strategies need stands beside them: modules of their own that are trained along (`modules`), learning rates
    (`learning_rate`), how long training takes (`begin_training`), what is in force while the policy computes
    (`training_pass`, `acting_pass`), a last word about actions (`decide`), what it says of its own routing (`choice`),
    what a server makes of several clients' learning (`aggregate`).

    In a run the order is: `check`, `bind`; for each task `begin_task` and `begin_training`, then for each step `batch`,
    `training_pass` around the forward and backward pass with `loss` inside, `gradients`, `after_step`; then `end_task`.
    A run that was killed between tasks calls `load_state_dict` with the state after the last `end_task`, then `bind`;
    one that was killed inside a task goes on with `begin_task`, `begin_training` and then `load_state_dict` with the
    state inside the task: whatever `begin_task` built must take that state in place, because the optimiser holds on to
    it. A checkpoint that only acts calls `load_state_dict`, `bind`, and nothing of training.

    Attributes:
        needs: What it requires.
        task_free: Whether it also works where it is told of no boundary: `begin_task` comes once, before the first
            step, `end_task` never, and all it learns from are batches (`Batch.origin` tells which windows they are).
        task_free_with: The option with which it does, where it does not by default: "keep=reservoir".
        whole_batches: Why a process must see whole batches, for a strategy whose `loss` or `training_pass` does more
            than a mean over rows: it counts, stores or draws. It is not trained by several processes then
            (`training.processes`), each of which sees its rows in these two, and everything in the other verbs.
        extra_passes: Forward passes of a step beyond the one that every strategy makes, in whole batches; the report
            prints it. A property where it depends on the stage or the options.
        acting_passes: The same for one query when acting.
        stage: Index of the present task; -1 before the first.
        training_steps: Optimiser steps of the present task's training; 0 before the first.
        policy: The policy that it was bound to.
    """

    @dataclass
    class Options:
        """No options."""

    needs: ClassVar[Needs] = Needs()
    task_free: ClassVar[bool] = False
    task_free_with: ClassVar[str] = ""
    whole_batches: ClassVar[str] = ""
    extra_passes: float = 0.0
    acting_passes: float = 0.0
    policy: Policy

    def __init__(self, options: Any, seed: int) -> None:
        self.options = options
        self.seed = seed
        self.stage = -1
        self.training_steps = 0
        self.precision: Precision = nullcontext

    def check(self, policy: Policy) -> None:
        """Before anything is collected: refuse a policy that this cannot work with. The policy is fresh, and stays so.

        Raises:
            ConfigurationError: It lacks what the strategy needs; the message says what would do.
        """

    def bind(self, policy: Policy) -> None:
        """Know the policy: called by `begin_task`, and with a restored policy after `load_state_dict`."""
        self.policy = policy

    # --- the seven verbs -----------------------------------------------------------------------------------

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """Before training on a task: grow, freeze, snapshot a teacher. Call `super().begin_task` first."""
        self.stage += 1
        self.bind(policy)

    def batch(self, batch: Batch) -> Batch:
        """Before the forward pass: mix in replay. On the CPU."""
        return batch

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        """A scalar added to the mean imitation loss."""
        return 0.0

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """After the backward pass, before clipping: project or mask `.grad` in place."""

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        """After the optimiser's step: restore what must not move. Once more after a task's last, where averaged weights
        are what is kept of it (`training.ema`), with these in place.
        """

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """After training on a task: estimate importances, prune, merge, store exemplars."""

    def route(self, observation: ObservationBatch) -> Route | None:
        """Which adapters act on these observations, with which weights; None: those that are active."""
        return None

    # --- beside them ---------------------------------------------------------------------------------------

    def modules(self) -> Mapping[str, nn.Module]:
        """The strategy's own modules that are trained along with the policy, on its device, from `begin_task` on. Their
        parameters reach `gradients` and `after_step` as `strategy.<name>.<parameter>`. Their state belongs into
        `state_dict`.
        """
        return {}

    def learning_rate(self, parameter: str) -> float:
        """By how much the learning rate of a parameter of this name is multiplied in the present task."""
        return 1.0

    def begin_training(self, steps: int, precision: Precision = nullcontext) -> None:
        """Before the first of a task's optimiser steps, or before those that are left of it.

        Args:
            steps: How many it has in all.
            precision: Makes the context of `training.precision`, in which `loss` is called. Forward passes that the
                strategy makes elsewhere in a step belong into one, too.
        """
        self.training_steps = steps
        self.precision = precision

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        """What is in force during the forward and backward pass on a batch, or on a part of one
        (`training.accumulate`): a mixture of adapters, prompts, a preference.
        """
        return nullcontext()

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        """What is in force while the policy acts on observations: the mixture that `route` says."""
        route = self.route(observation)
        return nullcontext() if route is None else mixture(self.policy, route)

    def decide(self, observation: ObservationBatch, actions: Tensor) -> Tensor:
        """The last word about what the policy would do: raw actions (B, chunk, A) in [-1, 1]."""
        return actions

    def choice(self, observation: ObservationBatch) -> Choice | None:
        """Between what it learned of tasks, how the strategy chooses when it acts on these observations, for probes of
        its routing. None where it does not choose by itself: where all parameters act, or where it is told the task.
        """
        return None

    def aggregate(self, updates: Sequence[ClientUpdate]) -> None:
        """On the server of a federation: join what its clients learned, by changing their policies and strategies in
        place. Called after every round inside a stage, and once more after all of them have called `end_task`; what the
        first of them then has is the server's, which acts, and from whose policy all begin the next stage.

        By default the weights are averaged (`federated_average`), and every client's strategy keeps its own state: what
        a client has seen does not leave it. A strategy that acts by what it knows of single tasks overrides this.
        """
        federated_average(updates)

    # --- state -----------------------------------------------------------------------------------------------

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


def trained_parameters(policy: Policy, strategy: Strategy) -> dict[str, nn.Parameter]:
    """What a step changes: the policy's parameters that are not frozen, and those of the strategy's own modules."""
    named = dict(policy.named_parameters())
    for name, module in strategy.modules().items():
        named |= {f"strategy.{name}.{key}": each for key, each in module.named_parameters()}
    return {name: parameter for name, parameter in named.items() if parameter.requires_grad}
