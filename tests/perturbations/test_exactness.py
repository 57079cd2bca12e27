"""Perturbed episodes leave no trace, take turns with others, and continue bit for bit elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.perturbations import worlds
from tests.perturbations.worlds import EVERYTHING, LOOKS, OTHER_SEED, SEED, actions, built, seen
from vla_cl.envs import EnvironmentSpec, EpisodeStart, RenderingOptions, make_environment
from vla_cl.envs.simulation_state import _writable_arrays
from vla_cl.envs.worker import Worker

Build = Callable[[], EnvironmentSpec]
WORLDS = (worlds.meta_world, worlds.tabletop, worlds.robosuite, worlds.scene, worlds.fetch)
every_world = pytest.mark.parametrize("build", WORLDS, ids=lambda build: build.__name__)


def arrays(model: Any) -> dict[str, bytes]:
    lights = model.vis.headlight
    found = {name: values.tobytes() for name, values in _writable_arrays(model).items()}
    return found | {name: getattr(lights, name).tobytes() for name in ("ambient", "diffuse", "specular")}


@every_world
def test_an_unperturbed_episode_after_perturbed_ones_is_that_of_a_fresh_environment(build: Build) -> None:
    env = built(build(), *EVERYTHING)
    taken = actions(env, 6)
    for seed in (SEED, OTHER_SEED):
        env.restart(seed=seed)
        seen(env, taken)
    env.perturb_by([])
    env.restart(seed=SEED)
    fresh = built(build())
    fresh.restart(seed=SEED)
    assert seen(env, taken) == seen(fresh, taken)
    assert arrays(env.model) == arrays(fresh.model)  # of Fetch, drawing writes the goal's mark into the model


@every_world
def test_an_environment_without_perturbations_is_the_backends_own(build: Build) -> None:
    spec = replace(build(), rendering=RenderingOptions("raycast"))
    own, empty = make_environment(spec), built(build())
    taken = actions(own, 4)
    for env in (own, empty):
        env.restart(seed=SEED)
    for theirs, ours in zip(seen(own, taken), seen(empty, taken), strict=True):
        assert theirs[1:] == ours[1:]
        assert ours[0][: len(theirs[0])] == theirs[0]  # then follows the seed


@every_world
def test_a_state_continues_bit_for_bit_in_an_environment_that_never_saw_the_episode(build: Build) -> None:
    env, other = built(build(), *EVERYTHING), built(build(), *EVERYTHING)
    taken = actions(env, 8)
    env.restart(seed=SEED)
    seen(env, taken[:4])
    state = env.get_state()
    other.restart(seed=OTHER_SEED)
    other.set_state(state)
    assert seen(env, taken[4:]) == seen(other, taken[4:])


def test_episodes_take_turns_in_a_worker_as_if_each_were_alone() -> None:
    """Perturbed and unperturbed ones, two of each, in the environments that they share."""
    plain = replace(worlds.meta_world(), rendering=RenderingOptions("raycast"))
    perturbed = replace(plain, perturbations=EVERYTHING)
    starts = [EpisodeStart(spec, seed) for spec in (plain, perturbed) for seed in (SEED, OTHER_SEED)]
    chunks = np.random.default_rng(0).uniform(-1, 1, (4, 3, 2, 4)).astype(np.float32)

    def told(observation: Any) -> list[bytes]:
        return [observation["agent_pos"].tobytes(), *(each.tobytes() for each in observation["pixels"].values())]

    def alone(slot: int) -> list[list[bytes]]:
        worker = Worker()
        moments = [told(worker.start({slot: starts[slot]})[slot])]
        return moments + [told(worker.advance({slot: chunk})[slot][0]) for chunk in chunks[slot]]

    worker = Worker()
    together = [[told(observation)] for observation in worker.start(dict(enumerate(starts))).values()]
    for step in range(3):
        for slot, result in worker.advance({slot: chunks[slot, step] for slot in range(4)}).items():
            together[slot].append(told(result[0]))
    assert len(worker._environments) == 2
    for slot in range(4):
        assert together[slot] == alone(slot)
    assert together[0] != together[2] and together[2] != together[3]


@every_world
def test_how_the_world_looks_changes_nothing_of_its_physics(build: Build) -> None:
    env, plain = built(build(), *LOOKS), built(build())
    taken = actions(env, 6)
    for each in (env, plain):
        each.restart(seed=SEED)
    perturbed, unperturbed = seen(env, taken), seen(plain, taken)
    assert [moment[:2] for moment in perturbed] == [moment[:2] for moment in unperturbed]
    assert all(ours[2] != theirs[2] for ours, theirs in zip(perturbed, unperturbed, strict=True))


def test_models_that_are_compiled_anew_at_each_reset_are_perturbed_too() -> None:
    spec = replace(worlds.robosuite(), arguments={"environment": "Lift", "rebuild": True})
    env = built(spec, "camera:large", "texture:large")
    pictures = []
    for seed in (SEED, OTHER_SEED, SEED):
        env.restart(seed=seed)
        pictures.append(env.observe()["pixels"]["agentview"])
    assert (pictures[0] == pictures[2]).all() and (pictures[0] != pictures[1]).any()
