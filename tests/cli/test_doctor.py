"""The doctor looks at this machine, and says how to mend what is broken."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vla_cl.cli.checks import Probe, rendering, run_checks


def test_doctor_covers_what_an_experiment_needs(vla_cl):
    result = vla_cl("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(result.stdout)}
    names = {"python", "torch", "mujoco", "import metaworld", "import robosuite", "rendering", "accelerator", "disk"}
    assert names | {"ffmpeg", "chromium"} <= set(checks)
    assert all(check["mend"] for check in checks.values() if check["status"] == "broken")
    assert result.returncode == (1 if any(check["status"] == "broken" for check in checks.values()) else 0)


def test_doctor_prints_a_line_for_each_check(vla_cl):
    result = vla_cl("doctor")
    for name in ("python", "mujoco", "rendering", "disk"):
        assert name in result.stdout


def test_a_folder_that_cannot_be_written_is_broken():
    disk = next(check for check in run_checks(Path("/proc")) if check.name == "disk")
    assert disk.status == "broken"
    assert "--output" in disk.mend


def test_a_probe_that_crashes_is_told_and_takes_nobody_along():
    assert Probe("import os; os.kill(os.getpid(), 11)").result() == (False, "killed by signal 11")
    assert Probe("import no_such_thing").result() == (False, "ModuleNotFoundError: No module named 'no_such_thing'")
    assert Probe("print('a'); print('b')").result() == (True, "b")


@pytest.mark.parametrize(
    ("said", "status", "found", "mend"),
    [
        ("auto egl osmesa", "ok", "egl, osmesa works, too", ""),
        ("osmesa egl osmesa", "ok", "osmesa, egl works, too", ""),
        ("auto osmesa", "ok", "osmesa", ""),
        ("auto", "note", "ray casting, as neither", "libosmesa6"),
        ("raycast egl", "note", "ray casting: MUJOCO_GL", "unset MUJOCO_GL"),
        ("osmesa egl", "broken", "MUJOCO_GL names osmesa", "install -y --no-install-recommends libosmesa6"),
    ],
)
def test_rendering_names_what_will_draw(said, status, found, mend):
    check = rendering(Probe(f"print({said!r})"))
    assert (check.status, found in check.found, mend in check.mend) == (status, True, True), check
    assert bool(check.mend) == bool(mend)
