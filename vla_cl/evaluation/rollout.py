"""One task, many episodes at a time: who acts, in which order, on which initial states.

Rounds are synchronous. In each, the controller is asked in one batch, by ascending slot, for the episodes that are
running; then every environment executes its chunk on its own, stopping at success or at the horizon, and draws its
cameras once. An episode that ended makes room for the slot's next one, and a slot without a next one stays empty.

What a row says is a function of the controller, the task and the seed: episode e of a split starts in the split's
e-th initial state whoever acts, it always runs in slot e % slots, and the noise of its q-th query has its own seed. The
number of processes, their speed and their deaths change nothing.

Where rollouts may be stopped early, rows are looked at in the order of their episodes, too: those that count are the
same for any number of slots. Episodes that were running beyond them are left where they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs import (
    BACKENDS,
    EnvironmentPool,
    EnvironmentSpec,
    EpisodeStart,
    ObservationOptions,
    RenderingOptions,
    find_backend,
    make_environment,
)
from vla_cl.envs.perturbations import check_perturbations, condition_name, read_perturbation
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.controller import Controller
from vla_cl.evaluation.instructions import instructions_for
from vla_cl.evaluation.options import EvaluationOptions
from vla_cl.evaluation.rows import NOT_FINITE, EpisodeRow
from vla_cl.evaluation.simulation import RunningEpisode, Simulation
from vla_cl.evaluation.stopping import STOPPED, WATCHED, EpisodesInOrder
from vla_cl.evaluation.video import write_video
from vla_cl.registry import load_plugins
from vla_cl.seeding import derive_seed
from vla_cl.tasks import Task

VIDEO_FRAMES_PER_SECOND = 20

logger = logging.getLogger(__name__)


def rollout(
    controller: Controller,
    task: Task,
    *,
    stage: int,
    options: EvaluationOptions,
    observation: ObservationOptions,
    rendering: RenderingOptions = RenderingOptions(),
    pool: EnvironmentPool,
    seed: int,
    plugins: Sequence[str] = (),
    video_folder: Path | None = None,
    progress: Callable[[EpisodeRow], None] | None = None,
    tasks: Sequence[Task] = (),
    episodes: Sequence[int] | None = None,
) -> list[EpisodeRow]:
    """Roll a controller out on one task.

    Args:
        controller: Who acts.
        task: What is tried.
        stage: Index of the last learned task, -1 before any; noted in the rows and mixed into the noise.
        options: Episodes, initial states, instructions, slots, early stopping and videos.
        observation: What the controller sees.
        rendering: How it is drawn.
        pool: Processes that simulate, still open afterwards.
        seed: Of the controller's noise. Initial states do not depend on it.
        plugins: Modules or files that register the task's backend.
        video_folder: Where the first `options.videos` episodes are filmed in real time: `<task>.mp4`, then
            `<task>-episode-N.mp4`. None films nothing.
        progress: Called with the row of each episode as it ends, of those too that early stopping then leaves out.
        tasks: Those that are evaluated together, whose instructions may be swapped.
        episodes: Which of the task's episodes; None is all.

    Returns:
        One row an episode, by ascending episode: all, or as many of the first ones as it took to stop early.

    Raises:
        ConfigurationError: The split holds fewer initial states than episodes are asked for, or the controller
            returned something that is not chunks of at least `controller.execute` actions.
        SimulationError: The simulator keeps failing.
    """
    film = video_folder is not None and options.videos > 0
    record_every = _record_every(task, plugins) if film else 0
    wanted = range(options.episodes) if episodes is None else episodes
    check_task(task, options, plugins, tasks)
    spec = options.applied_to(task.environment_spec(observation, rendering, plugins))
    waiting = _queues(task, options, spec, record_every, controller.history, tasks, wanted)
    simulation = Simulation(pool)
    rows: list[EpisodeRow] = []
    in_order = EpisodesInOrder(options.early_stop)
    enough = None
    while enough is None and (waiting or simulation.running):
        free = [slot for slot in waiting if slot not in simulation.running]
        if free:
            simulation.start({slot: waiting[slot].pop(0) for slot in free})
            waiting = {slot: queue for slot, queue in waiting.items() if queue}
        chunks = _ask(controller, simulation.running, task.name, (seed, "rollout", task.name, stage))
        for slot in simulation.running.keys() - chunks.keys():
            simulation.fail(slot, NOT_FINITE)
        for episode in simulation.advance(chunks):
            rows.append(_row(episode, task, stage, options))
            if video_folder is not None and episode.frames:
                write_video(_film(video_folder, task, episode.index), episode.frames, VIDEO_FRAMES_PER_SECOND)
            if progress is not None:
                progress(rows[-1])
            enough = enough or in_order.enough([(episode.index, episode.success)])
    rows = sorted(rows, key=lambda row: row.episode)[:enough]
    if enough is not None and enough < options.episodes:
        logger.info("%s: decided after %d of %d episodes", task.name, enough, options.episodes)
        rows[-1] = replace(rows[-1], stopping=STOPPED)
        for left_out in range(enough, options.videos):
            if video_folder is not None:
                _film(video_folder, task, left_out).unlink(missing_ok=True)
    _warn_of_actions(rows, stage)
    return rows


def check_task(task: Task, options: EvaluationOptions, plugins: Sequence[str] = (), tasks: Sequence[Task] = ()) -> None:
    """Find out, before anything is simulated, whether a task can be evaluated like this, among these tasks.

    Raises:
        ConfigurationError: The split holds fewer initial states than episodes are asked for, the task is not told in
            that way, or its backend takes no such arguments.
        UnknownNameError: Nobody registered its backend.
    """
    seeds = task.seeds[options.split]
    if len(seeds) < options.episodes:
        raise ConfigurationError(
            f"task {task.name!r} has {len(seeds)} initial states for {options.split}; "
            f"lower evaluation.episodes from {options.episodes}"
        )
    instructions_for(task, options.told, tasks)
    find_backend(options.applied_to(task.environment_spec(plugins=plugins)))


def check_perturbed(
    task: Task, conditions: Sequence[EvaluationOptions], observation: ObservationOptions, plugins: Sequence[str] = ()
) -> None:
    """Find out, before anything is simulated, whether a task can be perturbed as any of these conditions says.

    Its environment is built once, unless no condition changes the world.

    Raises:
        ConfigurationError: It cannot; the message names the perturbation and what the task lacks.
    """
    wanted = {label: None for options in conditions for label in options.world_perturbations}
    if not wanted:
        return
    spec = replace(conditions[0], perturbations=[]).applied_to(task.environment_spec(observation, plugins=plugins))
    with closing(make_environment(spec)) as env:
        for label in wanted:
            env.restart(seed=task.seeds[conditions[0].split][0])
            check_perturbations(env, [read_perturbation(label)])


def _queues(
    task: Task,
    options: EvaluationOptions,
    spec: EnvironmentSpec,
    record_every: int,
    history: int,
    tasks: Sequence[Task],
    episodes: Sequence[int],
) -> dict[int, list[RunningEpisode]]:
    """The episodes that each slot will run, in order."""
    seeds = task.seeds[options.split]
    instructions = instructions_for(task, options.told, tasks)
    queues: dict[int, list[RunningEpisode]] = {}
    for index in episodes:
        start = EpisodeStart(spec, seeds[index], record_every if index < options.videos else 0, history)
        episode = RunningEpisode(index, instructions[index % len(instructions)], start)
        queues.setdefault(index % options.slots, []).append(episode)
    return queues


def _ask(
    controller: Controller, running: dict[int, RunningEpisode], task: str, noise: tuple[int | str, ...]
) -> dict[int, NDArray[np.float32]]:
    """One batch for the controller; the actions (execute, A) that each slot is to execute, where they are finite."""
    slots = sorted(running)
    episodes = [running[slot] for slot in slots]
    observation = replace(
        _seen(episodes),
        episode=tuple("/".join(map(str, (*noise, episode.index))) for episode in episodes),
        task=(task,) * len(episodes) if controller.told_task else None,
    )
    seeds = [derive_seed(*noise, episode.index, len(episode.actions)) for episode in episodes]
    actions = np.asarray(controller.act(observation, seeds), dtype=np.float32)
    if actions.ndim != 3 or len(actions) != len(slots) or actions.shape[1] < controller.execute:
        raise ConfigurationError(
            f"a controller returns actions ({len(slots)}, at least {controller.execute}, A), got {actions.shape}"
        )
    finite = {slot: chunk for slot, chunk in zip(slots, actions, strict=True) if np.isfinite(chunk).all()}
    if controller.temporal_ensemble is not None:
        decay = controller.temporal_ensemble
        return {slot: running[slot].blend(chunk, controller.execute, decay) for slot, chunk in finite.items()}
    return {slot: chunk[: controller.execute] for slot, chunk in finite.items()}


def _seen(episodes: Sequence[RunningEpisode]) -> ObservationBatch:
    """What the episodes show now, with the past that the controller sees, too."""
    instructions = [episode.instruction for episode in episodes]
    moments = zip(*([*episode.past, episode.observation] for episode in episodes), strict=True)
    *past, present = (ObservationBatch.from_environments(moment, instructions) for moment in moments)
    return replace(present, past=tuple(past))


def _row(episode: RunningEpisode, task: Task, stage: int, options: EvaluationOptions) -> EpisodeRow:
    """What is kept of an episode that ended."""
    return EpisodeRow(
        stage=stage,
        task=task.name,
        split=options.split,
        episode=episode.index,
        seed=episode.start.seed,
        instruction=episode.instruction,
        success=episode.success,
        steps=episode.steps,
        failure="" if episode.success else episode.failure or "horizon",
        stopping=WATCHED if options.early_stop.asked_for else "",
        perturbation=condition_name(options.perturbations),
    )


def _warn_of_actions(rows: Sequence[EpisodeRow], stage: int) -> None:
    """Say once what would otherwise look like a policy that merely fails."""
    failed = [row for row in rows if row.failure == NOT_FINITE]
    if failed:
        logger.warning(
            "stage %d, task %s: in %d of %d episodes the policy's action was not finite, first in episode %d at step "
            "%d; they count as failures. Has training diverged?",
            stage, failed[0].task, len(failed), len(rows), failed[0].episode, failed[0].steps,
        )  # fmt: skip


def _film(folder: Path, task: Task, episode: int) -> Path:
    return folder / f"{task.name}{f'-episode-{episode}' if episode else ''}.mp4"


def _record_every(task: Task, plugins: Sequence[str]) -> int:
    """How many control steps lie between two frames of a film that plays in real time."""
    load_plugins(plugins)
    steps_per_second: float = BACKENDS[task.backend].metadata["render_fps"]
    return max(1, round(steps_per_second / VIDEO_FRAMES_PER_SECOND))
