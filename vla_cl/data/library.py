"""Demonstrations by what they are: a folder of files named after everything that decides their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from vla_cl.data.attempts import CollectionOptions
from vla_cl.data.collect import collect_unlocked, demonstrations_request
from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.lock import exclusively
from vla_cl.data.opening import open_demonstrations
from vla_cl.data.schema import canonical_json
from vla_cl.envs import ObservationOptions, RenderingOptions
from vla_cl.errors import DataFileError
from vla_cl.registry import load_plugins
from vla_cl.tasks import Task

_HASH_DIGITS = 12


def demonstrations_path(
    root: Path,
    task: Task,
    options: CollectionOptions,
    observation: ObservationOptions,
    rendering: RenderingOptions = RenderingOptions(),
) -> Path:
    """Where such demonstrations are: `<root>/<backend>/<task>-<hash>.hdf5`, whether they are there or not."""
    request = canonical_json(demonstrations_request(task, options, observation, rendering))
    digest = hashlib.sha256(request.encode()).hexdigest()[:_HASH_DIGITS]
    return Path(root) / task.backend / f"{task.name}-{digest}.hdf5"


def demonstrations_for(
    task: Task,
    root: Path,
    options: CollectionOptions,
    observation: ObservationOptions,
    rendering: RenderingOptions = RenderingOptions(),
    *,
    processes: int | None = None,
    plugins: Sequence[str] = (),
) -> Path:
    """The demonstration file of a task: found, or collected now. Processes that ask at once collect once.

    Args:
        task: What is demonstrated.
        root: Folder of demonstrations, shared by runs.
        options: See `collect_demonstrations`, like the arguments that follow.
        observation: What is stored of every step.
        rendering: How images are drawn.
        processes: Worker processes; None is one a core.
        plugins: Modules or files that register the task's backend and expert.

    Raises:
        DataFileError: A file is there, but damaged.
        VlaClError: What `collect_demonstrations` raises.
    """
    load_plugins(plugins)
    path = demonstrations_path(root, task, options, observation, rendering)
    if not path.exists():
        with exclusively(path):
            if not path.exists():
                collect_unlocked(task, path, options, observation, rendering, processes, plugins)
    status = path.stat()
    _verify(path, status.st_ino, status.st_mtime_ns, status.st_size)
    return path


@lru_cache(maxsize=1024)
def _verify(path: Path, file: int, modified: int, size: int) -> None:
    """Read all of a file, once a process, and compare it with its checksum: HDF5 itself notices no changed number."""
    with DemonstrationFile(path) as opened:
        opened.verify()


def collection_steps(path: Path, horizon: int | None) -> int:
    """Control steps that collecting a file took.

    Args:
        path: The file.
        horizon: Of the task: what an attempt costs that failed, of which the file tells that it was made. None, where
            others collected, counts what is stored alone.
    """
    with open_demonstrations(path) as file:
        stored = int(file.lengths.sum())
        if horizon is None:
            return stored
        attempts = max(int(file.group(index).attrs["attempt"]) for index in range(len(file))) + 1
        return stored + (attempts - len(file)) * horizon


def demonstration_files(paths: Sequence[Path]) -> list[Path]:
    """The files that are meant: each path that is a file, and every *.hdf5 in and below each that is a folder.

    Raises:
        DataFileError: A path does not exist, or a folder holds no such file.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            if not path.exists():
                raise DataFileError(f"{path} does not exist; collect demonstrations first (vla-cl collect)")
            files.append(path)
            continue
        found = sorted(each for each in path.rglob("*.hdf5") if each.is_file())
        if not found:
            raise DataFileError(f"no demonstration file (*.hdf5) in {path}; collect some (vla-cl collect)")
        files += found
    return list(dict.fromkeys(files))
