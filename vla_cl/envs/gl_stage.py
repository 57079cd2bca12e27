"""A scene uploaded to OpenGL, and MuJoCo's own renderer drawing it at a tenth of the usual price.

What makes a frame cheap: no reflections, shadows or multisampling, and meshes without details that are too small to be
seen.
"""

from __future__ import annotations

import copy
import os
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import RenderingOptions
from vla_cl.envs.decorations import Decoration
from vla_cl.envs.gl import at_release, ensure_current
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.visual_meshes import drop_small_details
from vla_cl.errors import RenderingError

_MAX_GEOMS = 2000
_NEVER_DRAWN = 5  # a group of geoms that MuJoCo does not show unless asked to


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
        self._may_cull = not (options.shadows or options.reflections)
        self._height = self._width = 1
        self.closed = False
        _stages.add(self)

    def draw(
        self, model: Any, data: Any, camera: int, height: int, width: int, decorations: Sequence[Decoration] = ()
    ) -> NDArray[np.uint8]:
        """The image (height, width, 3) that a camera of the model takes, in the camera's own orientation."""
        mujoco = self._mujoco
        ensure_current()
        if height > self._height or width > self._width:
            self._height, self._width = max(height, self._height), max(width, self._width)
            mujoco.mjr_resizeOffscreen(self._width, self._height, self._context)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._camera.fixedcamid = camera
        groups = model.geom_group.copy()
        if self._may_cull:
            model.geom_group[outside_view(model, data, camera, width / height)] = _NEVER_DRAWN
        mujoco.mjv_updateScene(model, data, self._shown, None, self._camera, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        model.geom_group[:] = groups
        for decoration in decorations:
            decoration.add_to(self._scene, mujoco)
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


def outside_view(model: Any, data: Any, camera: int, aspect: float) -> NDArray[np.bool_]:
    """Which geoms a perspective camera cannot see, because their bounding spheres lie outside its pyramid (G,).

    MuJoCo hands OpenGL every triangle there is, and transforming those of a robot that is out of the picture costs as
    much as drawing it.
    """
    seen_from = (data.geom_xpos - data.cam_xpos[camera]) @ data.cam_xmat[camera].reshape(3, 3)
    half = np.tan(np.deg2rad(model.cam_fovy[camera]) / 2)
    depth, radius = -seen_from[:, 2], model.geom_rbound
    outside = depth < -radius
    for across, slope in ((seen_from[:, 0], half * aspect), (seen_from[:, 1], half)):
        outside |= np.abs(across) - slope * depth > radius * np.hypot(1.0, slope)
    unseen: NDArray[np.bool_] = outside & (radius > 0.0) & bool(model.cam_orthographic[camera] == 0)
    return unseen  # but planes have no bounding sphere


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
