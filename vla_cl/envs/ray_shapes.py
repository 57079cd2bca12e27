"""The simple shapes of MuJoCo in closed form: where rays meet them, which way their surfaces face, what is inside.

Everything is in a shape's own frame. Sizes are MuJoCo's: radius; half length; half axes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.mujoco_import import import_mujoco

Array = NDArray[np.float64]
_PARALLEL = 1e-12


def surface_normals(shape: int, sizes: Array, points: Array) -> Array | None:
    """Which way a surface faces.

    Args:
        shape: A value of `mujoco.mjtGeom`.
        sizes: (N, 3), of the shape that each point lies on.
        points: (N, 3), on the surface.

    Returns:
        Unit vectors (N, 3) outwards; None where the shape has no closed form (meshes, height fields).
    """
    kind = import_mujoco().mjtGeom
    radius, half = sizes[:, 0], sizes[:, 1]
    if shape == kind.mjGEOM_PLANE:
        normals = np.zeros_like(points)
        normals[:, 2] = 1.0
        return normals
    if shape == kind.mjGEOM_SPHERE:
        normals = points
    elif shape == kind.mjGEOM_ELLIPSOID:
        normals = points / np.square(sizes)
    elif shape == kind.mjGEOM_CAPSULE:
        normals = points.copy()
        normals[:, 2] -= np.clip(points[:, 2], -half, half)
    elif shape == kind.mjGEOM_CYLINDER:
        normals = points * (1.0, 1.0, 0.0)
        on_side = np.abs(np.linalg.norm(normals, axis=1) - radius) < np.abs(np.abs(points[:, 2]) - half)
        normals[~on_side] = np.sign(points[~on_side]) * (0.0, 0.0, 1.0)
    elif shape == kind.mjGEOM_BOX:
        side = np.argmax(np.abs(points) / sizes, axis=1)[:, None]
        normals = np.zeros_like(points)
        np.put_along_axis(normals, side, np.sign(np.take_along_axis(points, side, axis=1)), axis=1)
    else:
        return None
    return unit(normals)


def distances(shape: int, size: Array, origin: Array, directions: Array) -> Array:
    """How far along rays from one point, outside of it, the shape lies.

    Args:
        shape: Sphere, ellipsoid, capsule, cylinder or box, as a value of `mujoco.mjtGeom`; others are never met.
        size: (3,).
        origin: (3,).
        directions: (N, 3).

    Returns:
        (N,) in units of the directions' lengths; infinite where the shape is not met.
    """
    kind = import_mujoco().mjtGeom
    radius, half = size[0], size[1]
    tube = np.array([radius, radius, np.inf])
    if shape == kind.mjGEOM_SPHERE:
        entry, leave = _quadric(np.full(3, radius), origin, directions)
    elif shape == kind.mjGEOM_ELLIPSOID:
        entry, leave = _quadric(size, origin, directions)
    elif shape == kind.mjGEOM_BOX:
        entry, leave = _slabs(size, origin, directions)
    elif shape == kind.mjGEOM_CYLINDER:
        side = _quadric(tube, origin, directions)
        caps = _slabs(np.array([np.inf, np.inf, half]), origin, directions)
        entry, leave = np.maximum(side[0], caps[0]), np.minimum(side[1], caps[1])
    elif shape == kind.mjGEOM_CAPSULE:
        entry, leave = _quadric(tube, origin, directions)
        height = origin[2] + np.where(np.isfinite(entry), entry, 0.0) * directions[:, 2]
        entry = np.where(np.abs(height) <= half, entry, np.inf)
        for end in (-half, half):
            ball = _quadric(np.full(3, radius), origin - (0.0, 0.0, end), directions)
            entry, leave = np.minimum(entry, ball[0]), np.maximum(leave, ball[1])
    else:
        return np.full(len(directions), np.inf)
    return np.where((entry <= leave) & (entry > 0), entry, np.inf)


def contains(shape: int, size: Array, point: Array) -> bool:
    """Whether a point (3,) lies inside a shape. Planes, meshes and height fields have no inside here."""
    kind = import_mujoco().mjtGeom
    if shape == kind.mjGEOM_SPHERE:
        return bool(np.linalg.norm(point) < size[0])
    if shape == kind.mjGEOM_ELLIPSOID:
        return bool(np.linalg.norm(point / size) < 1.0)
    if shape == kind.mjGEOM_BOX:
        return bool((np.abs(point) < size).all())
    if shape == kind.mjGEOM_CYLINDER:
        return bool(np.hypot(*point[:2]) < size[0] and abs(point[2]) < size[1])
    if shape == kind.mjGEOM_CAPSULE:
        return bool(np.linalg.norm(point - (0.0, 0.0, np.clip(point[2], -size[1], size[1]))) < size[0])
    return False


def mesh_contains(vertices: NDArray[Any], faces: NDArray[np.int32], point: Array) -> bool:
    """Whether a point lies inside a closed mesh: whether its faces fill the view all round.

    The faces' solid angles are summed (Van Oosterom and Strackee, "The solid angle of a plane triangle", 1983).

    Args:
        vertices: (V, 3).
        faces: (F, 3) indices into them.
        point: (3,).
    """
    corners = (vertices.astype(np.float64) - point)[faces]
    first, second, third = corners[:, 0], corners[:, 1], corners[:, 2]
    a, b, c = np.linalg.norm(corners, axis=2).T
    triple = np.einsum("ij,ij->i", first, np.cross(second, third))
    denominator = (
        a * b * c
        + np.einsum("ij,ij->i", first, second) * c
        + np.einsum("ij,ij->i", second, third) * a
        + np.einsum("ij,ij->i", third, first) * b
    )
    return bool(abs(2.0 * np.arctan2(triple, denominator).sum()) > 2.0 * np.pi)


def unit(vectors: Array) -> Array:
    """Vectors (..., 3) at length 1; zeros stay zeros."""
    lengths = np.sqrt(np.einsum("...i,...i->...", vectors, vectors))[..., None]
    normalised: Array = vectors / np.where(lengths > 0, lengths, 1.0)
    return normalised


def _quadric(axes: Array, origin: Array, directions: Array) -> tuple[Array, Array]:
    """Where lines enter and leave the ellipsoid with these half axes, of which one may be infinite; (inf, -inf) where
    they miss it.
    """
    start, along = origin / axes, directions / axes
    a = np.einsum("ij,ij->i", along, along)
    b = along @ start
    c = start @ start - 1.0
    root = np.square(b) - a * c
    met = (root > 0) & (a > 0)
    root, a = np.sqrt(np.where(met, root, 0.0)), np.where(a > 0, a, 1.0)
    always = ~met & (c < 0)  # along the axis of a tube, inside of it
    miss = np.where(always, -np.inf, np.inf)
    return np.where(met, (-b - root) / a, miss), np.where(met, (-b + root) / a, -miss)


def _slabs(half: Array, origin: Array, directions: Array) -> tuple[Array, Array]:
    """Where lines enter and leave a box with these half axes, of which some may be infinite; enter > leave where they
    miss it.
    """
    safe = np.where(np.abs(directions) < _PARALLEL, _PARALLEL, directions)
    ahead = np.sign(safe) * half
    return ((-ahead - origin) / safe).max(axis=1), ((ahead - origin) / safe).min(axis=1)
