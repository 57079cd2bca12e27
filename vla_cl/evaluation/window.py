"""An episode in a window: MuJoCo's own viewer, following an environment."""

from __future__ import annotations

import os
import sys
import threading
import time
from types import TracebackType
from typing import Any, Self

from vla_cl.envs import ManipulationEnv
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.errors import ConfigurationError, RenderingError, UnknownNameError

_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY")
_SECONDS_TO_CLOSE = 10.0


class WindowClosed(Exception):
    """Somebody closed the window before the episode was over."""


def has_display() -> bool:
    """Whether this machine has somewhere to open a window."""
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _DISPLAYS)


class Window:
    """An audience in front of MuJoCo's viewer, in which one may look around while the episode plays.

    Args:
        camera: The view to begin with; "" is one that can be moved with the mouse.
        speed: 1 is real time, 0.5 half as fast.

    Raises:
        ConfigurationError: The speed is not positive.
    """

    def __init__(self, camera: str = "", speed: float = 1.0) -> None:
        if speed <= 0:
            raise ConfigurationError(f"speed must be above 0, got {speed:g}")
        self._camera, self._speed = camera, speed
        self._viewer: Any = None
        self._threads: list[threading.Thread] = []
        self._due = 0.0

    def begin(self, env: ManipulationEnv) -> None:
        """Open the window on the initial state.

        Raises:
            ConfigurationError: The environment is not simulated by MuJoCo.
            RenderingError: No window can be opened.
            UnknownNameError: There is no such camera.
        """
        if env.model is None:
            raise ConfigurationError("a window shows MuJoCo models, and this task has none; use --video FILE.mp4")
        camera = env.model_camera(self._camera) if self._camera else None
        if self._camera and camera is None:
            raise UnknownNameError("camera", self._camera, env.renderer.cameras if env.renderer else [])
        state = env.get_state()
        others = set(threading.enumerate())
        self._viewer = _open(env)
        self._threads = [thread for thread in threading.enumerate() if thread not in others]
        env.set_state(state)  # opening runs mj_forward, which changes what the solver starts from
        mujoco = import_mujoco()
        with self._viewer.lock():
            if env.renderer is not None:
                self._viewer.opt.geomgroup[list(env.renderer.hidden_groups)] = 0
                for decoration in env.renderer.decorations:
                    decoration.add_to(self._viewer.user_scn, mujoco)
            if camera is not None:
                self._viewer.cam.type, self._viewer.cam.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, camera
        self._due = time.monotonic()
        self._viewer.sync()

    def see(self, env: ManipulationEnv) -> None:
        """Show the state when it is due.

        Raises:
            WindowClosed: There is no window any more.
        """
        if not self._viewer.is_running():
            raise WindowClosed
        self._viewer.sync()
        self._due += 1.0 / (env.metadata["render_fps"] * self._speed)
        time.sleep(max(0.0, self._due - time.monotonic()))

    def stay(self) -> None:
        """Keep the last state in view until the window is closed."""
        while self._viewer is not None and self._viewer.is_running():
            time.sleep(0.05)

    def close(self) -> None:
        """Close the window, if it is open, and wait for its threads: one that still frees what it drew with while the
        interpreter ends takes that down with it.
        """
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None
        for thread in self._threads:
            thread.join(_SECONDS_TO_CLOSE)
        self._threads = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _open(env: ManipulationEnv) -> Any:
    """MuJoCo's viewer on an environment.

    Raises:
        RenderingError: It cannot be opened; asked beforehand, since the viewer's own thread would fail unheard.
    """
    import glfw
    from mujoco import viewer

    if not glfw.init():
        raise RenderingError("no window can be opened here; use --video FILE.mp4")
    try:
        return viewer.launch_passive(env.model, env.data, show_left_ui=False, show_right_ui=False)
    except RuntimeError as error:
        raise RenderingError(f"no window can be opened: {error}; use --video FILE.mp4") from error
