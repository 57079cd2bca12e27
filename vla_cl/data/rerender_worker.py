"""The process that draws stored demonstrations again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vla_cl.data.attempts import observe_states, stack_observations
from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.envs import EnvironmentSpec, ManipulationEnv, make_environment
from vla_cl.envs.process import serve


@dataclass(frozen=True)
class RerenderRecipe:
    """What drawing all demonstrations of a file has in common; picklable.

    Args:
        path: The demonstration file.
        spec: Its environment, with what it is to show.
    """

    path: Path
    spec: EnvironmentSpec


class RerenderWorker:
    """Keeps one environment and observes states in it."""

    def __init__(self) -> None:
        self._env: ManipulationEnv | None = None
        self._file: DemonstrationFile | None = None

    def run(self, request: tuple[RerenderRecipe, int]) -> dict[str, NDArray[Any]]:
        """What is seen in the T + 1 states of one demonstration, by key of a demonstration file."""
        recipe, index = request
        if self._env is None or self._file is None:
            self._env, self._file = make_environment(recipe.spec), DemonstrationFile(recipe.path)
        episode = self._file.episode(index, keys=())
        self._env.set_state(episode.states[-1])
        self._env.advance(episode.executed_actions[-1])
        states = [*episode.states, self._env.get_state()]
        return stack_observations(observe_states(self._env, states), len(states))


def main(file_descriptor: int) -> None:
    """Serve demonstrations until the connection closes."""
    serve(file_descriptor, {"run": RerenderWorker().run})
