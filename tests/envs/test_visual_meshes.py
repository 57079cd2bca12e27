"""Fewer triangles: what remains lies where it was, and nothing but pictures changes."""

from __future__ import annotations

import copy

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.envs.scenes import meta_world
from vla_cl.envs.visual_meshes import drop_small_details, merge_close_vertices


@st.composite
def meshes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count = draw(st.integers(3, 30))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    points = generator.uniform(-1, 1, (count, 3)).astype(np.float32)
    faces = np.stack([generator.permutation(count)[:3] for _ in range(draw(st.integers(1, 40)))])
    return points, faces.astype(np.int32)


def oriented(faces: np.ndarray) -> set[tuple[int, ...]]:
    """Triangles that are equal where they have the same corners in the same sense of rotation."""
    return {min((a, b, c), (b, c, a), (c, a, b)) for a, b, c in faces.tolist()}


@given(meshes(), st.floats(0.05, 3.0))
def test_vertices_stay_in_their_cell_and_triangles_stay_whole(mesh: tuple[np.ndarray, np.ndarray], cell: float) -> None:
    points, faces = mesh
    kept, merged = merge_close_vertices(points, faces, cell)
    assert merged.shape == (len(kept), 3)
    np.testing.assert_array_equal(np.floor(points[merged] / cell), np.floor(points[faces[kept]] / cell))
    corners = np.sort(merged, axis=1)
    assert (np.diff(corners, axis=1) > 0).all(), "no triangle collapses to a line"
    assert len(oriented(merged)) == len(merged), "no triangle twice"
    assert (np.diff(kept) > 0).all()


@given(meshes())
def test_cells_with_one_vertex_each_change_nothing(mesh: tuple[np.ndarray, np.ndarray]) -> None:
    points, faces = mesh
    kept, merged = merge_close_vertices(points, faces, 1e-5)
    np.testing.assert_array_equal(merged, faces[kept])
    assert len(kept) == len(oriented(faces))


def test_both_sides_of_a_thin_wall_remain() -> None:
    wall = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0)], np.float32)
    points = np.concatenate([wall + 0.1, wall + np.array([0.1, 0.1, 0.102])]).astype(np.float32)
    faces = np.array([(0, 1, 2), (3, 5, 4)], np.int32)
    kept, merged = merge_close_vertices(points, faces, 0.5)
    assert list(kept) == [0, 1]
    assert len(np.unique(merged)) == 3


def test_a_square_of_small_triangles_becomes_two() -> None:
    side = np.linspace(0.001, 1.999, 21)
    points = np.array([(x, y, 0.1) for x in side for y in side], np.float32)
    corner = np.arange(20 * 20) // 20 * 21 + np.arange(20 * 20) % 20
    faces = np.concatenate(
        [np.stack([corner, corner + 1, corner + 22], 1), np.stack([corner, corner + 22, corner + 21], 1)]
    )
    kept, merged = merge_close_vertices(points, faces.astype(np.int32), 1.0)
    assert len(kept) == 2
    assert len(np.unique(merged)) == 4


def test_the_robot_loses_most_of_its_triangles() -> None:
    model = meta_world().model
    drawn = copy.copy(model)
    drop_small_details(drawn, 0.005)
    assert drawn.mesh_facenum.sum() < 0.5 * model.mesh_facenum.sum()
    assert (drawn.mesh_facenum > 0).all()
    assert drawn.mesh_face.max() < model.mesh_vertnum.max()


def test_no_detail_is_dropped_when_none_is_asked() -> None:
    model = meta_world().model
    drawn = copy.copy(model)
    drop_small_details(drawn, 0.0)
    np.testing.assert_array_equal(drawn.mesh_face, model.mesh_face)
    np.testing.assert_array_equal(drawn.mesh_facenum, model.mesh_facenum)
