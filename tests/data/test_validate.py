"""What validation finds: damage, impossible values, and demonstrations that the simulator does not repeat."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from vla_cl.data import DemonstrationFile, resimulate, validate_demonstrations
from vla_cl.data.integrity import CHECKSUM, content_checksum
from vla_cl.envs import ObservationOptions, RenderingOptions, make_environment

Edit = Callable[[h5py.File], None]


@pytest.fixture
def copy(collected: Path, tmp_path: Path) -> Path:
    """A copy of real demonstrations that a test may change."""
    return Path(shutil.copy(collected, tmp_path / "copy.hdf5"))


@pytest.fixture
def made(file: Path, tmp_path: Path) -> Path:
    """A copy of demonstrations made of noise."""
    return Path(shutil.copy(file, tmp_path / "made.hdf5"))


def edit(path: Path, change: Edit) -> None:
    """Change a file as somebody would who renews its checksum, too."""
    with h5py.File(path, "r+") as raw:
        change(raw)
        raw.flush()
        raw["data"].attrs[CHECKSUM] = content_checksum(raw)


def put(name: str, place: tuple[int, ...], value: float) -> Edit:
    def change(raw: h5py.File) -> None:
        raw[name][place] = value

    return change


def test_real_demonstrations_are_repeated_bit_for_bit(collected: Path) -> None:
    found = validate_demonstrations(collected, replays=None)
    assert found.sound
    assert (found.problems, found.notes, found.demonstrations, found.replayed) == ((), (), 2, 2)
    assert validate_demonstrations(collected, replays=1).replayed == 1
    assert validate_demonstrations(collected, replays=0).replayed == 0


@pytest.mark.parametrize("name", ["executed_actions", "obs/gripperPOV_image"], ids=["plain", "compressed"])
def test_one_flipped_bit_in_the_values_is_found(copy: Path, name: str) -> None:
    with h5py.File(copy) as raw:
        values = raw[f"data/demo_1/{name}"]
        start = values.id.get_offset() if values.chunks is None else values.id.get_chunk_info(0).byte_offset
        place = start + 50
    content = bytearray(copy.read_bytes())
    content[place] ^= 1
    copy.write_bytes(content)
    found = validate_demonstrations(copy)
    assert "was changed after it was written" in found.problems[0] or "damaged" in found.problems[0]
    assert found.replayed == 0


def test_a_changed_action_is_found_where_it_acts(copy: Path) -> None:
    edit(
        copy, lambda raw: put("data/demo_1/executed_actions", (20, 0), -raw["data/demo_1/executed_actions"][20, 0])(raw)
    )
    (problem,) = validate_demonstrations(copy, replays=None).problems
    assert problem.startswith("demo_1: the simulator differs at step 20 in the state, by up to ")
    with DemonstrationFile(copy) as file:
        rendering = RenderingOptions()
        env = make_environment(file.environment_spec(ObservationOptions(cameras=()), rendering))
        assert resimulate(env, file.episode(0)) is None
        divergence = resimulate(env, file.episode(1))
        assert divergence is not None
        assert (divergence.step, divergence.what) == (20, "state")
        env.set_state(file.episode(1).states[20])
        env.advance(file.episode(1).executed_actions[20])
        expected = np.nanmax(np.abs(env.get_state() - file.episode(1).states[21]))
        assert divergence.difference == expected > 0
        env.close()


def test_the_smallest_change_of_a_state_is_found(copy: Path) -> None:
    with h5py.File(copy) as raw:
        place = (30, int(np.flatnonzero(np.abs(raw["data/demo_0/states"][30]) > 0.1)[0]))
        value = np.nextafter(raw["data/demo_0/states"][place], np.inf)
    edit(copy, put("data/demo_0/states", place, value))
    (problem,) = validate_demonstrations(copy, replays=None).problems
    assert problem.startswith("demo_0: the simulator differs at step 29 in the state, by up to ")


def test_an_episode_without_its_end_does_not_succeed(copy: Path) -> None:
    with DemonstrationFile(copy) as file:
        length = int(file.lengths[0])

    def cut(raw: h5py.File) -> None:
        demonstration = raw["data/demo_0"]
        names: list[str] = []
        demonstration.visititems(lambda name, thing: names.append(name) if isinstance(thing, h5py.Dataset) else None)
        for name in names:
            values = demonstration[name][()]
            if len(values) == length:
                del demonstration[name]
                demonstration[name] = values[: length - 2]
        demonstration["dones"][-1] = 1
        demonstration.attrs["num_samples"] = length - 2
        raw["data"].attrs["total"] -= 2

    edit(copy, cut)
    (problem,) = validate_demonstrations(copy, replays=None).problems
    assert problem == f"demo_0: the simulator differs at step {length - 3} in success"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (put("data/demo_1/actions", (3, 2), 1.5), "demo_1: actions leaves [-1, 1] at step 3: 1.5"),
        (put("data/demo_0/executed_actions", (1, 0), -2), "demo_0: executed_actions leaves [-1, 1] at step 1: -2"),
        (put("data/demo_0/actions", (2, 1), np.nan), "demo_0: actions holds a number that is not finite at step 2"),
        (put("data/demo_2/rewards", (1,), np.inf), "demo_2: rewards holds a number that is not finite at step 1"),
        (put("data/demo_2/states", (1, 4), np.inf), "demo_2: states holds an infinite number at step 1"),
        (put("data/demo_2/dones", (0,), 1), "demo_2: dones must be 1 at the last step only"),
        (put("data/demo_0/next_obs/agent_pos", (1, 0), 5), "demo_0: next_obs/agent_pos is not obs/agent_pos one step"),
    ],
)
def test_impossible_values_are_named(made: Path, change: Edit, problem: str) -> None:
    edit(made, change)
    found = validate_demonstrations(made, replays=0)
    assert len(found.problems) == 1
    assert found.problems[0].startswith(problem)


def test_a_state_may_hold_what_the_simulator_has_not_set(made: Path) -> None:
    edit(made, put("data/demo_2/states", (1, 4), np.nan))
    assert validate_demonstrations(made, replays=0).sound


def test_a_truncated_an_absent_and_a_foreign_file_are_problems_not_errors(copy: Path, tmp_path: Path) -> None:
    os.truncate(copy, copy.stat().st_size // 2)
    assert "truncated" in validate_demonstrations(copy).problems[0]
    assert "does not exist" in validate_demonstrations(tmp_path / "absent.hdf5").problems[0]
    other = tmp_path / "other.hdf5"
    other.write_bytes(b"text")
    assert "not an HDF5 file" in validate_demonstrations(other).problems[0]


def test_an_external_link_is_a_problem(made: Path, collected: Path) -> None:
    with h5py.File(made, "r+") as raw:
        raw["data/demo_0/extra"] = h5py.ExternalLink(str(collected), "/data")
    assert "external link" in validate_demonstrations(made).problems[0]


def test_other_versions_are_noted_beside_the_verdict(copy: Path) -> None:
    def age(raw: h5py.File) -> None:
        versions = json.loads(raw["data"].attrs["versions"])
        raw["data"].attrs["versions"] = json.dumps({**versions, "mujoco": "2.1", "vla_cl": "0.0", "ghost": "1"})

    edit(copy, age)
    found = validate_demonstrations(copy, replays=1)
    assert found.sound
    assert len(found.notes) == 2
    assert found.notes[0].startswith("collected with mujoco 2.1, here is 3.")
    assert found.notes[1] == "collected with ghost 1, here is none"


def test_a_backend_that_is_not_there_is_a_problem(made: Path) -> None:
    environment = {"backend": "my_simulator", "arguments": {}, "horizon": 5}
    edit(made, lambda raw: raw["data"].attrs.__setitem__("environment", json.dumps(environment)))
    (problem,) = validate_demonstrations(made).problems
    assert "backend 'my_simulator' is not registered" in problem


def test_what_another_model_holds_is_told_apart_from_the_state(made: Path) -> None:
    (problem, *_) = validate_demonstrations(made).problems
    assert problem == "demo_0: the simulator differs at its first state in the state, by up to inf"


def test_a_mask_of_what_is_not_there_is_a_problem(made: Path) -> None:
    def rename(raw: h5py.File) -> None:
        del raw["mask/train"]
        raw["mask/train"] = np.array(["demo_0", "demo_77"], dtype="S")

    edit(made, rename)
    (problem,) = validate_demonstrations(made, replays=0).problems
    assert problem.startswith("mask/train names demo_77, which is not there")
