"""The routing probe: whose parameters acted on which task, in rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.evaluation import PolicyController
from vla_cl.evaluation.routing_metrics import confusion_row, mean_shares, right_choices
from vla_cl.probes.result_file import ResultFile
from vla_cl.probes.subject import Learned, Subject
from vla_cl.progress import Counter, progress_bar
from vla_cl.strategies import Strategy
from vla_cl.strategies.choice import Choice
from vla_cl.tasks import Task


def probe_routing(subject: Subject) -> bool:
    """Roll the final policy out on each task, ask the strategy at every decision between which parts it chooses
    (`Strategy.choice`), and write `routing.json`.

    Returns:
        Whether it chooses at all; nothing is written where it does not.
    """
    options, end, tasks = subject.options, subject.end(), subject.probed()
    if not _chooses(subject, end):
        return False
    subject.check(tasks)
    file = ResultFile(subject.folder / "routing.json", {"episodes": options.episodes})
    with progress_bar(f"routing on {len(tasks)} tasks", len(tasks) * options.episodes) as advance:
        count = Counter(advance)
        for task in tasks:
            file.found(task.name, lambda task=task: _routing(subject, end, task, count))  # type: ignore[misc]
    return True


def _chooses(subject: Subject, end: Learned) -> bool:
    data = subject.learning.demonstrations(subject.sequence[0])
    observation = data.batch([0]).observation.to(next(end.policy.parameters()).device)
    with torch.inference_mode():
        return end.strategy.choice(observation) is not None


def _routing(subject: Subject, end: Learned, task: Task, count: Counter) -> dict[str, Any]:
    watch = ChoiceLog(end.strategy)
    controller = PolicyController(end.policy, end.strategy, next(end.policy.parameters()).device)
    controller.watch = watch
    rows = subject.rollout(controller, end.stage, task, count)
    weights, owners = watch.weights, watch.owners
    right = right_choices(task.name, owners, weights)
    heaviest = np.bincount(weights.argmax(axis=1), minlength=len(owners))
    return {
        "parts": list(watch.parts),
        "owners": [list(each) for each in owners],
        "decisions": len(weights),
        "accuracy": float(right.mean()) if any(owners) else None,
        "confusion": confusion_row(task.name, owners, weights),
        "shares": mean_shares(weights).tolist(),
        "heaviest": heaviest.tolist(),
        "episodes": [
            {"episode": row.episode, "success": row.success, "right": float(right[watch.of(row.episode)].mean())}
            for row in rows
        ],
    }


class ChoiceLog:
    """What a strategy chose at each decision of a controller that it watches (`PolicyController.watch`).

    Args:
        strategy: Bound to the controller's policy.
    """

    def __init__(self, strategy: Strategy) -> None:
        self.strategy = strategy
        self.choices: list[Choice] = []
        self.episodes: list[int] = []

    def __call__(self, observation: ObservationBatch) -> None:
        with torch.inference_mode():
            choice = self.strategy.choice(observation)
        assert choice is not None, "a strategy that chooses does so whatever it sees"
        assert observation.episode is not None, "rollouts name their episodes"
        self.choices.append(choice)
        self.episodes += [int(name.rsplit("/", 1)[-1]) for name in observation.episode]

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the M parts."""
        return self.choices[0].parts

    @property
    def owners(self) -> tuple[tuple[str, ...], ...]:
        """Of each part, whose it is."""
        return self.choices[0].owners

    @property
    def weights(self) -> NDArray[np.float64]:
        """Of each decision (n, M)."""
        return np.concatenate([choice.weights.double().cpu().numpy() for choice in self.choices])

    def of(self, episode: int) -> list[int]:
        """Which decisions were made in an episode."""
        return [row for row, index in enumerate(self.episodes) if index == episode]
