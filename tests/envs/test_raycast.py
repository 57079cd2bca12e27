"""Ray casting against OpenGL on the same scenes, and what it promises by itself."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.envs.scenes import meta_world, random_actions
from vla_cl.envs import RenderingOptions
from vla_cl.envs.mujoco_import import import_mujoco
from vla_cl.envs.ray_shapes import contains, distances, mesh_contains, surface_normals, unit
from vla_cl.envs.rendering import Renderer, available_backends

CAST = RenderingOptions(backend="raycast")
CAST_IN_FULL = RenderingOptions(backend="raycast", mesh_detail=0.0)
SHAPES = ("sphere", "ellipsoid", "capsule", "cylinder", "box")
SIZE = np.array([0.2, 0.3, 0.15])

needs_gl = pytest.mark.skipif(not available_backends(), reason="neither EGL nor OSMesa works here")

SCENE = """
<mujoco>
  <asset>
    <texture name="sky" type="skybox" builtin="gradient" rgb1=".3 .5 .7" rgb2="0 0 .2" width="64" height="384"/>
    <texture name="checks" type="2d" builtin="checker" rgb1=".8 .8 .8" rgb2=".2 .2 .2" width="64" height="64"/>
    <material name="checks" texture="checks" texrepeat="40 40" specular="0"/>
  </asset>
  <visual><headlight ambient=".3 .3 .3" diffuse=".5 .5 .5" specular="0 0 0"/></visual>
  <worldbody>
    <light directional="true" dir="0.3 0.2 -1" diffuse=".4 .4 .4" specular="0 0 0"/>
    <geom type="plane" size="3 3 .1" material="checks"/>
    {bodies}
    <camera name="side" pos="0 -2 1" xyaxes="1 0 0 0 .45 .9"/>
    <camera name="above" pos="0 0 2.5" xyaxes="1 0 0 0 1 0"/>
    <camera name="turned" pos="0 -2 1" xyaxes="-1 0 0 0 -.45 -.9"/>
    <camera name="horizon" pos="0 -2 1" xyaxes="1 0 0 0 0 1"/>
  </worldbody>
</mujoco>
"""


def scene(*bodies: str) -> tuple[Any, Any]:
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE.format(bodies="".join(bodies)))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    return model, data


def both(model: Any, data: Any, camera: str, size: int = 128) -> list[NDArray[np.int64]]:
    """The picture by OpenGL and by ray casting."""
    options = RenderingOptions(mesh_detail=0.0), CAST_IN_FULL
    return [Renderer(model, each).draw(data, camera, size, size).astype(int) for each in options]


def red(image: NDArray[np.int64]) -> NDArray[np.bool_]:
    return np.asarray(image[..., 0] > 2 * image[..., 1:].max(axis=2) + 20)


def geom(shape: str, more: str = "", size: str = ".2 .3 .15", rgba: str = ".9 .1 .1 1") -> str:
    return f'<geom type="{shape}" size="{size}" pos=".1 .2 .5" euler="30 40 50" rgba="{rgba}" {more}/>'


# --- against OpenGL ---------------------------------------------------------------------------------------------


@needs_gl
@pytest.mark.parametrize(("shape", "camera"), list(itertools.product(SHAPES, ("side", "above"))))
def test_a_shape_covers_the_pixels_that_it_covers_with_opengl(shape: str, camera: str) -> None:
    drawn, cast = both(*scene(geom(shape)), camera)
    covered = [red(image) for image in (drawn, cast)]
    assert covered[0].sum() > 300
    assert (covered[0] != covered[1]).sum() < 0.04 * covered[0].sum(), "they differ at the rim alone"
    centres = [np.argwhere(each).mean(axis=0) for each in covered]
    np.testing.assert_allclose(centres[0], centres[1], atol=0.5)


@needs_gl
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_is_lit_as_with_opengl(shape: str) -> None:
    drawn, cast = both(*scene(geom(shape)), "side")
    seen = red(drawn) & red(cast)
    assert np.abs(drawn[seen] - cast[seen]).mean() < 4
    assert np.abs(drawn.mean(axis=(0, 1)) - cast.mean(axis=(0, 1))).max() < 4


@needs_gl
def test_the_sky_is_opengls() -> None:
    drawn, cast = both(*scene(), "horizon")
    assert np.abs(drawn[:60] - cast[:60]).mean() < 3


@needs_gl
def test_what_is_translucent_lets_the_colours_behind_through() -> None:
    drawn, cast = both(*scene(geom("box", rgba=".9 .1 .1 .4")), "above")
    part = slice(40, 58), slice(63, 81)  # two squares of the floor's pattern each way, under the middle of the box
    assert np.abs(drawn[part].mean(axis=(0, 1)) - cast[part].mean(axis=(0, 1))).max() < 8


@needs_gl
@pytest.mark.parametrize("shape", SHAPES)
def test_sites_are_drawn_where_opengl_draws_them(shape: str) -> None:
    site = geom(shape).replace("<geom", "<site")
    covered = [red(image) for image in both(*scene(site), "side")]
    assert covered[0].sum() > 300
    assert (covered[0] != covered[1]).sum() < 0.04 * covered[0].sum()


@needs_gl
@pytest.mark.parametrize(
    ("task", "camera"), [("hammer-v3", "corner2"), ("hammer-v3", "gripperPOV"), ("reach-v3", "topview")]
)
def test_meta_world_looks_as_with_opengl_but_for_textures(task: str, camera: str) -> None:
    images = []
    for options in (RenderingOptions(), CAST):
        env = meta_world(task, rendering=options)
        env.restart(seed=0)
        images.append(env.render_camera(camera, 128, 128).astype(int))
    coarse = [image.reshape(16, 8, 16, 8, 3).mean(axis=(1, 3)) for image in images]
    assert np.abs(coarse[0] - coarse[1]).mean() < 6
    covered = [red(image) for image in images]
    assert (covered[0] != covered[1]).sum() < 0.1 * covered[0].sum()


# --- by itself --------------------------------------------------------------------------------------------------


def test_images_are_upright_bytes_and_the_same_every_time() -> None:
    model, data = scene(geom("box"))
    images = [Renderer(model, CAST).draw(data, "side", 48, 64) for _ in range(2)]
    assert images[0].shape == (48, 64, 3)
    assert images[0].dtype == np.uint8
    np.testing.assert_array_equal(*images)
    rows = np.argwhere(red(images[0].astype(int)))[:, 0]
    assert rows.mean() < 30, "the box is high above the floor"


def test_a_camera_that_is_mounted_upside_down_is_turned() -> None:
    model, data = scene(geom("box"))
    renderer = Renderer(model, CAST)
    np.testing.assert_array_equal(renderer.draw(data, "turned", 64, 64), renderer.draw(data, "side", 64, 64))


@pytest.mark.parametrize("how", ["group", "alpha", "hidden_groups"])
def test_hidden_geoms_are_not_drawn(how: str) -> None:
    hidden = {"group": geom("box", 'group="3"'), "alpha": geom("box", rgba=".9 .1 .1 0"), "hidden_groups": geom("box")}
    hidden["hidden_groups"] = geom("box", 'group="1"')
    model, data = scene(hidden[how])
    groups = (1,) if how == "hidden_groups" else ()
    empty_model, empty_data = scene()
    np.testing.assert_array_equal(
        Renderer(model, CAST, hidden_groups=groups).draw(data, "side", 64, 64),
        Renderer(empty_model, CAST).draw(empty_data, "side", 64, 64),
    )


def test_colours_are_read_at_each_drawing() -> None:
    model, data = scene(geom("box"))
    renderer = Renderer(model, CAST)
    assert red(renderer.draw(data, "side", 64, 64).astype(int)).any()
    model.geom_rgba[1] = (0.1, 0.1, 0.9, 1.0)
    assert not red(renderer.draw(data, "side", 64, 64).astype(int)).any()


def test_the_model_and_the_simulation_stay_as_they_are() -> None:
    env = meta_world("push-v3", rendering=CAST)
    env.restart(seed=0)
    before = env.get_state()
    model = {name: getattr(env.model, name).copy() for name in ("geom_group", "geom_rgba", "geom_matid", "body_bvhadr")}
    env.render_camera("corner2", 64, 64)
    np.testing.assert_array_equal(env.get_state(), before)
    for name, values in model.items():
        np.testing.assert_array_equal(getattr(env.model, name), values)


def test_an_episode_does_not_depend_on_being_drawn() -> None:
    states = []
    for drawn in (False, True):
        env = meta_world("push-v3", rendering=CAST)
        env.restart(seed=0)
        for action in random_actions(5):
            env.advance(action)
            if drawn:
                env.render_camera("gripperPOV", 64, 64)
        states.append(env.get_state())
    np.testing.assert_array_equal(*states)


def test_collision_shapes_stand_in_for_fine_meshes_of_their_body() -> None:
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    rings = [
        (0.2 * np.sin(t) * np.cos(a), 0.2 * np.sin(t) * np.sin(a), 0.2 * np.cos(t))
        for t in np.linspace(0.05, 3.1, 24)
        for a in angles
    ]
    vertices = " ".join(f"{value:.4f}" for point in rings for value in point)
    ball = f'<asset><mesh name="ball" vertex="{vertices}"/></asset>'
    body = (
        '<body pos="0 .2 .5"><geom type="mesh" mesh="ball" rgba=".9 .1 .1 1" contype="0" conaffinity="0"/>'
        '<geom type="box" size=".18 .18 .18" rgba="0 1 0 1" group="3"/></body>'
    )
    mujoco = import_mujoco()
    model = mujoco.MjModel.from_xml_string(SCENE.format(bodies=body).replace("<worldbody>", ball + "<worldbody>", 1))
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert model.mesh_facenum[0] > 500
    every, coarse = (
        red(Renderer(model, each).draw(data, "above", 128, 128).astype(int)) for each in (CAST_IN_FULL, CAST)
    )
    assert not every[_corner(every)]
    assert coarse[_corner(coarse)], "the box, in the colour of the ball"


def _corner(covered: NDArray[np.bool_]) -> tuple[int, int]:
    rows, columns = np.argwhere(covered).T
    return int(rows.min() + 1), int(columns.min() + 1)


def test_a_camera_inside_a_geom_sees_out_of_it() -> None:
    inside = '<geom type="sphere" size=".3" pos="0 -2 1" rgba=".9 .1 .1 1"/>'
    model, data = scene(inside)
    assert not red(Renderer(model, CAST).draw(data, "side", 64, 64).astype(int)).any()


# --- shapes in closed form --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_distances_are_those_of_mujoco(shape: str) -> None:
    mujoco = import_mujoco()
    kind = int(getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}"))
    generator = np.random.default_rng(0)
    for _ in range(5):
        origin = unit(generator.normal(size=3)) * generator.uniform(0.8, 2.0)
        directions = unit(-origin + generator.normal(0, 0.3, (200, 3)))
        found = distances(kind, SIZE, origin, directions)
        expected = [mujoco.mju_rayGeom(np.zeros(3), np.eye(3).ravel(), SIZE, origin, each, kind) for each in directions]
        expected = np.where(np.array(expected) < 0, np.inf, expected)
        assert np.isfinite(expected).any()
        np.testing.assert_allclose(found, expected, atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_normals_are_the_gradient_of_the_distance_to_the_surface(shape: str) -> None:
    """Stepping along the normal leaves the shape; against it, enters it; along the surface, neither goes far."""
    mujoco = import_mujoco()
    kind = int(getattr(mujoco.mjtGeom, f"mjGEOM_{shape.upper()}"))
    generator = np.random.default_rng(1)
    origins = unit(generator.normal(size=(100, 3))) * 2.0
    points = np.array([each + distances(kind, SIZE, each, -each[None] / 2.0)[0] * -each / 2.0 for each in origins])
    normals = surface_normals(kind, np.repeat(SIZE[None], 100, axis=0), points)
    assert normals is not None
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1.0)
    for point, normal in zip(points, normals, strict=True):
        assert contains(kind, SIZE, point - 1e-4 * normal)
        assert not contains(kind, SIZE, point + 1e-4 * normal)
        along = np.cross(normal, (0.3, 0.5, 0.8))
        assert not contains(kind, SIZE, point + 1e-3 * along + 1e-5 * normal), "convex: a tangent stays outside"


def test_a_mesh_contains_what_its_faces_enclose() -> None:
    corners = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
    faces = np.array(
        [
            *((0, 1, 3), (0, 3, 2), (4, 6, 7), (4, 7, 5), (0, 4, 5), (0, 5, 1)),
            *((2, 3, 7), (2, 7, 6), (0, 2, 6), (0, 6, 4), (1, 5, 7), (1, 7, 3)),
        ],
        np.int32,
    )
    generator = np.random.default_rng(2)
    for point in generator.uniform(-1.5, 1.5, (200, 3)):
        assert mesh_contains(corners, faces, point) == bool((np.abs(point) < 1).all())
