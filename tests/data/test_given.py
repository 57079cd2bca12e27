"""Demonstrations that are given: found by name or by what they say, held to what the policy sees, known by content."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import h5py
import pytest

from tests.data.foreign_files import write_libero
from vla_cl.config import compose
from vla_cl.data import check_given, given_checksum, given_demonstrations
from vla_cl.envs import ObservationOptions
from vla_cl.errors import ConfigurationError, DataFileError
from vla_cl.experiment import run_experiment
from vla_cl.tasks import Task, find_task

STOVE = Task("turn_on_the_stove", "turn on the stove", 300, "libero", {"suite": "libero_goal"})
BOWL = Task("put_the_bowl_on_the_plate", "put the bowl on the plate", 300, "libero", {"suite": "libero_goal"})


@pytest.mark.parametrize(
    "name",
    [
        "turn_on_the_stove.hdf5",
        "turn_on_the_stove_demo.hdf5",
        "libero_goal/turn_on_the_stove_demo.hdf5",
        "libero/turn_on_the_stove-0123456789ab.hdf5",
        "whatever.hdf5",
    ],
)
def test_a_file_is_found_by_its_name_or_by_what_it_says(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    write_libero(tmp_path / name, (3,))
    write_libero(tmp_path / "other.hdf5", (3,), task="put_the_cup_away", language="put the cup away")
    (tmp_path / "broken.hdf5").write_bytes(b"no HDF5")
    assert given_demonstrations(tmp_path, [STOVE, STOVE]) == {STOVE.name: tmp_path / name}


def test_a_file_is_found_by_its_instruction(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "a.hdf5", (3,), task="SCENE9", language="Turn on the stove")
    assert given_demonstrations(tmp_path, [STOVE]) == {STOVE.name: path}


def test_the_suites_folder_decides_between_files_of_one_name(tmp_path: Path) -> None:
    for suite in ("libero_goal", "libero_10"):
        (tmp_path / suite).mkdir()
        write_libero(tmp_path / suite / "turn_on_the_stove_demo.hdf5", (3,))
    found = given_demonstrations(tmp_path, [STOVE])
    assert found[STOVE.name].parent.name == "libero_goal"
    with pytest.raises(DataFileError, match="several files"):
        given_demonstrations(tmp_path, [replace(STOVE, arguments={"suite": "libero_90"})])


def test_a_single_file_serves_a_single_task(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "a.hdf5", (3,))
    assert given_demonstrations(path, [STOVE]) == {STOVE.name: path}
    with pytest.raises(DataFileError, match="one file, the tasks are 2"):
        given_demonstrations(path, [STOVE, BOWL])


def test_what_cannot_be_found_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match="does not exist"):
        given_demonstrations(tmp_path / "absent", [STOVE])
    with pytest.raises(DataFileError, match="holds no demonstration file"):
        given_demonstrations(tmp_path, [STOVE])
    write_libero(tmp_path / "turn_on_the_stove_demo.hdf5", (3,))
    with pytest.raises(DataFileError, match=r"no file in .* is of task 'put_the_bowl_on_the_plate' \(.*stove"):
        given_demonstrations(tmp_path, [STOVE, BOWL])
    (tmp_path / "lerobot" / "meta").mkdir(parents=True)
    (tmp_path / "lerobot" / "meta" / "info.json").write_text("{}")
    with pytest.raises(DataFileError, match="vla-cl data convert"):
        given_demonstrations(tmp_path / "lerobot", [STOVE])


def test_the_checksum_follows_the_content_and_not_the_place(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "a.hdf5", (3,))
    (tmp_path / "elsewhere").mkdir()
    moved = Path(shutil.copy(path, tmp_path / "elsewhere" / "turn_on_the_stove_demo.hdf5"))
    first = given_checksum(path, [STOVE])
    assert first == given_checksum(moved.parent, [STOVE])
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][0, 0] += 0.25
    assert given_checksum(path, [STOVE]) != first


@pytest.mark.parametrize(
    ("observation", "fragments"),
    [
        (ObservationOptions(cameras=("corner2",)), ("no camera 'corner2'", "agentview, wrist", "policy.cameras")),
        (ObservationOptions(cameras=("agentview",), image_size=128), ("64 px", "sees 128", "policy.image_size=64")),
        (ObservationOptions(cameras=(), privileged=True), ("no privileged state",)),
        (ObservationOptions(cameras=("agentview",)), ("actions has 7 numbers", "'window-close' it has 4")),
    ],
)
def test_what_does_not_fit_the_policy_is_told_in_one_line(
    tmp_path: Path, observation: ObservationOptions, fragments: tuple[str, ...]
) -> None:
    path = write_libero(tmp_path / "a.hdf5", (3,))
    task = find_task("window-close")
    with pytest.raises(DataFileError) as refused:
        check_given({task.name: path}, [task], observation)
    for fragment in (str(path), *fragments):
        assert fragment in str(refused.value)
    assert "\n" not in str(refused.value)


OVERRIDES = (
    "suite=mw3/window-close",
    "policy=lowdim",
    "training.steps=10",
    "training.batch_size=8",
    "training.warmup_steps=2",
    "evaluation.episodes=1",
    "evaluation.zero_shot=false",
    "evaluation.videos=0",
    "evaluation.processes=1",
)


def test_a_run_learns_from_given_demonstrations_wherever_they_lie(
    collected: Path, make_file: Callable[..., Path], tmp_path: Path
) -> None:
    (tmp_path / "given").mkdir()
    shutil.copy(collected, tmp_path / "given" / "window-close.hdf5")
    place = (f"output={tmp_path / 'runs'}", f"data={tmp_path / 'none'}")
    (one,) = compose([*OVERRIDES, *place, f"dataset={tmp_path / 'given'}"])
    (two,) = compose([*OVERRIDES, *place, f"dataset={collected}"])
    (other,) = compose([*OVERRIDES, *place, f"dataset={make_file()}"])
    (none,) = compose([*OVERRIDES, *place])
    assert one.folder == two.folder
    assert len({one.folder, other.folder, none.folder}) == 3
    folder = run_experiment(one)
    assert (folder / "metrics.json").exists()
    assert not (tmp_path / "none").exists()  # nothing was collected
    assert run_experiment(two) == folder  # goes on there, although the files have moved
    (named,) = compose([*OVERRIDES, *place, f"dataset={make_file()}", f"name={folder.name}"])
    with pytest.raises(ConfigurationError, match="dataset_checksum"):
        run_experiment(named)


def test_a_run_on_demonstrations_that_do_not_fit_leaves_nothing_behind(
    make_file: Callable[..., Path], tmp_path: Path
) -> None:
    place = (f"output={tmp_path / 'runs'}", f"data={tmp_path / 'none'}")
    (wrong,) = compose([*OVERRIDES, *place, f"dataset={make_file()}"])
    with pytest.raises(DataFileError, match="agent_pos has 5 numbers"):
        run_experiment(wrong)
    assert not (tmp_path / "runs").exists()


def test_words_of_the_file_and_paraphrases_of_the_task_exclude_each_other() -> None:
    with pytest.raises(ConfigurationError, match="dataset_instructions=task"):
        compose(["suite=mw3", "dataset=x", "training.instructions=paraphrased"])
    with pytest.raises(ConfigurationError, match="file or task"):
        compose(["suite=mw3", "dataset=x", "dataset_instructions=both"])
