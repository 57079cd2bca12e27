"""Processes that train together, one of which is killed."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.strategies.short_sequences import NAMES, SEED
from tests.strategies.test_several_processes import TWO, small_policy
from vla_cl.data import WindowDataset
from vla_cl.envs.process import WorkerProcess
from vla_cl.errors import SimulationError
from vla_cl.strategies import build_strategy
from vla_cl.tasks import find_task
from vla_cl.training import IntervalCheckpoints, fit, training_processes
from vla_cl.training import processes as starting

FIVE_STEPS = replace(TWO, steps=5)


def test_training_goes_on_from_a_checkpoint_after_a_process_was_killed(
    data: list[WindowDataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[WorkerProcess] = []

    def noted(module: str) -> WorkerProcess:
        started.append(WorkerProcess(module))
        return started[-1]

    def train(folder: Path, kill_at: int | None = None) -> dict[str, Tensor]:
        policy, strategy = small_policy(), build_strategy("replay", {}, SEED)

        def on_step(step: int) -> None:
            if step == kill_at:
                os.kill(started[-1].process_id, signal.SIGKILL)

        checkpoints = IntervalCheckpoints(folder)
        strategy.begin_task(find_task(NAMES[0]), policy, data[0])
        with training_processes(FIVE_STEPS, "cpu", 1) as replicas:
            fit(
                policy,
                data[0],
                strategy,
                FIVE_STEPS,
                seed=SEED,
                stage=0,
                checkpoints=checkpoints,
                on_step=on_step,
                replicas=replicas,
            )
        return policy.state_dict()

    monkeypatch.setattr(starting, "WorkerProcess", noted)
    with pytest.raises(SimulationError, match=r"a process of the training ended \(signal SIGKILL\); run the same"):
        train(tmp_path / "killed", kill_at=3)
    assert IntervalCheckpoints(tmp_path / "killed").step == 2
    resumed, undisturbed = train(tmp_path / "killed"), train(tmp_path / "whole")
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in undisturbed)
    assert not torch.distributed.is_initialized()
