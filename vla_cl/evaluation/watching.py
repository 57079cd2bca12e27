"""One episode of an evaluation, in this process and in front of somebody."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs import (
    ChunkResult,
    EnvironmentPool,
    EnvironmentSpec,
    EpisodeStart,
    ManipulationEnv,
    Observation,
    ObservationOptions,
    RenderingOptions,
    make_environment,
)
from vla_cl.envs.worker import Episode
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.evaluation.controller import Controller
from vla_cl.evaluation.options import EvaluationOptions
from vla_cl.evaluation.rollout import check_perturbed, rollout
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.evaluation.video import write_video
from vla_cl.seeding import numpy_generator
from vla_cl.tasks import Task, make_expert

FRAMES_PER_SECOND = 20


class Audience(Protocol):
    """Who is shown an episode."""

    def begin(self, env: ManipulationEnv) -> None:
        """See the initial state."""

    def see(self, env: ManipulationEnv) -> None:
        """See the state after a control step."""


def watch(
    task: Task,
    audience: Audience,
    controller: Controller | None = None,
    *,
    episode: int = 0,
    stage: int = 0,
    options: EvaluationOptions | None = None,
    observation: ObservationOptions = ObservationOptions(cameras=()),
    rendering: RenderingOptions = RenderingOptions(),
    seed: int = 0,
    plugins: Sequence[str] = (),
) -> EpisodeRow:
    """Play one episode of a task as an evaluation plays it: the same initial state, words, noise and rules.

    Args:
        task: What is tried.
        audience: Who is shown it.
        controller: Who acts; None is the task's scripted expert.
        episode: Which of the split's initial states, from 0.
        stage: Of the policy, on which its noise depends.
        options: Initial states, instructions, horizon, perturbations; None is all defaults. `episodes` does not count.
        observation: What the controller sees.
        rendering: How images are drawn.
        seed: Of the controller's noise.
        plugins: Modules or files that register what is needed.

    Returns:
        How it ended.

    Raises:
        ConfigurationError: There is no such episode, no expert, or the task cannot be tried like this.
    """
    options = replace(options or EvaluationOptions(), episodes=1)
    seeds = task.seeds[options.split]
    if not 0 <= episode < len(seeds):
        raise ConfigurationError(
            f"task {task.name!r} has {len(seeds)} initial states for {options.split}; there is no episode {episode}"
        )
    check_perturbed(task, [options], observation, plugins)
    with ShownPool(audience) as pool:
        (row,) = rollout(
            ExpertController(task, pool) if controller is None else controller,
            task,
            stage=stage,
            options=options,
            observation=observation,
            rendering=rendering,
            pool=pool,
            seed=seed,
            plugins=plugins,
            episodes=[episode],
        )
    return row


@dataclass(eq=False)
class ShownEpisode(Episode):
    """An episode that is shown after every control step."""

    see: Callable[[ManipulationEnv], None] | None = None

    def _after_step(self, steps: int, past: list[Observation]) -> Callable[[], None]:
        own = super()._after_step(steps, past)

        def after_step() -> None:
            if own is not None:
                own()
            if self.see is not None:
                self.see(self.env)

        return after_step


class ShownPool(EnvironmentPool):
    """Runs episodes one after another, in this process, before an audience.

    Args:
        audience: Who is shown them.
    """

    def __init__(self, audience: Audience) -> None:
        super().__init__(processes=1)
        self._audience = audience
        self._built: tuple[EnvironmentSpec, ManipulationEnv] | None = None
        self.episode: tuple[EpisodeStart, ShownEpisode] | None = None

    def start(self, episodes: Mapping[int, EpisodeStart]) -> dict[int, Observation]:
        """Start an episode, in place of the one before."""
        ((slot, start),) = episodes.items()
        if self._built is None or self._built[0] != start.spec:
            self.close()
            self._built = start.spec, make_environment(start.spec)
        env = self._built[1]
        episode = ShownEpisode(env, record_every=0, history=start.history, see=self._audience.see)
        self.episode = start, episode
        observation = episode.start(start.seed)
        self._audience.begin(env)
        return {slot: observation}

    def advance(self, chunks: Mapping[int, NDArray[np.float32]]) -> dict[int, ChunkResult]:
        """Advance it by a chunk of actions."""
        assert self.episode is not None, "an episode is started before it is advanced"
        ((slot, actions),) = chunks.items()
        return {slot: ChunkResult(*self.episode[1].advance(actions))}

    def close(self) -> None:
        """Close the environment."""
        super().close()
        if self._built is not None:
            self._built[1].close()
            self._built = None


class ExpertController(Controller):
    """A task's scripted expert, which looks into the simulator itself.

    Args:
        task: Names the expert.
        pool: Where the episodes run.

    Raises:
        ConfigurationError: The task has no expert.
    """

    execute = 1

    def __init__(self, task: Task, pool: ShownPool) -> None:
        self._task, self._pool = task, pool
        self._expert = make_expert(task)
        self._reset_for: ShownEpisode | None = None

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        assert self._pool.episode is not None, "an expert acts in an episode"
        start, episode = self._pool.episode
        if self._reset_for is not episode:
            self._expert.reset(episode.env, numpy_generator("watched expert", self._task.name, start.seed))
            self._reset_for = episode
        action = np.clip(self._expert.act(episode.env), -1.0, 1.0)
        return action.astype(np.float32)[None, None]


class Film:
    """An audience that makes a film of what one camera sees.

    Args:
        camera: Its name; "" is the first of the environment's.
        size: Height and width of the film in pixels.
        speed: 1 is real time, 0.5 half as fast.

    Raises:
        ConfigurationError: The speed is not positive.
    """

    def __init__(self, camera: str = "", size: int = 384, speed: float = 1.0) -> None:
        if speed <= 0:
            raise ConfigurationError(f"speed must be above 0, got {speed:g}")
        self._camera, self._size, self._speed = camera, size, speed
        self.frames: list[NDArray[np.uint8]] = []
        self._every, self._frames_per_second = 1, float(FRAMES_PER_SECOND)
        self._last: tuple[ManipulationEnv, int] | None = None

    def begin(self, env: ManipulationEnv) -> None:
        """Film the initial state."""
        self._camera = self._camera or shown_camera(env)
        per_second = env.metadata["render_fps"] * self._speed
        self._every = max(1, round(per_second / FRAMES_PER_SECOND))
        self._frames_per_second = per_second / self._every
        self._film(env)

    def see(self, env: ManipulationEnv) -> None:
        """Film the state, if it is time for a frame."""
        if env.elapsed_steps % self._every == 0:
            self._film(env)

    def write(self, path: Path) -> None:
        """Write the film.

        Raises:
            VlaClError: The encoder cannot.
        """
        write_video(path, self.frames, self._frames_per_second)

    def _film(self, env: ManipulationEnv) -> None:
        self.frames.append(env.render_camera(self._camera, self._size, self._size))


def shown_camera(env: ManipulationEnv) -> str:
    """The camera that people are shown unless they ask for another one.

    Raises:
        UnknownNameError: The environment has none.
    """
    cameras = (*env.cameras, *env.default_cameras)
    if not cameras:
        raise UnknownNameError("camera", "", env.renderer.cameras if env.renderer else [])
    return cameras[0]
