"""The shares of a batch that processes take, and what they refuse before they start."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from vla_cl.cli.main import main
from vla_cl.errors import ConfigurationError
from vla_cl.training import ALONE, Replicas, TrainingOptions, check_processes
from vla_cl.training.replicas import _BUCKET, _buckets

LAUNCHED = {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "MASTER_ADDR": "first", "MASTER_PORT": "1"}


@given(st.integers(0, 300), st.integers(1, 9))
def test_each_row_of_a_batch_belongs_to_one_process(batch: int, count: int) -> None:
    shares = []
    for index in range(count):
        process = Replicas()
        process.index, process.count = index, count
        shares.append(range(batch)[process.rows(batch)])
    assert [row for share in shares for row in share] == list(range(batch))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_a_process_alone_has_all_rows_and_changes_nothing() -> None:
    parameter = nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 2.0)
    numbers = torch.tensor([1.0, 2.0])
    assert ALONE.rows(7) == slice(0, 7)
    assert ALONE.summed([parameter], numbers) is numbers
    assert parameter.grad.tolist() == [2.0, 2.0, 2.0]


def test_gradients_are_summed_in_buckets_of_one_type_and_of_bounded_size() -> None:
    sizes = (_BUCKET // 2, 3, _BUCKET // 2, _BUCKET + 1, 5)
    parameters = [nn.Parameter(torch.empty(size, dtype=torch.float16, device="meta")) for size in sizes]
    parameters.insert(1, nn.Parameter(torch.empty(4, device="meta")))
    buckets = _buckets(parameters)
    assert [[each.numel() for each in bucket] for bucket in buckets] == [
        [_BUCKET // 2, 3],
        [_BUCKET // 2],
        [_BUCKET + 1],
        [5],
        [4],
    ]


def test_more_processes_than_rows_or_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"training\.processes must be at most training\.batch_size=8, got 9"):
        TrainingOptions(batch_size=8, processes=9)
    two = TrainingOptions(processes=2)
    check_processes(two, "cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigurationError, match="takes a GPU each, and torch sees 1"):
        check_processes(two, "auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_processes(two, "cuda")
    with pytest.raises(ConfigurationError, match=r"not from device=cuda:1"):
        check_processes(two, "cuda:1")


def test_a_grid_is_not_for_a_launcher(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    words = ["suite=mw5", "policy=lowdim", "strategy=sequential", "training.processes=4", "device=cpu"]
    assert main(["grid", *words]) == 2
    assert "a launcher is for vla-cl run" in capsys.readouterr().err


def test_a_launcher_and_the_configuration_must_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in LAUNCHED.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match=r"started 4 processes, and training\.processes=1; add training\.proc"):
        check_processes(TrainingOptions(), "cpu")
    check_processes(TrainingOptions(processes=4), "cpu")
