"""PackNet: every task owns a part of the weights, which nothing changes once it is learned.

Mallya & Lazebnik, "PackNet: Adding Multiple Tasks to a Single Network by Iterative Pruning", CVPR 2018
(arXiv 1711.05769). Equal shares are Continual World's (Wolczyk et al., NeurIPS 2021, arXiv 2105.10919), 75 % are the
paper's and LIBERO's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy
from vla_cl.tasks import Task

FREE = 0
"""Owner of weights that no task owns; the task of stage k is owner k + 1."""
LAST_OWNER = 255


def prunable_weights(policy: Policy) -> dict[str, nn.Parameter]:
    """The weights of linear layers and convolutions that are trained, unless something else uses them, too."""
    layers = [each for each in policy.modules() if isinstance(each, nn.Linear | nn.modules.conv._ConvNd)]
    others = {
        id(parameter)
        for module in policy.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if not (isinstance(module, nn.Linear | nn.modules.conv._ConvNd) and name == "weight")
    }
    own = {id(layer.weight) for layer in layers if layer.weight.requires_grad} - others
    return {name: parameter for name, parameter in policy.named_parameters() if id(parameter) in own}


@torch.no_grad()
def prune(weight: Tensor, owner: Tensor, label: int, keep: float) -> None:
    """Give a share `keep` of the free elements of a weight, those of largest magnitude, to an owner, and set the other
    free ones to 0. Both tensors, of one shape, are changed in place.
    """
    free = owner == FREE
    count = round(keep * int(free.sum()))
    kept = weight.abs().masked_fill(~free, -1.0).flatten().topk(count).indices
    owners = owner.flatten().clone()  # of a convolution the weight may lie channels last
    owners[kept] = label
    owner.copy_(owners.reshape(owner.shape))
    weight.masked_fill_(owner == FREE, 0.0)


@STRATEGIES.decorator("packnet")
class PackNet(Strategy):
    """A task trains the free weights; then, per layer, those of largest magnitude become its own and the others are set
    to 0 and left free; then it goes on training its own weights. What earlier tasks own is used and never changes. A
    task acts with its own weights and those of earlier tasks, all others being 0:

        theta_t = sum_(i <= t) M_i * theta,  M_i in {0, 1} disjoint, * by element

    Biases, norms, embeddings and whatever else is no weight of a layer learn with the first task and are frozen then.
    Ours: both phases share the task's steps and its schedule, so that a task costs what it costs elsewhere; a task that
    comes again gets weights anew; one that was never learned is met with all weights.
    """

    needs: ClassVar[Needs] = Needs(task_id_at_test=True)

    @dataclass
    class Options:
        """Shares.

        Args:
            prune: Share of the free weights that a task leaves free, above 0 and below 1; used unless `tasks` is set.
            tasks: Number of tasks among which the weights are shared equally, at least 1: a task before n others leaves
                n / (n + 1) of the free weights.
            prune_at: After which share of a task's steps its weights are pruned, above 0, at most 1.
        """

        prune: float = 0.75
        tasks: int | None = None
        prune_at: float = 0.5

    options: Options

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 < options.prune < 1.0:
            raise ConfigurationError(f"strategy.prune must be above 0 and below 1, got {options.prune}")
        if options.tasks is not None and options.tasks < 1:
            raise ConfigurationError(f"strategy.tasks must be at least 1, got {options.tasks}")
        if not 0.0 < options.prune_at <= 1.0:
            raise ConfigurationError(f"strategy.prune_at must be above 0, at most 1, got {options.prune_at}")
        self.owners: dict[str, Tensor] = {}
        self.labels: dict[str, int] = {}
        self.done = 0
        self.pruned = False
        self.trainable: dict[str, Tensor] = {}
        self.held: dict[str, Tensor] = {}

    @property
    def label(self) -> int:
        """Owner's number of the present task."""
        return self.stage + 1

    @property
    def keep(self) -> float:
        """Share of the free weights that the present task keeps."""
        if self.options.tasks is None:
            return 1.0 - self.options.prune
        return 1.0 / max(1, self.options.tasks - self.stage)

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        named = dict(policy.named_parameters())
        self.weights = {name: named[name] for name in self.owners}
        self.owners = {name: owner.to(named[name].device) for name, owner in self.owners.items()}

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        if not self.owners:
            self.weights = prunable_weights(policy)
            self.owners = {name: torch.zeros_like(each, dtype=torch.uint8) for name, each in self.weights.items()}
        else:
            for name, parameter in policy.named_parameters():
                parameter.requires_grad_(name in self.owners)
        self._check_room(task)
        self.labels[task.name] = self.label
        self.done, self.pruned = 0, False
        self._hold()

    def _check_room(self, task: Task) -> None:
        if self.label > LAST_OWNER or not any(bool((owner == FREE).any()) for owner in self.owners.values()):
            raise ConfigurationError(
                f"earlier tasks own all weights, and task {task.name!r} of stage {self.stage} finds none; raise "
                f"strategy.tasks (now {self.options.tasks}) or leave it out"
            )

    @torch.no_grad()
    def _hold(self) -> None:
        """Know what trains now, and the values of what does not."""
        owner = self.label if self.pruned else FREE
        self.trainable = {name: each == owner for name, each in self.owners.items()}
        self.held = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, trainable in self.trainable.items():
            gradient = parameters[name].grad
            if gradient is not None:
                gradient.mul_(trainable)

    @torch.no_grad()
    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for name, trainable in self.trainable.items():  # weight decay and momentum have moved what had no gradient
            parameters[name].copy_(torch.where(trainable, parameters[name], self.held[name]))
        self.done += 1
        if self.done == max(1, round(self.options.prune_at * self.training_steps)):
            self._prune()

    def _prune(self) -> None:
        for name, weight in self.weights.items():
            prune(weight, self.owners[name], self.label, self.keep)
        self.pruned = True
        self._hold()

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        if not self.pruned:
            self._prune()
        self.trainable, self.held = {}, {}

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        label = self.labels.get(observation.task[0]) if observation.task else None
        return nullcontext() if label in (None, self.label) else self._as_of(label)

    @contextmanager
    def _as_of(self, label: int) -> Iterator[None]:
        """The weights as a task left them: those of later owners are 0."""
        with torch.no_grad():
            present = {name: weight.clone() for name, weight in self.weights.items()}
            for name, weight in self.weights.items():
                weight.masked_fill_(self.owners[name] > label, 0.0)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, weight in self.weights.items():
                    weight.copy_(present[name])

    def state_dict(self) -> dict[str, Any]:
        own = {"owners": self.owners, "labels": self.labels, "done": self.done, "pruned": self.pruned}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.owners = dict(state["owners"])
        self.labels = {str(task): int(label) for task, label in state["labels"].items()}
        self.done, self.pruned = int(state["done"]), bool(state["pruned"])
        if self.held:  # inside a task: the policy is that of the state
            self.bind(self.policy)
            self._hold()
