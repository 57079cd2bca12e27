"""How the tests of this folder build LIBERO's tasks, and BDDL files of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vla_cl.envs import EnvironmentSpec, ObservationOptions, make_environment
from vla_cl.envs.libero.env import LiberoEnv

FIRST_SEED = 2_000_000  # of the stored initial states
STAY = np.array([0, 0, 0, 0, 0, 0, 0], np.float32)

PLATE = """(define (problem LIBERO_Tabletop_Manipulation)
  (:domain robosuite)
  (:language put the bowl on the plate)
  (:regions
    (left (:target main_table) (:ranges ((-0.05 -0.2 0.05 -0.1))))
    (right (:target main_table) (:ranges ((-0.05 0.1 0.05 0.2))))
    (back (:target main_table) (:ranges ((-0.3 -0.01 -0.28 0.01))))
    (cook_region (:target flat_stove_1)))
  (:fixtures main_table - table flat_stove_1 - flat_stove)
  (:objects akita_black_bowl_1 - akita_black_bowl plate_1 - plate)
  (:obj_of_interest akita_black_bowl_1 plate_1)
  (:init (On akita_black_bowl_1 main_table_left) (On plate_1 main_table_right) (On flat_stove_1 main_table_back))
  (:goal (And (On akita_black_bowl_1 plate_1))))
"""
"""A small task: a bowl, a plate, a stove."""


def libero(
    suite: str = "libero_goal",
    problem: str = "turn_on_the_stove",
    *,
    cameras: tuple[str, ...] | None = (),
    privileged: bool = False,
    horizon: int = 300,
    **arguments: Any,
) -> LiberoEnv:
    """A task of the benchmark."""
    return _build({"suite": suite, "problem": problem, **arguments}, problem, cameras, privileged, horizon)


def declared(file: Path, text: str = PLATE, *, privileged: bool = False, **arguments: Any) -> LiberoEnv:
    """A task of our own, written to `file`."""
    file.write_text(text)
    return _build({"file": str(file), **arguments}, file.stem, (), privileged, 300)


def _build(
    arguments: dict[str, Any], task: str, cameras: tuple[str, ...] | None, privileged: bool, horizon: int
) -> LiberoEnv:
    env = make_environment(
        EnvironmentSpec(
            "libero",
            arguments,
            horizon=horizon,
            init_state_seeds=tuple(range(FIRST_SEED, FIRST_SEED + 50)),
            observation=ObservationOptions(cameras, 64, privileged),
            task=task,
        )
    )
    assert isinstance(env, LiberoEnv)
    return env
