"""Episodes a minute of a policy on a tabletop task, against the same policy driving robosuite's GymWrapper.

The part of `rollout.py` that `--suite` asks for. Both sides show two cameras to the same policy (the same weights,
drawn at random: it never succeeds, so every episode takes all of its steps), execute the same share of each chunk, and
have the same cores:

- ours: `vla_cl.evaluation.rollout`, simulator processes, several episodes at a time, a frame whenever the policy looks;
- the peer: one episode after another in one process, as `peers/gym_wrapper.py` says, torch on all cores.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peers import gym_wrapper
from rich.console import Console
from rich.table import Table

from vla_cl.config import compose
from vla_cl.data import Statistics
from vla_cl.envs import EnvironmentPool, ObservationOptions
from vla_cl.evaluation import EvaluationOptions, PolicyController, rollout
from vla_cl.policies import Policy, PolicyFeatures, build_policy
from vla_cl.tasks import Task, get_suite

ACTIONS, AGENT_POS = 7, 7


def fresh_policy(suite: str, preset: str, image_size: int) -> Policy:
    """A policy preset with its initial weights, which sees both cameras."""
    (config,) = compose([f"suite={suite}", f"policy={preset}", f"policy.image_size={image_size}"])
    features = PolicyFeatures(ACTIONS, AGENT_POS, cameras=tuple(gym_wrapper.CAMERAS), image_size=image_size)
    policy = build_policy(config.policy, features, seed=0)
    policy.set_statistics(Statistics.from_ranges(get_suite(suite).ranges))
    return policy.eval()


@contextmanager
def peer(task: str, policy: Path, horizon: int, cores: int) -> Iterator[Callable[[], float]]:
    """Episodes a minute of one episode under the peer, each time it is called."""
    context = multiprocessing.get_context("spawn")
    near, far = context.Pipe()
    process = context.Process(target=gym_wrapper.serve, args=(far, task, str(policy), horizon, cores), daemon=True)
    process.start()
    far.close()  # so that waiting for a process that has died is an error, not forever
    near.recv()

    def rate() -> float:
        near.send(True)
        return 60 / float(near.recv())

    yield rate
    near.send(False)
    process.join()


def our_rate(policy: Policy, task: Task, options: EvaluationOptions, pool: EnvironmentPool) -> float:
    """Episodes a minute of a whole rollout, resets included."""
    controller = PolicyController(policy)
    observation = ObservationOptions(cameras=tuple(gym_wrapper.CAMERAS), image_size=policy.features.image_size)
    started = time.perf_counter()
    rows = rollout(controller, task, stage=0, options=options, observation=observation, pool=pool, seed=0)
    seconds = time.perf_counter() - started
    assert all(row.steps == options.horizon for row in rows), "an episode ended early; the peer's do not"
    return 60 * len(rows) / seconds


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """Alternate the two sides, after each was called once; print a table, and return what is to be told."""
    suite = get_suite(arguments.suite)
    task = suite.tasks[0]
    name, horizon, cores = f"{suite.name}/{task.name}", arguments.horizon or task.horizon, arguments.processes
    policy = fresh_policy(suite.name, arguments.policy, arguments.image_size)
    options = EvaluationOptions(episodes=arguments.episodes, slots=arguments.slots, horizon=horizon)
    rates: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder, EnvironmentPool(cores) as pool:
        policy.save_pretrained(folder)
        with peer(name, Path(folder), horizon, cores) as theirs:
            torch.set_num_threads(1)  # our simulator's processes share the cores with the policy
            our_rate(policy, task, options, pool)
            rates = [(our_rate(policy, task, options, pool), theirs()) for _ in range(arguments.rounds)]
    ratio = statistics.median(ours / other for ours, other in rates)
    title = f"{name}, {arguments.policy}, two cameras of {arguments.image_size} px, {horizon} steps, {cores} cores"
    table = Table("episodes a minute", "ours", "robosuite's GymWrapper", "ratio", title=title)
    medians = [statistics.median(side) for side in zip(*rates, strict=True)]
    table.add_row("median", *(f"{rate:.2f}" for rate in medians), f"{ratio:.1f}")
    Console().print(table)
    return {
        "suite": suite.name,
        "task": task.name,
        "policy": arguments.policy,
        "image_size": arguments.image_size,
        "horizon": horizon,
        "execute": policy.config.execute,
        "cores": cores,
        "slots": arguments.slots,
        "ratio_episodes_per_minute": round(ratio, 2),
        "episodes_per_minute": {"ours": [each[0] for each in rates], "peer": [each[1] for each in rates]},
    }
