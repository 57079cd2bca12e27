"""Which tasks are tried at which stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from vla_cl.envs import EnvironmentPool, ObservationOptions, RenderingOptions
from vla_cl.errors import ConfigurationError
from vla_cl.evaluation.controller import Controller
from vla_cl.evaluation.options import EvaluationOptions
from vla_cl.evaluation.rollout import rollout
from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.tasks import Task


def tasks_at_stage(sequence: Sequence[Task], stage: int, options: EvaluationOptions) -> tuple[Task, ...]:
    """The tasks to try after learning `sequence[stage]`, without repetitions, in order of first appearance.

    Args:
        sequence: The tasks in the order of learning.
        stage: Index of the last learned task; -1 before any.
        options: `zero_shot` asks for all tasks at stage -1, `upper_triangle` for all tasks at every later one.

    Returns:
        At stage -1 all tasks or none; later the tasks learned so far, or all.

    Raises:
        ConfigurationError: There is no such stage.
    """
    if not -1 <= stage < len(sequence):
        raise ConfigurationError(f"stage {stage} is out of range for a sequence of {len(sequence)} tasks")
    if stage == -1:
        tried = sequence if options.zero_shot else ()
    else:
        tried = sequence if options.upper_triangle else sequence[: stage + 1]
    return tuple({task.name: task for task in tried}.values())


def evaluate_stage(
    controller: Controller,
    sequence: Sequence[Task],
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
) -> list[EpisodeRow]:
    """Roll a controller out on every task that the protocol asks for at a stage; see `tasks_at_stage` and `rollout`.

    Returns:
        The rows of one row of the success matrix, task by task.
    """
    rows: list[EpisodeRow] = []
    for task in tasks_at_stage(sequence, stage, options):
        rows += rollout(
            controller,
            task,
            stage=stage,
            options=options,
            observation=observation,
            rendering=rendering,
            pool=pool,
            seed=seed,
            plugins=plugins,
            video_folder=video_folder,
            progress=progress,
            tasks=sequence,
        )
    return rows
