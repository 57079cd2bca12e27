"""Single episodes that are worth a look: what was forgotten, before and after, and what never worked."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vla_cl.evaluation.report.runs import ZERO_SHOT, Run
from vla_cl.evaluation.rows import EpisodeRow


@dataclass(frozen=True)
class FilmedEpisode:
    """One side of a pair.

    Args:
        path: An mp4 file.
        stage: After which it was recorded.
        row: What became of it; None if nobody noted it.
    """

    path: Path
    stage: int
    row: EpisodeRow | None

    @property
    def source(self) -> str:
        """The film as a `data:` URI."""
        return f"data:video/mp4;base64,{base64.b64encode(self.path.read_bytes()).decode('ascii')}"

    @property
    def succeeded(self) -> bool | None:
        """Whether it did; None if nobody noted it."""
        return None if self.row is None else self.row.success

    @property
    def outcome(self) -> str:
        """What became of it, in words."""
        if self.row is None:
            return "outcome not recorded"
        if self.row.success:
            return f"success in {self.row.steps} steps"
        reason = f" ({self.row.failure})" if self.row.failure else ""
        return f"failure after {self.row.steps} steps{reason}"


@dataclass(frozen=True)
class Pair:
    """The same initial state right after its task was learned, and at the end.

    Args:
        task: The task.
        episode: Index of the initial state.
        seed: That it is made from; None if nobody noted it.
        before: Right after learning.
        after: At the last stage.
    """

    task: str
    episode: int
    seed: int | None
    before: FilmedEpisode
    after: FilmedEpisode

    @property
    def forgotten(self) -> bool:
        """Whether what succeeded then fails now."""
        return self.before.succeeded is True and self.after.succeeded is False

    @property
    def megabytes(self) -> float:
        """Of both films, as text in a page."""
        return sum(film.path.stat().st_size for film in (self.before, self.after)) * 4 / 3 / 1e6


def filmed_pairs(run: Run) -> list[Pair]:
    """Every filmed initial state of every task but the one learned last, before and after what came later."""
    last = run.completed_stages - 1
    noted = {(row.stage, row.task, row.episode): row for row in run.rows}
    pairs = []
    for task in dict.fromkeys(run.sequence[: last + 1]):
        learned = _last_learned(run, task)
        if learned == last:
            continue
        episode = 0
        while True:
            suffix = f"-episode-{episode}" if episode else ""
            before, after = (
                FilmedEpisode(
                    run.folder / "videos" / f"stage_{stage:02d}" / f"{task}{suffix}.mp4",
                    stage,
                    noted.get((stage, task, episode)),
                )
                for stage in (learned, last)
            )
            if not (before.path.is_file() and after.path.is_file()):
                break
            row = before.row or after.row
            pairs.append(Pair(task, episode, row.seed if row else None, before, after))
            episode += 1
    return pairs


@dataclass(frozen=True)
class Failures:
    """The episodes of one task that fail at the end.

    Args:
        task: The task.
        learned: Successes right after it was learned; None if that was not measured.
        final: Successes at the end.
        trials: Episodes at the end.
        lost: Initial states, by their seeds, that succeeded right after learning and fail at the end.
        never: Those that failed both times, or that were not tried right after learning.
        reasons: What the failed episodes at the end say, the most frequent first: ("horizon", 4).
    """

    task: str
    learned: int | None
    final: int
    trials: int
    lost: tuple[int, ...]
    never: tuple[int, ...]
    reasons: tuple[tuple[str, int], ...]


def failures(run: Run) -> list[Failures]:
    """What to look at in a run: tasks that fail at the end, those that lost most first."""
    last = run.completed_stages - 1
    if last == ZERO_SHOT:
        return []
    found = []
    for task in dict.fromkeys(run.sequence[: last + 1]):
        then = {row.episode: row for row in _episodes(run, _last_learned(run, task), task)}
        now = _episodes(run, last, task)
        failed = [row for row in now if not row.success]
        if not failed:
            continue
        lost = [row for row in failed if row.episode in then and then[row.episode].success]
        found.append(
            Failures(
                task,
                sum(row.success for row in then.values()) if then else None,
                len(now) - len(failed),
                len(now),
                tuple(row.seed for row in lost),
                tuple(row.seed for row in failed if row not in lost),
                tuple(Counter(row.failure or "unknown" for row in failed).most_common()),
            )
        )
    return sorted(found, key=lambda each: (-len(each.lost), -len(each.never)))


def _last_learned(run: Run, task: str) -> int:
    """The last finished stage that taught a task."""
    return max(place for place, name in enumerate(run.sequence[: run.completed_stages]) if name == task)


def _episodes(run: Run, stage: int, task: str) -> Sequence[EpisodeRow]:
    return [row for row in run.rows if (row.stage, row.task) == (stage, task)]
