"""What strategies share that learn tasks in low-rank adapters (LoRA, Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapter_targets import resolve_targets
from vla_cl.policies.adapters import (
    AdapterOptions,
    add_adapter,
    fold,
    freeze_adapter,
    set_active,
    unfreeze_adapter,
)
from vla_cl.strategies.base import Needs, Strategy
from vla_cl.tasks import Task


class LowRankStrategy(Strategy):
    """Base of strategies in which tasks train low-rank adapters, and the base weights are frozen.

    `begin_task` lets the task train the adapter `adapter_name`, a new one unless it is there, and nothing else. Which
    adapters act outside of training is `route`'s to say; without a route it is those that are active, which are the
    adapter that trains until the strategy says otherwise.

    Attributes:
        owners: The adapter of each task so far, by the task's name; None where its change is in the base weights.
        adapters: Names of the adapters that the policy has, oldest first.
    """

    needs: ClassVar[Needs] = Needs(lora=True)

    @dataclass
    class Options:
        """Adapters, and what the first task trains.

        Args:
            rank: r of each adapter.
            alpha: Its change is scaled by alpha / rank.
            targets: Layers of the backbone that are adapted (see `vla_cl.policies.adapters.AdapterOptions`).
            head: Whether the action head is adapted, too.
            first_task: "full": the first task trains all weights of the policy, which are then frozen, and adapters
                begin with the second task, as suits a policy from scratch. "adapter": the weights as they are count as
                pretrained, and every task has an adapter. Ours: the papers start from pretrained models.
        """

        rank: int = 16
        alpha: float = 16.0
        targets: str = "auto"
        head: bool = True
        first_task: str = "full"

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        if options.first_task not in ("full", "adapter"):
            raise ConfigurationError(f"strategy.first_task must be full or adapter, got {options.first_task!r}")
        self.adapter_options  # noqa: B018  checks them
        self.owners: dict[str, str | None] = {}
        self.adapters: list[str] = []

    @property
    def adapter_options(self) -> AdapterOptions:
        """The adapters' options."""
        options = self.options
        return AdapterOptions(options.rank, options.alpha, options.targets, options.head)

    def check(self, policy: Policy) -> None:
        self.adapted_layers(policy)

    def adapted_layers(self, policy: Policy) -> tuple[str, ...]:
        """Names, inside the policy, of the layers that the adapters adapt, whether there are any yet or not."""
        return resolve_targets(policy, self.adapter_options)

    def adapter_name(self, task: Task) -> str:
        """The adapter that a task trains: the one that it has, else one that is named after the stage."""
        return self.owners.get(task.name) or f"task_{self.stage}"

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.adapter_for(task, policy)

    def adapter_for(self, task: Task, policy: Policy) -> str | None:
        """Let a task train its adapter alone: grow one, or go on with the one that it has.

        Every other weight is frozen, and the adapter is the only active one. Where the first task trains the base
        weights, nothing is frozen for it.

        Returns:
            The adapter's name; None for a task that trains the base weights.

        Raises:
            ConfigurationError: The policy came with an adapter of its own.
        """
        foreign = [name for name in policy.adapters if name not in self.adapters]
        if foreign:
            raise ConfigurationError(
                f"the policy has adapter {foreign[0]!r}, and the strategy adds its own; leave policy.adapter empty, "
                "and run one strategy with adapters at a time"
            )
        if self.options.first_task == "full" and set(self.owners) <= {task.name}:
            self.owners[task.name] = None
            return None
        policy.requires_grad_(False)
        name = self.owners[task.name] = self.adapter_name(task)
        if name not in policy.adapters:
            add_adapter(policy, name, self.adapter_options, self.seed)
            self.adapters.append(name)
        unfreeze_adapter(policy, name)
        set_active(policy, [name])
        return name

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """Freeze the task's adapter."""
        name = self.owners[task.name]
        if name is not None:
            freeze_adapter(policy, name)

    def fold_adapter(self, policy: Policy, name: str) -> None:
        """Add an adapter's change to the base weights for good: W <- W + alpha / rank B A."""
        fold(policy, name)
        self.adapters.remove(name)
        self.owners = {task: None if owner == name else owner for task, owner in self.owners.items()}

    def state_dict(self) -> dict[str, Any]:
        owners = [[task, name] for task, name in self.owners.items()]
        return {**super().state_dict(), "owners": owners, "adapters": list(self.adapters)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.owners = {str(task): name for task, name in state["owners"]}
        self.adapters = [str(name) for name in state["adapters"]]
