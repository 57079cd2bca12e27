"""Light on surfaces: the ambient, diffuse and specular sum that OpenGL computes for MuJoCo, without shadows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.ray_shapes import Array, unit

_EXPONENT = 128.0


@dataclass(frozen=True)
class Finish:
    """How N surfaces, or points on surfaces, answer to light.

    Args:
        colours: (N, 4) red, green, blue and opacity in [0, 1], without textures.
        tints: (N, 3) colour of the texture, by which lit surfaces are multiplied; 1 without one.
        emission: (N,) how much they shine themselves.
        specular: (N,) how bright highlights are.
        shininess: (N,) in [0, 1], how small they are.
    """

    colours: Array
    tints: Array
    emission: Array
    specular: Array
    shininess: Array

    def take(self, indices: NDArray[np.integer[Any]]) -> Finish:
        """The finish of some of them."""
        parts = (self.colours, self.tints, self.emission, self.specular, self.shininess)
        return Finish(*(part[indices] for part in parts))


def lit(
    model: Any, data: Any, finish: Finish, points: Array, normals: Array, towards_camera: Array, forward: Array
) -> Array:
    """The colours (N, 3), in [0, 1], that a camera sees.

    Args:
        model: The `mujoco.MjModel`.
        data: Its `mujoco.MjData`, where the lights are.
        finish: Of the surfaces.
        points: (N, 3) seen.
        normals: (N, 3) of the surfaces there, unit vectors.
        towards_camera: (N, 3) unit vectors.
        forward: (3,) where the camera looks, and its headlight shines.
    """
    headlight = model.vis.headlight
    diffuse = np.repeat(finish.emission[:, None], 3, axis=1)
    specular = np.zeros_like(diffuse)

    def add(towards_light: Array, reach: Array | float, light_colours: tuple[Any, Any, Any]) -> None:
        nonlocal diffuse, specular
        of_ambient, of_diffuse, of_specular = light_colours
        cosine = np.einsum("ij,ij->i", normals, towards_light)
        halfway = np.einsum("ij,ij->i", normals, unit(towards_light + towards_camera))
        highlight = np.where(cosine > 0, np.power(np.maximum(halfway, 0.0), finish.shininess * _EXPONENT), 0.0)
        diffuse = diffuse + np.multiply.outer(np.broadcast_to(reach, cosine.shape), of_ambient)
        diffuse += np.multiply.outer(reach * np.maximum(cosine, 0.0), of_diffuse)
        specular = specular + np.multiply.outer(reach * highlight * finish.specular, of_specular)

    if headlight.active:
        add(np.broadcast_to(-forward, points.shape), 1.0, (headlight.ambient, headlight.diffuse, headlight.specular))
    for index in np.flatnonzero(model.light_active):
        own = (model.light_ambient[index], model.light_diffuse[index], model.light_specular[index])
        if model.light_directional[index]:
            add(np.broadcast_to(-data.light_xdir[index], points.shape), 1.0, own)
            continue
        offset = data.light_xpos[index] - points
        distance = np.linalg.norm(offset, axis=1)
        towards_light = unit(offset)
        constant, linear, square = model.light_attenuation[index]
        reach = _spot(model, index, -towards_light @ data.light_xdir[index])
        add(towards_light, reach / (constant + linear * distance + square * np.square(distance)), own)
    return np.clip(finish.colours[:, :3] * diffuse + specular, 0.0, 1.0) * finish.tints


def _spot(model: Any, index: int, cosine: Array) -> Array:
    """How much of a spot light there is at an angle to its axis."""
    cutoff = model.light_cutoff[index]
    if cutoff >= 180.0:
        return np.ones_like(cosine)
    inside = cosine > np.cos(np.radians(cutoff))
    return np.where(inside, np.power(np.maximum(cosine, 0.0), model.light_exponent[index]), 0.0)
