"""The training loop: it learns, it goes on exactly, and it calls the verbs where the contract says."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.strategies.conftest import make_dataset, make_policy
from vla_cl.data import Batch, WindowDataset
from vla_cl.errors import DataFileError, SimulationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.strategies import Strategy, build_strategy
from vla_cl.strategies.base import Precision
from vla_cl.tasks import find_task
from vla_cl.training import IntervalCheckpoints, TrainingOptions, TrainingRow, emulates_bfloat16, fit

OPTIONS = TrainingOptions(steps=30, batch_size=16, warmup_steps=5, checkpoint_every=10, log_every=10)


@pytest.fixture
def data(tmp_path: Path) -> WindowDataset:
    return make_dataset(tmp_path, "task", episodes=8)


def weights(policy: Policy) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in policy.state_dict().items()}


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


class Interrupted(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.mark.parametrize("ema", [0.0, 0.9])
@pytest.mark.parametrize("head", ["flow", "regression"])
def test_interrupted_training_ends_with_the_same_weights(
    head: str, ema: float, data: WindowDataset, tmp_path: Path
) -> None:
    options = replace(OPTIONS, ema=ema)
    whole = make_policy(head)
    fit(whole, data, build_strategy("sequential", {}, 0), options, seed=1, stage=0)

    def stop(step: int) -> None:
        if step == 17:
            raise Interrupted

    checkpoints = IntervalCheckpoints(tmp_path / "checkpoints")
    arguments: dict[str, Any] = {"seed": 1, "stage": 0, "checkpoints": checkpoints}
    with pytest.raises(Interrupted):
        fit(make_policy(head), data, build_strategy("sequential", {}, 0), options, on_step=stop, **arguments)
    resumed = make_policy(head, seed=99)
    steps: list[int] = []
    fit(resumed, data, build_strategy("sequential", {}, 0), options, on_step=steps.append, **arguments)
    assert steps[0] == 10, "it goes on from the checkpoint, not from the start"
    assert same(weights(whole), weights(resumed))


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_training_in_rounds_ends_with_the_same_weights(ema: float, data: WindowDataset, tmp_path: Path) -> None:
    options = replace(OPTIONS, ema=ema)
    whole, cut = make_policy(), make_policy()
    fit(whole, data, build_strategy("sequential", {}, 0), options, seed=1, stage=0)
    checkpoints = IntervalCheckpoints(tmp_path / "checkpoints")
    for until in (7, 14, 30):
        fit(
            cut,
            data,
            build_strategy("sequential", {}, 0),
            options,
            seed=1,
            stage=0,
            until=until,
            checkpoints=checkpoints,
        )
        assert checkpoints.step == until
        assert same(weights(whole), weights(cut)) == (until == options.steps)


def test_the_same_seed_gives_the_same_weights_and_another_does_not(data: WindowDataset) -> None:
    policies = [make_policy() for _ in range(3)]
    for policy, seed in zip(policies, (1, 1, 2), strict=True):
        fit(policy, data, build_strategy("sequential", {}, 0), OPTIONS, seed=seed, stage=0)
    first, second, other = map(weights, policies)
    assert same(first, second) and not same(first, other)


def test_training_reduces_the_loss_on_the_demonstrations(data: WindowDataset) -> None:
    rows: list[TrainingRow] = []
    options = replace(OPTIONS, steps=300, learning_rate=3e-3)
    fit(
        make_policy("regression"),
        data,
        build_strategy("sequential", {}, 0),
        options,
        seed=0,
        stage=0,
        on_row=rows.append,
    )
    assert [row.step for row in rows] == list(range(10, 301, 10))
    assert rows[-1].imitation_loss < 0.5 * rows[0].imitation_loss


class Recorder(Strategy):
    """Writes down which verb was called, and what it could see."""

    def __init__(self) -> None:
        super().__init__(None, 0)
        self.calls: list[str] = []
        self.frozen = torch.zeros(())

    def begin_training(self, steps: int, precision: Precision = nullcontext) -> None:
        super().begin_training(steps, precision)
        self.calls.append("begin_training")

    def batch(self, batch: Batch) -> Batch:
        self.calls.append("batch")
        return batch

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        assert output.loss.shape == (len(batch),)
        self.calls.append("loss")
        return 0.0

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        assert any(parameter.grad is not None for parameter in parameters.values())
        self.calls.append("gradients")
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        self.calls.append("after_step")


def test_verbs_are_called_in_order_and_masked_gradients_move_nothing(data: WindowDataset) -> None:
    strategy, policy = Recorder(), make_policy()
    before = weights(policy)
    fit(policy, data, strategy, replace(OPTIONS, steps=3, weight_decay=0.0), seed=0, stage=0)
    assert strategy.calls == ["begin_training"] + ["batch", "loss", "gradients", "after_step"] * 3
    assert strategy.training_steps == 3
    assert same(before, weights(policy))


def test_where_weights_are_averaged_the_average_is_shown_last(data: WindowDataset) -> None:
    strategy = Recorder()
    fit(make_policy(), data, strategy, replace(OPTIONS, steps=2, ema=0.5), seed=0, stage=0)
    assert strategy.calls == ["begin_training"] + ["batch", "loss", "gradients", "after_step"] * 2 + ["after_step"]


def test_a_loss_that_is_not_finite_stops_with_the_way_out(data: WindowDataset) -> None:
    class Broken(Strategy):
        def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
            return output.loss.sum() * float("nan")

    with pytest.raises(SimulationError, match=r"the loss is nan .* lower training.learning_rate"):
        fit(make_policy(), data, Broken(None, 0), replace(OPTIONS, log_every=1), seed=0, stage=0)


@pytest.mark.parametrize("parts", [2, 4, 16])
@pytest.mark.parametrize(("head", "strategy"), [("flow", "sequential"), ("regression", "ewc")])
def test_a_batch_in_parts_is_the_batch(head: str, strategy: str, parts: int, data: WindowDataset) -> None:
    found = []
    for accumulate in (1, parts):
        policy, rows = make_policy(head), []
        learner = build_strategy(strategy, {"samples": 4} if strategy == "ewc" else {}, 0)
        if strategy == "ewc":
            learner.begin_task(find_task("push"), policy, data)
            learner.end_task(find_task("push"), policy, data)
        options = replace(OPTIONS, steps=8, log_every=1, accumulate=accumulate)
        fit(policy, data, learner, options, seed=0, stage=0, on_row=rows.append)
        found.append([(row.loss, row.imitation_loss, row.gradient_norm) for row in rows])
    torch.testing.assert_close(torch.tensor(found[1]), torch.tensor(found[0]), rtol=1e-4, atol=1e-5)


def test_an_interrupt_leaves_no_thread_behind(data: WindowDataset) -> None:
    def stop(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(make_policy(), data, build_strategy("sequential", {}, 0), OPTIONS, seed=0, stage=0, on_step=stop)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_data_that_cannot_be_read_stops_with_what_the_reader_says(data: WindowDataset) -> None:
    def fail(indices: object) -> Batch:
        raise DataFileError("the file is gone")

    data.batch = fail  # type: ignore[method-assign, assignment]
    with pytest.raises(DataFileError, match="the file is gone"):
        fit(make_policy(), data, build_strategy("sequential", {}, 0), OPTIONS, seed=0, stage=0)


@pytest.mark.gpu
def test_a_gpu_fits_too(data: WindowDataset) -> None:
    policy = make_policy().to("cuda")
    rows: list[TrainingRow] = []
    options = replace(OPTIONS, precision="bfloat16")
    fit(policy, data, build_strategy("ewc", {}, 0), options, seed=0, stage=0, on_row=rows.append)
    assert rows[-1].loss == rows[-1].loss


def test_where_nothing_is_trained_steps_are_only_counted(data: WindowDataset, tmp_path: Path) -> None:
    policy = make_policy()
    policy.requires_grad_(False)
    before, steps, rows = weights(policy), [], []
    checkpoints = IntervalCheckpoints(tmp_path / "checkpoints")
    strategy = build_strategy("sequential", {}, 0)
    fit(
        policy,
        data,
        strategy,
        OPTIONS,
        seed=0,
        stage=0,
        checkpoints=checkpoints,
        on_step=steps.append,
        on_row=rows.append,
    )
    assert same(before, weights(policy))
    assert steps == list(range(1, 31)) and rows == []
    assert checkpoints.latest() is None


@pytest.mark.parametrize(
    ("able", "emulated"), [({"amx_bf16": True}, False), ({"avx512_bf16": True}, False), ({}, True)]
)
def test_a_cpu_without_instructions_for_bfloat16_emulates_it(
    able: dict[str, bool], emulated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    assert emulates_bfloat16(torch.device("cpu")) is emulated
    assert not emulates_bfloat16(torch.device("cuda"))
