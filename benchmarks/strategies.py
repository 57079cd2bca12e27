"""What a training step costs under each strategy, against the same step under sequential fine-tuning.

    python benchmarks/strategies.py
    python benchmarks/strategies.py --strategy ewc --strategy agem

Each strategy learns two tasks of made-up demonstrations with the policy `lowdim_transformer` and batches of 32, one
thread; the second task's steps are measured, since before it there is nothing to remember. The two sides alternate step
by step, so that both meet the same moods of the machine. A step is what it costs in processor time, without what a
strategy does at boundaries; steps are added up in blocks, so that what is done every few steps counts, and a ratio is
the median over blocks. The limits are 1.3 where a strategy declares no extra forward pass, 2.2 where it declares up to
one, and one more for each further one. The last line of the output is JSON. Takes about ten minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from vla_cl.config import compose
from vla_cl.data import Episode, Header, Statistics, WindowDataset, write_demonstrations
from vla_cl.policies import Policy, PolicyFeatures, build_policy
from vla_cl.progress import progress_bar
from vla_cl.strategies import STRATEGIES, build_strategy
from vla_cl.tasks import find_task
from vla_cl.training import TrainingOptions, fit

TASKS = ("window-close", "faucet-close")
ACTIONS, STATE, CHUNK, LENGTH, EPISODES = 4, 39, 8, 80, 25
WARM = 5
"""Steps at the beginning of a task that are not counted."""

BLOCK = 10
"""Steps that are added up."""


@dataclass
class Row:
    """What was measured of a strategy.

    Args:
        ratio: Of a step's processor time to sequential fine-tuning's.
        extra_passes: That it declares.
        limit: Of the ratio.
    """

    ratio: float
    extra_passes: float
    limit: float


def demonstrations(folder: Path, name: str, seed: int) -> WindowDataset:
    """Episodes of random numbers."""
    generator = np.random.default_rng(seed)

    def episode(attempt: int) -> Episode:
        actions = generator.uniform(-1, 1, (LENGTH, ACTIONS)).astype(np.float32)
        return Episode(
            seed=attempt,
            attempt=attempt,
            actions=actions,
            executed_actions=actions,
            states=np.zeros((LENGTH, 1)),
            rewards=np.zeros(LENGTH, np.float32),
            observations={
                "agent_pos": generator.uniform(size=(LENGTH + 1, ACTIONS)).astype(np.float32),
                "environment_state": generator.uniform(size=(LENGTH + 1, STATE)).astype(np.float32),
            },
        )

    header = Header(
        task=name,
        instruction=find_task(name).instruction,
        expert="random",
        env_name="none",
        environment={"backend": "meta_world", "arguments": {}, "horizon": LENGTH},
        observation={"cameras": [], "image_size": 64, "privileged": True},
        rendering={},
    )
    path = folder / f"{name}.hdf5"
    write_demonstrations(path, header, [episode(attempt) for attempt in range(EPISODES)])
    return WindowDataset(path, CHUNK, privileged=True)


def fresh_policy(width: int) -> Policy:
    """`policy=lowdim_transformer` with a trunk of some width."""
    (config,) = compose(["suite=mw5", "policy=lowdim_transformer", f"policy.backbone_options.width={width}"])
    features = PolicyFeatures(action_dim=ACTIONS, agent_pos_dim=ACTIONS, environment_state_dim=STATE)
    policy = build_policy(config.policy, features, seed=0)
    one, state = (1.0,) * ACTIONS, ((0.0,) * STATE, (1.0,) * STATE)
    ranges = {"action": ((-1.0,) * ACTIONS, one), "agent_pos": ((0.0,) * ACTIONS, one), "environment_state": state}
    policy.set_statistics(Statistics.from_ranges(ranges))
    return policy.eval()


class Side:
    """One strategy on its way through the two tasks."""

    def __init__(self, name: str, data: list[WindowDataset], steps: int, width: int) -> None:
        self.policy, self.strategy = fresh_policy(width), build_strategy(name, {}, seed=0)
        self.data = data
        self.options = TrainingOptions(
            steps=steps, batch_size=32, warmup_steps=2, log_every=steps, checkpoint_every=10 * steps
        )
        self.moments: list[float] = []
        """Processor time of the thread that learns, after each step of the second task."""

    def learn(self, stage: int, on_step: Callable[[], None]) -> None:
        """Learn one of the tasks."""
        task, windows = find_task(TASKS[stage]), self.data[stage]
        self.strategy.begin_task(task, self.policy, windows)
        fit(
            self.policy,
            windows,
            self.strategy,
            self.options,
            seed=0,
            stage=stage,
            on_step=lambda _: on_step(),
        )
        self.extra_passes = float(self.strategy.extra_passes)
        self.strategy.end_task(task, self.policy, windows)

    def block_seconds(self) -> NDArray[np.float64]:
        """Processor time of each block of steps of the second task."""
        steps: NDArray[np.float64] = np.diff(self.moments)[WARM:]
        blocks: NDArray[np.float64] = steps[: len(steps) // BLOCK * BLOCK].reshape(-1, BLOCK).sum(1)
        return blocks


def alternate(sides: Sequence[Side]) -> None:
    """Let the sides learn the second task in threads of which only one ever runs, changing after every step."""
    turns = [threading.Semaphore(int(index == 0)) for index in range(len(sides))]

    def learn(index: int) -> None:
        own, other = turns[index], turns[1 - index]

        def hand_over() -> None:
            sides[index].moments.append(time.thread_time())
            other.release()
            own.acquire()

        own.acquire()
        try:
            sides[index].learn(1, hand_over)
        finally:
            other.release()

    with ThreadPoolExecutor(len(sides)) as threads:
        for outcome in [threads.submit(learn, index) for index in range(len(sides))]:
            outcome.result()


def measure(name: str, data: list[WindowDataset], steps: int, width: int) -> Row:
    """One strategy against sequential fine-tuning."""
    sides = [Side("sequential", data, steps, width), Side(name, data, steps, width)]
    for side in sides:
        side.learn(0, lambda: None)
    alternate(sides)
    reference, measured = (side.block_seconds() for side in sides)
    passes = sides[1].extra_passes
    limit = 1.3 if passes == 0 else 2.2 + max(0, math.ceil(passes) - 1)
    return Row(round(float(np.median(measured / reference)), 2), passes, limit)


def main() -> None:
    """Measure, print the table, then the JSON."""
    known = [name for name in STRATEGIES if name != "frozen"]  # which takes no steps
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strategy", action="append", choices=known, help="one of them; all without")
    parser.add_argument("--steps", type=int, default=WARM + 8 * BLOCK + 1, help=f"at least {WARM + BLOCK + 1}")
    parser.add_argument("--width", type=int, default=64, help="of the policy's trunk; adapters cost less of a wide one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.strategy or known
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder, progress_bar("strategies", len(names)) as advance:
        data = [demonstrations(Path(folder), name, seed) for seed, name in enumerate(TASKS)]
        for name in names:
            rows[name] = measure(name, data, options.steps, options.width)
            advance(1)
    table = Table("strategy", "step, of sequential's", "extra passes", "limit")
    for name, row in rows.items():
        mark = "" if row.ratio <= row.limit else "[red] above[/red]"
        table.add_row(name, f"{row.ratio:.2f}{mark}", f"{row.extra_passes:g}", f"{row.limit:g}")
    Console().print(table)
    print(
        json.dumps(
            {
                "steps": options.steps,
                "width": options.width,
                "strategies": {name: vars(row) for name, row in rows.items()},
            }
        )
    )


if __name__ == "__main__":
    main()
