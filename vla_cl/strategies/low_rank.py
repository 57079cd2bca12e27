"""What strategies share that learn tasks in low-rank adapters (LoRA, Hu et al., arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from vla_cl.data import WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import AdapterOptions, add_adapter, freeze_adapter, set_active, unfreeze_adapter
from vla_cl.strategies.base import Needs, Strategy
from vla_cl.tasks import Task


class LowRankStrategy(Strategy):
    """Base of strategies in which every task trains an adapter of its own, and the base weights are frozen.

    `begin_task` calls `adapter_for`: a task that comes again goes on with its adapter. Which adapters act outside of
    training is `route`'s to say; those that train are active.

    Attributes:
        owners: The adapter of each task so far, by the task's name; None for one that trained the base weights.
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

    @property
    def adapter_options(self) -> AdapterOptions:
        """The adapters' options."""
        options = self.options
        return AdapterOptions(options.rank, options.alpha, options.targets, options.head)

    @property
    def adapters(self) -> list[str]:
        """Names of the adapters so far, oldest first."""
        return list(dict.fromkeys(name for name in self.owners.values() if name is not None))

    def adapter_for(self, task: Task, policy: Policy) -> str | None:
        """Let a task train its adapter alone: grow one, or go on with the one that the task has.

        Every other weight is frozen, and the adapter is the only active one. Where the first task trains the base
        weights, nothing is frozen for it.

        Returns:
            The adapter's name; None for a task that trains the base weights.
        """
        if task.name not in self.owners:
            full = not self.owners and self.options.first_task == "full"
            self.owners[task.name] = None if full else f"task_{len(self.owners)}"
        name = self.owners[task.name]
        if name is None and len(self.owners) == 1:
            return None
        policy.requires_grad_(False)
        if name is None:  # the task of the base weights again, which later adapters lean on
            name = self.owners[task.name] = f"task_{list(self.owners).index(task.name)}"
        if name not in policy.adapters:
            add_adapter(policy, name, self.adapter_options, self.seed)
        unfreeze_adapter(policy, name)
        set_active(policy, [name])
        return name

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        """Freeze the task's adapter."""
        name = self.owners[task.name]
        if name is not None:
            freeze_adapter(policy, name)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "owners": [[task, name] for task, name in self.owners.items()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.owners = {str(task): name for task, name in state["owners"]}
