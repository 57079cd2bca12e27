"""A compiled head's loss is the head's loss; where nothing compiles, training goes on without."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.strategies.conftest import ACTION_DIM, CHUNK, make_dataset, make_policy
from vla_cl.data import WindowDataset
from vla_cl.policies.regression import RegressionHead, RegressionOptions
from vla_cl.strategies import build_strategy
from vla_cl.training import TrainingOptions, TrainingRow, fit

OPTIONS = TrainingOptions(steps=4, batch_size=8, warmup_steps=1, checkpoint_every=0, log_every=1)


@pytest.fixture
def data(tmp_path: Path) -> WindowDataset:
    return make_dataset(tmp_path, "task", episodes=4)


def losses(data: WindowDataset, options: TrainingOptions) -> list[tuple[float, float]]:
    rows: list[TrainingRow] = []
    policy = make_policy("regression")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        policy.head = RegressionHead(RegressionOptions(layers=1, width=8), policy.history.shape, CHUNK, ACTION_DIM)
    fit(policy, data, build_strategy("sequential", {}, 0), options, seed=0, stage=0, on_row=rows.append)
    assert not any("_orig_mod" in name for name in policy.state_dict())
    return [(row.loss, row.gradient_norm) for row in rows]


@pytest.mark.slow
def test_compiled_training_is_training(
    data: WindowDataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING, "vla_cl"):
        found = losses(data, replace(OPTIONS, compile=True))
    if caplog.records:
        pytest.skip(caplog.records[0].getMessage())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1, "something was compiled"
    np.testing.assert_allclose(found, losses(data, OPTIONS), rtol=1e-4, atol=1e-5)


def test_without_a_compiler_training_goes_on_with_a_warning(
    data: WindowDataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))  # nothing that was compiled before
    torch._dynamo.reset()
    with caplog.at_level(logging.WARNING, "vla_cl"):
        found = losses(data, replace(OPTIONS, compile=True))
    (record,) = [each for each in caplog.records if each.name.startswith("vla_cl")]
    assert "cannot compile here" in record.getMessage() and "\n" not in record.getMessage()
    assert found == losses(data, OPTIONS)
