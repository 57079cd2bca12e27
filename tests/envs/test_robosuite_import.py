"""robosuite comes in without noise, without GL, and without touching the environment variables."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vla_cl.envs.robosuite_import import import_robosuite

ROOT = Path(__file__).parents[2]
BUILD = """
import os
before = dict(os.environ)
from vla_cl.envs.robosuite_import import import_robosuite
robosuite = import_robosuite()
assert dict(os.environ) == before
env = robosuite.make(
    "Lift", robots="Panda", has_renderer=False, has_offscreen_renderer=False, use_camera_obs=False
)
env.reset()
print(robosuite.__version__)
"""
LIBRARIES = ("libGL", "libEGL", "libOSMesa", "libX11")


def test_it_says_nothing_and_leaves_the_environment_alone() -> None:
    child = subprocess.run([sys.executable, "-c", BUILD], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (child.stdout, child.stderr) == ("1.5.2\n", "")


def test_it_works_where_no_gl_library_can_be_loaded(tmp_path: Path) -> None:
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("hiding the GL libraries takes a mount namespace, which takes root")
    listing = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [line.split("=> ")[1] for line in listing if line.strip().startswith(LIBRARIES)]
    hide = "".join(f"mount --bind /dev/null {shlex.quote(path)} && " for path in paths)
    script = hide + shlex.join([sys.executable, "-c", BUILD])
    child = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        env={name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")},
    )
    if "unshare:" in child.stderr or "mount:" in child.stderr:
        pytest.skip(f"no mount namespace here: {child.stderr.strip()}")
    assert (child.stdout, child.stderr) == ("1.5.2\n", "")


def test_it_is_imported_once() -> None:
    assert import_robosuite() is import_robosuite()
