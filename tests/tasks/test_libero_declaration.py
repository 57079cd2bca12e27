"""BDDL files as plug-ins: a task of one's own, with LIBERO's things, without a line of Python."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.envs.libero_scenes import PLATE
from vla_cl.envs import ObservationOptions
from vla_cl.errors import ConfigurationError
from vla_cl.registry import load_plugins
from vla_cl.seeding import numpy_generator
from vla_cl.tasks import find_task, get_suite, make_expert


def test_a_bddl_file_is_a_task_with_an_expert(libero_root: Path, tmp_path: Path) -> None:
    file = tmp_path / "bowl_onto_plate.bddl"
    file.write_text(PLATE)
    load_plugins([str(file)])
    task = find_task("bowl_onto_plate")
    assert task.instruction == "put the bowl on the plate"
    assert get_suite("bowl_onto_plate").tasks == (task,)
    file.unlink()  # the task carries its text
    env = task.environment(ObservationOptions(cameras=()))
    solved = 0
    for seed in task.seeds.test[:3]:
        env.restart(seed=seed)
        expert = make_expert(task)
        expert.reset(env, numpy_generator("expert", seed))
        ended = False
        while not ended:
            _, success, truncated, _ = env.advance(expert.act(env))
            ended, solved = success or truncated, solved + success
    assert solved == 3


def test_a_mistake_is_told_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "broken_plate.bddl"
    file.write_text(PLATE.replace("(On plate_1 main_table_right)", "(On plate_1 main_table_rihgt)"))
    told = r"broken_plate.bddl, line 12, column 62: .*did you mean 'main_table_right'"
    with pytest.raises(ConfigurationError, match=told):
        load_plugins([str(file)])


def test_a_file_without_an_instruction_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "silent_plate.bddl"
    file.write_text(PLATE.replace("(:language put the bowl on the plate)", ""))
    with pytest.raises(ConfigurationError, match="language"):
        load_plugins([str(file)])
