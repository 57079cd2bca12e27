"""Pictures: upright, what Meta-World itself would show, the same whatever was drawn before, and lean."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.envs.scenes import meta_world, random_actions
from vla_cl.envs import EnvironmentSpec, RenderingOptions, gl, gl_stage
from vla_cl.envs.gl import BACKENDS, available_backends
from vla_cl.errors import ConfigurationError, RenderingError, UnknownNameError

FULL = RenderingOptions(reflections=True, shadows=True, multisampling=4, mesh_detail=0.0)
LEAN = RenderingOptions(mesh_detail=0.0)
UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")
ROOT = Path(__file__).parents[2]

if not available_backends():
    pytest.skip("neither EGL nor OSMesa works here", allow_module_level=True)


def difference(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.abs(first.astype(int) - second).mean())


@pytest.mark.parametrize("camera", ["corner2", "gripperPOV", "topview"])
def test_with_every_effect_on_it_draws_what_meta_world_draws(camera: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gymnasium.envs.mujoco.mujoco_rendering import OffScreenViewer

    env = meta_world("drawer-open-v3", rendering=FULL)
    env.restart(seed=2)
    ours = env.render_camera(camera, 128, 128)
    env.model.vis.global_.offwidth = env.model.vis.global_.offheight = 128
    viewer = OffScreenViewer(env.model, env.data, 128, 128)
    stock = viewer.render("rgb_array", camera_id=env.model.camera(camera).id)
    viewer.close()
    if camera in UPSIDE_DOWN:
        stock = stock[::-1, ::-1]
    assert difference(ours, stock) < 0.5
    np.testing.assert_array_equal(env.render_camera(camera, 128, 128), ours)  # after another renderer in this process


def test_images_are_upright() -> None:
    env = meta_world("window-close-v3")
    env.restart(seed=0)
    image = env.render_camera("corner2", 128, 128).astype(int)
    redness = np.clip(image[..., 0] - image[..., 1:].max(axis=2), 0, None)
    rows = (redness.sum(axis=1) * np.arange(128)).sum() / redness.sum()
    sky, floor = image[:20].mean(), image[-20:].mean()
    assert rows < 80, "the arm is above the middle"
    assert image[:20].std() < image[-20:].std(), "the empty wall is above, the furniture below"
    assert sky != floor


def test_only_fixed_cameras_that_hang_upside_down_are_turned() -> None:
    env = meta_world()
    turned = {name for name, camera in env.renderer.cameras.items() if camera.upside_down}
    assert turned == set(UPSIDE_DOWN)


@pytest.mark.parametrize("effect", ["reflections", "shadows", "multisampling", "mesh_detail"])
def test_each_effect_can_be_switched(effect: str) -> None:
    value: Any = {"multisampling": 4, "mesh_detail": 0.02}.get(effect, True)
    images = []
    for options in (LEAN, RenderingOptions(**{"mesh_detail": 0.0, effect: value})):
        env = meta_world("window-close-v3", rendering=options)
        env.restart(seed=0)
        images.append(env.render_camera("corner2", 128, 128))
    assert difference(*images) > 0.05


@pytest.mark.parametrize("camera", ["corner2", "gripperPOV"])
def test_dropping_small_details_can_hardly_be_seen(camera: str) -> None:
    env, full = meta_world("window-close-v3"), meta_world("window-close-v3", rendering=LEAN)
    env.restart(seed=0)
    full.restart(seed=0)
    for size in (64, 256):
        assert difference(env.render_camera(camera, size, size), full.render_camera(camera, size, size)) < 1.0


def test_dropping_small_details_leaves_physics_alone() -> None:
    env, full = meta_world("push-v3"), meta_world("push-v3", rendering=LEAN)
    for each in (env, full):
        each.restart(seed=0)
        for action in random_actions(20):
            each.advance(action)
            each.render_camera("corner2", 64, 64)
    np.testing.assert_array_equal(env.get_state(), full.get_state())
    np.testing.assert_array_equal(env.model.mesh_face, full.model.mesh_face)


def test_drawing_changes_nothing_in_the_simulation() -> None:
    env = meta_world("push-v3")
    env.restart(seed=0)
    before = env.get_state()
    env.render_camera("corner2", 64, 64)
    np.testing.assert_array_equal(env.get_state(), before)


def test_a_restored_state_looks_the_same() -> None:
    env, other = meta_world("assembly-v3"), meta_world("assembly-v3")
    env.restart(seed=0)
    other.restart(seed=1)
    for step in range(2):
        other.set_state(env.get_state())
        for camera in env.default_cameras:
            np.testing.assert_array_equal(
                other.render_camera(camera, 64, 64), env.render_camera(camera, 64, 64), err_msg=f"{camera} {step}"
            )
        for action in random_actions(5):
            env.advance(action)


def test_environments_that_draw_in_turns_at_different_sizes_do_not_disturb_each_other() -> None:
    envs = [
        (meta_world("push-v3"), 64, 64),
        (meta_world("drawer-open-v3"), 200, 120),
        (meta_world("push-v3"), 256, 256),
        (meta_world("push-v3", rendering=FULL), 100, 100),
    ]
    alone = []
    for seed, (env, height, width) in enumerate(envs):
        env.restart(seed=seed)
        alone.append({camera: env.render_camera(camera, height, width) for camera in env.default_cameras})
    for _ in range(2):
        for (env, height, width), images in zip(reversed(envs), reversed(alone), strict=True):
            for camera, image in images.items():
                assert image.shape == (height, width, 3)
                np.testing.assert_array_equal(env.render_camera(camera, height, width), image)


def test_environments_of_one_scene_share_one_upload_and_let_go_of_it() -> None:
    gc.collect()
    before = len(gl_stage._stages)
    envs = [meta_world("door-open-v3") for _ in range(3)]
    for env in envs:
        env.render_camera("corner2", 64, 64)
    assert len(gl_stage._stages) == before + 1
    envs[0].close()
    image = envs[0].render_camera("corner2", 64, 64)  # drawing again after close
    for env in envs:
        env.close()
    assert len(gl_stage._stages) == before
    np.testing.assert_array_equal(envs[1].render_camera("corner2", 64, 64), image)


def test_colours_are_read_at_each_drawing() -> None:
    env = meta_world("push-v3")
    env.restart(seed=0)
    before = env.render_camera("corner2", 64, 64)
    env.model.geom_rgba[:, :3] = (0, 0, 1)
    assert difference(env.render_camera("corner2", 64, 64), before) > 1


def test_the_view_for_people_is_the_first_camera() -> None:
    from vla_cl.envs import make_environment

    spec = EnvironmentSpec("meta_world", {"task": "push-v3"})
    env = make_environment(spec, render_mode="rgb_array")
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(env.render(), observation["pixels"]["corner2"])
    assert meta_world("push-v3").render() is None


def test_unknown_names_are_refused() -> None:
    env = meta_world()
    with pytest.raises(UnknownNameError, match=r"camera 'above'.*known: .*corner2"):
        env.render_camera("above", 64, 64)
    with pytest.raises(ConfigurationError, match="rendering backend 'glfw' is unknown"):
        meta_world(rendering=RenderingOptions(backend="glfw")).render_camera("corner2", 64, 64)


def test_a_process_draws_with_one_backend() -> None:
    gl.ensure_current()
    assert gl._context is not None
    other = next(backend for backend in BACKENDS if backend != gl._context.backend)
    with pytest.raises(RenderingError, match=f"cannot also draw with {other}"):
        gl.ensure_current(other)


DRAW = """
import numpy as np, os, sys
from tests.envs.scenes import meta_world
env = meta_world("push-v3")
env.restart(seed=0)
image = env.render_camera("corner2", 64, 64)
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_each_backend_draws_and_ends_quietly(backend: str) -> None:
    if backend not in available_backends():
        pytest.skip(f"{backend} does not work here")
    child = run(DRAW + "print(image.mean(), os.environ['PYOPENGL_PLATFORM'])", MUJOCO_GL=backend)
    assert (child.returncode, child.stderr) == (0, "")
    mean, platform = child.stdout.split()
    assert 20 < float(mean) < 235
    assert platform == backend


def test_a_forked_child_draws_in_a_context_of_its_own() -> None:
    code = """
child = os.fork()
again = env.render_camera("corner2", 64, 64)
assert np.array_equal(again, image)
if child == 0:
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(env.render_camera("corner2", 64, 64), image)
"""
    child = run(DRAW + code)
    assert (child.returncode, child.stderr) == (0, "")


BROKEN_EGL = {"__EGL_VENDOR_LIBRARY_DIRS": "/nonexistent"}
NO_GL = """
from vla_cl.envs import gl
gl._LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libabsent.so"}
"""


def test_without_a_usable_gl_rays_are_cast_and_the_way_out_is_told_once() -> None:
    code = """
from tests.envs.scenes import RenderingOptions
other = meta_world("reach-v3")
other.restart(seed=0)
other.render_camera("corner2", 64, 64)
cast = meta_world("push-v3", rendering=RenderingOptions(backend="raycast"))
cast.restart(seed=0)
assert np.array_equal(cast.render_camera("corner2", 64, 64), image)
"""
    child = run(NO_GL + DRAW + code, **BROKEN_EGL)
    assert child.returncode == 0, child.stderr
    (line,) = child.stderr.splitlines()
    assert "ray casting" in line
    assert "apt-get install libegl1 libgl1-mesa-dri" in line
    assert "apt-get install libosmesa6" in line


@pytest.mark.parametrize("chosen", ["option", "variable"])
def test_a_chosen_gl_that_does_not_work_is_an_error(chosen: str) -> None:
    code = """
from vla_cl.errors import RenderingError
from tests.envs.scenes import RenderingOptions, meta_world
try:
    env = meta_world("push-v3", rendering=RenderingOptions(backend=BACKEND))
    env.restart(seed=0)
    env.render_camera("corner2", 64, 64)
except RenderingError as error:
    print(error)
"""
    if chosen == "option":
        child = run(code.replace("BACKEND", repr("egl")), **BROKEN_EGL)
    else:
        child = run(code.replace("BACKEND", repr("auto")), **BROKEN_EGL, MUJOCO_GL="egl")
    assert "apt-get install libegl1 libgl1-mesa-dri" in child.stdout, child.stderr


def test_mujocos_word_for_no_gl_casts_rays_without_a_warning() -> None:
    child = run(DRAW + "print(sorted(name for name in sys.modules if name.startswith('OpenGL')))", MUJOCO_GL="disabled")
    assert (child.returncode, child.stdout, child.stderr) == (0, "[]\n", "")


def test_options_are_settled_as_drawing_would_choose() -> None:
    code = """
from vla_cl.envs import RenderingOptions
from vla_cl.envs.rendering import settled
print(settled(RenderingOptions()).backend, settled(RenderingOptions(backend="egl")).backend)
"""
    assert run(code).stdout == "auto egl\n"
    assert run(code, MUJOCO_GL="disabled").stdout == "raycast egl\n"
    child = run(NO_GL + code, **BROKEN_EGL)
    assert child.stdout == "raycast egl\n"
    assert len(child.stderr.splitlines()) == 1


def test_what_is_recorded_of_a_demonstration_names_ray_casting_if_anything_is_drawn() -> None:
    code = """
from vla_cl.data.schema import rendering_fields
from vla_cl.envs import ObservationOptions, RenderingOptions
chosen = rendering_fields(RenderingOptions(backend="raycast"), ObservationOptions())
assert rendering_fields(RenderingOptions(), ObservationOptions(cameras=()))["backend"] == "auto"
assert rendering_fields(RenderingOptions(), ObservationOptions()) == chosen
print(chosen["backend"])
"""
    child = run(code, MUJOCO_GL="disabled")
    assert (child.stdout, child.stderr) == ("raycast\n", "")


def test_the_processes_of_a_pool_do_not_repeat_the_warning() -> None:
    code = """
from dataclasses import replace
from tests.envs.scenes import meta_world_spec
from vla_cl.envs import EnvironmentPool, EpisodeStart
start = EpisodeStart(meta_world_spec("push-v3", cameras=("corner2",)), 0)
blind = replace(start, spec=meta_world_spec("push-v3"))
with EnvironmentPool(2) as pool:
    assert "pixels" not in pool.start({0: blind, 1: blind})[0]
    print("blind")
    images = [seen["pixels"]["corner2"] for seen in pool.start({0: start, 1: start}).values()]
assert (images[0] == images[1]).all()
"""
    child = run(NO_GL + code, **BROKEN_EGL)
    assert (child.returncode, child.stdout) == (0, "blind\n"), child.stderr
    assert len(child.stderr.splitlines()) == 1


def test_a_broken_egl_gives_way_to_osmesa() -> None:
    if "osmesa" not in available_backends():
        pytest.skip("osmesa does not work here")
    child = run(DRAW + "print(os.environ['PYOPENGL_PLATFORM'])", **BROKEN_EGL)
    assert child.stdout.strip() == "osmesa", child.stderr


def test_a_choice_of_mujoco_that_is_not_there_is_told() -> None:
    code = """
from tests.envs.scenes import meta_world
from vla_cl.errors import RenderingError
try:
    meta_world("push-v3")
except RenderingError as error:
    print(error)
"""
    if "osmesa" in available_backends():
        pytest.skip("osmesa works here")
    child = run(code, MUJOCO_GL="osmesa")
    assert "unset it or run `apt-get install libosmesa6`" in child.stdout, child.stderr


def test_a_crashing_driver_is_an_absent_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gl.sys, "executable", "/bin/false")
    available_backends.cache_clear()
    try:
        assert available_backends() == ()
    finally:
        monkeypatch.undo()
        available_backends.cache_clear()
