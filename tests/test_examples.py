"""The examples of the documentation that no other test runs, each as its page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.integration.conftest import TINY, environment
from vla_cl.config import compose
from vla_cl.envs import ObservationOptions
from vla_cl.evaluation.task_check import check_task
from vla_cl.experiment import run_experiment
from vla_cl.registry import load_plugins
from vla_cl.seeding import numpy_generator
from vla_cl.tasks import Task, find_task, make_expert

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"


def solves(task: Task, episodes: int) -> int:
    """Of how many initial states of the test split the task's expert makes a success."""
    expert = make_expert(task)
    solved = 0
    with closing(task.environment(ObservationOptions(cameras=()))) as env:
        for seed in task.seeds.test[:episodes]:
            env.restart(seed=seed)
            expert.reset(env, numpy_generator("example", task.name, seed))
            outcome = env.advance(expert.act(env))
            while not (outcome.terminated or outcome.truncated):
                outcome = env.advance(expert.act(env))
            solved += outcome.terminated
    return solved


@pytest.mark.parametrize("name", ["shut-window", "turn-off-tap"])
def test_declared_tasks_of_a_known_simulator_are_solved_by_the_experts_that_they_name(name: str) -> None:
    load_plugins([str(EXAMPLES / "night.yaml")])
    assert solves(find_task(f"night/{name}"), episodes=2) == 2


def test_the_bddl_file_is_a_task_that_its_expert_solves(libero_root: Path) -> None:
    load_plugins([str(EXAMPLES / "bowl_onto_plate.bddl")])
    assert solves(find_task("bowl_onto_plate"), episodes=1) == 1


@pytest.mark.parametrize("name", ["score-left", "score-right"])
def test_the_simulator_passes_every_check(name: str) -> None:
    plugin = str(EXAMPLES / "air_hockey.yaml")
    load_plugins([plugin])
    checks = list(check_task(find_task(f"air_hockey/{name}"), episodes=20, plugins=[plugin]))
    assert [check for check in checks if not check.passed] == []
    assert len(checks) == 10


def test_the_protocol_evaluates_a_run_of_the_simulator(tmp_path: Path) -> None:
    plugins = [str(EXAMPLES / "air_hockey.yaml"), str(EXAMPLES / "thorough.py")]
    tiny = [each for each in TINY if not each.startswith("evaluation.")]
    chosen = ("suite=air_hockey", "policy=lowdim", "strategy=replay", "protocol=thorough", *tiny)
    few = ("evaluation.episodes=4", "evaluation.videos=0", "evaluation.processes=1", "name=hockey")
    places = (f"output={tmp_path / 'runs'}", f"data={tmp_path / 'data'}", f"plugins=[{','.join(plugins)}]")
    (config,) = compose([*chosen, *few, *places])
    assert config.evaluation.slots == 20  # the protocol's, where no override says otherwise
    rows = (run_experiment(config) / "episodes" / "stage_00.jsonl").read_text().splitlines()
    assert len(rows) == 2 * 4  # upper_triangle: the second task is tried before it is learned
    assert any("far left" in row for row in rows)  # paraphrased


def test_the_library_does_what_the_command_line_does(tmp_path: Path) -> None:
    overrides = ["suite=mw3", "length=2", "policy=lowdim", "strategy=replay", "name=small", *TINY]
    places = [f"output={tmp_path / 'runs'}", f"data={tmp_path / 'data'}", "evaluation.zero_shot=false"]
    run = run_experiment(compose([*overrides, *places])[0])
    script = [sys.executable, str(EXAMPLES / "from_python.py"), str(run)]
    paths = {**environment(), "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(script, cwd=tmp_path, env=paths, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    seen, episode, *rates = result.stdout.splitlines()
    assert seen == "seen: {'corner2': (64, 64, 3), 'gripperPOV': (64, 64, 3)}"
    assert re.fullmatch(r"one episode: (success|failure) after \d+ steps", episode)
    assert [rate.split(":")[0] for rate in rates] == ["button-press-topdown", "window-close"]
    assert all(re.fullmatch(r"[\w-]+: \d+ of 10, 95 % interval [01]\.\d\d to [01]\.\d\d", rate) for rate in rates)


def test_every_example_is_run_by_a_test() -> None:
    tests = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    companions = {"fetch_experts.py": "fetch.yaml", "air_hockey.py": "air_hockey.yaml"}  # loaded by what names them
    for example in EXAMPLES.iterdir():
        if example.suffix in (".py", ".yaml", ".bddl"):
            name = companions.get(example.name, example.name)
            assert f'"{name}"' in tests or f'plugin("{Path(name).stem}")' in tests, name


def test_every_example_is_shown_on_a_page() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))
    for example in EXAMPLES.iterdir():
        if example.is_file():
            assert f'--8<-- "examples/{example.name}"' in pages, example.name
