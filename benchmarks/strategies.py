"""What a training step costs under each strategy, against the same step under sequential fine-tuning.

    python benchmarks/strategies.py
    python benchmarks/strategies.py --strategy ewc --strategy agem

Each strategy learns two tasks of made-up demonstrations with the policy `lowdim_transformer` and batches of 32, one
thread; the second task's steps are measured, since before it there is nothing to remember. Rounds of the two sides
alternate. A step is what it costs in processor time, so that other programs on the machine hardly matter, without what
a strategy does at boundaries; a round is the median over its steps, and a ratio the median over rounds. The limits are
1.3 where a strategy declares no extra forward pass, 2.2 where it declares up to one, and one more for each further
one. The last line of the output is JSON. Takes about twenty minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

import numpy as np
import torch
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


def fresh_policy() -> Policy:
    """`policy=lowdim_transformer`."""
    (config,) = compose(["suite=mw5", "policy=lowdim_transformer"])
    features = PolicyFeatures(action_dim=ACTIONS, agent_pos_dim=ACTIONS, environment_state_dim=STATE)
    policy = build_policy(config.policy, features, seed=0)
    one, state = (1.0,) * ACTIONS, ((0.0,) * STATE, (1.0,) * STATE)
    ranges = {"action": ((-1.0,) * ACTIONS, one), "agent_pos": ((0.0,) * ACTIONS, one), "environment_state": state}
    policy.set_statistics(Statistics.from_ranges(ranges))
    return policy.eval()


def step_seconds(name: str, data: list[WindowDataset], steps: int) -> tuple[float, float]:
    """Median processor time of a step of the second task, and the forward passes that the strategy declares for it."""
    policy, strategy = fresh_policy(), build_strategy(name, {}, seed=0)
    options = TrainingOptions(steps=steps, batch_size=32, warmup_steps=2, log_every=steps, checkpoint_every=10 * steps)
    moments: list[float] = []
    for stage, (task, windows) in enumerate(zip(TASKS, data, strict=True)):
        strategy.begin_task(find_task(task), policy, windows)
        moments.clear()
        fit(
            policy,
            windows,
            strategy,
            options,
            seed=0,
            stage=stage,
            on_step=lambda _: moments.append(time.process_time()),
        )
        passes = float(strategy.extra_passes)
        strategy.end_task(find_task(task), policy, windows)
    return statistics.median(np.diff(moments[WARM:]).tolist()), passes


def measure(name: str, data: list[WindowDataset], steps: int, rounds: int) -> Row:
    """Alternate the two sides."""
    ratios = []
    for _ in range(rounds):
        reference, _ = step_seconds("sequential", data, steps)
        seconds, passes = step_seconds(name, data, steps)
        ratios.append(seconds / reference)
    limit = 1.3 if passes == 0 else 2.2 + max(0, math.ceil(passes) - 1)
    return Row(round(statistics.median(ratios), 2), passes, limit)


def main() -> None:
    """Measure, print the table, then the JSON."""
    known = [name for name in STRATEGIES if name != "frozen"]  # which takes no steps
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--strategy", action="append", choices=known, help="one of them; all without")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.strategy or known
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory() as folder, progress_bar("strategies", len(names)) as advance:
        data = [demonstrations(Path(folder), name, seed) for seed, name in enumerate(TASKS)]
        for name in names:
            rows[name] = measure(name, data, options.steps, options.rounds)
            advance(1)
    table = Table("strategy", "step, of sequential's", "extra passes", "limit")
    for name, row in rows.items():
        mark = "" if row.ratio <= row.limit else "[red] above[/red]"
        table.add_row(name, f"{row.ratio:.2f}{mark}", f"{row.extra_passes:g}", f"{row.limit:g}")
    Console().print(table)
    print(json.dumps({"steps": options.steps, "strategies": {name: vars(row) for name, row in rows.items()}}))


if __name__ == "__main__":
    main()
