"""A run whose rollouts stop early says so everywhere, and ends with the same rows after a kill."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.conftest import TINY, Start, VlaCl, fingerprint, kill_when
from vla_cl.evaluation import read_rows


def arguments(output: Path, demonstrations: Path) -> list[str]:
    """A policy of forty steps fails; a rule that tolerates much notices after two episodes."""
    return [
        "run", "suite=mw5", "length=1", "policy=lowdim", "strategy=sequential", "name=run", *TINY,
        f"output={output}", f"data={demonstrations}", "evaluation.episodes=6", "evaluation.horizon=20",
        "evaluation.early_stop.threshold=0.7", "evaluation.early_stop.error=0.4",
    ]  # fmt: skip


def test_a_run_that_stops_early_says_so_and_resumes_to_the_same_rows(
    tmp_path: Path, demonstrations: Path, start: Start, vla_cl: VlaCl
) -> None:
    first = vla_cl(*arguments(tmp_path / "whole", demonstrations))
    assert first.returncode == 0, first.stderr
    whole = tmp_path / "whole" / "run"
    for name in ("zero_shot", "stage_00"):
        rows = read_rows(whole / f"episodes/{name}.jsonl")
        assert [row.stopping for row in rows] == ["watched", "stopped"], "two of six, and the second says it"
    assert json.loads((whole / "config.json").read_text())["evaluation"]["early_stop"]["threshold"] == 0.7
    metrics = json.loads((whole / "metrics.json").read_text())
    assert metrics["stopped_early"] == [[True], [True]] and metrics["episodes"] == [[2], [2]]
    page = (whole / "report.html").read_text()
    assert "evaluation.early_stop.threshold=0.7" in page
    assert "2 of 2 cells were, and 4 episodes were" in " ".join(page.split())
    assert "0 of 2 episodes, stopped early" in page

    killed = tmp_path / "killed" / "run"
    line = arguments(tmp_path / "killed", demonstrations)
    kill_when(lambda: (killed / "checkpoints/stage_00").exists(), start, line, tmp_path)
    second = vla_cl(*line)
    assert second.returncode == 0, second.stderr
    assert fingerprint(killed) == fingerprint(whole)
