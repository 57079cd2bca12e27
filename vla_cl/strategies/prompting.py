"""What strategies share that learn tasks in soft prompts before a frozen policy (`vla_cl.policies.soft_prompts`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.policies.adapters import freeze_base
from vla_cl.policies.instruction import MINILM_DIM
from vla_cl.policies.soft_prompts import SoftPrompts, check_prompts, expect_prompts, prompted
from vla_cl.seeding import torch_generator
from vla_cl.strategies.base import Needs, Strategy
from vla_cl.strategies.features import observation_features, text_features
from vla_cl.tasks import Task

MODULE = "prompts"
"""Name of the module that holds what a strategy trains."""
SCALE = 0.02
"""Standard deviation of new prompts and keys."""
_OWN = re.compile(rf"strategy\.(?:\w+_)?{MODULE}\.(\w+)")


@dataclass(frozen=True)
class Query:
    """What prompts are chosen by: what frozen models make of B observations.

    Args:
        text: Unit vectors (B, 384) of the instructions.
        seen: Unit vectors (B, D) of what the policy makes of the observations without prompts.
    """

    text: Tensor
    seen: Tensor

    @property
    def joined(self) -> Tensor:
        """Both as one unit vector (B, 384 + D); a dot product of two is the mean of the parts' cosines."""
        return torch.cat([self.text, self.seen], dim=1) / 2**0.5


@dataclass(frozen=True)
class Layout:
    """Where the slots (B, slots, D) of a block of prompts go.

    Args:
        length: Prompts, in the input or in each layer; a prompt in a layer is a key and a value.
        layers: Those layers; () for the input.
    """

    length: int
    layers: tuple[int, ...] = ()

    @property
    def slots(self) -> int:
        """Vectors of one block."""
        return self.length * 2 * len(self.layers) if self.layers else self.length

    def arrange(self, block: Tensor) -> SoftPrompts:
        """The prompts in a block (B, slots, D): layer by layer, its keys and then its values."""
        if not self.layers:
            return SoftPrompts(tokens=block)
        pairs = block.reshape(len(block), len(self.layers), 2, self.length, -1)
        return SoftPrompts(prefixes={layer: (pairs[:, n, 0], pairs[:, n, 1]) for n, layer in enumerate(self.layers)})


def check_tuning(tuning: str) -> None:
    """Check an option that says where prompts go.

    Raises:
        ConfigurationError: It is not one that `prefix_layers` knows.
    """
    if tuning not in ("auto", "prefix", "prompt"):
        raise ConfigurationError(f"strategy.tuning must be auto, prefix or prompt, got {tuning!r}")


def prefix_layers(policy: Policy, tuning: str) -> tuple[int, ...]:
    """The layers into which prompts go as prefixes; () where they go into the input.

    Args:
        policy: That takes prompts.
        tuning: "prefix" (in the layers), "prompt" (in the input), or "auto": the first where the backbone takes it.

    Raises:
        ConfigurationError: The policy takes no prompts, or takes none in its layers, where they are asked for.
    """
    check_prompts(policy, prefixes=tuning == "prefix")
    return () if tuning == "prompt" else tuple(range(policy.backbone.prefix_layers))


class PromptStrategy(Strategy):
    """Base of strategies in which the policy is frozen, and prompts are trained that a query chooses or weighs.

    A subclass makes parameters in `grow`, says in `trained` which of them the present task trains, and makes prompts of
    them in `prompts_for`. The query costs a forward pass, in training and in acting.

    Attributes:
        pool: All parameters, by name.
        tasks: Numbers of the tasks so far, by name: a task that comes again keeps its number.
        present: The number of the task that is trained.
    """

    needs: ClassVar[Needs] = Needs(prompts=True)
    extra_passes = 1.0
    acting_passes = 1.0

    @dataclass
    class Options:
        """What is trained beside prompts, and how fast they are.

        Args:
            first_task: "full": the first task trains the whole policy together with its prompts, as suits a policy from
                scratch; it is frozen from the second task on. "head": the weights as they are count as pretrained, and
                the first task trains the head and what no pretrained model brings along. "prompts": no task trains the
                policy. Ours: the papers start from pretrained models, with a new classifier.
            head: Whether all tasks train the action head, which then forgets as in sequential fine-tuning.
            rate: Learning rate of prompts and keys, as a multiple of the policy's (L2P's and DualPrompt's is 0.03).
        """

        first_task: str = "full"
        head: bool = False
        rate: float = 10.0

    def __init__(self, options: Any, seed: int) -> None:
        super().__init__(options, seed)
        if options.first_task not in ("full", "head", "prompts"):
            raise ConfigurationError(f"strategy.first_task must be full, head or prompts, got {options.first_task!r}")
        if options.rate <= 0:
            raise ConfigurationError(f"strategy.rate must be positive, got {options.rate}")
        self.pool = nn.ParameterDict()
        self.tasks: dict[str, int] = {}
        self.present = 0
        self.penalty: Tensor | float = 0.0

    # --- what a subclass says ------------------------------------------------------------------------------

    def grow(self, task: int) -> None:
        """Make the parameters that a task needs, unless they are there."""
        raise NotImplementedError

    def trained(self, task: int) -> set[str]:
        """Names of the parameters that a task trains."""
        raise NotImplementedError

    def prompts_for(self, query: Query, task: int | None) -> tuple[SoftPrompts, Tensor | float]:
        """The prompts for a query, and what is added to the loss.

        Args:
            query: Without gradient.
            task: The task that is trained; None when acting, when nobody says which it is.
        """
        raise NotImplementedError

    def check(self, policy: Policy) -> None:
        prefix_layers(policy, getattr(self.options, "tuning", "prompt"))

    # --- parameters ----------------------------------------------------------------------------------------

    @property
    def width(self) -> int:
        """D, of a prompt."""
        return check_prompts(self.policy)

    @property
    def query_width(self) -> int:
        """Of a query, text and observation joined."""
        return MINILM_DIM + self.policy.backbone.shape.width

    def make(self, name: str, *shape: int, std: float = SCALE) -> None:
        """Make a parameter of normal numbers that depend on its name alone, unless it is there."""
        if name not in self.pool:
            self.add(name, torch.randn(shape, generator=torch_generator(self.seed, "prompts", name)) * std)

    def add(self, name: str, value: Tensor) -> None:
        """Make a parameter of a value, on the policy's device."""
        self.pool[name] = nn.Parameter(value.to(next(self.policy.parameters()).device))

    # --- verbs ---------------------------------------------------------------------------------------------

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        expect_prompts(policy)
        self.pool.to(next(policy.parameters()).device)

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        self.present = self.tasks.setdefault(task.name, len(self.tasks))
        self._freeze(policy)
        self.grow(self.present)
        trained = self.trained(self.present)
        for name, parameter in self.pool.items():
            parameter.requires_grad_(name in trained)

    def _freeze(self, policy: Policy) -> None:
        """Train of the policy what the options say."""
        trains = self.options.first_task if len(self.tasks) == 1 else "prompts"
        if trains == "head":
            freeze_base(policy)
        elif trains == "prompts":
            policy.requires_grad_(False)
            policy.head.requires_grad_(self.options.head)

    def modules(self) -> Mapping[str, nn.Module]:
        return {MODULE: self.pool}

    def learning_rate(self, parameter: str) -> float:
        return self.rate(match[1]) if (match := _OWN.fullmatch(parameter)) else 1.0

    def rate(self, name: str) -> float:
        """By how much the learning rate of a parameter of the pool is multiplied."""
        return float(self.options.rate)

    @torch.no_grad()
    def query(self, observation: ObservationBatch) -> Query:
        """What prompts for these observations are chosen by."""
        device = next(self.policy.parameters()).device
        return Query(text_features(observation.instruction, device), observation_features(self.policy, observation))

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        prompts, self.penalty = self.prompts_for(self.query(batch.observation), self.present)
        return prompted(self.policy, prompts)

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        return self.penalty

    @torch.no_grad()
    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        if not self.tasks:  # nothing was learned yet
            return prompted(self.policy, None)
        prompts, _ = self.prompts_for(self.query(observation), None)
        return prompted(self.policy, prompts)

    # --- state ---------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        pool = {name: parameter.detach() for name, parameter in self.pool.items()}
        return {**super().state_dict(), "pool": pool, "tasks": dict(self.tasks)}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.tasks = {str(task): int(number) for task, number in state["tasks"].items()}
        for name, value in state["pool"].items():
            if name in self.pool:
                self.pool[name].copy_(value)
            else:
                self.pool[name] = nn.Parameter(value.clone())


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """Cosine similarities (B, N) of queries (B, Q) and keys (N, Q)."""
    return F.normalize(query, dim=-1) @ F.normalize(keys, dim=-1).T


def together(first: SoftPrompts, second: SoftPrompts) -> SoftPrompts:
    """Two sets of prompts as one, the first before the second where they are in the same place."""
    if first.tokens is None or second.tokens is None:
        tokens = second.tokens if first.tokens is None else first.tokens
    else:
        tokens = torch.cat([first.tokens, second.tokens], dim=1)
    prefixes = dict(first.prefixes)
    for layer, pair in second.prefixes.items():
        if layer in prefixes:
            (keys, values), (more_keys, more_values) = prefixes[layer], pair
            pair = (torch.cat([keys, more_keys], dim=1), torch.cat([values, more_values], dim=1))
        prefixes[layer] = pair
    return SoftPrompts(tokens, prefixes)
