"""Demonstrations that are given instead of collected: which file is which task's, and whether they fit."""

from __future__ import annotations

import difflib
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import lru_cache
from pathlib import Path

from vla_cl.data.opening import open_demonstrations
from vla_cl.data.source import Demonstrations
from vla_cl.envs import BACKENDS, ObservationOptions
from vla_cl.errors import ConfigurationError, DataFileError
from vla_cl.tasks import Task

logger = logging.getLogger(__name__)

SUFFIX = ".hdf5"
LEROBOT_INFO = Path("meta") / "info.json"
_HASH = re.compile(r"-[0-9a-f]{12}")
_SHOWN = 5


def given_demonstrations(root: Path, tasks: Sequence[Task]) -> dict[str, Path]:
    """The file of each task's demonstrations, by the task's name.

    Args:
        root: A file, for a single task; or a folder, in which and below which a task's file is `<name>.hdf5`,
            `<name>_demo.hdf5` (LIBERO's), `<name>-<hash>.hdf5` (as `vla-cl collect` names them), or else the one that
            names the task, or its instruction, inside. Where several are named after a task, the one in a folder named
            after its suite is taken.
        tasks: Whose demonstrations to find; repetitions count once.

    Raises:
        DataFileError: There is no file for a task, or more than one.
    """
    root = Path(root)
    unique = list({task.name: task for task in tasks}.values())
    if not root.exists():
        raise DataFileError(f"dataset {root} does not exist; give a demonstration file, or a folder of them")
    if root.is_file():
        if len(unique) > 1:
            names = ", ".join(task.name for task in unique[:_SHOWN])
            raise DataFileError(f"dataset {root} is one file, the tasks are {len(unique)} ({names}); give a folder")
        return {unique[0].name: root}
    if (root / LEROBOT_INFO).is_file():
        raise DataFileError(
            f"dataset {root} is LeRobot's; convert it first: vla-cl data convert {root} --to vla_cl --output FOLDER"
        )
    files = sorted(path for path in root.rglob(f"*{SUFFIX}") if path.is_file() and not path.name.startswith("."))
    if not files:
        raise DataFileError(f"dataset {root} holds no demonstration file (*{SUFFIX}); give another folder")
    return {task.name: _file_of(task, files, root) for task in unique}


def given_checksum(root: Path, tasks: Sequence[Task]) -> str:
    """What tells these demonstrations from others: SHA-256 of the checksums of the tasks' files, wherever they lie."""
    found = given_demonstrations(root, tasks)
    checksums = {task: _described(path)[2] for task, path in found.items()}
    return hashlib.sha256(json.dumps(checksums, sort_keys=True).encode()).hexdigest()


def needed_cameras(task: Task, observation: ObservationOptions) -> tuple[str, ...]:
    """The cameras that a task's environment shows."""
    return BACKENDS[task.backend].default_cameras if observation.cameras is None else tuple(observation.cameras)


def check_given(found: dict[str, Path], tasks: Iterable[Task], observation: ObservationOptions) -> None:
    """Compare given demonstrations with what the policy will see of each task in its environment.

    Tasks for which none are given are passed over. One environment is built for each combination of sizes that the
    files have.

    Raises:
        DataFileError: A camera or the privileged state is missing, or an image or a vector has another size.
    """
    seen: set[tuple[int, ...]] = set()
    for task in {task.name: task for task in tasks if task.name in found}.values():
        with open_demonstrations(found[task.name]) as file:
            _check_images(file, task, observation)
            if observation.privileged and not file.environment_state_dim:
                raise DataFileError(
                    f"{file.path} holds no privileged state; choose a policy with policy.privileged=false"
                )
            if file.instruction.strip().lower() != task.instruction.strip().lower():
                told = f"{file.path} says {file.instruction!r}, rollouts of {task.name!r} say {task.instruction!r}"
                logger.warning("%s; dataset_instructions=task trains on the latter", told)
            sizes = (file.action_dim, file.agent_pos_dim, file.environment_state_dim * observation.privileged)
            if sizes not in seen:
                _check_sizes(file, task, observation.privileged)
            seen.add(sizes)


def _check_images(file: Demonstrations, task: Task, observation: ObservationOptions) -> None:
    cameras = needed_cameras(task, observation)
    for camera in cameras:
        if camera not in file.cameras:
            raise DataFileError(
                f"{file.path} has no camera {camera!r}, which the policy sees of {task.name!r}; it has: "
                f"{', '.join(file.cameras) or 'none'} (choose with policy.cameras=[NAME])"
            )
    if cameras and file.image_size != observation.image_size:
        raise DataFileError(
            f"{file.path} holds images of {file.image_size} px, the policy sees {observation.image_size}; "
            f"say policy.image_size={file.image_size}"
        )


def _check_sizes(file: Demonstrations, task: Task, privileged: bool) -> None:
    with closing(task.environment(ObservationOptions(cameras=(), privileged=privileged))) as env:
        needed = {"actions": (env.action_space.shape or (0,))[0], "agent_pos": len(env.agent_pos())}
        if privileged:
            needed["environment_state"] = len(env.environment_state())
    given = {
        "actions": file.action_dim,
        "agent_pos": file.agent_pos_dim,
        "environment_state": file.environment_state_dim,
    }
    for name, size in needed.items():
        if given[name] != size:
            raise DataFileError(
                f"{file.path}: {name} has {given[name]} numbers, in task {task.name!r} it has {size}; "
                "these demonstrations are of another robot, controller or task"
            )


def _file_of(task: Task, files: Sequence[Path], root: Path) -> Path:
    named = [path for path in files if _is_named_after(path, task.name)]
    if len(named) > 1:
        suite = str(task.arguments.get("suite", ""))
        named = [path for path in named if path.parent.name == suite] or named
    if not named:
        named = [path for path in files if _speaks_of(path, task)]
    if len(named) == 1:
        return named[0]
    if named:
        shown = ", ".join(str(path.relative_to(root)) for path in named[:_SHOWN])
        raise DataFileError(
            f"several files in {root} may be of task {task.name!r}: {shown}; keep one, or give its folder as dataset"
        )
    names = {_HASH.sub("", path.stem).removesuffix("_demo") for path in files}
    nearest = difflib.get_close_matches(task.name, sorted(names), n=1, cutoff=0.4)
    hint = f"the nearest is {nearest[0]!r}" if nearest else f"there are {', '.join(sorted(names)[:_SHOWN])}"
    raise DataFileError(
        f"no file in {root} is of task {task.name!r} ({hint}); "
        f"name it {task.name}{SUFFIX}, or cut the sequence with length"
    )


def _is_named_after(path: Path, name: str) -> bool:
    stem = path.stem
    return stem in (name, f"{name}_demo") or (stem.startswith(name) and _HASH.fullmatch(stem[len(name) :]) is not None)


def _speaks_of(path: Path, task: Task) -> bool:
    try:
        name, instruction, _ = _described(path)
    except DataFileError as error:
        logger.debug("looking for %s: %s", task.name, error)
        return False
    return name == task.name or instruction.strip().lower() == task.instruction.strip().lower()


def _described(path: Path) -> tuple[str, str, str]:
    """Task, instruction and checksum of a file."""
    status = path.stat()
    return _describe(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=1024)
def _describe(path: Path, modified: int, size: int) -> tuple[str, str, str]:
    with open_demonstrations(path) as file:
        return file.task, file.instruction, file.checksum


def check_instructions(source: str, training: str) -> None:
    """Whether words of a data set and of training agree.

    Args:
        source: "file" or "task".
        training: `training.instructions`.

    Raises:
        ConfigurationError: They do not.
    """
    if source not in ("file", "task"):
        raise ConfigurationError(f"dataset_instructions must be file or task, got {source!r}")
    if source == "file" and training != "canonical":
        raise ConfigurationError(
            f"training.instructions={training} needs the task's own words; say dataset_instructions=task"
        )
