"""ModalPrompt: a few prompt tokens a task, found by prototypes in the space of texts and of what is seen.

Zeng et al., "ModalPrompt: Towards Efficient Multimodal Continual Instruction Tuning with Dual-Modality Guided Prompt",
EMNLP 2025 (arXiv 2410.05849); what the paper leaves open as in its released code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError
from vla_cl.policies.instruction import MINILM_DIM
from vla_cl.policies.soft_prompts import SoftPrompts
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.prompting import PromptStrategy, Query, cosines


@STRATEGIES.decorator("modalprompt")
class ModalPrompt(PromptStrategy):
    """Task t has prompt tokens x_t and an MLP phi_t; the mean of phi_t(x_t) over tokens is its prototype. How well it
    fits an observation x with features v (seen) and u (text) is

        s_t(x) = lambda cos(v, prototype_t) + (1 - lambda) cos(u, prototype_t).

    Acting, the observation takes the prompts of the best `select` tasks, the best of them next to its own tokens.
    Training task t, it takes those of t and of the best others, which are frozen, so that what they know is passed on:

        L + (1 - cos(v, prototype_t)) + (1 - cos(u, prototype_t))

    Ours: the paper's texts and images share CLIP's space. Here they do not, so phi_t ends in a prototype for each.
    """

    @dataclass
    class Options(PromptStrategy.Options):
        """Those of every prompt strategy, and the tokens'.

        Args:
            length: Tokens of a task.
            select: Tasks whose prompts an observation takes, at least 1; 3 in the paper's code. With 1 nothing is
                passed on from task to task.
            balance: lambda, 0 (text alone) to 1 (what is seen alone).
        """

        length: int = 10
        select: int = 1
        balance: float = 0.5

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        for key in ("length", "select"):
            if getattr(options, key) < 1:
                raise ConfigurationError(f"strategy.{key} must be at least 1, got {getattr(options, key)}")
        if not 0.0 <= options.balance <= 1.0:
            raise ConfigurationError(f"strategy.balance must be 0 to 1, got {options.balance}")

    def grow(self, task: int) -> None:
        width, told = self.width, self.query_width
        self.make(f"prompt_{task}", self.options.length, width)
        self.make(f"hidden_{task}", width, width, std=width**-0.5)
        self.make(f"output_{task}", told, width, std=width**-0.5)

    def trained(self, task: int) -> set[str]:
        return {f"prompt_{task}", f"hidden_{task}", f"output_{task}"}

    def prototypes(self) -> Query:
        """Of all tasks so far (T): one in the space of texts, one in that of what is seen."""
        found = []
        for task in range(len(self.tasks)):
            hidden = F.silu(F.linear(self.pool[f"prompt_{task}"], self.pool[f"hidden_{task}"]))
            found.append(F.linear(hidden, self.pool[f"output_{task}"]).mean(dim=0))
        stacked = torch.stack(found)
        return Query(stacked[:, :MINILM_DIM], stacked[:, MINILM_DIM:])

    def similarities(self, query: Query) -> tuple[Tensor, Tensor]:
        """Cosines (B, T) of texts, and of what is seen, with each task's prototype."""
        prototypes = self.prototypes()
        return cosines(query.text, prototypes.text), cosines(query.seen, prototypes.seen)

    def fits(self, told: Tensor, seen: Tensor) -> Tensor:
        """s (B, T), from the cosines."""
        balance: float = self.options.balance
        return (1 - balance) * told + balance * seen

    def choice(self, observation: ObservationBatch) -> Choice | None:
        """The task that fits best; with `select` above 1, others act beside it."""
        return Choice.among_tasks(list(self.tasks), self.chosen_tasks(self.query(observation))) if self.tasks else None

    def chosen_tasks(self, query: Query) -> Tensor:
        """The task that fits best (B,)."""
        return self.fits(*self.similarities(query)).argmax(dim=1)

    def prompts_for(self, query: Query, task: int | None) -> tuple[SoftPrompts, Tensor | float]:
        told, seen = self.similarities(query)
        fits = self.fits(told, seen)
        if task is not None:  # the present task's prompt is always among them, and next to the observation's tokens
            fits = fits.detach().clone()
            fits[:, task] = torch.inf
        chosen = fits.topk(min(self.options.select, len(self.tasks)), dim=1).indices.flip(1)
        prompts = torch.stack([self.pool[f"prompt_{each}"] for each in range(len(self.tasks))])[chosen]
        penalty = 0.0 if task is None else (1 - told[:, task]).mean() + (1 - seen[:, task]).mean()
        return SoftPrompts(prompts.flatten(1, 2)), penalty
