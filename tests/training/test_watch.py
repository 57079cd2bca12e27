"""Numbers that are not finite stop training before they are kept, and the error leads to where they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from tests.strategies.conftest import make_dataset, make_policy
from vla_cl.data import WindowDataset, batch_indices
from vla_cl.errors import SimulationError
from vla_cl.seeding import derive_seed
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.training import IntervalCheckpoints, TrainingOptions, fit
from vla_cl.training.watch import NotFiniteError, Watch, check_weights

OPTIONS = TrainingOptions(steps=60, batch_size=8, warmup_steps=5, checkpoint_every=4, log_every=25)


@pytest.fixture
def data(tmp_path: Path) -> WindowDataset:
    return make_dataset(tmp_path, "task", episodes=8)


def poisoned(data: WindowDataset, key: str, episode: int, step: int, value: float) -> WindowDataset:
    """The same file with one number that is not finite."""
    with h5py.File(data.path, "r+") as file:
        file[f"data/demo_{episode}/{key}"][step, 0] = value
    return WindowDataset(data.path, data.chunk, privileged=True)


@pytest.mark.parametrize(
    ("key", "what", "value"), [("obs/agent_pos", "agent_pos", np.nan), ("actions", "an action", np.inf)]
)
def test_a_poisoned_episode_stops_training_and_is_named(
    key: str, what: str, value: float, data: WindowDataset, tmp_path: Path
) -> None:
    data = poisoned(data, key, 5, 7, value)

    def looks_at_it(window: int) -> bool:
        batch = data.batch([window])
        return not all(bool(each.isfinite().all()) for each in (batch.actions, batch.observation.agent_pos))

    bad = {window for window in range(len(data)) if looks_at_it(window)}

    def first_step(seed: int) -> int:
        stage = derive_seed(seed, "train", 2)
        return next(step for step in range(60) if bad & set(batch_indices(len(data), 8, stage, step).tolist()))

    seed = next(seed for seed in range(100) if first_step(seed) > 4)
    first = first_step(seed)
    folder = IntervalCheckpoints(tmp_path / "checkpoints")
    policy = make_policy("regression")
    with pytest.raises(SimulationError) as caught:
        fit(policy, data, build_strategy("sequential", {}, 0), OPTIONS, seed=seed, stage=2, checkpoints=folder)
    line = str(caught.value)
    assert f"at step {first + 1} of stage 2 (task)" in line
    assert str(data.path) in line and "\n" not in line
    assert f"{what} of window" in line and "(episode 5, step" in line and "repair that episode" in line
    kept = first // 4 * 4
    assert f"the checkpoint of step {kept} is kept" in line
    saved = folder.latest()
    assert saved is not None and saved["step"] == kept
    for weights in (saved["policy"], policy.state_dict()):
        assert all(bool(each.isfinite().all()) for each in weights.values() if each.is_floating_point())


def test_a_learning_rate_that_explodes_is_stopped_with_the_way_out(data: WindowDataset, tmp_path: Path) -> None:
    folder = IntervalCheckpoints(tmp_path / "checkpoints")
    options = replace(OPTIONS, learning_rate=1e6, warmup_steps=0, checkpoint_every=1)
    with pytest.raises(SimulationError, match=r"all numbers .* are finite: lower training.learning_rate") as caught:
        fit(make_policy(), data, build_strategy("sequential", {}, 0), options, seed=0, stage=0, checkpoints=folder)
    assert "\n" not in str(caught.value)
    saved = folder.latest()
    if saved is not None:
        assert all(bool(each.isfinite().all()) for each in saved["policy"].values() if each.is_floating_point())


def test_an_update_that_overflows_is_not_checkpointed(data: WindowDataset, tmp_path: Path) -> None:
    class Overflow(Strategy):
        def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
            if self.stage == 5:
                next(iter(parameters.values())).data.flatten()[0] = float("inf")
            self.stage += 1

    folder = IntervalCheckpoints(tmp_path / "checkpoints")
    options = replace(OPTIONS, checkpoint_every=3)
    with pytest.raises(SimulationError, match=r"a weight is inf at step 6 .* checkpoint of step 3 is kept"):
        strategy = Overflow(None, 0)
        strategy.stage = 0
        fit(make_policy(), data, strategy, options, seed=0, stage=0, checkpoints=folder)


def test_a_gpu_is_looked_at_late_and_the_first_bad_step_is_found() -> None:
    watch = Watch(torch.device("cuda"))  # where numbers are looked at when `check` is called; the numbers may lie here
    for step in range(3, 9):
        watch.note(step, torch.tensor(1.0), torch.tensor(2.0))
    watch.check()
    for step, (loss, norm) in enumerate([(1.0, 2.0), (1.0, np.inf), (np.nan, np.nan)], start=9):
        watch.note(step, torch.tensor(loss), torch.tensor(norm))
    with pytest.raises(NotFiniteError) as caught:
        watch.check()
    assert (caught.value.step, caught.value.what, caught.value.value) == (10, "the gradient norm", np.inf)
    watch.check()


def test_a_cpu_is_looked_at_before_the_weights_move() -> None:
    with pytest.raises(NotFiniteError):
        Watch(torch.device("cpu")).note(0, torch.tensor(np.nan), torch.tensor(1.0))


def test_weights_are_looked_at_one_and_all() -> None:
    parameters = {str(index): nn.Parameter(torch.zeros(3, 2, dtype=torch.bfloat16)) for index in range(4)}
    check_weights(0, parameters)
    parameters["2"].data[1, 1] = float("nan")
    with pytest.raises(NotFiniteError, match="a weight"):
        check_weights(0, parameters)
