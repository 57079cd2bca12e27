"""`vla-cl probe` on finished runs, as a user types it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.integration.conftest import TINY
from vla_cl.cli.main import main

LEARNS = (
    *("policy=lowdim", "policy.head=regression", "policy.backbone_options.width=64", "strategy=sequential"),
    *("collection.episodes=10", "training.steps=200", "training.batch_size=32", "evaluation.horizon=null"),
)
FORGETS = "mw5/window-close+mw5/handle-press-side"
"""Of which the first is learned by `LEARNS`, and wholly forgotten with the second."""
PROBE = ("--episodes", "4", "--processes", "1", "--scales", "0,0.5,1", "--steps", "5,40", "--windows", "32")


def finished_run(place: Path, demonstrations: Path, *overrides: str, suite: str = "mw5") -> Path:
    words = (f"suite={suite}", "name=run", f"output={place}", f"data={demonstrations}", "evaluation.zero_shot=false")
    assert main(["run", *words, *TINY, *overrides]) == 0
    return place / "run"


def digests(folder: Path) -> dict[str, str]:
    """Of all that a run wrote, without what probes may write."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    kept = [path for path in paths if "probes" not in path.parts and path.name not in ("report.html", ".lock")]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


def found(folder: Path, name: str) -> dict[str, dict]:
    return json.loads((folder / "probes" / f"{name}.json").read_text())["tasks"]


@pytest.mark.slow
def test_what_a_sequential_run_forgot_is_measured_and_its_run_stays_as_it_is(
    tmp_path: Path, demonstrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished_run(tmp_path, demonstrations, *LEARNS, suite=FORGETS)
    before = digests(folder)
    capsys.readouterr()
    assert main(["probe", str(folder), *PROBE, "--picture", str(tmp_path / "probes.png")]) == 0
    told = capsys.readouterr().out
    assert digests(folder) == before
    assert not list((folder / "probes").glob(".*"))
    assert "window-close" in told and "so it is" in told
    assert (tmp_path / "probes.png").stat().st_size > 1000

    success = found(folder, "success")["window-close"]
    assert success["final"] < success["former"], "this test needs a task that is learned and forgotten"
    scale, recovery = found(folder, "scale")["window-close"], found(folder, "recovery")["window-close"]
    assert scale["successes"][0] == success["former"], "scale 0 is the policy of then"
    assert scale["successes"][-1] == success["final"] == recovery["relearned"][0]
    assert recovery["steps"] == [0, 5, 40] and len(recovery["first"]) == 3
    drift = found(folder, "drift")["window-close"]
    assert drift["stages"] == [1] and len(drift["cka"][0]) == len(drift["layers"]) > 3
    assert all(0.0 <= value <= 1.0 for value in drift["cka"][0]) and min(drift["unbiased_cka"][0]) < 0.99
    assert found(folder, "verdicts")["window-close"]["outcome"] in ("hidden", "lost")
    assert not (folder / "probes" / "routing.json").exists(), "all of its parameters act on every task"
    report = (folder / "report.html").read_text()
    assert "What was forgotten, and how" in report and "backbone.mlp.blocks.0" in report

    written = {path: path.read_bytes() for path in (folder / "probes").iterdir()}
    (folder / "checkpoints" / "stage_00").rename(folder / "gone")  # which nothing needs any more
    (folder / "checkpoints" / "stage_00").mkdir()
    assert main(["probe", str(folder), *PROBE, "--scale", "--drift", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["drift"]["tasks"]["window-close"] == drift
    assert {path: path.read_bytes() for path in (folder / "probes").iterdir()} == written


def test_a_router_is_asked_whose_parameters_act_on_which_task(
    tmp_path: Path, demonstrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("length=2", "policy=lowdim_transformer", "policy.head=regression", "strategy=mrlora", "training.steps=4")
    folder = finished_run(tmp_path, demonstrations, *words)
    assert main(["probe", str(folder), "--routing", "--episodes", "2", "--processes", "1"]) == 0
    routing = found(folder, "routing")
    for task in ("window-close", "faucet-close"):
        assert routing[task]["confusion"] == {task: pytest.approx(1.0)} and routing[task]["accuracy"] == 1.0
        assert [episode["right"] for episode in routing[task]["episodes"]] == [1.0, 1.0]
    assert "accuracy 1.00" in capsys.readouterr().out
    assert [path.name for path in (folder / "probes").iterdir()] == ["routing.json"]


def test_a_folder_that_cannot_be_probed_is_refused_in_a_line(
    tmp_path: Path, demonstrations: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert main(["probe", *words]) == 2
        return capsys.readouterr().err

    assert "is not a run's folder" in refused(str(tmp_path / "nowhere"))
    words = ("length=1", "policy=lowdim", "policy.head=regression", "strategy=sequential", "training.steps=1")
    folder = finished_run(tmp_path, demonstrations, *words)
    assert "learned no task 'juggle'; it learned window-close" in refused(str(folder), "--task", "juggle")
    assert "--steps must be numbers separated by commas, got '5,x'" in refused(str(folder), "--steps", "5,x")
    assert main(["probe", str(folder), "--processes", "1"]) == 0  # a single task has nothing after it
    assert "nothing to probe" in capsys.readouterr().out
    (folder / "checkpoints" / "stage_00").rename(folder / "elsewhere")
    assert "is not finished: 0 of 1 tasks are learned" in refused(str(folder))
