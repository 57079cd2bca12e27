"""Fewer triangles for pictures: details of meshes that are smaller than a pixel cost time and show nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SHARE = 0.05
_COARSEST = 0.03


def drop_small_details(model: Any, detail: float) -> None:
    """Remove the triangles of a model's meshes that are smaller than `detail`, or than a twentieth of a large mesh.

    Vertices in the same cell of a grid are merged into one of them (vertex clustering: Rossignac and Borrel,
    "Multi-resolution 3D approximations for rendering complex scenes", 1993), so no point of a surface moves further
    than the diagonal of a cell. Call it on a copy that is only drawn: collisions would change with the meshes.

    Args:
        model: A `mujoco.MjModel`, changed in place.
        detail: Edge of a cell in metres, of meshes up to 20 times as large; larger ones have cells of a twentieth of
            their size, up to 3 cm. 0 changes nothing.
    """
    if detail <= 0:
        return
    for mesh in range(model.nmesh):
        first_vertex, vertices = model.mesh_vertadr[mesh], model.mesh_vertnum[mesh]
        first_face, faces = model.mesh_faceadr[mesh], model.mesh_facenum[mesh]
        points = model.mesh_vert[first_vertex : first_vertex + vertices]
        corners = model.mesh_face[first_face : first_face + faces]
        size = float(np.ptp(points, axis=0).max()) if len(points) else 0.0
        cell = max(detail, min(_SHARE * size, _COARSEST))
        kept, merged = merge_close_vertices(points, corners, cell)
        last_face = first_face + len(kept)
        model.mesh_face[first_face:last_face] = merged
        for attribute in (model.mesh_facenormal, model.mesh_facetexcoord):
            attribute[first_face:last_face] = attribute[first_face : first_face + faces][kept]
        model.mesh_facenum[mesh] = len(kept)


def merge_close_vertices(
    points: NDArray[np.float32], faces: NDArray[np.int32], cell: float
) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Merge the vertices in each cell of a grid into the one nearest to their mean.

    Args:
        points: (V, 3).
        faces: (F, 3) indices into `points`.
        cell: Edge of a cell.

    Returns:
        Which faces remain (K,), in order, without those that collapsed or came to lie on an earlier one that looks the
        same way (of a thin wall's two sides, both remain); and their corners (K, 3).
    """
    cells = np.unique(np.floor(points / cell).astype(np.int64), axis=0, return_inverse=True)[1].ravel()
    count = np.bincount(cells)
    mean = np.stack([np.bincount(cells, axis) for axis in points.T.astype(np.float64)], axis=1) / count[:, None]
    distance = np.square(points - mean[cells]).sum(axis=1)
    by_cell = np.lexsort((distance, cells))
    representative = by_cell[np.concatenate([[0], np.cumsum(count)[:-1]])]

    corners = cells[faces]
    whole = np.flatnonzero((np.diff(np.sort(corners, axis=1), axis=1) > 0).all(axis=1))
    turns = (np.arange(3) + corners[whole].argmin(axis=1)[:, None]) % 3
    ordered = np.take_along_axis(corners[whole], turns, axis=1)  # equal only for faces that look the same way
    kept = np.sort(whole[np.unique(ordered, axis=0, return_index=True)[1]])
    return kept, representative[corners[kept]].astype(np.int32)
