"""LIBERO's and robomimic's files are read as they are: transitions, images and words mean what they mean here."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.data.foreign_files import LANGUAGE, action, upright, vector, write_libero, write_robomimic
from vla_cl.data import ReplayMemory, WindowDataset, compute_statistics, inspect_demonstrations, open_demonstrations
from vla_cl.data.columns import FileColumn, Hdf5Column
from vla_cl.errors import DataFileError

LENGTHS = (6, 4, 9)


@pytest.fixture(scope="module")
def libero(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_libero(tmp_path_factory.mktemp("libero") / "turn_on_the_stove_demo.hdf5", LENGTHS)


@pytest.fixture(scope="module")
def robomimic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_robomimic(tmp_path_factory.mktemp("robomimic") / "image.hdf5", LENGTHS)


def moments(lengths: tuple[int, ...], first: int) -> list[tuple[int, int]]:
    """(demonstration, time) of every window when the first `first` actions are left out."""
    return [(demo, time) for demo, length in enumerate(lengths) for time in range(first, length)]


def as_float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def test_libero_windows_hold_what_was_seen_before_each_action(libero: Path) -> None:
    windows = WindowDataset(libero, 3)
    wanted = moments(LENGTHS, first=1)  # before the first action LIBERO records nothing
    assert len(windows) == len(wanted) == sum(LENGTHS) - 3
    assert (windows.task, windows.cameras) == ("turn_on_the_stove", ("agentview", "wrist"))
    batch = windows.batch(range(len(windows)))
    for row, (demo, time) in enumerate(wanted):
        seen = np.concatenate([vector(demo, [time], 6, 0.25), vector(demo, [time], 2, 0.5)], axis=1)
        np.testing.assert_array_equal(batch.observation.agent_pos[row], as_float32(seen[0]))
        last = LENGTHS[demo] - 1
        following = [min(time + ahead, last) for ahead in range(3)]
        np.testing.assert_array_equal(batch.actions[row], as_float32(action(demo, following)))
        assert batch.padding[row].tolist() == [time + ahead > last for ahead in range(3)]
        for camera, name in enumerate(windows.cameras):
            np.testing.assert_array_equal(batch.observation.pixels[name][row], upright(demo, [time], camera)[0])
    assert set(batch.observation.instruction) == {LANGUAGE}


def test_libero_episodes_pair_states_with_actions_and_end_with_what_was_seen_last(libero: Path) -> None:
    with open_demonstrations(libero) as file:
        assert (file.layout, len(file), file.lengths.tolist()) == ("libero", 3, [5, 3, 8])
        assert (file.action_dim, file.agent_pos_dim, file.environment_state_dim, file.state_dim) == (7, 8, 0, 11)
        assert (file.cameras, file.image_size) == (("agentview", "wrist"), 64)
        assert file.header.environment["arguments"] == {"suite": "libero_goal", "problem": "turn_on_the_stove"}
        episode = file.episode(1)
        assert len(episode) == 3
        np.testing.assert_array_equal(episode.states, vector(1, [1, 2, 3], 11))
        np.testing.assert_array_equal(episode.actions, as_float32(action(1, [1, 2, 3])))
        np.testing.assert_array_equal(episode.observations["agentview_image"], upright(1, [1, 2, 3, 4]))
        assert (
            episode.observations["agent_pos"][:, 0].tolist()
            == as_float32(vector(1, [1, 2, 3, 4], 1, 0.25)[:, 0]).tolist()
        )
        assert episode.rewards.tolist() == [0, 0, 1]


def test_images_are_turned_only_where_the_file_says_that_they_are_upside_down(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "upright.hdf5", (3,), convention="opencv")
    with h5py.File(path) as file:
        assert file["data/demo_0/obs/agentview_rgb"][0, 0, 0, 0] == 1  # the time is in the stored top row
    image = WindowDataset(path, 1).batch([0]).observation.pixels["agentview"][0]
    np.testing.assert_array_equal(image, upright(0, [1])[0])


@pytest.mark.parametrize("stored", [LANGUAGE, f'"{LANGUAGE}"', ["turn on ", "the stove"], None])
def test_the_instruction_comes_from_the_file_however_it_is_stored(tmp_path: Path, stored: object) -> None:
    with open_demonstrations(write_libero(tmp_path / "a.hdf5", (3,), language=stored)) as file:
        assert file.instruction == LANGUAGE


def test_a_libero_scene_is_not_part_of_the_instruction(tmp_path: Path) -> None:
    path = write_libero(tmp_path / "a.hdf5", (3,), language="", task="KITCHEN_SCENE3_turn_on_the_stove")
    with open_demonstrations(path) as file:
        assert (file.task, file.instruction) == ("KITCHEN_SCENE3_turn_on_the_stove", LANGUAGE)


def test_robomimic_windows_hold_what_was_seen_before_each_action(robomimic: Path) -> None:
    windows = WindowDataset(robomimic, 2, privileged=True)
    assert (windows.task, windows.cameras, len(windows)) == ("PickPlaceCan", ("agentview", "wrist"), sum(LENGTHS))
    batch = windows.batch(range(len(windows)))
    for row, (demo, time) in enumerate(moments(LENGTHS, first=0)):
        seen = np.concatenate(
            [vector(demo, [time], width, offset)[0] for width, offset in ((3, 0.25), (4, 0.5), (2, 0.75))]
        )
        np.testing.assert_array_equal(batch.observation.agent_pos[row], as_float32(seen))
        np.testing.assert_array_equal(
            batch.observation.environment_state[row], as_float32(vector(demo, [time], 14, 0.9)[0])
        )
        np.testing.assert_array_equal(batch.actions[row, 0], as_float32(action(demo, [time])[0]))
        for camera, name in enumerate(windows.cameras):
            np.testing.assert_array_equal(batch.observation.pixels[name][row], upright(demo, [time], camera)[0])
    assert set(batch.observation.instruction) == {"pick place can"}


def test_robomimic_masks_name_demonstrations_whose_numbers_have_gaps(robomimic: Path) -> None:
    assert WindowDataset(robomimic, 1, split="valid").episodes.tolist() == [2]
    with open_demonstrations(robomimic) as file:
        assert file.names == ("demo_0", "demo_2", "demo_4")
        assert {name: split.tolist() for name, split in file.splits.items()} == {"train": [0, 1], "valid": [2]}


@pytest.mark.parametrize("next_obs", [True, False])
def test_robomimic_files_may_lack_images_and_what_followed(tmp_path: Path, next_obs: bool) -> None:
    path = write_robomimic(tmp_path / "low_dim.hdf5", (4,), images=False, next_obs=next_obs)
    with open_demonstrations(path) as file:
        assert file.cameras == ()
        seen = file.episode(0).observations["environment_state"][:, 0]
        last = 4 if next_obs else 3
        assert seen.tolist() == as_float32(vector(0, [0, 1, 2, 3, last], 1, 0.9)[:, 0]).tolist()
        assert ("before it" in file.header.collection["source"]["note"]) is not next_obs


def test_statistics_replay_and_pickling_work_on_them_as_on_ours(libero: Path) -> None:
    windows = WindowDataset(libero, 2, cameras=("agentview",), episodes=[0, 2])
    statistics = compute_statistics(windows)
    used = np.concatenate([action(demo, range(1, LENGTHS[demo])) for demo in (0, 2)])
    np.testing.assert_allclose(statistics.action.mean, used.mean(axis=0), rtol=1e-5)
    memory = ReplayMemory()
    memory.add(windows, fraction=0.5, by="transition", generator=np.random.default_rng(0))
    restored = ReplayMemory()
    restored.load_state_dict(memory.state_dict())
    one, two = (each.sample(5, np.random.default_rng(1)) for each in (memory, restored))
    np.testing.assert_array_equal(one.observation.pixels["agentview"], two.observation.pixels["agentview"])
    again = pickle.loads(pickle.dumps(windows))
    np.testing.assert_array_equal(again.batch([3]).actions, windows.batch([3]).actions)


def test_images_stay_in_the_file(libero: Path, robomimic: Path) -> None:
    """Neither layout's images are copied into memory; contiguous ones are read past HDF5."""
    with open_demonstrations(libero) as file:
        assert isinstance(file.column("wrist_image", [0, 1])._column, FileColumn)
    with open_demonstrations(robomimic) as file:
        assert isinstance(file.column("wrist_image", [0, 1]), Hdf5Column)


def test_the_checksum_is_of_the_content_not_of_the_place(libero: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copy(libero, tmp_path / "elsewhere.hdf5"))
    changed = Path(shutil.copy(libero, tmp_path / "changed.hdf5"))
    os.utime(moved, (0, 0))
    with h5py.File(changed, "r+") as file:
        file["data/demo_1/actions"][0, 0] += 0.01
    checksums = [WindowDataset(path, 1).checksum for path in (libero, moved, changed)]
    assert checksums[0] == checksums[1] != checksums[2]


def test_inspect_says_what_is_known_of_them(libero: Path, robomimic: Path) -> None:
    summary = inspect_demonstrations(libero)
    assert (summary.layout, summary.instruction, summary.backend) == ("libero", LANGUAGE, "libero")
    assert (summary.demonstrations, summary.steps, summary.successes) == (3, 16, 3)
    assert (summary.seeds, summary.intact, summary.schema_version, summary.expert) == (None, None, None, "")
    assert summary.bytes_parts["pixels"] == 2 * sum(LENGTHS) * 64 * 64 * 3
    assert inspect_demonstrations(robomimic).splits == {"train": 2, "valid": 1}


# --- what is refused, each in one line that names file, demonstration, key and way out ---------------------------


def delete(name: str) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]

    return change


def replace(name: str, values: np.ndarray) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = values

    return change


def empty(file: h5py.File) -> None:
    for name in list(file["data"]):
        del file["data"][name]


def link_out(file: h5py.File) -> None:
    del file["data/demo_0/actions"]
    file["data/demo_0/actions"] = h5py.ExternalLink("/etc/other.hdf5", "/actions")


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (delete("data/demo_1/obs/eye_in_hand_rgb"), ("data/demo_1", "has no obs/eye_in_hand_rgb", "demo_0", "leave")),
        (replace("data/demo_2/obs/extra", np.zeros((9, 1))), ("data/demo_0", "has no obs/extra", "demo_2", "leave")),
        (delete("data/demo_2/actions"), ("data/demo_2/actions", "is missing", "leave")),
        (replace("data/demo_1/actions", np.zeros((4, 6))), ("data/demo_1/actions", "(4, 6)", "(4, 7)")),
        (replace("data/demo_1/obs/ee_states", np.zeros((4, 5))), ("data/demo_1/obs/ee_states", "(4, 5)", "(4, 6)")),
        (replace("data/demo_1/obs/ee_states", np.zeros((3, 6))), ("data/demo_1/obs/ee_states", "(3, 6)", "(4, 6)")),
        (replace("data/demo_1/actions", np.full((4, 7), 1.5)), ("data/demo_1/actions", "1.5", "step 0", "[-1, 1]")),
        (replace("data/demo_1/actions", np.full((4, 7), np.nan)), ("data/demo_1/actions", "nan", "step 0")),
        (replace("data/demo_0/obs/agentview_rgb", np.zeros((6, 64, 48, 3), np.uint8)), ("agentview_rgb", "square")),
        (replace("data/demo_0/obs/agentview_rgb", np.zeros((6, 64), np.uint8)), ("agentview_rgb", "square")),
        (replace("data/demo_1/states", np.zeros((4, 12))), ("data/demo_1/states", "(4, 12)", "(4, 11)")),
        (replace("data/demo_1/rewards", np.zeros(3)), ("data/demo_1/rewards", "(3,)", "(4,)")),
        (replace("data/demo_0/actions", np.zeros(6)), ("data/demo_0/actions", "a row of numbers")),
        (delete("data/demo_1/obs"), ("data/demo_1", "has no obs/agentview_rgb", "leave")),
        (empty, ("holds no demonstration", "fetch")),
        (link_out, ("data/demo_0/actions", "external link", "never followed")),
    ],
)
def test_a_bad_libero_file_is_refused_in_one_line(
    libero: Path, tmp_path: Path, change: Callable[[h5py.File], None], fragments: tuple[str, ...]
) -> None:
    path = Path(shutil.copy(libero, tmp_path / "bad.hdf5"))
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataFileError) as refused:
        WindowDataset(path, 2)
    for fragment in (str(path), *fragments):
        assert fragment in str(refused.value)
    assert "\n" not in str(refused.value)


def test_cameras_of_different_sizes_are_refused(libero: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(libero, tmp_path / "bad.hdf5"))
    with h5py.File(path, "r+") as file:
        for name, group in file["data"].items():
            replace(f"data/{name}/obs/eye_in_hand_rgb", np.zeros((len(group["actions"]), 32, 32, 3), np.uint8))(file)
    with pytest.raises(DataFileError, match=r"differ in size .agentview 64, wrist 32 px"):
        open_demonstrations(path)


def test_what_followed_must_fit_what_was_seen(robomimic: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(robomimic, tmp_path / "bad.hdf5"))
    with h5py.File(path, "r+") as file:
        replace("data/demo_2/next_obs/object", np.zeros((3, 14)))(file)
    with pytest.raises(
        DataFileError, match=r"data/demo_2/next_obs/object is float64\(3, 14\), expected numbers \(4, 14\)"
    ):
        open_demonstrations(path)


def test_actions_beyond_the_range_by_rounding_are_cut_back(libero: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(libero, tmp_path / "rounded.hdf5"))
    with h5py.File(path, "r+") as file:
        file["data/demo_0/actions"][1, 0] = 1.0 + 1e-7
    assert WindowDataset(path, 1).batch([0]).actions[0, 0, 0] == 1.0


def test_robomimic_without_its_proprioception_is_told_which_key_is_missing(robomimic: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(robomimic, tmp_path / "bad.hdf5"))
    with h5py.File(path, "r+") as file:
        for name in list(file["data"]):
            del file[f"data/{name}/obs/robot0_eef_quat"]
    with pytest.raises(DataFileError, match=r"data/demo_0/obs/robot0_eef_quat is missing"):
        open_demonstrations(path)


@pytest.mark.parametrize("share", [0.99, 0.5, 0.05])
def test_a_truncated_file_is_refused(libero: Path, tmp_path: Path, share: float) -> None:
    path = Path(shutil.copy(libero, tmp_path / "cut.hdf5"))
    os.truncate(path, int(path.stat().st_size * share))
    with pytest.raises(DataFileError, match=r"cut\.hdf5 is truncated; .*fetch it again"):
        open_demonstrations(path)


def test_a_file_of_no_known_layout_is_told_which_there_are(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["data/demo_0/actions"] = np.zeros((3, 4))
    with pytest.raises(DataFileError, match=r"not written by vla_cl.*\(env_args\).*LIBERO's \(problem_info\)"):
        open_demonstrations(tmp_path / "other.hdf5")
