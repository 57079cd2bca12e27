"""One row an episode: the only thing that metrics are computed from."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from vla_cl.files import write_text

NOT_FINITE = "action not finite"
"""The failure of an episode in which the policy's answer was NaN or infinite, so that nothing could be executed."""


@dataclass(frozen=True)
class EpisodeRow:
    """The outcome of one evaluation episode. No wall-clock time: a resumed run repeats every row bit for bit.

    Args:
        stage: Index of the last learned task in the sequence; -1 before any (the zero-shot row).
        task: Name of the task that was tried.
        split: Initial-state split ("test", "selection").
        episode: Index within (stage, task), from 0.
        seed: Initial-state seed given to `reset`.
        instruction: What the policy was told.
        success: Whether the task's predicate held within the horizon.
        steps: Control steps until success or the end.
        failure: "" on success, else "horizon", what the simulator said ("unstable"), or `NOT_FINITE`.
        stopping: Of early stopping (`vla_cl.evaluation.stopping`): "" where it was not asked for, "stopped" in the
            last row of a task whose other episodes were left out at this stage, else "watched".
        perturbation: What was different from the world that was learned in ("camera:small+light:medium"); "" for
            nothing.
    """

    stage: int
    task: str
    split: str
    episode: int
    seed: int
    instruction: str
    success: bool
    steps: int
    failure: str = ""
    stopping: str = ""
    perturbation: str = ""


def write_rows(path: Path, rows: Iterable[EpisodeRow]) -> None:
    """Write rows as JSON lines, atomically."""
    write_text(path, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def read_rows(path: Path) -> list[EpisodeRow]:
    """Read rows that `write_rows` wrote."""
    with open(path, encoding="utf-8") as file:
        return [EpisodeRow(**json.loads(line)) for line in file if line.strip()]
