"""What a user does wrong, or what the machine does to them, ends in one line, and nothing is lost."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.integration.conftest import TINY, VlaCl, command, copy_of, environment, one_line
from vla_cl.data import DemonstrationFile
from vla_cl.policies import Policy, build_policy


def arguments(output: Path, demonstrations: Path, *more: str) -> list[str]:
    places = (f"output={output}", f"data={demonstrations}", "name=run")
    return ["run", "suite=mw5", "length=1", "policy=lowdim", *places, *TINY, "evaluation.zero_shot=false", *more]


def test_a_chunk_longer_than_the_horizon_is_refused_before_anything_is_done(
    vla_cl: VlaCl, tmp_path: Path, demonstrations: Path
) -> None:
    words = ("policy.chunk=500", "policy.execute=4", "evaluation.horizon=null")
    line = one_line(vla_cl(*arguments(tmp_path, demonstrations, *words)))
    assert "policy.chunk=500 is longer than task 'window-close', whose horizon is 200 control steps" in line
    assert not (tmp_path / "run").exists()


def test_weights_of_another_policy_are_refused(vla_cl: VlaCl, tmp_path: Path, undisturbed: Path) -> None:
    checkpoint = copy_of(undisturbed, tmp_path) / "checkpoints/stage_01"
    known = Policy.from_pretrained(checkpoint)
    build_policy(replace(known.config, head="regression", head_options={}), known.features, 0).save_pretrained(
        tmp_path / "other"
    )
    shutil.copy(tmp_path / "other/model.safetensors", checkpoint)
    words = ("evaluate", str(tmp_path / "run"), "--episodes", "1")
    assert "model.safetensors is not what was written" in one_line(vla_cl(*words))
    (checkpoint / "checksums.json").unlink()
    line = one_line(vla_cl(*words))
    assert "checkpoint" in line or "model.safetensors" in line


def test_a_checkpoint_is_evaluated_with_intervals(vla_cl: VlaCl, tmp_path: Path, undisturbed: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    options = ("--episodes", "2", "--horizon", "40", "--processes", "1", "--output", str(rows), "--json")
    finished = vla_cl("evaluate", str(undisturbed), *options)
    assert finished.returncode == 0, finished.stderr
    results = json.loads(finished.stdout)
    assert [result["task"] for result in results] == ["window-close", "faucet-close"]
    for result in results:
        assert result["episodes"] == 2
        assert 0 <= result["interval"][0] <= result["success_rate"] <= result["interval"][1] <= 1
    assert len(rows.read_text().splitlines()) == 4


def run_without_gl(words: list[str], folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """`vla-cl` with the GL libraries hidden from it and its children."""
    if shutil.which("unshare") is None or os.geteuid() != 0:
        pytest.skip("hiding the GL libraries takes a mount namespace, which takes root")
    kept = {name: value for name, value in environment().items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    libraries = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout.splitlines()
    paths = [line.split("=> ")[1] for line in libraries if "libEGL" in line or "libOSMesa" in line]
    hide = "".join(f"mount --bind /dev/null {shlex.quote(path)} && " for path in paths)
    finished = subprocess.run(
        ["unshare", "--mount", "sh", "-c", hide + shlex.join(command(*words))],
        env={**kept, **variables},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "unshare:" in finished.stderr or "mount:" in finished.stderr:
        pytest.skip(f"no mount namespace here: {finished.stderr.strip()}")
    return finished


def test_without_gl_a_run_from_pixels_casts_rays_and_says_so_once(tmp_path: Path) -> None:
    small = ("policy=compact", "training.steps=10", "evaluation.videos=1", "evaluation.processes=2")
    finished = run_without_gl(arguments(tmp_path, tmp_path / "demonstrations", *small), tmp_path)
    assert finished.returncode == 0, finished.stderr
    (line,) = [line for line in finished.stderr.splitlines() if "ray casting" in line]
    assert "apt-get install" in line
    (path,) = (tmp_path / "demonstrations").rglob("*.hdf5")
    with DemonstrationFile(path) as file:
        assert file.header.rendering["backend"] == "raycast"
        assert len(np.unique(file.episode(0).observations["corner2_image"][0].reshape(-1, 3), axis=0)) > 50


def test_without_the_gl_that_was_asked_for_the_way_out_is_said(tmp_path: Path) -> None:
    words = arguments(tmp_path, tmp_path / "demonstrations", "policy=compact")
    assert "apt-get install" in one_line(run_without_gl(words, tmp_path, MUJOCO_GL="egl"))
    assert "apt-get install" in one_line(run_without_gl([*words, "rendering=egl", "name=other"], tmp_path))


def test_without_gl_a_run_without_pixels_says_nothing_of_it(tmp_path: Path, demonstrations: Path) -> None:
    finished = run_without_gl([*arguments(tmp_path, demonstrations), "evaluation.videos=0"], tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert "ray casting" not in finished.stderr
