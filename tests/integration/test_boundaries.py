"""Blurry and unannounced boundaries through the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.integration.conftest import TINY, VlaCl

SEQUENCE = ("suite=mw5", "length=2", "policy=lowdim", *TINY, "evaluation.zero_shot=false", "evaluation.episodes=1")


def test_a_task_free_strategy_learns_where_nobody_announces_tasks(
    vla_cl: VlaCl, tmp_path: Path, demonstrations: Path
) -> None:
    places = (f"output={tmp_path}", f"data={demonstrations}")
    learn = ("strategy=sequential", "boundaries=unknown", "blur=0.25", "name=free")
    done = vla_cl("run", *SEQUENCE, *learn, *places)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "free" / "metrics.json").read_text())
    assert 0.0 <= metrics["final_average"] <= 1.0
    sharp = vla_cl("run", *SEQUENCE, "strategy=sequential", "name=sharp", *places)
    assert sharp.returncode == 0, sharp.stderr

    def losses(name: str) -> list[float]:
        lines = (tmp_path / name / "training" / "stage_00.jsonl").read_text().splitlines()
        return [json.loads(line)["imitation_loss"] for line in lines]

    assert losses("free") != losses("sharp"), "the neighbour's windows are in the batches"


def test_one_that_needs_boundaries_is_refused_before_anything_is_done(vla_cl: VlaCl, tmp_path: Path) -> None:
    refused = vla_cl("run", *SEQUENCE, "strategy=ewc", "boundaries=unknown", f"output={tmp_path}")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "strategy 'ewc' must be told where tasks begin and end" in refused.stderr and "sequential" in refused.stderr
    assert "replay with strategy.keep=reservoir" in refused.stderr
    assert not list(tmp_path.glob("*ewc*"))
    for key, value in (("boundaries", "fuzzy"), ("blur", "0.7")):
        refused = vla_cl("run", *SEQUENCE, f"{key}={value}", f"output={tmp_path}")
        assert refused.returncode == 2 and f"{key} must be" in refused.stderr
