"""A scene uploaded to OpenGL, and MuJoCo's own renderer drawing it at a tenth of the usual price.

What makes a frame cheap: no reflections, shadows or multisampling, and meshes without details that are too small to be
seen.
"""

from __future__ import annotations

import copy
import os
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import RenderingOptions
from vla_cl.envs.gl import at_release, ensure_current
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.visual_meshes import drop_small_details
from vla_cl.errors import RenderingError

_MAX_GEOMS = 2000


class GLStage:
    """What is uploaded for a scene, and the buffers that drawing it needs.

    Args:
        model: A `mujoco.MjModel`; it is not changed.
        options: How to draw.
        hidden_groups: Groups of geoms that are not drawn, besides 3, 4 and 5.

    Raises:
        RenderingError: OpenGL is not there or does not work.
    """

    def __init__(self, model: Any, options: RenderingOptions, hidden_groups: tuple[int, ...]) -> None:
        self.closed = True
        ensure_current(options.backend)
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
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._shown = mujoco.MjvOption()
        self._shown.geomgroup[list(hidden_groups)] = 0
        self._height = self._width = 1
        self.closed = False
        _stages.add(self)

    def draw(self, model: Any, data: Any, camera: int, height: int, width: int) -> NDArray[np.uint8]:
        """The image (height, width, 3) that a camera of the model takes, in the camera's own orientation."""
        mujoco = self._mujoco
        ensure_current()
        if height > self._height or width > self._width:
            self._height, self._width = max(height, self._height), max(width, self._width)
            mujoco.mjr_resizeOffscreen(self._width, self._height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera.fixedcamid = camera
        mujoco.mjv_updateScene(model, data, self._shown, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        viewport = mujoco.MjrRect(0, 0, width, height)
        image = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, self._scene, self._context)
        mujoco.mjr_readPixels(image, None, viewport, self._context)
        return image[::-1]  # OpenGL gives the lowest row first

    def close(self) -> None:
        """Give the GPU's (or Mesa's) memory back. The GL context must be current."""
        if not self.closed:
            self.closed = True
            self._context.free()

    def __del__(self) -> None:
        if not self.closed:
            ensure_current()
            self.close()


_stages: weakref.WeakSet[GLStage] = weakref.WeakSet()
_left_to_the_parent: list[GLStage] = []


def _close_stages() -> None:
    for stage in list(_stages):
        stage.close()
    _stages.clear()


def _leave_stages_to_the_parent() -> None:
    """In a forked child: they live in the parent's GL context, so they are neither drawn on nor freed here."""
    for stage in _stages:
        stage.closed = True
        _left_to_the_parent.append(stage)
    _stages.clear()


at_release(_close_stages)
os.register_at_fork(after_in_child=_leave_stages_to_the_parent)
