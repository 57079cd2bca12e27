"""Pictures of a MuJoCo scene, drawn with MuJoCo's own renderer at a tenth of the usual price.

What makes a frame cheap: no reflections, shadows or multisampling, and meshes without details that are too small to be
seen. What makes many environments cheap: those that show the same scene share one upload of its meshes and textures.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import RenderingOptions
from vla_cl.envs.gl import at_release, available_backends, ensure_current
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.visual_meshes import drop_small_details
from vla_cl.errors import RenderingError, UnknownNameError

__all__ = ["Renderer", "available_backends"]

_MAX_GEOMS = 2000


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
        self._hidden_groups = hidden_groups
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
            RenderingError: Nothing here can draw.
        """
        if camera not in self.cameras:
            raise UnknownNameError("camera", camera, self.cameras)
        ensure_current(self._options.backend)
        if self._stage is None or self._stage.closed:
            self._stage = _stage_for(self._key, self._model, self._options, self._hidden_groups)
        view = self.cameras[camera]
        image = self._stage.draw(self._model, data, view.handle, height, width)
        return np.ascontiguousarray(image[:, ::-1] if view.upside_down else image[::-1])

    def close(self) -> None:
        """Let go of the uploaded scene; drawing again uploads it anew."""
        self._stage = None


class _Camera:
    def __init__(self, model: Any, index: int) -> None:
        mujoco = import_mujoco()
        self.handle = mujoco.MjvCamera()
        self.handle.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self.handle.fixedcamid = index
        up = model.cam_mat0[index].reshape(3, 3)[:, 1]
        self.upside_down = bool(model.cam_bodyid[index] == 0 and up[2] < 0)


class _Stage:
    """What is uploaded for a scene, and the buffers that drawing it needs. The GL context must be current."""

    def __init__(self, model: Any, options: RenderingOptions, hidden_groups: tuple[int, ...]) -> None:
        self.closed = True
        self._mujoco = mujoco = import_mujoco()
        uploaded = copy.copy(model)
        uploaded.vis.quality.offsamples = options.multisampling
        uploaded.vis.global_.offwidth = uploaded.vis.global_.offheight = 1
        if not options.shadows:
            uploaded.vis.quality.shadowsize = 0  # 64 MB for a map that nothing would be drawn into
        drop_small_details(uploaded, options.mesh_detail)
        try:
            self._context = mujoco.MjrContext(uploaded, mujoco.mjtFontScale.mjFONTSCALE_100)
        except mujoco.FatalError as error:
            raise RenderingError(f"MuJoCo cannot draw with this machine's OpenGL: {error}") from error
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = options.shadows
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = options.reflections
        self._shown = mujoco.MjvOption()
        self._shown.geomgroup[list(hidden_groups)] = 0
        self._height = self._width = 1
        self.closed = False
        _stages.add(self)

    def draw(self, model: Any, data: Any, camera: Any, height: int, width: int) -> NDArray[np.uint8]:
        """The image as OpenGL gives it, the lowest row first."""
        mujoco = self._mujoco
        if height > self._height or width > self._width:
            self._height, self._width = max(height, self._height), max(width, self._width)
            mujoco.mjr_resizeOffscreen(self._width, self._height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        mujoco.mjv_updateScene(model, data, self._shown, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        viewport = mujoco.MjrRect(0, 0, width, height)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, viewport, self._context)
        return image

    def close(self) -> None:
        """Give the GPU's (or Mesa's) memory back. The GL context must be current."""
        if not self.closed:
            self.closed = True
            self._context.free()

    def __del__(self) -> None:
        if not self.closed:
            ensure_current()
            self.close()


_stages: weakref.WeakSet[_Stage] = weakref.WeakSet()
_shared_stages: weakref.WeakValueDictionary[Hashable, _Stage] = weakref.WeakValueDictionary()
_left_to_the_parent: list[_Stage] = []


def _stage_for(
    key: Hashable | None, model: Any, options: RenderingOptions, hidden_groups: tuple[int, ...]
) -> _Stage:
    stage = None if key is None else _shared_stages.get(key)
    if stage is None:
        stage = _Stage(model, options, hidden_groups)
        if key is not None:
            _shared_stages[key] = stage
    return stage


def _close_stages() -> None:
    for stage in list(_stages):
        stage.close()
    _stages.clear()
    _shared_stages.clear()


def _leave_stages_to_the_parent() -> None:
    """In a forked child: they live in the parent's GL context, so they are neither drawn on nor freed here."""
    for stage in _stages:
        stage.closed = True
        _left_to_the_parent.append(stage)
    _stages.clear()
    _shared_stages.clear()


at_release(_close_stages)
os.register_at_fork(after_in_child=_leave_stages_to_the_parent)
