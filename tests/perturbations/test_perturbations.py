"""Each perturbation does what its name says, as strongly as its level says, on real simulators."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.perturbations import worlds
from tests.perturbations.worlds import SEED, actions, built, seen
from vla_cl.envs import EnvironmentPool, EnvironmentSpec, EpisodeStart, ObservationOptions, RenderingOptions
from vla_cl.envs.perturbations import (
    PERTURBATIONS,
    Perturbation,
    check_perturbations,
    condition_name,
    read_perturbation,
    read_perturbations,
)
from vla_cl.envs.surroundings import surrounding_geoms
from vla_cl.errors import ConfigurationError, UnknownNameError

NAMES = ("action_delay", "camera", "distractors", "instruction", "light", "object_pose", "sensor_noise", "texture")


def restarted(spec: EnvironmentSpec, *perturbations: str, seed: int = SEED) -> Any:
    env = built(spec, *perturbations)
    env.restart(seed=seed)
    return env


# --- names -----------------------------------------------------------------------------------------------------


def test_a_name_stands_for_its_usual_level_and_numbers_for_themselves() -> None:
    assert set(NAMES) <= set(PERTURBATIONS)
    assert read_perturbation("camera") == read_perturbation("camera:medium") == read_perturbation(" camera=medium ")
    assert read_perturbation("camera=12.5").strength == 12.5
    assert read_perturbation("action_delay=2").delay == 2
    assert read_perturbation("instruction").instructions == "held_out"
    assert condition_name(["camera+light:small", "action_delay:3"]) == "camera:medium+light:small+action_delay=3"
    assert condition_name([]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("camra", "did you mean 'camera'"),
        ("camera:enormous", "no level 'enormous'; known: small, medium, large"),
        ("camera=91", "a number above 0, up to 90"),
        ("camera=nan", "no level 'nan'"),
        ("light=0", "above 0"),
        ("distractors=2.5", "a whole number"),
        ("instruction=3", "known: paraphrased"),
        ("camera light", "must read like"),
        ("camera:small+camera:large", "named twice"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises((ConfigurationError, UnknownNameError), match=message) as told:
        read_perturbations([text])
    assert "\n" not in str(told.value)


@settings(deadline=None)
@given(st.sampled_from(NAMES), st.floats(1e-3, 1e4))
def test_every_number_is_either_taken_as_it_is_or_refused(name: str, number: float) -> None:
    try:
        found = read_perturbation(f"{name}={number:.12f}")
    except ConfigurationError:
        return
    assert found.strength == pytest.approx(number, abs=1e-9) and number <= (PERTURBATIONS[name].largest or 0)
    assert found.name == name


# --- what they do ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("build", [worlds.meta_world, worlds.tabletop, worlds.fetch], ids=lambda build: build.__name__)
def test_a_camera_goes_as_far_as_its_level_says_and_looks_at_the_same_point(build: Any) -> None:
    plain, turns = restarted(build()), []
    camera = plain.model_camera(plain.cameras[0])
    before, forward = np.array(plain.data.cam_xpos[camera]), -plain.data.cam_xmat[camera].reshape(3, 3)[:, 2]
    for level in ("small", "medium", "large"):
        env = restarted(build(), f"camera:{level}")
        after, frame = np.array(env.data.cam_xpos[camera]), env.data.cam_xmat[camera].reshape(3, 3)
        # where the two lines of sight meet is what is looked at
        axes = np.stack([forward, frame[:, 2]], axis=1)
        reach, residual, *_ = np.linalg.lstsq(axes, after - before, rcond=None)
        assert residual[0] < 1e-9
        target = before + reach[0] * forward
        cosine = (before - target) @ (after - target) / np.linalg.norm(before - target) / np.linalg.norm(after - target)
        turns.append(np.degrees(np.arccos(cosine)))
    for turn, level in zip(turns, (5.0, 15.0, 30.0), strict=True):
        assert 0.2 * level < turn < 1.05 * level


def test_cameras_on_the_hand_stay_where_they_are() -> None:
    env, plain = restarted(worlds.meta_world(), "camera:large"), restarted(worlds.meta_world())
    hand, still = plain.model_camera("gripperPOV"), plain.model_camera("corner2")
    assert (env.data.cam_xpos[hand] == plain.data.cam_xpos[hand]).all()
    assert (env.data.cam_xpos[still] != plain.data.cam_xpos[still]).all()


def test_light_is_dimmed_or_brightened_by_its_share() -> None:
    plain, env, shares = restarted(worlds.tabletop()), built(worlds.tabletop(), "light:medium"), set()
    for seed in range(SEED, SEED + 6):
        env.restart(seed=seed)
        head = env.model.vis.headlight.diffuse / plain.model.vis.headlight.diffuse
        assert np.ptp(head) > 0.01  # tinted
        lamps = plain.model.light_diffuse > 0
        factors = env.model.light_diffuse[lamps] / plain.model.light_diffuse[lamps]
        assert factors == pytest.approx(np.broadcast_to(head, lamps.shape)[lamps], rel=1e-5)
        shares.add(round(float(head.mean()), 3))
    assert shares == {0.5, 1.5}


def test_only_the_surroundings_are_repainted() -> None:
    env, plain = restarted(worlds.tabletop(), "texture:large"), restarted(worlds.tabletop())
    around = surrounding_geoms(plain)
    repainted = (env.model.geom_rgba != plain.model.geom_rgba).any(axis=1)
    assert (repainted == around).all()
    names = {plain.model.geom(int(geom)).name for geom in np.flatnonzero(around)}
    assert {"floor", "table_visual", "wall_left_visual"} <= names
    assert not any(name.startswith(("robot0", "cabinet", "basket", "knob", "button", "fixed_mount")) for name in names)


def test_a_texture_is_tinted_or_exchanged() -> None:
    plain = restarted(worlds.scene())
    table = plain.model.geom("table").id
    tinted = restarted(worlds.scene(), "texture:medium")
    assert tinted.model.geom_matid[table] == plain.model.geom_matid[table]
    env = restarted(worlds.scene(), "texture:large")
    materials = set()
    for seed in range(8):
        env.restart(seed=seed)
        materials.add(int(env.model.geom_matid[table]))
        assert env.model.geom_rgba[env.model.geom("puck").id].tolist() == pytest.approx([0, 0.8, 0, 1])
    assert materials == {-1, int(plain.model.geom_matid[table])}


def test_things_are_moved_within_their_level_and_stand_as_before() -> None:
    env, plain = restarted(worlds.tabletop(), "object_pose:medium"), restarted(worlds.tabletop())
    moved = 0
    for seed in (SEED, SEED + 1, SEED + 2):
        for each in (env, plain):
            each.restart(seed=seed)
        for name in plain.items:
            (here, turned), (there, straight) = env.pose(name), plain.pose(name)
            distance = np.linalg.norm((here - there)[:2])
            assert abs(here - there)[2] < 1e-6
            assert distance == 0 or 0.025 <= distance <= 0.05
            angle = np.arccos(np.clip((np.trace(turned @ straight.T) - 1) / 2, -1, 1))
            assert angle <= 0.5 + 1e-6
            moved += distance > 0
        assert not env.is_solved()
        deepest = min((float(each) for each in env.data.contact.dist), default=0.0)
        before = min((float(each) for each in plain.data.contact.dist), default=0.0)
        assert deepest > before - 2e-3
    assert moved > 0.7 * 3 * len(plain.items)


def test_meta_worlds_goal_and_object_move_with_its_own_bookkeeping() -> None:
    env, plain = restarted(worlds.meta_world(), "object_pose:large"), restarted(worlds.meta_world())
    offset = env.meta_world._last_rand_vec - plain.meta_world._last_rand_vec
    low, high = plain.meta_world._random_reset_space.low, plain.meta_world._random_reset_space.high
    varied = high > low
    assert (offset[~varied] == 0).all() and varied.any()
    assert (np.abs(offset[varied]) <= 0.1 / np.sqrt(2) + 1e-9).all()
    assert (np.abs(offset[varied]) >= 0.05 / np.sqrt(2) - 1e-9).all()
    seen_by_expert = env.environment_state()[4:6] - plain.environment_state()[4:6]
    assert seen_by_expert == pytest.approx(offset[:2], abs=0.02)  # the puck, within what it slides as it lands
    assert (env.environment_state()[-3:] != plain.environment_state()[-3:]).any()  # the goal


def test_an_observation_of_somebody_elses_environment_knows_of_the_move() -> None:
    env, plain = restarted(worlds.fetch(), "object_pose:large"), restarted(worlds.fetch())
    puck = env.data.body("object0").xpos - plain.data.body("object0").xpos
    assert 0.05 <= np.linalg.norm(puck[:2]) <= 0.1
    told = env.observed["observation"][3:6] - plain.observed["observation"][3:6]
    assert told == pytest.approx(puck, abs=1e-6)


@pytest.mark.parametrize("backend", ["raycast", "auto"])
def test_distractors_stand_on_the_table_clear_of_everything(backend: str) -> None:
    spec = worlds.tabletop()
    env, plain = restarted(spec, "distractors=8"), restarted(spec)
    things = env.renderer.decorations
    assert 4 <= len(things) <= 8
    for index, thing in enumerate(things):
        lowest = {3: thing.size[1] + thing.size[0], 2: thing.size[0]}.get(thing.shape, thing.size[-1] or thing.size[1])
        assert thing.position[2] - lowest == pytest.approx(0.8, abs=0.01)
        for other in things[:index]:
            assert np.linalg.norm(thing.position[:2] - other.position[:2]) > 0.9 * (thing.size[0] + other.size[0])
        for name in plain.items:
            assert np.linalg.norm(thing.position[:2] - plain.data.body(name).xpos[:2]) > 0.02
    drawn = replace(spec, rendering=RenderingOptions(backend))
    from vla_cl.envs.building import make_perturbable

    shown = make_perturbable(replace(drawn, perturbations=("distractors=8",)))
    shown.restart(seed=SEED)
    with_them = shown.render_camera("agentview", 96, 96).astype(int)
    shown.perturb_by([])
    shown.restart(seed=SEED)
    without = shown.render_camera("agentview", 96, 96).astype(int)
    different = (np.abs(with_them - without).max(axis=-1) > 10).mean()
    assert 0.005 < different < 0.2


def test_noise_has_the_deviation_of_its_level_and_is_new_in_every_step_and_camera() -> None:
    noise, grey = read_perturbation("sensor_noise:large"), np.full((128, 128, 3), 128, np.uint8)
    noisy = noise.seen(grey, np.random.default_rng(0)).astype(float)
    assert noisy.mean() == pytest.approx(128, abs=0.5) and noisy.std() == pytest.approx(32, abs=0.6)
    env = restarted(worlds.meta_world(), "sensor_noise:large")
    first, again = env.render_camera("corner2", 64, 64), env.render_camera("corner2", 64, 64)
    assert (first == again).all()
    state = env.get_state()
    env.elapsed_steps += 1
    assert (env.render_camera("corner2", 64, 64) != first).mean() > 0.5
    env.set_state(state)
    assert (env.render_camera("corner2", 64, 64) == first).all()


@pytest.mark.parametrize("build", [worlds.scene, worlds.thermostat], ids=lambda build: build.__name__)
def test_late_actions_are_the_same_actions_after_some_rest(build: Any) -> None:
    late, plain = restarted(build(), "action_delay=2"), restarted(build())
    taken = actions(late, 8)
    rest = plain.rest_action()
    positions = [late.advance(action) and late.agent_pos().tolist() for action in taken]
    expected = [plain.advance(action) and plain.agent_pos().tolist() for action in [rest, rest, *taken[:-2]]]
    assert positions == expected
    assert positions[:2] != positions[2:4]


def test_an_environment_that_plays_its_past_again_remembers_late_actions() -> None:
    env, other = restarted(worlds.thermostat(), "action_delay=2"), restarted(worlds.thermostat(), "action_delay=2")
    taken = actions(env, 8)
    seen(env, taken[:4])
    other.set_state(env.get_state())
    assert seen(env, taken[4:]) == seen(other, taken[4:])


def test_rest_is_what_the_wrapped_environment_takes_for_it() -> None:
    env = restarted(worlds.thermostat())
    env.advance(env.rest_action())
    assert env.wrapped.unwrapped.commanded == pytest.approx([0.0, 0.0], abs=1e-6)


# --- who can take them -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("camera", "none of the cameras that are seen"),
        ("distractors", "not drawn by this package"),
        ("light", "not simulated by MuJoCo"),
        ("texture", "not simulated by MuJoCo"),
        ("object_pose", "not simulated by MuJoCo"),
    ],
)
def test_what_a_world_lacks_is_told_before_anything_runs(name: str, reason: str) -> None:
    env = restarted(replace(worlds.thermostat(), task="thermostat"))
    with pytest.raises(ConfigurationError, match=f"'thermostat' cannot be perturbed by '{name}:medium'.*{reason}"):
        check_perturbations(env, [read_perturbation(name)])
    check_perturbations(env, read_perturbations(["sensor_noise", "action_delay=2"]))


def test_a_policy_without_pixels_cannot_be_shown_anything() -> None:
    env = restarted(replace(worlds.meta_world(), observation=ObservationOptions(())))
    for name in ("camera", "light", "texture", "distractors", "sensor_noise"):
        with pytest.raises(ConfigurationError, match="sees none"):
            check_perturbations(env, [read_perturbation(name)])
    check_perturbations(env, read_perturbations(["object_pose", "action_delay=2"]))


def test_a_camera_on_the_hand_alone_cannot_be_moved() -> None:
    env = restarted(replace(worlds.meta_world(), observation=ObservationOptions(("gripperPOV",))))
    with pytest.raises(ConfigurationError, match=r"seen \(gripperPOV\) is one that stands still"):
        check_perturbations(env, [read_perturbation("camera")])


def test_levels_go_the_same_way_and_combinations_draw_as_their_parts() -> None:
    small, large = (restarted(worlds.meta_world(), f"distractors:{level}") for level in ("small", "large"))
    few, many = small.renderer.decorations, large.renderer.decorations
    assert all((one.position == other.position).all() for one, other in zip(few, many, strict=False))
    both = restarted(worlds.meta_world(), "light", "object_pose")
    alone = restarted(worlds.meta_world(), "object_pose")
    assert (both.environment_state() == alone.environment_state()).all()


def test_a_plug_ins_perturbation_acts_in_the_processes_that_simulate() -> None:
    spec = replace(worlds.scene(), rendering=RenderingOptions("raycast"))
    with EnvironmentPool(1) as pool:
        starts = {0: EpisodeStart(spec, SEED), 1: EpisodeStart(replace(spec, perturbations=("upside_down",)), SEED)}
        pictures = [each["pixels"]["above"] for each in pool.start(starts).values()]
    assert (pictures[0] != pictures[1]).any()
    assert (pictures[0][::-1, ::-1] == pictures[1]).all()
    assert issubclass(PERTURBATIONS["upside_down"], Perturbation)
