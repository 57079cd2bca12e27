"""The process that collects: attempts run here, and their outcomes go to the journal from here."""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.data.attempts import CollectionOptions, attempt_episode
from vla_cl.data.journal import Journal
from vla_cl.envs import EnvironmentSpec, ManipulationEnv, make_environment
from vla_cl.envs.process import serve
from vla_cl.tasks import Expert, Task, make_expert


@dataclass(frozen=True)
class CollectionRecipe:
    """What all attempts of a collection have in common; picklable.

    Args:
        task: The task to demonstrate.
        spec: Its environment, with what it shows.
        options: How to collect.
        journal: Where outcomes are kept.
    """

    task: Task
    spec: EnvironmentSpec
    options: CollectionOptions
    journal: Journal


class CollectionWorker:
    """Keeps one environment and runs attempts in it."""

    def __init__(self) -> None:
        self._env: ManipulationEnv | None = None
        self._expert: Expert | None = None

    def run(self, request: tuple[CollectionRecipe, int]) -> bool:
        """Run one attempt and keep its outcome; whether it succeeded."""
        recipe, attempt = request
        if self._env is None or self._expert is None:
            self._env, self._expert = make_environment(recipe.spec), make_expert(recipe.task)
        episode = attempt_episode(self._env, self._expert, recipe.task, recipe.options, attempt)
        recipe.journal.add(attempt, episode)
        return episode is not None


def main(file_descriptor: int) -> None:
    """Serve attempts until the connection closes."""
    serve(file_descriptor, {"run": CollectionWorker().run})
