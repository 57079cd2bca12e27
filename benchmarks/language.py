"""Does a policy do what it is told? Success on each task of a run under each task's instruction.

    vla-cl run suite=tabletop_goal/press-button+tabletop_goal/open-cabinet policy=tiny_vla strategy=replay
    python benchmarks/language.py runs/RUN

Rows are the goals that are measured, columns what the policy is told, in scenes that look alike. A policy that obeys
succeeds on the diagonal alone; one that only looks does the same under every instruction. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from vla_cl.checkpoint import load_checkpoint
from vla_cl.config import observation_for
from vla_cl.envs import EnvironmentPool
from vla_cl.evaluation import EvaluationOptions, rollout
from vla_cl.progress import progress_bar
from vla_cl.tasks import get_suite


def main() -> None:
    """Measure, print the matrix, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--processes", type=int, default=None)
    options = parser.parse_args()
    loaded = load_checkpoint(options.run)
    served = loaded.served()
    tasks = [get_suite(served.suite).task(name) for name in served.tasks]
    protocol = EvaluationOptions(episodes=options.episodes, videos=0, processes=options.processes)
    success = np.zeros((len(tasks), len(tasks)))
    with EnvironmentPool(options.processes) as pool, progress_bar("telling", success.size) as advance:
        for (row, column), _ in np.ndenumerate(success):
            rows = rollout(
                loaded.controller,
                replace(tasks[row], instruction=tasks[column].instruction),
                stage=loaded.stage,
                options=protocol,
                observation=observation_for(loaded.policy.config),
                rendering=loaded.rendering,
                pool=pool,
                seed=0,
            )
            success[row, column] = np.mean([each.success for each in rows])
            advance(row * len(tasks) + column + 1)
    table = Table("goal", *(task.instruction for task in tasks), title="told:")
    for task, values in zip(tasks, success, strict=True):
        table.add_row(task.name, *(f"{value:.2f}" for value in values))
    Console().print(table)
    told = {task.name: task.instruction for task in tasks}
    others = success[~np.eye(len(tasks), dtype=bool)]
    print(json.dumps({"obeyed": np.diag(success).mean(), "told_otherwise": others.mean(), "told": told}))


if __name__ == "__main__":
    main()
