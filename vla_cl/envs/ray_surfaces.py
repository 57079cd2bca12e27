"""What rays are cast against, and in which colours: MuJoCo's rules for what is visible, read from the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.ray_lights import Finish

SHOWN_GROUPS = (0, 1, 2)
"""MuJoCo's viewers show these groups of geoms and sites unless told otherwise."""

MANY_FACES = 500
"""Of a mesh whose body's collision shapes are much cheaper to cast rays against."""

_NO_COLOUR = np.array([0.5, 0.5, 0.5, 1.0], np.float32)
"""The colour of a geom that was given none, so that its material's counts."""

_NO_MATERIAL = np.array([0.0, 0.5, 0.5])
"""Emission, specular and shininess of a geom without a material."""


@dataclass(frozen=True)
class Surfaces:
    """What is seen of a model.

    Args:
        visible: (G,), which geoms.
        geoms: Their finish.
        sites: The finish of sites; opacity 0 for those that are not seen.
    """

    visible: NDArray[np.bool_]
    geoms: Finish
    sites: Finish


class SurfaceRules:
    """Decides what is seen of a model; its textures and meshes are looked at once, colours and groups at each call.

    Args:
        model: The `mujoco.MjModel`.
        hidden_groups: Groups of geoms that are not shown although MuJoCo would.
        stand_ins: Whether a body's collision shapes, in its mean colour, take the place of its finely tessellated
            meshes.
    """

    def __init__(self, model: Any, hidden_groups: tuple[int, ...], stand_ins: bool) -> None:
        self._texture_means = np.array([_mean_colour(model, texture) for texture in range(model.ntex)]).reshape(-1, 3)
        self._shown = [group for group in SHOWN_GROUPS if group not in hidden_groups]
        self._stand_ins = stand_ins
        is_mesh = model.geom_type == import_mujoco().mjtGeom.mjGEOM_MESH
        faces = np.zeros(model.ngeom, int)
        faces[is_mesh] = model.mesh_facenum[model.geom_dataid[is_mesh]]
        collides = (model.geom_contype | model.geom_conaffinity) != 0
        self._fine = (faces > MANY_FACES) & ~collides
        self._coarse = collides & (model.geom_type != import_mujoco().mjtGeom.mjGEOM_PLANE)
        self._weights = np.cbrt(np.maximum(model.geom_rbound, 1e-6)) ** 6  # areas go with the square of the radius

    def of(self, model: Any) -> Surfaces:
        """What is seen of the model now."""
        geoms = self._finish(model, model.geom_matid, model.geom_rgba)
        visible = (geoms.colours[:, 3] > 0) & np.isin(model.geom_group, self._shown)
        if self._stand_ins:
            self._replace_fine_meshes(model, visible, geoms)
        sites = self._finish(model, model.site_matid, model.site_rgba)
        sites.colours[~np.isin(model.site_group, SHOWN_GROUPS), 3] = 0.0
        return Surfaces(visible, geoms, sites)

    def _replace_fine_meshes(self, model: Any, visible: NDArray[np.bool_], finish: Finish) -> None:
        for body in np.unique(model.geom_bodyid[self._fine & visible]):
            own = model.geom_bodyid == body
            coarse = own & self._coarse & ~visible
            fine = own & self._fine & visible
            if not coarse.any():
                continue
            shares = self._weights[fine] / self._weights[fine].sum()
            finish.colours[coarse], finish.tints[coarse] = shares @ finish.colours[fine], shares @ finish.tints[fine]
            visible[fine], visible[coarse] = False, True

    def _finish(self, model: Any, materials: NDArray[np.int32], rgba: NDArray[np.float32]) -> Finish:
        """MuJoCo's rule: the material's colour, unless an own one is given."""
        count, has = len(materials), materials >= 0
        colours = rgba.astype(np.float64)
        by_material = has & (rgba == _NO_COLOUR).all(axis=1)
        colours[by_material] = model.mat_rgba[materials[by_material]]
        finish = Finish(np.clip(colours, 0.0, 1.0), np.ones((count, 3)), *_NO_MATERIAL[:, None].repeat(count, axis=1))
        finish.emission[has] = model.mat_emission[materials[has]]
        finish.specular[has] = model.mat_specular[materials[has]]
        finish.shininess[has] = model.mat_shininess[materials[has]]
        role = int(import_mujoco().mjtTextureRole.mjTEXROLE_RGB)
        textures = np.full(count, -1)
        textures[has] = model.mat_texid[materials[has], role]
        finish.tints[textures >= 0] = self._texture_means[textures[textures >= 0]]
        return finish


def plain_finish(colour: NDArray[np.floating[Any]]) -> Finish:
    """The finish (1,) of a surface of this colour (4,) that has no material."""
    return Finish(np.clip(colour[None].astype(float), 0.0, 1.0), np.ones((1, 3)), *_NO_MATERIAL[:, None])


def _mean_colour(model: Any, texture: int) -> NDArray[np.float64]:
    channels = model.tex_nchannel[texture]
    count = model.tex_height[texture] * model.tex_width[texture] * channels
    pixels = model.tex_data[model.tex_adr[texture] : model.tex_adr[texture] + count].reshape(-1, channels)
    mean: NDArray[np.float64] = np.broadcast_to(pixels[:, :3].mean(axis=0) / 255.0, 3)
    return mean


class Sky:
    """The colour of rays that meet nothing: MuJoCo's sky box, its pictures averaged along the horizon.

    Args:
        model: The `mujoco.MjModel`; without a sky box everything is black.
    """

    def __init__(self, model: Any) -> None:
        skyboxes = np.flatnonzero(model.tex_type == import_mujoco().mjtTexture.mjTEXTURE_SKYBOX)
        self._band = np.zeros((1, 3))
        self._poles = np.zeros((2, 3))
        if len(skyboxes) == 0:
            return
        width, channels = model.tex_width[skyboxes[0]], model.tex_nchannel[skyboxes[0]]
        start = model.tex_adr[skyboxes[0]]
        faces = model.tex_data[start : start + model.tex_height[skyboxes[0]] * width * channels]
        faces = faces.reshape(-1, width, width, channels)[..., :3] / 255.0  # right, left, up, down, front, back
        sides = faces[[0, 1, -2, -1]] if len(faces) == 6 else faces
        self._band = sides.mean(axis=(0, 2))
        self._poles = faces[[3, 2]].mean(axis=(1, 2)) if len(faces) == 6 else self._band[[-1, 0]]

    def colours(self, directions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The sky's colours (N, 3) in directions (N, 3), z up."""
        height = directions[:, 2] / np.maximum(np.abs(directions[:, :2]).max(axis=1), 1e-9)
        row = np.clip(((1.0 - height) / 2.0 * len(self._band)).astype(int), 0, len(self._band) - 1)
        pole = self._poles[(height > 0).astype(int)]
        return np.where(np.abs(height)[:, None] <= 1.0, self._band[row], pole)
