"""All 130 tasks: each builds, takes its 50 initial states, solved in none of them, and moves without a warning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.envs.libero_scenes import STAY, libero
from vla_cl.envs.libero.env import THING_SLOTS
from vla_cl.envs.robosuite.env import JOINT_SLOTS
from vla_cl.tasks import libero_suites
from vla_cl.tasks.libero_suites import NAMES_FILE

TASKS = [(suite, name) for suite, names in json.loads(NAMES_FILE.read_text()).items() for name in names]


@pytest.mark.parametrize(("suite", "problem"), TASKS, ids=[f"{suite}-{name}" for suite, name in TASKS])
def test_a_task_builds_takes_its_states_and_moves(libero_root: Path, suite: str, problem: str) -> None:
    env = libero(suite, problem, settle_steps=0)
    assert len(env.objects) <= THING_SLOTS and len(env._joints) <= JOINT_SLOTS, "the privileged state holds all"
    for index in range(50):
        state = env._stored_state(index)
        assert state.shape == (1 + env.model.nq + env.model.nv,)
        env._load(state)
        assert not env.judge(STAY)[1], f"solved in initial state {index}"
    env.restart(options={"init_state": 0})
    for action in np.random.default_rng(0).uniform(-1, 1, (20, 7)).astype(np.float32):
        assert not env.advance(action).info["failure"]
    assert not any(warning.number for warning in env.data.warning)
    assert np.isfinite(env.get_state()).all()


def test_suites_declare_the_ranges_of_everything_that_is_seen(libero_root: Path) -> None:
    assert (libero_suites.THING_SLOTS, libero_suites.JOINT_SLOTS) == (THING_SLOTS, JOINT_SLOTS)
    for suite, problem in dict(TASKS).items():
        ranges, env = libero_suites.ranges_of(suite), libero(suite, problem, privileged=True)
        env.restart(options={"init_state": 0})
        seen = env.observe()
        for name in ("agent_pos", "environment_state"):
            low, high = (np.array(bound) for bound in ranges[name])
            assert ((low - 1e-3 <= seen[name]) & (seen[name] <= high + 1e-3)).all(), name
