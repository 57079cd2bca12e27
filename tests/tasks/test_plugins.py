"""Suites from installed packages, through the entry points of group `vla_cl.tasks`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

PLUGIN = """
from vla_cl.tasks import Task, TaskSuite, register_suite

@register_suite("kitchen")
def kitchen():
    return TaskSuite("kitchen", (Task("tap", "close the tap", 150, "meta_world", {"task": "faucet-close-v3"}),))
"""

PROGRAM = """
import json, gymnasium, vla_cl
env = gymnasium.make("vla_cl/kitchen.tap-v0", cameras=())
env.reset(seed=0)
print(json.dumps([env.unwrapped.horizon, "vla_cl/mw5.push-v0" in gymnasium.registry]))
"""


def install(site: Path, name: str, source: str) -> None:
    """Put a distribution with one module, declared as an entry point, into a folder of packages."""
    (site / f"{name}.py").write_text(source)
    information = site / f"{name}-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[vla_cl.tasks]\n{name} = {name}\n")


def test_an_installed_package_adds_suites_and_a_broken_one_does_not_take_the_rest_along(tmp_path):
    install(tmp_path, "a_broken_plugin", "raise RuntimeError('made for a version that never was')")
    install(tmp_path, "kitchen_plugin", PLUGIN)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert finished.returncode == 0, finished.stderr
    assert json.loads(finished.stdout) == [150, True]
    assert "plug-in a_broken_plugin (a_broken_plugin) is left out: made for a version that never was" in finished.stderr
