"""What a policy is told in a task, the right words or the wrong ones: the latter show whether it listens."""

from __future__ import annotations

from collections.abc import Sequence

from vla_cl.errors import ConfigurationError
from vla_cl.tasks import Task

TOLD = ("canonical", "paraphrased", "held_out", "declared", "swapped", "dropped")
"""Kinds of instructions that an evaluation knows."""


def instructions_for(task: Task, kind: str, tasks: Sequence[Task] = ()) -> tuple[str, ...]:
    """The instructions that a task's episodes get, in turn.

    Args:
        task: What is tried, and what success is measured by.
        kind: One of `TOLD`: those of `Task.instructions`; "swapped", the instructions of the other tasks; "dropped",
            the empty string.
        tasks: Those that are evaluated together, from which "swapped" takes the others.

    Raises:
        ConfigurationError: There is no such kind, or the task has none of it.
    """
    if kind == "dropped":
        return ("",)
    if kind == "swapped":
        others = tuple(dict.fromkeys(each.instruction for each in tasks if each.instruction != task.instruction))
        if not others:
            raise ConfigurationError(f"task {task.name!r} stands alone, so there is no other instruction to swap in")
        return others
    return task.instructions(kind)
