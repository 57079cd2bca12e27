"""Pictures of a MuJoCo scene without OpenGL: one ray a pixel, cast by MuJoCo itself against the model's geometry.

It needs no system package at all. Textures show in their mean colour, and there are neither shadows nor reflections.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.envs.base import RenderingOptions
from vla_cl.envs.decorations import Decoration
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.ray_lights import Finish, lit
from vla_cl.envs.ray_shapes import Array, contains, distances, mesh_contains, surface_normals, unit
from vla_cl.envs.ray_surfaces import Sky, SurfaceRules, Surfaces, plain_finish

_CAST, _NOT_CAST = 0, 5
_ONLY_CAST = np.array([1, 0, 0, 0, 0, 0], np.uint8)
_FAR, _NEAR = 1e10, 1e-3
"""Metres: how far rays go, and how far in front of the camera the corners of a box must be to bound what is seen."""

_TILE = 16
"""Edge of a tile in pixels."""

_CORNERS = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
_SWAPPED = ("body_bvhadr", "geom_group", "geom_matid", "geom_rgba")


class RayCaster:
    """Draws the fixed cameras of models that share their meshes and textures.

    Args:
        model: One of these, a `mujoco.MjModel`.
        options: Of them only `mesh_detail` counts: 0 casts rays against every triangle; otherwise a body's collision
            shapes stand in for its finely tessellated meshes.
        hidden_groups: Groups of geoms that are not shown.
    """

    closed = False

    def __init__(self, model: Any, options: RenderingOptions, hidden_groups: tuple[int, ...] = ()) -> None:
        self._rules = SurfaceRules(model, hidden_groups, stand_ins=options.mesh_detail > 0)
        self._sky = Sky(model)
        self._rays: dict[tuple[float, ...], Array] = {}

    def draw(
        self, model: Any, data: Any, camera: int, height: int, width: int, decorations: Sequence[Decoration] = ()
    ) -> NDArray[np.uint8]:
        """The image (height, width, 3) that a camera of the model takes, in the camera's own orientation.

        Args:
            model: The `mujoco.MjModel`. It is the same after as before.
            data: The `mujoco.MjData` to show.
            camera: Index of the camera.
            height, width: Of the image, in pixels.
            decorations: What stands in the picture beside the model.
        """
        origin = data.cam_xpos[camera].copy()
        edge = float(np.tan(np.radians(model.cam_fovy[camera]) / 2.0))
        frame = data.cam_xmat[camera].reshape(3, 3)
        directions = self._directions(edge, height, width) @ frame.T
        view = _View(model, data, self._rules.of(model), origin, frame, edge, directions, (height, width))
        visible = view.surfaces.visible & ~view.around()
        translucent = visible & (view.surfaces.geoms.colours[:, 3] < 1.0)

        image = self._sky.colours(directions)
        geoms, depths = view.cast(visible & ~translucent)
        view.paint(image, geoms, depths)
        for decoration in decorations:
            view.paint_decoration(image, depths, decoration)
        if translucent.any():
            panes, pane_depths = view.cast(translucent)
            panes[pane_depths >= depths] = -1
            view.paint(image, panes, pane_depths)
        view.paint_sites(image, depths)
        return (np.clip(image, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).reshape(height, width, 3)

    def _directions(self, edge: float, height: int, width: int) -> Array:
        """Unit vectors (height * width, 3) through the pixels' centres, from the upper left, in the camera's frame."""
        key = (edge, height, width)
        if key not in self._rays:
            rows = (1.0 - 2.0 * (np.arange(height) + 0.5) / height) * edge
            columns = (2.0 * (np.arange(width) + 0.5) / width - 1.0) * edge * width / height
            x, y = np.meshgrid(columns, rows)
            self._rays[key] = unit(np.stack([x, y, np.full_like(x, -1.0)], axis=-1).reshape(-1, 3))
        return self._rays[key]


@dataclass(frozen=True)
class _View:
    """One camera's rays into one state of the world, N = height * width of them, row by row.

    `frame` (3, 3) has the camera's axes as columns, and `edge` is the tangent of half its vertical field of view.
    """

    model: Any
    data: Any
    surfaces: Surfaces
    origin: Array
    frame: Array
    edge: float
    directions: Array
    shape: tuple[int, int]

    def around(self) -> NDArray[np.bool_]:
        """Which geoms (G,) the camera is inside of. Their inner faces are not drawn."""
        offsets = self.origin - self.data.geom_xpos
        near = np.einsum("ij,ij->i", offsets, offsets) < np.square(self.model.geom_rbound)
        inside = np.zeros(self.model.ngeom, bool)
        for geom in np.flatnonzero(near & self.surfaces.visible):
            point = offsets[geom] @ self.data.geom_xmat[geom].reshape(3, 3)
            if self.model.geom_type[geom] == import_mujoco().mjtGeom.mjGEOM_MESH:
                inside[geom] = mesh_contains(*_mesh(self.model, self.model.geom_dataid[geom]), point)
            else:
                inside[geom] = contains(self.model.geom_type[geom], self.model.geom_size[geom], point)
        return inside

    def cast(self, against: NDArray[np.bool_]) -> tuple[NDArray[np.int32], Array]:
        """The geom that each ray meets first (N,), -1 for none, and how far away (N,), infinite for none.

        `mj_multiRay` chooses among geoms by group and opacity, so for the time of the call the model's geoms get
        theirs from `against` (G,). Its own bounds of bodies and geoms are wrong for some directions (of a geom
        straight below the camera in particular), so they are switched off, and each tile of the image is given the
        geoms that may show in it instead.
        """
        mujoco, model = import_mujoco(), self.model
        geoms, depths = np.full(len(self.directions), -1, np.int32), np.full(len(self.directions), np.inf)
        before = {name: getattr(model, name).copy() for name in _SWAPPED}
        model.body_bvhadr[:] = -1
        model.geom_matid[:] = -1
        model.geom_rgba[:] = 1.0
        try:
            for candidates, rays in self._tiles(against):
                model.geom_group[:] = np.where(candidates, _CAST, _NOT_CAST)
                directions, count = self.directions[rays].ravel(), len(rays)
                hits, reach = np.empty(count, np.int32), np.empty(count)
                mujoco.mj_multiRay(
                    model, self.data, self.origin, directions, _ONLY_CAST, 1, -1, hits, reach, count, _FAR
                )
                geoms[rays], depths[rays] = hits, np.where(hits >= 0, reach, np.inf)
        finally:
            for name, values in before.items():
                getattr(model, name)[:] = values
        return geoms, depths

    def _tiles(self, against: NDArray[np.bool_]) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
        """The rays of the tiles that the same geoms (G,) may show in, for each such set of geoms."""
        height, width = self.shape
        low, high = self._bounds
        tiles_down, tiles_across = -(-height // _TILE), -(-width // _TILE)
        tops, lefts = np.arange(tiles_down)[:, None] * _TILE, np.arange(tiles_across)[:, None] * _TILE
        rows = (low[:, 1] < tops + _TILE) & (high[:, 1] > tops)
        columns = (low[:, 0] < lefts + _TILE) & (high[:, 0] > lefts)
        shown = (rows[:, None] & columns[None] & against).reshape(tiles_down * tiles_across, -1)
        sets, tile_sets = np.unique(shown, axis=0, return_inverse=True)
        tile_of_row, tile_of_column = np.arange(height) // _TILE, np.arange(width) // _TILE
        ray_sets = tile_sets.ravel()[(tile_of_row[:, None] * tiles_across + tile_of_column).ravel()]
        for index, candidates in enumerate(sets):
            if candidates.any():
                yield candidates, np.flatnonzero(ray_sets == index)

    @functools.cached_property
    def _bounds(self) -> tuple[Array, Array]:
        """Upper left and lower right corners (G, 2), column and row, of the pixels in which each geom may show.

        The bounding box is projected. All of the image for planes and for boxes that reach behind the camera; nothing
        for boxes that are all behind it.
        """
        model, data = self.model, self.data
        size = np.array(self.shape[::-1], float)
        corners = model.geom_aabb[:, None, :3] + _CORNERS * model.geom_aabb[:, None, 3:]
        world = np.einsum("gij,gkj->gki", data.geom_xmat.reshape(-1, 3, 3), corners) + data.geom_xpos[:, None]
        seen = (world - self.origin) @ self.frame
        ahead = -seen[..., 2]
        endless = model.geom_type == import_mujoco().mjtGeom.mjGEOM_PLANE
        whole = endless | (ahead <= _NEAR).any(axis=1)
        slopes = seen[..., :2] / np.where(ahead > _NEAR, ahead, 1.0)[..., None] * (1.0, -1.0)
        pixels = (slopes / (self.edge * size / size[1]) + 1.0) / 2.0 * size
        low = np.where(whole[:, None], 0.0, pixels.min(axis=1) - 1.0)
        high = np.where(whole[:, None], size, pixels.max(axis=1) + 1.0)
        high[~endless & (ahead <= _NEAR).all(axis=1)] = 0.0
        return low, high

    def paint(self, image: Array, geoms: NDArray[np.int32], depths: Array) -> None:
        """Lay the surfaces that rays have met over the image (N, 3), in place, as opaque as they are."""
        met = np.flatnonzero(geoms >= 0)
        if len(met) == 0:
            return
        hit = geoms[met]
        points = self.origin + depths[met, None] * self.directions[met]
        normals = self._normals(geoms, met, points)
        self._lay(image, met, self.surfaces.geoms.take(hit), points, normals)

    def paint_sites(self, image: Array, depths: Array) -> None:
        """Lay the sites that are in front of what is `depths` (N,) away over the image (N, 3), the farthest first."""
        model, data = self.model, self.data
        shown = np.flatnonzero(self.surfaces.sites.colours[:, 3] > 0)
        away = np.linalg.norm(data.site_xpos[shown] - self.origin, axis=1)
        for site in shown[np.argsort(-away)]:
            frame = data.site_xmat[site].reshape(3, 3)
            finish = self.surfaces.sites.take(np.array([site]))
            shape, size = model.site_type[site], model.site_size[site]
            self._paint_shape(image, depths, shape, size, data.site_xpos[site], frame, finish)

    def paint_decoration(self, image: Array, depths: Array, decoration: Decoration) -> None:
        """Lay a decoration where it is nearer than `depths` (N,) over the image (N, 3), and note how near it is."""
        finish = plain_finish(decoration.colour)
        rotation = decoration.rotation
        rays, met = self._paint_shape(
            image, depths, decoration.shape, decoration.size, decoration.position, rotation, finish
        )
        depths[rays] = met

    def _paint_shape(
        self, image: Array, depths: Array, shape: int, size: Array, position: Array, frame: Array, finish: Finish
    ) -> tuple[NDArray[np.intp], Array]:
        """Lay one simple shape with a finish of one row over the image; which rays meet it, and how far away."""
        start = (self.origin - position) @ frame
        close = self._towards(position, float(size.sum()))
        rays = self.directions[close]
        shape_depths = distances(shape, size, start, rays @ frame)
        met = shape_depths < depths[close]
        points = start + shape_depths[met, None] * (rays[met] @ frame)
        normals = surface_normals(shape, np.repeat(size[None], len(points), axis=0), points)
        if normals is not None and len(points):
            worn = finish.take(np.zeros(len(points), np.intp))
            self._lay(image, close[met], worn, points @ frame.T + position, normals @ frame.T)
        return close[met], shape_depths[met]

    def _lay(self, image: Array, rays: NDArray[np.intp], finish: Finish, points: Array, normals: Array) -> None:
        towards_camera, forward = -self.directions[rays], -self.frame[:, 2]
        seen = lit(self.model, self.data, finish, points, normals, towards_camera, forward)
        opacity = 1.0 - np.square(1.0 - finish.colours[:, 3:])  # MuJoCo draws the far side of what is translucent, too
        image[rays] = opacity * seen + (1.0 - opacity) * image[rays]

    def _towards(self, centre: Array, radius: float) -> NDArray[np.intp]:
        """Indices of the rays that pass within `radius` of a point."""
        offset = centre - self.origin
        along = self.directions @ offset
        return np.flatnonzero((offset @ offset - np.square(along) <= radius**2) & (along > -radius))

    def _normals(self, geoms: NDArray[np.int32], met: NDArray[np.intp], points: Array) -> Array:
        """Unit vectors (M, 3): in closed form where the shape has one, else from neighbouring pixels."""
        data, hit = self.data, geoms[met]
        shapes = self.model.geom_type[hit]
        normals = np.zeros_like(points)
        for shape in np.flatnonzero(np.bincount(shapes)):
            of_shape = np.flatnonzero(shapes == shape)
            own = hit[of_shape]
            frames = data.geom_xmat[own].reshape(-1, 3, 3)
            local = np.einsum("ni,nij->nj", points[of_shape] - data.geom_xpos[own], frames)
            found = surface_normals(shape, self.model.geom_size[own], local)
            if found is None:
                normals[of_shape] = self._estimated_normals(geoms, met, points, of_shape)
            else:
                normals[of_shape] = np.einsum("nij,nj->ni", frames, found)
        return normals

    def _estimated_normals(
        self, geoms: NDArray[np.int32], met: NDArray[np.intp], points: Array, wanted: NDArray[np.intp]
    ) -> Array:
        """Normals at some of the M points, from the part of the image around them."""
        grid = np.zeros((*self.shape, 3))
        grid.reshape(-1, 3)[met] = points
        rows, columns = np.divmod(met[wanted], self.shape[1])
        top, left = max(rows.min() - 1, 0), max(columns.min() - 1, 0)
        part = slice(top, rows.max() + 2), slice(left, columns.max() + 2)
        towards_camera = -self.directions.reshape(grid.shape)[part]
        normals: Array = _slopes(geoms.reshape(self.shape)[part], grid[part], towards_camera)[
            rows - top, columns - left
        ]
        return normals


def _slopes(geoms: NDArray[np.int32], points: Array, towards_camera: Array) -> Array:
    """Unit normals (H, W, 3) from the differences between neighbouring pixels that show the same geom.

    Of the two neighbours along an axis that with the smaller difference counts, so that edges stay sharp.

    Args:
        geoms: (H, W).
        points: (H, W, 3) where the rays have met them.
        towards_camera: (H, W, 3) unit vectors; the normal where a pixel has no such neighbour.
    """
    tangents = []
    for axis in (0, 1):
        step = np.diff(points, axis=axis)
        gap = np.einsum("ijk,ijk->ij", step, step)
        gap[np.diff(geoms, axis=axis) != 0] = np.inf
        nothing, endless = np.zeros_like(points.take([0], axis)), np.full_like(gap.take([0], axis), np.inf)
        before, gap_before = np.concatenate([nothing, step], axis), np.concatenate([endless, gap], axis)
        after, gap_after = np.concatenate([step, nothing], axis), np.concatenate([gap, endless], axis)
        tangent = np.where((gap_before < gap_after)[..., None], before, after)
        tangent[np.minimum(gap_before, gap_after) == np.inf] = 0.0
        tangents.append(tangent)
    rows, columns = tangents
    normals = unit(np.cross(rows, columns))
    facing = np.einsum("ijk,ijk->ij", normals, towards_camera)[..., None]
    return np.where(facing == 0.0, towards_camera, normals * np.sign(facing))


def _mesh(model: Any, mesh: int) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    vertices = slice(model.mesh_vertadr[mesh], model.mesh_vertadr[mesh] + model.mesh_vertnum[mesh])
    faces = slice(model.mesh_faceadr[mesh], model.mesh_faceadr[mesh] + model.mesh_facenum[mesh])
    return model.mesh_vert[vertices], model.mesh_face[faces]
