"""Short sequences of tasks, learned as `vla_cl.experiment` learns them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tests.strategies.conftest import make_policy
from vla_cl.data import WindowDataset
from vla_cl.policies import Policy
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.tasks import Task
from vla_cl.training import IntervalCheckpoints, TrainingOptions, fit, load_tree, save_tree

OPTIONS = TrainingOptions(
    steps=6, batch_size=8, warmup_steps=2, checkpoint_every=2, log_every=6, learning_rate=3e-3, schedule="constant"
)


def small_policy() -> Policy:
    """A flow policy that trains fast; always of the same weights."""
    return make_policy(head_options={"width": 16, "layers": 1}, width=16, blocks=1)


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


def kill(step: int) -> None:
    if step == 5:
        raise Killed


def learn(
    policy: Policy,
    strategy: Strategy,
    tasks: Sequence[Task],
    datasets: Sequence[WindowDataset],
    *,
    boundaries: bool = True,
    first: int = 0,
    options: TrainingOptions = OPTIONS,
    checkpoints: IntervalCheckpoints | None = None,
    on_step: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """Learn tasks one after the other, from stage `first` on, and say what the weights are then."""
    for stage, (task, data) in enumerate(zip(tasks, datasets, strict=True), start=first):
        if boundaries or stage == 0:
            strategy.begin_task(task, policy, data)
        fit(policy, data, strategy, options, seed=1, stage=stage, checkpoints=checkpoints, on_step=on_step)
        if boundaries:
            strategy.end_task(task, policy, data)
    return {name: value.clone() for name, value in policy.state_dict().items()}


def learn_through_kills(
    build: Callable[[], Strategy],
    tasks: Sequence[Task],
    datasets: Sequence[WindowDataset],
    folder: Path,
    *,
    boundaries: bool = True,
) -> dict[str, Tensor]:
    """What `learn` returns for a fresh policy, with a kill inside every task and a restart after each."""
    policy, strategy = small_policy(), build()
    for stage, (task, data) in enumerate(zip(tasks, datasets, strict=True)):
        checkpoints = IntervalCheckpoints(folder / f"interval_{stage}")
        if stage:
            policy.save_pretrained(folder / f"policy_{stage}")
            save_tree(strategy.state_dict(), folder / f"policy_{stage}", "strategy")
        for on_step in (kill, None):
            policy, strategy = small_policy(), build()
            if stage:
                policy = Policy.from_pretrained(folder / f"policy_{stage}")
                strategy.load_state_dict(load_tree(folder / f"policy_{stage}", "strategy"))
                strategy.bind(policy)
            try:
                learn(
                    policy,
                    strategy,
                    [task],
                    [data],
                    boundaries=boundaries,
                    first=stage,
                    checkpoints=checkpoints,
                    on_step=on_step,
                )
            except Killed:
                continue
    return {name: value.clone() for name, value in policy.state_dict().items()}


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Whether two policies have the same weights, bit for bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def learned(
    name: str, tasks: Sequence[Task], datasets: Sequence[WindowDataset], **options: object
) -> dict[str, Tensor]:
    """The weights of a fresh policy after a sequence under a strategy."""
    return learn(small_policy(), build_strategy(name, options, 0), tasks, datasets)
