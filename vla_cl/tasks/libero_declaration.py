"""LIBERO tasks of one's own: `--plugin my_task.bddl` registers what a BDDL file declares."""

from __future__ import annotations

from pathlib import Path

from vla_cl.envs.libero.bddl import read_problem
from vla_cl.errors import ConfigurationError
from vla_cl.registry import PLUGIN_LOADERS
from vla_cl.tasks.register import add_task
from vla_cl.tasks.task import Task

SUFFIX = ".bddl"
HORIZON = 400
"""Control steps of an episode, as in `libero_90`."""


def load_bddl(path: Path) -> Task:
    """Register the task that a BDDL file declares, as a suite of one, named after the file.

    The task carries the text of the file, so that runs and demonstrations do not depend on where it lies. Its
    instruction is the file's `:language`; all of its initial states are drawn; its expert is LIBERO's.

    Raises:
        BddlError: The file is not as the benchmark's files are; the message names line and column.
        ConfigurationError: It gives no instruction, or its name cannot be a task's.
    """
    problem = read_problem(path)
    if not problem.language.strip():
        raise ConfigurationError(f"{path.name} tells no instruction; add (:language ...)")
    task = Task(
        name=path.stem,
        instruction=problem.language,
        horizon=HORIZON,
        backend="libero",
        arguments={"text": path.read_text(encoding="utf-8")},
        expert="libero",
    )
    add_task(task)
    return task


PLUGIN_LOADERS[SUFFIX] = load_bddl
