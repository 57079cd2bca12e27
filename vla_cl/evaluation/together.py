"""Rows of the success matrix for tasks that were learned at once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from vla_cl.evaluation.rows import EpisodeRow


def rows_in_turn(
    places: Sequence[int], sequence: Sequence[str], after: Iterable[EpisodeRow], before: Iterable[EpisodeRow] = ()
) -> dict[int, list[EpisodeRow]]:
    """One measurement, after several tasks were learned at once, as rows of a matrix that has a row for each task.

    The matrix tells it as if the tasks had been learned in turn: in the row of a task, those of the same stage that
    follow it are as they were before the stage, and everything else is as it was measured afterwards. So R_jj is what a
    task reached in its stage, R_j-1,j is what was there before anybody learned it, and every metric means what it means
    elsewhere; tasks of one stage take nothing from each other.

    Args:
        places: In the sequence, of the tasks that were learned at once; a single one may be -1, before any.
        sequence: Names of all tasks in the order of learning.
        after: Episodes after the stage.
        before: Episodes before the stage; empty where nobody asks for tasks before they are learned.

    Returns:
        For each place, its row of the matrix: episodes with that stage.
    """
    after, before = list(after), list(before)
    if len(places) == 1:
        return {places[0]: after}
    rows = {}
    for place in places:
        waiting = {sequence[other] for other in places} - set(sequence[: place + 1])
        seen = [row for row in after if row.task not in waiting] + [row for row in before if row.task in waiting]
        rows[place] = [replace(row, stage=place) for row in seen]
    return rows
