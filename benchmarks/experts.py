"""How often the scripted experts succeed, as the table in docs/tasks.md.

    python benchmarks/experts.py mw50 --episodes 20 --split selection
    python benchmarks/experts.py robosuite10 --episodes 50 --split test

Every expert acts in our environment, within the task's horizon, from initial states of one split, none of which any
demonstration starts from. The first takes about five minutes on two cores, the second about six.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from vla_cl.envs import ObservationOptions
from vla_cl.files import write_text
from vla_cl.seeding import numpy_generator
from vla_cl.tasks import SUITES, Task, find_task, get_suite, make_expert

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "tasks.md"
MARKERS = "<!-- experts of {suite}: begin -->", "<!-- experts of {suite}: end -->"


def successful_steps(name: str, episodes: int, split: str) -> list[int]:
    """Steps that the expert of a task took in those of `episodes` episodes in which it succeeded."""
    task = find_task(name)
    expert = make_expert(task)
    steps = []
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        for seed in task.seeds[split][:episodes]:
            env.restart(seed=seed)
            expert.reset(env, numpy_generator("experts", task.name, seed))
            outcome = env.advance(expert.act(env))
            while not (outcome.terminated or outcome.truncated):
                outcome = env.advance(expert.act(env))
            if outcome.terminated:
                steps.append(env.elapsed_steps)
    return steps


def table(suite: str, tasks: Sequence[Task], steps: list[list[int]], episodes: int) -> str:
    """The Markdown table, one row a task, with the mean success rate below it; other suites, where any holds a task."""
    others = [", ".join(name for name in SUITES if name != suite and _holds(name, task)) for task in tasks]
    heads = ["task", "instruction", *(["suites"] if any(others) else []), "horizon", "expert succeeds"]
    lines = [f"| {' | '.join(heads)} | steps: median, longest |", "|---" * (len(heads) + 1) + "|"]
    for task, taken, suites in zip(tasks, steps, others, strict=True):
        duration = f"{statistics.median(taken):.0f}, {max(taken)}" if taken else "-"
        shared = [suites] if any(others) else []
        cells = (f"`{task.name}`", task.instruction, *shared, task.horizon, f"{len(taken)} of {episodes}", duration)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    successes = sum(len(taken) for taken in steps)
    lines += ["", f"All tasks: {successes} of {episodes * len(tasks)} episodes succeed."]
    return "\n".join(lines)


def _holds(suite: str, task: Task) -> bool:
    return any(other == task for other in get_suite(suite).tasks)


def main() -> None:
    """Measure all tasks of a suite and put the table into the document, between its two markers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("suite", help="name of a suite")
    parser.add_argument("--split", default="test", choices=("selection", "test"), help="of the initial states")
    parser.add_argument("--episodes", type=int, default=20, help="episodes a task")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="Markdown file with the two markers")
    arguments = parser.parse_args()

    suite = arguments.suite
    begin, end = (marker.format(suite=suite) for marker in MARKERS)
    head, _, rest = arguments.document.read_text(encoding="utf-8").partition(begin)
    _, marker, tail = rest.partition(end)
    if not marker:
        parser.error(f"{arguments.document} does not hold the markers {begin!r} and {end!r}")
    tasks = get_suite(suite).unique_tasks
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0))) as pool:
        jobs = [(f"{suite}/{task.name}", arguments.episodes, arguments.split) for task in tasks]
        steps = pool.starmap(successful_steps, jobs, chunksize=1)
    written = f"{begin}\n\n{table(suite, tasks, steps, arguments.episodes)}\n\n{end}"
    write_text(arguments.document, head + written + tail)


if __name__ == "__main__":
    main()
