"""Drawing stored demonstrations again: other cameras, another size, other effects, without collecting again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.jobs import JobProcesses
from vla_cl.data.rerender_worker import RerenderRecipe
from vla_cl.data.schema import Episode, Header, installed_versions, observation_fields, rendering_fields
from vla_cl.envs import BACKENDS, EnvironmentSpec, ObservationOptions, RenderingOptions
from vla_cl.progress import counted, progress_bar
from vla_cl.registry import load_plugins

WORKER = "vla_cl.data.rerender_worker"

AHEAD = 2
"""Demonstrations a process that may be drawn before they can be written: what memory is bounded by."""


def rerender(
    path: Path,
    output: Path,
    observation: ObservationOptions,
    rendering: RenderingOptions = RenderingOptions(),
    *,
    processes: int | None = None,
    plugins: Sequence[str] = (),
) -> Path:
    """Write a demonstration file with the same episodes, seen otherwise. The stored states are restored and observed.

    The content depends neither on the number of processes nor on timing. Splits are kept. Where packages differ from
    those that the demonstrations were collected with, `header.collection["drawn_with"]` names the present versions.

    Args:
        path: A demonstration file; its checksum must be right.
        output: Where the new file goes; may be `path` itself.
        observation: What is stored of every step.
        rendering: How images are drawn.
        processes: Worker processes; None is one a core.
        plugins: Modules or files that register the backend.

    Returns:
        `output`.

    Raises:
        DataFileError: `path` cannot be used, or was changed after it was written.
        UnknownNameError: There is no such backend or camera.
        RenderingError: Images were asked for and nothing here can draw them.
    """
    load_plugins(plugins)
    with DemonstrationFile(path) as file:
        file.verify()  # a new checksum must not vouch for damage
        spec = file.environment_spec(observation, rendering, plugins)
        recipe = RerenderRecipe(file.path.resolve(), spec)
        splits = {name: indices.tolist() for name, indices in file.splits.items()}
        with (
            progress_bar(f"drawing {file.task}", len(file)) as advance,
            JobProcesses(WORKER, recipe, processes, len(file)) as workers,
        ):
            episodes = counted(_drawn(file, workers), advance)
            write_demonstrations(output, _header(file.header, spec), episodes, splits)
    return Path(output)


def _header(header: Header, spec: EnvironmentSpec) -> Header:
    cameras = spec.observation.cameras
    collection = dict(header.collection)
    if (present := installed_versions()) != header.versions:
        collection["drawn_with"] = present
    return replace(
        header,
        observation=observation_fields(
            spec.observation, BACKENDS[spec.backend].default_cameras if cameras is None else cameras
        ),
        rendering=rendering_fields(spec.rendering, spec.observation),
        collection=collection,
    )


def _drawn(file: DemonstrationFile, workers: JobProcesses) -> Iterator[Episode]:
    """The episodes in order, each as soon as it and those before it are drawn."""
    waiting: dict[int, Any] = {}
    started = written = 0

    def next_job() -> int | None:
        nonlocal started
        if started == len(file) or started - written >= AHEAD * workers.processes:
            return None
        started += 1
        return started - 1

    for index, observations in workers.run(next_job):
        waiting[index] = observations
        while written in waiting:
            yield replace(file.episode(written, keys=()), observations=waiting.pop(written))
            written += 1
