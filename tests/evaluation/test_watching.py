"""Watching an episode shows the one that an evaluation plays."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from numpy.typing import NDArray

from vla_cl.data import ObservationBatch
from vla_cl.envs import EnvironmentPool, ManipulationEnv, ObservationOptions, RenderingOptions
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.evaluation import Controller, EvaluationOptions, rollout
from vla_cl.evaluation.watching import Film, watch
from vla_cl.evaluation.window import Window
from vla_cl.tasks import Task

RAYCAST = RenderingOptions("raycast")


class Noise(Controller):
    """A policy whose noise is all there is to it."""

    execute = 3

    def act(self, observation: ObservationBatch, seeds: Sequence[int]) -> NDArray[np.float32]:
        return np.stack([np.random.default_rng(seed).uniform(-1, 1, (4, 4)) for seed in seeds]).astype(np.float32)


class Notes:
    """An audience that notes where the robot is."""

    def __init__(self) -> None:
        self.positions: list[list[float]] = []

    def begin(self, env: ManipulationEnv) -> None:
        self.see(env)

    def see(self, env: ManipulationEnv) -> None:
        self.positions.append(env.agent_pos().tolist())


def test_what_is_watched_is_the_evaluations_episode(
    pool: EnvironmentPool, window_close: Task, privileged: ObservationOptions
) -> None:
    task, options = replace(window_close, horizon=20), EvaluationOptions(episodes=4, perturbations=["object_pose"])
    settings = {"stage": 3, "observation": privileged, "seed": 7}
    evaluated = rollout(Noise(), task, options=options, pool=pool, **settings)
    notes = Notes()
    row = watch(task, notes, Noise(), episode=2, options=options, **settings)
    assert row == evaluated[2]
    assert len(notes.positions) == 21 and len({tuple(each) for each in notes.positions}) > 15


def test_the_expert_is_filmed_at_the_speed_that_is_asked_for(window_close: Task, tmp_path: Path) -> None:
    seconds = {}
    for speed in (1.0, 0.5, 0.1):
        film = Film("corner3", 64, speed)
        row = watch(window_close, film, rendering=RAYCAST)
        film.write(tmp_path / "film.mp4")
        meta = iio.immeta(tmp_path / "film.mp4", plugin="FFMPEG")
        assert row.success and meta["size"] == (64, 64)
        seconds[speed] = len(film.frames) / meta["fps"]
        assert seconds[speed] == pytest.approx(row.steps / 80 / speed, abs=0.3)
    frames = iio.imread(tmp_path / "film.mp4", plugin="FFMPEG").astype(int)
    assert np.abs(frames[0] - frames[-1]).mean() > 1  # the arm moved
    assert meta["fps"] == 8  # slower than there are control steps: every one is a frame


def test_mistakes_are_told_in_one_line(window_close: Task) -> None:
    with pytest.raises(ConfigurationError, match="no episode 20000"):
        watch(window_close, Notes(), episode=20_000)
    with pytest.raises(UnknownNameError, match="camera 'corner9'"):
        watch(window_close, Film("corner9"), rendering=RAYCAST)
    with pytest.raises(ConfigurationError, match="names no expert"):
        watch(replace(window_close, expert=""), Notes())
    with pytest.raises(ConfigurationError, match="speed must be above 0"):
        Film(speed=0.0)
    with pytest.raises(ConfigurationError, match="speed must be above 0"):
        Window(speed=-1.0)


IN_A_WINDOW = """
import time
from dataclasses import replace
from vla_cl.evaluation import EvaluationOptions
from vla_cl.evaluation.watching import watch
from vla_cl.evaluation.window import Window, WindowClosed, has_display
from vla_cl.tasks import find_task

class Counted(Window):
    seen = 0

    def see(self, env):
        super().see(env)
        self.seen += 1
        if self.seen == 10 and env.horizon == 30:
            self.close_early()

    def close_early(self):
        self._viewer.close()
        while self._viewer.is_running():
            time.sleep(0.01)

assert has_display()
task = replace(find_task("mw5/window-close"), horizon=20)
options = EvaluationOptions(perturbations=["object_pose"])
with Window("corner3", speed=5.0) as window:
    begun = time.monotonic()
    row = watch(task, window, options=options)
    assert time.monotonic() - begun >= 20 / 80 / 5
class Unseen:
    def begin(self, env): pass
    def see(self, env): pass
assert row == watch(task, Unseen(), options=options), "a window changes nothing"
with Counted() as window:
    try:
        watch(replace(task, horizon=30), window)
        raise SystemExit("nobody noticed that the window is closed")
    except WindowClosed:
        assert window.seen == 10
print("watched")
"""


def test_an_episode_plays_in_a_window_until_it_is_closed() -> None:
    """On a display of its own, which nobody sees."""
    if shutil.which("Xvfb") is None or shutil.which("xvfb-run") is None:
        pytest.skip("needs a display: apt-get install xvfb")
    environment = {**os.environ, "MUJOCO_GL": "glfw", "LIBGL_ALWAYS_SOFTWARE": "1"}
    command = ["xvfb-run", "-a", "-s", "-screen 0 640x480x24 +extension GLX", sys.executable, "-c", IN_A_WINDOW]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0 and "watched" in done.stdout, done.stderr[-2000:]
