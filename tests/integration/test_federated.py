"""Clients and a server through the command line: every file of the run, and a kill that changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import TINY, Start, VlaCl, fingerprint, kill_at_each


def arguments(output: Path, demonstrations: Path, *more: str) -> list[str]:
    return [
        "run",
        "suite=mw5",
        "length=3",
        "policy=lowdim_transformer",
        "strategy=disco",
        "strategy.first_task=adapter",
        "federation.clients=2",
        "federation.rounds=2",
        "name=run",
        f"output={output}",
        f"data={demonstrations}",
        *TINY,
        "evaluation.episodes=1",
        "evaluation.upper_triangle=true",
        *more,
    ]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, demonstrations: Path, vla_cl_in: VlaCl) -> Path:
    output = tmp_path_factory.mktemp("federated")
    finished = vla_cl_in(output, *arguments(output, demonstrations), timeout=600)
    assert finished.returncode == 0, finished.stderr
    return output / "run"


def test_a_federated_run_leaves_what_every_run_leaves(uninterrupted: Path) -> None:
    run = uninterrupted
    assert sorted(path.name for path in run.glob("checkpoints/*")) == ["stage_01", "stage_02", "training"]
    assert not list(run.glob("checkpoints/training/*"))
    adapters = sorted(path.name for path in (run / "checkpoints/stage_02/adapters").iterdir())
    assert adapters == ["slot_faucet-close", "slot_handle-press-side", "slot_window-close"]
    assert sorted(path.name for path in run.glob("training/*")) == [f"stage_{stage:02d}.jsonl" for stage in range(3)]
    for stage in range(3):
        log = [json.loads(line) for line in (run / f"training/stage_{stage:02d}.jsonl").read_text().splitlines()]
        assert [row["step"] for row in log] == [10, 20, 30, 40]
    metrics = json.loads((run / "metrics.json").read_text())
    assert not np.isnan(np.array(metrics["success_matrix"], dtype=float)).any()
    assert metrics["forward_transfer"] is not None and (run / "report.html").exists()
    ledger = {entry["stage"]: entry for entry in json.loads((run / "ledger.json").read_text())}
    assert sorted(ledger) == [-1, 0, 1, 2]
    trained = ledger[2]["extra_parameters"] / 3  # of three adapters of the same size
    assert ledger[0]["communicated_bytes"] == ledger[2]["communicated_bytes"] == 2 * 2 * 4 * trained


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "inside the second client's first round": lambda run: any(
        run.glob("checkpoints/training/stage_01/client_1/step_*")
    ),
    "after the first answer": lambda run: (run / "checkpoints/training/stage_01/round_0000").exists(),
    "before the first stage is evaluated": lambda run: (run / "checkpoints/stage_01").exists(),
}


@pytest.mark.slow
def test_a_federated_run_that_is_killed_again_and_again_ends_with_the_same_weights_and_rows(
    tmp_path: Path, demonstrations: Path, uninterrupted: Path, start: Start, vla_cl: VlaCl
) -> None:
    line = arguments(tmp_path, demonstrations)
    kill_at_each(MOMENTS, start, line, tmp_path)
    finished = vla_cl(*line, timeout=600)
    assert finished.returncode == 0, finished.stderr
    assert fingerprint(tmp_path / "run") == fingerprint(uninterrupted)
    assert not list((tmp_path / "run").rglob("*.partial"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("federation.clients=4",), "clients=4 cannot take turns at 3 tasks"),
        (("federation.rounds=50",), "rounds=50 is more than training.steps=40"),
        (("federation.deals=same",), "did you mean 'federation.deal'"),
        (("federation.backend=mpi",), "backend must be process or ray, got 'mpi'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: tuple[str, ...], told: str, tmp_path: Path, demonstrations: Path, vla_cl: VlaCl
) -> None:
    refused = vla_cl(*arguments(tmp_path, demonstrations, *words))
    assert refused.returncode == 2 and told in refused.stderr and "Traceback" not in refused.stderr
    assert not (tmp_path / "run").exists()
