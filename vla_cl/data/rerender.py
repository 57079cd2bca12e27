"""Drawing stored demonstrations again: other cameras, another size, other effects, without collecting again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vla_cl.data.attempts import observe_states, stack_observations
from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.schema import Episode, installed_versions, observation_fields, rendering_fields
from vla_cl.envs import EnvironmentSpec, ManipulationEnv, ObservationOptions, RenderingOptions, make_environment
from vla_cl.progress import Counter, progress_bar


def rerender(
    path: Path,
    output: Path,
    observation: ObservationOptions,
    rendering: RenderingOptions = RenderingOptions(),
    *,
    plugins: Sequence[str] = (),
) -> Path:
    """Write a demonstration file with the same episodes, seen otherwise. The stored states are restored and observed.

    Args:
        path: A demonstration file.
        output: Where the new file goes; may be `path` itself.
        observation: What is stored of every step.
        rendering: How images are drawn.
        plugins: Modules or files that register the backend.

    Returns:
        `output`.

    Raises:
        DataFileError: `path` cannot be used.
        RenderingError: Images were asked for and nothing here can draw them.
    """
    with DemonstrationFile(path) as file:
        environment = file.header.environment
        spec = EnvironmentSpec(**environment, observation=observation, rendering=rendering, plugins=tuple(plugins))
        env = make_environment(spec)
        try:
            header = replace(
                file.header,
                observation=observation_fields(observation, env.cameras),
                rendering=rendering_fields(rendering),
                versions=installed_versions(),
            )
            with progress_bar(f"drawing {file.task}", len(file)) as advance:
                count = Counter(advance)
                episodes = (_drawn(env, file.episode(index), count) for index in range(len(file)))
                write_demonstrations(output, header, episodes)
        finally:
            env.close()
    return Path(output)


def _drawn(env: ManipulationEnv, episode: Episode, count: Counter) -> Episode:
    env.set_state(episode.states[-1])
    env.advance(episode.executed_actions[-1])
    states = [*episode.states, env.get_state()]
    observations = stack_observations(observe_states(env, states), len(states))
    count(episode)
    return replace(episode, observations=observations)
