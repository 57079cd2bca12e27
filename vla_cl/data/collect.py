"""Collecting demonstrations from scripted experts, by as many processes as there are cores."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vla_cl.data.attempts import CollectionOptions
from vla_cl.data.collection_worker import CollectionRecipe
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.jobs import JobProcesses
from vla_cl.data.journal import Journal
from vla_cl.data.lock import exclusively
from vla_cl.data.schema import (
    SCHEMA_VERSION,
    Header,
    environment_fields,
    installed_versions,
    observation_fields,
    rendering_fields,
)
from vla_cl.envs import BACKENDS, ObservationOptions, RenderingOptions
from vla_cl.errors import SimulationError
from vla_cl.progress import progress_bar
from vla_cl.registry import load_plugins
from vla_cl.tasks import Task, available_suites, gymnasium_id, make_expert

logger = logging.getLogger(__name__)

WORKER = "vla_cl.data.collection_worker"

ACTIONS_ARE = "the expert's own action; executed_actions is what was done: the expert's action plus noise, clipped"


def collect_demonstrations(
    task: Task,
    path: Path,
    options: CollectionOptions,
    observation: ObservationOptions,
    rendering: RenderingOptions = RenderingOptions(),
    *,
    processes: int | None = None,
    plugins: Sequence[str] = (),
) -> Path:
    """Collect successful episodes of a task's expert into one demonstration file.

    Attempt k starts from a training initial state and draws noise that are functions of (task, seed, k); the file holds
    the first `options.episodes` attempts that succeed. So its content depends neither on the number of processes nor
    on timing. Attempts that are done are kept in a hidden folder beside `path` until the file is whole: a collection
    that was killed goes on where it was when it is started again.

    Args:
        task: What to demonstrate; it names an expert.
        path: Where the file goes; what is there is replaced when the new file is whole.
        options: How many, from which seed, with how much noise.
        observation: What is stored of every step.
        rendering: How images are drawn.
        processes: Worker processes; None is one a core.
        plugins: Modules or files that register the task's backend and expert, imported in the workers.

    Returns:
        `path`.

    Raises:
        ConfigurationError: The task has no expert, or an option is out of range.
        SimulationError: The expert fails too often, or workers die again and again.
        VlaClError: The disk is full; nothing half-written stays.
    """
    path = Path(path).absolute()
    with exclusively(path):
        collect_unlocked(task, path, options, observation, rendering, processes, plugins)
    return path


def demonstrations_request(
    task: Task, options: CollectionOptions, observation: ObservationOptions, rendering: RenderingOptions
) -> dict[str, Any]:
    """Everything that decides the content of a demonstration file, as JSON values."""
    return {
        "schema_version": SCHEMA_VERSION,
        "task": task.name,
        "instruction": task.instruction,
        "expert": task.expert,
        "environment": environment_fields(task),
        "train_seeds": [task.seeds.train.start, task.seeds.train.stop, task.seeds.train.step],
        "collection": {"episodes": options.episodes, "seed": options.seed, "action_noise": options.action_noise},
        "observation": observation_fields(observation, _cameras(task, observation)),
        "rendering": rendering_fields(rendering, observation),
    }


def collect_unlocked(
    task: Task,
    path: Path,
    options: CollectionOptions,
    observation: ObservationOptions,
    rendering: RenderingOptions,
    processes: int | None,
    plugins: Sequence[str],
) -> None:
    """`collect_demonstrations` for a caller that holds the lock of `path`."""
    load_plugins(plugins)
    make_expert(task)  # says at once when there is none
    request = demonstrations_request(task, options, observation, rendering)
    journal = Journal(path, request)
    outcomes = journal.begin()
    recipe = CollectionRecipe(task, task.environment_spec(observation, rendering, plugins), options, journal)
    if outcomes:
        logger.info("%s: %d attempts were made before, going on", task.name, len(outcomes))
    with (
        progress_bar(f"collecting {task.name}", options.episodes) as advance,
        JobProcesses(WORKER, recipe, processes, options.episodes) as workers,
    ):
        schedule = _Schedule(options, outcomes)
        for attempt, success in workers.run(schedule.next_attempt):
            schedule.note(attempt, success)
            advance(schedule.successes)
    kept = schedule.kept()
    if len(kept) < options.episodes:
        made = len(schedule.outcomes)
        raise SimulationError(
            f"expert {task.expert!r} solved {task.name!r} in {len(kept)} of {made} attempts "
            f"({len(kept) / made:.0%}), {options.episodes} are wanted; raise collection.max_attempts to go on from "
            "there, or lower collection.action_noise"
        )
    header = Header(
        task=task.name,
        instruction=task.instruction,
        expert=task.expert,
        env_name=_gymnasium_name(task),
        environment=request["environment"],
        observation=request["observation"],
        rendering=request["rendering"],
        collection={**request["collection"], "actions": ACTIONS_ARE},
        versions=installed_versions(),
    )
    write_demonstrations(path, header, map(journal.episode, kept))
    journal.remove()


class _Schedule:
    """Which attempt is next, and which are kept: the first ones that succeed.

    Attempts are handed out in order, and never more than could all be wanted. So once enough have succeeded, every
    attempt before them is done too, whatever the order in which they ended.
    """

    def __init__(self, options: CollectionOptions, outcomes: Mapping[int, bool]) -> None:
        self.options = options
        self.outcomes = dict(outcomes)
        self._running: set[int] = set()

    @property
    def successes(self) -> int:
        return sum(self.outcomes.values())

    def next_attempt(self) -> int | None:
        """An attempt that has not been made, or None when none is wanted for now."""
        if self.successes + len(self._running) >= self.options.episodes:
            return None
        taken = self.outcomes.keys() | self._running
        attempt = next(each for each in range(len(taken) + 1) if each not in taken)
        if attempt >= self.options.attempts:
            return None
        self._running.add(attempt)
        return attempt

    def note(self, attempt: int, success: bool) -> None:
        """Remember how an attempt ended."""
        self._running.remove(attempt)
        self.outcomes[attempt] = success

    def kept(self) -> list[int]:
        """The attempts that make up the file."""
        return sorted(attempt for attempt, success in self.outcomes.items() if success)[: self.options.episodes]


def _cameras(task: Task, observation: ObservationOptions) -> tuple[str, ...]:
    if observation.cameras is not None:
        return tuple(observation.cameras)
    return BACKENDS[task.backend].default_cameras


def _gymnasium_name(task: Task) -> str:
    """The Gymnasium id under which some suite offers the task, else its name."""
    for suite in available_suites():
        if task in suite.tasks:
            return gymnasium_id(suite.name, task.name)
    return task.name
