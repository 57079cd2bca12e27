"""Tasks of other people: a package of their own in an environment of its own, and Gymnasium-Robotics."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.integration.conftest import TINY, VlaCl, environment
from vla_cl.tasks.template import write_template

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"

BROKEN = """
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "broken-task"
version = "1.0"
[project.entry-points."vla_cl.tasks"]
broken_task = "broken_task"
[tool.setuptools]
py-modules = ["broken_task"]
"""


def install(python: Path, source: Path, wheels: Path) -> None:
    """`pip install SOURCE` for that interpreter, without an index."""
    pip = [sys.executable, "-m", "pip", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(wheels), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = wheels.glob(f"{source.name.replace('-', '_')}*.whl")
    target = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*target, str(wheel)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a new environment with two third-party packages, one of them broken.

    It borrows vla_cl and its dependencies from the environment of the tests.
    """
    folder = tmp_path_factory.mktemp("third_party")
    venv.create(folder / "environment", with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "environment" / "lib" / version / "site-packages"
    (packages / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    python = folder / "environment" / "bin" / "python"
    write_template("sort-screws", "package", folder)
    install(python, folder / "sort-screws", folder)
    (folder / "broken-task").mkdir()
    (folder / "broken-task" / "pyproject.toml").write_text(BROKEN)
    (folder / "broken-task" / "broken_task.py").write_text("import a_module_that_nobody_has\n")
    install(python, folder / "broken-task", folder)
    return python


def third_party(python: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [str(python), "-m", "vla_cl.cli.main", *words]
    return subprocess.run(command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=300)


def test_a_sequence_mixes_the_task_of_an_installed_package_with_ours(python, tmp_path):
    words = ("suite=sort-screws+mw5/window-close", "policy=lowdim", "strategy=replay", *TINY, "name=mixed")
    result = third_party(python, tmp_path, "run", *words)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "runs" / "mixed" / "metrics.json").read_text())
    assert metrics["tasks"] == ["sort-screws", "window-close"]
    complaint = "plug-in broken_task (broken_task) is left out: No module named 'a_module_that_nobody_has'"
    assert complaint in result.stderr

    again = third_party(python, tmp_path, "evaluate", "runs/mixed", "--episodes", "2", "--json")
    assert again.returncode == 0, again.stderr
    assert [task["task"] for task in json.loads(again.stdout)] == ["sort-screws", "window-close"]


def test_the_installed_task_is_proven_by_its_own_tests(python, tmp_path):
    result = third_party(python, tmp_path, "tasks", "check", "sort-screws", "--episodes", "5", "--picture", "sheet.png")
    assert result.returncode == 0, result.stdout + result.stderr
    assert (tmp_path / "sheet.png").is_file()
    tests = python.parents[2] / "sort-screws" / "tests"
    command = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests)]
    result = subprocess.run(command, cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout


def test_the_task_is_known_only_where_it_is_installed(vla_cl: VlaCl):
    result = vla_cl("run", "suite=sort-screws", "policy=lowdim")
    assert result.returncode == 2
    assert "suite 'sort-screws' is not registered" in result.stderr


def test_a_sequence_of_gymnasium_robotics_runs_through_the_gymnasium_door(vla_cl: VlaCl, tmp_path):
    plugin = ("--plugin", str(EXAMPLES / "fetch.yaml"))
    words = ("suite=fetch", "policy=compact", "strategy=replay", *TINY, "evaluation.zero_shot=false", "name=fetch")
    result = vla_cl("run", *words, *plugin)
    assert result.returncode == 0, result.stderr
    metrics = json.loads((tmp_path / "runs" / "fetch" / "metrics.json").read_text())
    assert metrics["tasks"] == ["fetch-reach", "fetch-push"]


def test_its_tasks_pass_the_checks(vla_cl: VlaCl, tmp_path):
    plugin = ("--plugin", str(EXAMPLES / "fetch.yaml"))
    result = vla_cl("tasks", "check", "fetch-push", "--episodes", "40", "--json", *plugin)
    assert result.returncode == 0, result.stdout
    checks = {check["name"]: check["told"] for check in json.loads(result.stdout)["checks"]}
    assert checks["expert"].startswith("40 of 40 episodes solved")
