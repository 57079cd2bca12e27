"""Every action head on the `compact` backbone: three quickstart tasks from pixels, learned at once.

    python benchmarks/heads.py [--head NAME ...]

Each head gets the same 25 demonstrations a task, the same batches and the same number of optimiser steps; then each
task is tried from 20 held-out initial states. The table says success, seconds to train, milliseconds for a chunk of
actions (one observation at a time, one thread), and parameters. The last line of the output is JSON. On two idle cores
a head takes one to five minutes, of which most is training; rows are computed in `--jobs` processes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from vla_cl.config import ExperimentConfig, compose, observation_for
from vla_cl.data import ConcatenatedWindows, Statistics, WindowDataset, demonstrations_for
from vla_cl.envs import EnvironmentPool
from vla_cl.evaluation import PolicyController, rollout
from vla_cl.policies import Policy, PolicyFeatures, build_policy
from vla_cl.strategies import build_strategy
from vla_cl.tasks import Task, TaskSuite, get_suite
from vla_cl.training import fit, limit_threads

SUITE, DEMONSTRATIONS, STEPS, EPISODES = "mw3", 25, 1000, 20
HEADS: dict[str, list[str]] = {
    "flow": [],
    "diffusion": ["policy.head=diffusion", "policy.head_options.network=transformer", "policy.head_options.width=128"],
    "regression": ["policy.head=regression"],
    "act": ["policy.head=act"],
    "gmm": ["policy.head=gmm"],
    "tokens": ["policy.head=tokens", "policy.head_options.width=128", "policy.head_options.layers=2"],
    "fast": ["policy.head=fast", "policy.head_options.width=128", "policy.head_options.layers=2"],
    "vqbet": ["policy.head=vqbet"],
}
"""What is said on the command line to have each head, beyond `policy=compact`."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    head: str
    success: dict[str, float]
    train_seconds: float
    act_milliseconds: float
    parameters: int

    @property
    def mean_success(self) -> float:
        return statistics.mean(self.success.values())


def measure(head: str, overrides: list[str], steps: int, episodes: int, seed: int, data: Path) -> Row:
    """Train one head on all tasks at once, and roll it out."""
    given = {"seed": seed, "training.steps": steps, "evaluation.episodes": episodes, "evaluation.videos": 0}
    config = configuration([*HEADS[head], *(f"{key}={value}" for key, value in given.items()), *overrides])
    limit_threads(config.threads)
    suite = get_suite(SUITE)
    parts = [windows(config, task, data) for task in suite.tasks]
    policy = fresh_policy(config, suite, parts[0])
    started = time.perf_counter()
    strategy = build_strategy("sequential", {}, seed)
    fit(policy, ConcatenatedWindows(parts), strategy, config.training, seed=seed, stage=0)  # type: ignore[arg-type]
    trained = time.perf_counter() - started
    success = {}
    with EnvironmentPool(1) as pool:
        for task in suite.tasks:
            rows = rollout(
                PolicyController(policy),
                task,
                stage=0,
                options=config.evaluation,
                observation=observation_for(config.policy),
                rendering=config.rendering,
                pool=pool,
                seed=seed,
            )
            success[task.name] = statistics.mean(row.success for row in rows)
    parameters = sum(each.numel() for each in policy.parameters())
    return Row(head, success, trained, act_milliseconds(policy, parts[0]), parameters)


def configuration(overrides: list[str]) -> ExperimentConfig:
    """The experiment that these overrides make of `policy=compact`."""
    return compose([f"suite={SUITE}", "policy=compact", f"collection.episodes={DEMONSTRATIONS}", *overrides])[0]


def windows(config: ExperimentConfig, task: Task, data: Path) -> WindowDataset:
    """A task's demonstrations, collected unless they are there."""
    path = demonstrations_for(task, data, config.collection, config.observation, config.rendering)
    return WindowDataset(
        path,
        config.policy.chunk,
        instructions=task.instructions(config.training.instructions),
        history=config.policy.history,
        lookback=config.policy.lookback,
    )


def fresh_policy(config: ExperimentConfig, suite: TaskSuite, first: WindowDataset) -> Policy:
    """As `vla-cl run` makes it; what a head learns before training, it learns from the first task."""
    batch = first.batch([0])
    features = PolicyFeatures(
        batch.actions.shape[-1],
        batch.observation.agent_pos.shape[-1],
        first.cameras,
        config.policy.image_size,
        history=config.policy.history,
    )
    policy = build_policy(config.policy, features, config.seed)
    policy.set_statistics(Statistics.from_ranges(suite.ranges))
    policy.prepare(first, config.seed)
    return policy.eval()


def act_milliseconds(policy: Policy, data: WindowDataset, queries: int = 30) -> float:
    """The median time of one observation's chunk."""
    observation, seconds = data.batch([0]).observation, []
    for seed in range(queries):
        started = time.perf_counter()
        policy.act(observation, [seed])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1000


def main() -> None:
    """Measure, print the table, then the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--head", action="append", choices=list(HEADS), help="one of the heads; all without")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--episodes", type=int, default=EPISODES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path("demonstrations"))
    parser.add_argument("overrides", nargs="*", help="as for vla-cl run, e.g. training.learning_rate=5e-4")
    options = parser.parse_args()
    torch.multiprocessing.set_sharing_strategy("file_system")  # type: ignore[no-untyped-call]
    for task in get_suite(SUITE).tasks:
        windows(configuration(options.overrides), task, options.data)  # collected once, before the processes need them
    heads = options.head or list(HEADS)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        arguments = (options.overrides, options.steps, options.episodes, options.seed, options.data)
        rows = list(pool.map(measure, heads, *([each] * len(heads) for each in arguments)))
    table = Table("head", "success", *rows[0].success, "s to train", "ms to act", "parameters")
    for row in rows:
        each = [f"{value:.2f}" for value in row.success.values()]
        table.add_row(
            row.head,
            f"{row.mean_success:.2f}",
            *each,
            f"{row.train_seconds:.0f}",
            f"{row.act_milliseconds:.1f}",
            f"{row.parameters / 1e6:.2f} M",
        )
    Console().print(table)
    print(json.dumps({"steps": options.steps, "heads": {row.head: vars(row) for row in rows}}))


if __name__ == "__main__":
    main()
