"""Pictures of a MuJoCo scene: with OpenGL where this machine has it, else by casting rays.

What makes many environments cheap: those that show the same scene share one upload of its meshes and textures.
"""

from __future__ import annotations

import dataclasses
import logging
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs import gl
from vla_cl.envs.base import RAYCAST, RenderingOptions
from vla_cl.envs.decorations import Decoration
from vla_cl.envs.gl import available_backends
from vla_cl.envs.gl_stage import GLStage
from vla_cl.envs.mujoco_import import INSTALL
from vla_cl.envs.raycast import RayCaster
from vla_cl.errors import RenderingError, UnknownNameError

__all__ = ["Renderer", "available_backends", "settled"]

logger = logging.getLogger(__name__)


class Renderer:
    """Draws the cameras of one model. The GL context is made by the first `draw`, in the process that calls it.

    Args:
        model: The `mujoco.MjModel`; it is not changed. Colours, sizes and visibility are read at each drawing, meshes
            and textures once.
        options: How to draw.
        scene: Renderers with an equal `scene` and equal options share the uploaded meshes and textures; None
            shares nothing.
        hidden_groups: Groups of geoms that are not drawn, besides 3, 4 and 5: where a simulator keeps the shapes that
            collide apart from those that are looked at.

    Attributes:
        cameras: The model's cameras by name.
        hidden_groups: As given.
        decorations: What is drawn beside the model, until it is taken out of here again.
    """

    def __init__(
        self,
        model: Any,
        options: RenderingOptions,
        scene: Hashable | None = None,
        hidden_groups: tuple[int, ...] = (),
    ) -> None:
        self._model = model
        self._options = options
        self.hidden_groups = hidden_groups
        self.decorations: Sequence[Decoration] = ()
        self._key = None if scene is None else (scene, options, hidden_groups)
        self._stage: _Stage | None = None
        self.cameras = {model.camera(index).name: _Camera(model, index) for index in range(model.ncam)}

    def draw(self, data: Any, camera: str, height: int, width: int) -> NDArray[np.uint8]:
        """The view of a camera, upright, (height, width, 3) uint8.

        A fixed camera that is mounted upside down, as several of Meta-World's are, is turned by half a turn.

        Args:
            data: The `mujoco.MjData` to show; its positions must be up to date.
            camera: Name of a camera of the model.
            height, width: Of the image, in pixels.

        Raises:
            UnknownNameError: The model has no such camera.
            RenderingError: A GL library was asked for that is not there or does not work.
        """
        if camera not in self.cameras:
            raise UnknownNameError("camera", camera, self.cameras)
        if self._stage is None or self._stage.closed:
            self._stage = _stage_for(self._key, self._model, self._options, self.hidden_groups)
        view = self.cameras[camera]
        image = self._stage.draw(self._model, data, view.index, height, width, self.decorations)
        return np.ascontiguousarray(image[::-1, ::-1] if view.upside_down else image)

    def close(self) -> None:
        """Let go of the uploaded scene; drawing again uploads it anew."""
        self._stage = None


class _Camera:
    def __init__(self, model: Any, index: int) -> None:
        self.index = index
        up = model.cam_mat0[index].reshape(3, 3)[:, 1]
        self.upside_down = bool(model.cam_bodyid[index] == 0 and up[2] < 0)


_Stage = GLStage | RayCaster
_gl_is_given_up = False
_shared_stages: weakref.WeakValueDictionary[Hashable, _Stage] = weakref.WeakValueDictionary()


def _stage_for(key: Hashable | None, model: Any, options: RenderingOptions, hidden_groups: tuple[int, ...]) -> _Stage:
    stage = None if key is None else _shared_stages.get(key)
    if stage is None or stage.closed:
        stage = _new_stage(model, options, hidden_groups)
        if key is not None:
            _shared_stages[key] = stage
    return stage


def _new_stage(model: Any, options: RenderingOptions, hidden_groups: tuple[int, ...]) -> _Stage:
    backend = _asked_for(options)
    if backend != RAYCAST:
        try:
            return GLStage(model, options, hidden_groups)
        except RenderingError:
            if backend is not None:
                raise
            _give_up_gl()
    return RayCaster(model, options, hidden_groups)


def settled(options: RenderingOptions) -> RenderingOptions:
    """The same options, "auto" replaced by "raycast" where that is what it comes to on this machine.

    For whoever writes down how images were drawn, and for whoever passes options on to other processes, which then
    need not find out again. GL is tried in a child process; no context is made here.
    """
    backend = _asked_for(options)
    if backend is None and not available_backends():
        _give_up_gl()
        backend = RAYCAST
    return dataclasses.replace(options, backend=RAYCAST) if backend == RAYCAST else options


def _asked_for(options: RenderingOptions) -> str | None:
    """A backend that somebody has chosen, if only by there being no other; None where it is still to be found out."""
    if options.backend != "auto":
        return options.backend
    return RAYCAST if _gl_is_given_up else gl.choice()


def _give_up_gl() -> None:
    """Draw by casting rays from now on, and tell the user, once a process."""
    global _gl_is_given_up
    if not _gl_is_given_up:
        _gl_is_given_up = True
        gl.decline()
        logger.warning(
            "neither EGL nor OSMesa can draw here, so images are drawn by ray casting, without textures and shadows; "
            "for OpenGL run %s; rendering=raycast chooses ray casting and silences this",
            " or ".join(f"`{command}`" for command in INSTALL.values()),
        )
