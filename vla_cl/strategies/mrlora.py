"""MR-LoRA: one adapter a task, and a router that picks one for each episode.

Zhao et al., "MLLM-CL: Continual Learning for Multimodal Large Language Models", arXiv 2506.05453 (section on MR-LoRA).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.data import ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import Route
from vla_cl.strategies.base import STRATEGIES
from vla_cl.strategies.choice import Choice
from vla_cl.strategies.features import observation_features, text_features
from vla_cl.strategies.low_rank import LowRankStrategy
from vla_cl.strategies.routing import chosen_route, opening_windows, ridge_classifier
from vla_cl.tasks import Task

EPISODES = 4096
"""Of so many episodes at most is it remembered where they went."""


def router_features(policy: Policy, observation: ObservationBatch) -> Tensor:
    """What the router sees (B, 384 + D + 1): unit vectors of instruction and observation, and 1."""
    seen = observation_features(policy, observation)
    text = text_features(observation.instruction, seen.device)
    return torch.cat([text, seen, torch.ones(len(seen), 1, device=seen.device)], dim=1)


@STRATEGIES.decorator("mrlora")
class MRLoRA(LowRankStrategy):
    """Acting, the adapter of task argmax_t x W_t acts alone, chosen once an episode; tasks never share weights.

    In the paper the router is another LoRA of the language model, tuned on 20 exemplars a task to answer which expert
    should. Ours: it is ridge regression on the exemplars' frozen features, in closed form; what is stored of an
    exemplar is those features, no demonstration. The choice is made at an episode's first query and kept to its end
    (`ObservationBatch.episode`), since a robot that changes its mind halfway has two half policies; the exemplars are
    therefore moments that open episodes. Rows without an episode are routed each time.
    """

    @dataclass
    class Options(LowRankStrategy.Options):
        """Router.

        Args:
            exemplars: Stored of each task; 20 in the paper.
            ridge: Strength of the regression's penalty, positive.
        """

        exemplars: int = 20
        ridge: float = 1e-2

    options: Options
    acting_passes = 1.0

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if options.exemplars < 1:
            raise ConfigurationError(f"strategy.exemplars must be at least 1, got {options.exemplars}")
        if not options.ridge > 0.0:
            raise ConfigurationError(f"strategy.ridge must be positive, got {options.ridge}")
        self.exemplars: dict[str, Tensor] = {}
        self.router: Tensor | None = None
        self.choices: OrderedDict[str, int] = OrderedDict()

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().end_task(task, policy, data)
        windows = opening_windows(data, self.options.exemplars, self.seed, "exemplars", self.stage)
        observation = data.batch(windows).observation.to(next(policy.parameters()).device)
        self.exemplars[task.name] = router_features(policy, observation).cpu()
        self.train_router()

    def train_router(self) -> None:
        """Fit the router to all exemplars; earlier choices are forgotten."""
        self.choices.clear()
        self.router = None
        if self.exemplars:
            labels = [torch.full((len(each),), index) for index, each in enumerate(self.exemplars.values())]
            features = torch.cat(list(self.exemplars.values()))
            self.router = ridge_classifier(features, torch.cat(labels), len(labels), self.options.ridge)

    def route(self, observation: ObservationBatch) -> Route | None:
        if self.router is None or not self.adapters:
            return None
        return chosen_route(self.choose(observation), [self.owners[task] for task in self.exemplars])

    def choice(self, observation: ObservationBatch) -> Choice | None:
        if self.router is None or not self.adapters:
            return None
        return Choice.among_tasks(list(self.exemplars), torch.tensor(self.choose(observation)))

    def choose(self, observation: ObservationBatch) -> list[int]:
        """Of each row, the index of its task."""
        episodes = observation.episode or (None,) * len(observation)
        choice: dict[int, int] = {}
        for row, episode in enumerate(episodes):
            if episode is not None and episode in self.choices:
                choice[row] = self.choices[episode]
                self.choices.move_to_end(episode)
        unknown = [row for row in range(len(observation)) if row not in choice]
        if unknown:
            assert self.router is not None
            features = router_features(self.policy, observation[unknown]).cpu().double()
            for row, task in zip(unknown, (features @ self.router).argmax(dim=1).tolist(), strict=True):
                choice[row] = task
                self._remember(episodes[row], task)
        return [choice[row] for row in range(len(observation))]

    def _remember(self, episode: str | None, task: int) -> None:
        if episode is not None:
            self.choices[episode] = task
            while len(self.choices) > EPISODES:
                self.choices.popitem(last=False)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "exemplars": dict(self.exemplars)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.exemplars = dict(state["exemplars"])
        self.train_router()
