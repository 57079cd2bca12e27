"""Help that a newcomer can follow, and that comes at once."""

from __future__ import annotations

import subprocess
import sys

import pytest

from vla_cl import __version__

WORK = ["run", "grid", "collect", "data", "evaluate", "probe", "watch", "serve", "report", "compare"]
COMMANDS = [*WORK, "suites", "tasks", "policies", "strategies", "perturbations", "assets", "doctor"]


def test_help_lists_every_command(vla_cl):
    result = vla_cl("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert command in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself(vla_cl, command):
    result = vla_cl(command, "-h")
    assert result.returncode == 0
    assert f"vla-cl {command}" in result.stdout
    assert "--help" in result.stdout


def test_version_is_printed(vla_cl):
    assert vla_cl("--version").stdout.split() == ["vla_cl", __version__]


def test_help_imports_nothing_heavy():
    heavy = ["torch", "transformers", "metaworld", "mujoco", "matplotlib", "h5py", "hydra", "robosuite", "ray"]
    code = f"import sys, vla_cl.cli.main; print([name for name in {heavy} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
