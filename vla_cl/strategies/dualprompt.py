"""DualPrompt: a general prompt that all tasks share, and one a task with a key by which it is found.

Wang et al., "DualPrompt: Complementary Prompting for Rehearsal-free Continual Learning", ECCV 2022 (arXiv 2204.04799),
section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.soft_prompts import SoftPrompts
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.prompting import (
    Layout,
    PromptStrategy,
    Query,
    check_tuning,
    cosines,
    prefix_layers,
    together,
)


@STRATEGIES.decorator("dualprompt")
class DualPrompt(PromptStrategy):
    """Training task t minimises `L(f(x; g, e_t)) + lambda (1 - cos(q(x), k_t))` over the general prompt g, the task's
    prompt e_t and its key k_t (eq. 6 and 7, with the cosine distance); acting takes e_t of `t = argmax cos(q(x), k_t)`.

    Prompts are prefixes, `attention(h_Q, [p_K; h_K], [p_V; h_V])` (eq. 4): g in the first layers, e in those behind
    them. Both stand behind the projections to keys and values, as in the released code. Where a backbone takes none in
    its layers, both are tokens in the input (the paper's prompt tuning, eq. 3).

    e_t and k_t are frozen once their task is over; g goes on in every task, which is where forgetting enters. Ours: the
    query is the instruction's and the observation's features, joined; g has a learning rate of its own, lower than that
    of e_t (in the paper they share one).
    """

    @dataclass
    class Options(PromptStrategy.Options):
        """Those of every prompt strategy, and where prompts go.

        Args:
            general_length: Prompts of g in each of its layers.
            task_length: Prompts of e_t in each of its layers.
            general_layers: g is in the first so many layers, e_t in the others; 2 of a ViT's 12 in the paper. With as
                many as there are, both are in all of them.
            tuning: "prefix" (in the layers), "prompt" (in the input), or "auto": the first where the backbone takes it.
            pull: lambda, at least 0.
            general_rate: Learning rate of g, as a multiple of the policy's, at least 0.
        """

        general_length: int = 5
        task_length: int = 20
        general_layers: int = 1
        tuning: str = "auto"
        pull: float = 1.0
        general_rate: float = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key in ("general_length", "task_length", "general_layers"):
            if getattr(options, key) < 1:
                raise ConfigurationError(f"strategy.{key} must be at least 1, got {getattr(options, key)}")
        check_tuning(options.tuning)
        for key in ("pull", "general_rate"):
            if getattr(options, key) < 0:
                raise ConfigurationError(f"strategy.{key} must be at least 0, got {getattr(options, key)}")

    @property
    def layouts(self) -> tuple[Layout, Layout]:
        """Where the general prompt goes, and where a task's."""
        options = self.options
        layers = prefix_layers(self.policy, options.tuning)
        general, others = layers[: options.general_layers], layers[options.general_layers :]
        return Layout(options.general_length, general), Layout(options.task_length, others or layers)

    def grow(self, task: int) -> None:
        general, own = self.layouts
        self.make("general", general.slots, self.width)
        self.make(f"task_{task}", own.slots, self.width)
        self.make(f"key_{task}", self.query_width)

    def rate(self, name: str) -> float:
        return float(self.options.general_rate if name == "general" else self.options.rate)

    def trained(self, task: int) -> set[str]:
        return {"general", f"task_{task}", f"key_{task}"}

    def prompts_for(self, query: Query, task: int | None) -> tuple[SoftPrompts, Tensor | float]:
        general, own = self.layouts
        shared = general.arrange(self.pool["general"].expand(len(query.text), -1, -1))
        if task is not None:
            block = self.pool[f"task_{task}"].expand(len(query.text), -1, -1)
            distance = 1 - cosines(query.joined, self.pool[f"key_{task}"][None]).mean()
            return together(shared, own.arrange(block)), self.options.pull * distance
        blocks = torch.stack([self.pool[f"task_{each}"] for each in range(len(self.tasks))])
        return together(shared, own.arrange(blocks[self.chosen_tasks(query)])), 0.0

    def choice(self, observation: ObservationBatch) -> Choice | None:
        """The task whose prompt it takes."""
        return Choice.among_tasks(list(self.tasks), self.chosen_tasks(self.query(observation))) if self.tasks else None

    def chosen_tasks(self, query: Query) -> Tensor:
        """The task of the nearest key (B,)."""
        keys = torch.stack([self.pool[f"key_{each}"] for each in range(len(self.tasks))])
        return cosines(query.joined, keys).argmax(dim=1)
