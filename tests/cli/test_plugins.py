"""The examples of the documentation, run as its pages say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gymnasium.utils.env_checker import check_env

from vla_cl.registry import load_plugins
from vla_cl.tasks import find_task

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
LITTLE = (
    "collection.episodes=2",
    "collection.processes=1",
    "training.steps=20",
    "training.batch_size=16",
    "training.warmup_steps=5",
    "evaluation.episodes=2",
    "evaluation.slots=2",
    "evaluation.processes=1",
    "evaluation.videos=0",
)


def plugin(name: str) -> tuple[str, str]:
    return "--plugin", str(EXAMPLES / f"{name}.py")


@pytest.mark.filterwarnings("ignore:.*Box observation space.*")
def test_the_example_task_is_a_clean_gymnasium_environment():
    load_plugins([str(EXAMPLES / "pushing.py")])
    for name in ("push-left", "push-right"):
        check_env(find_task(f"pushing/{name}").environment(), skip_render_check=True)


def test_plugged_in_task_policy_and_strategy_run_together(vla_cl, tmp_path):
    plugins = (*plugin("pushing"), *plugin("bins_head"), *plugin("weight_anchor"))
    choices = ("suite=pushing", "policy=lowdim", "policy.head=bins", "strategy=weight_anchor", "strategy.strength=0.1")
    result = vla_cl("run", *choices, *LITTLE, *plugins, "name=plugged")
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "runs" / "plugged" / "metrics.json").read_text())
    assert metrics["tasks"] == ["push-left", "push-right"]
    assert 0.0 <= metrics["learning_accuracy"] <= 1.0
    assert f"report: {tmp_path / 'runs' / 'plugged' / 'report.html'}" in result.stdout

    again = vla_cl("evaluate", "runs/plugged", "--episodes", "3", "--json", *plugin("pushing"))
    assert again.returncode == 0, again.stderr
    assert [task["episodes"] for task in json.loads(again.stdout)] == [3, 3]


def test_a_sweep_ends_in_one_report(vla_cl, tmp_path):
    choices = ("suite=pushing", "policy=lowdim", "strategy=sequential,replay", "length=1")
    result = vla_cl("run", *choices, *LITTLE, *plugin("pushing"), "--output", "here/it is")
    assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "here" / "it is").glob("*/metrics.json"))) == 2
    assert (tmp_path / "here" / "it is" / "report.html").is_file()


def test_collect_writes_each_task_once(vla_cl, tmp_path):
    words = ("collect", "pushing", "--episodes", "3", "--cameras", "none", *plugin("pushing"))
    first = vla_cl(*words)
    assert first.returncode == 0, first.stderr
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "demonstrations").rglob("*.hdf5")}
    assert len(files) == 2
    vla_cl(*words)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "demonstrations").rglob("*.hdf5")} == files


def test_a_contact_sheet_shows_the_tasks(vla_cl, tmp_path):
    from PIL import Image

    result = vla_cl("tasks", "pushing", "--picture", "sheet.png", "--image-size", "64", *plugin("pushing"))
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "sheet.png").width > 128
