"""Demonstrations go to the layouts of others and come back as they were; independent code reads what is written."""

from __future__ import annotations

import io
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import av
import h5py
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from tests.data.foreign_files import LANGUAGE, SIZE, action, upright, vector, write_libero, write_robomimic
from tests.data.test_layout import read_like_robomimic
from vla_cl.data import (
    LAYOUTS,
    Conversion,
    DemonstrationFile,
    Episode,
    Header,
    convert,
    open_demonstrations,
    plan_conversion,
    split_masks,
    validate_demonstrations,
    write_demonstrations,
)
from vla_cl.data.lerobot_reading import LeRobotDataset
from vla_cl.data.recordings import Recordings
from vla_cl.errors import ConfigurationError, DataFileError, UnknownNameError

LENGTHS = (5, 9, 3)


def run(source: Path, layout: str, output: Path, *, png: bool = True, cameras: Mapping[str, str] | None = None) -> Path:
    conversion = plan_conversion([source], layout, output, cameras=cameras)
    convert(conversion, png=png and layout == "lerobot")
    return conversion.outputs[0]


@pytest.fixture(scope="module")
def ours(make_file: Callable[..., Path]) -> Path:
    """Three episodes of 5, 9 and 3 steps, two cameras, privileged state, and splits of our own."""
    path = make_file(LENGTHS)
    split_masks(path, {"some": 2 / 3, "rest": 1 / 3}, seed=3)
    return path


def assert_same(one: Path, two: Path, *, simulation: bool, pictures: bool = True, last: bool = True) -> None:
    """The same demonstrations; of those whose simulation is lost, the same but for states and executed actions."""
    with DemonstrationFile(one) as first, DemonstrationFile(two) as second:
        second.verify()
        assert first.lengths.tolist() == second.lengths.tolist()
        assert first.seeds.tolist() == second.seeds.tolist()
        assert (first.task, first.instruction, first.cameras) == (second.task, second.instruction, second.cameras)
        assert {name: split.tolist() for name, split in first.splits.items()} == {
            name: split.tolist() for name, split in second.splits.items()
        }
        assert first.header.environment == second.header.environment
        assert (first.header == second.header) is simulation
        until = None if last else -1
        for index in range(len(first)):
            a, b = first.episode(index), second.episode(index)
            np.testing.assert_array_equal(a.actions, b.actions)
            np.testing.assert_array_equal(a.rewards, b.rewards)
            assert a.attempt == b.attempt
            if simulation:
                np.testing.assert_array_equal(a.states, b.states)
                np.testing.assert_array_equal(a.executed_actions, b.executed_actions)
                assert a.model_file == b.model_file
            assert a.observations.keys() == b.observations.keys()
            for key, values in a.observations.items():
                if pictures or not key.endswith("_image"):
                    np.testing.assert_array_equal(values[:until], b.observations[key][:until])


@pytest.mark.parametrize("layout", ["robomimic", "libero"])
def test_ours_survives_a_journey_through_another_hdf5_layout_whole(ours: Path, tmp_path: Path, layout: str) -> None:
    there = run(ours, layout, tmp_path / "there.hdf5")
    with open_demonstrations(there) as file:
        assert file.layout == layout
        assert file.lengths.tolist() == list(LENGTHS)  # also in LIBERO's: our export keeps the first observation
    assert_same(ours, run(there, "vla_cl", tmp_path / "back.hdf5"), simulation=True)


def test_a_real_file_can_still_be_simulated_after_the_journey(collected: Path, tmp_path: Path) -> None:
    for layout in ("robomimic", "libero"):
        there = run(collected, layout, tmp_path / f"{layout}.hdf5")
        back = run(there, "vla_cl", tmp_path / f"{layout}-back.hdf5")
        assert_same(collected, back, simulation=True)
        found = validate_demonstrations(back, replays=1)
        assert (found.problems, found.replayed) == ((), 1)


def test_robomimic_finds_its_names_and_the_same_numbers(
    make_episode: Callable[..., Episode], make_header: Callable[..., Header], tmp_path: Path
) -> None:
    write_demonstrations(
        tmp_path / "a.hdf5", make_header(cameras=("front", "wrist")), [make_episode(0, 6, 64, ("front", "wrist"))]
    )
    path = run(tmp_path / "a.hdf5", "robomimic", tmp_path / "b.hdf5")
    keys = {
        "agent_pos": "agent_pos",
        "object": "environment_state",
        "front_image": "front_image",
        "robot0_eye_in_hand_image": "wrist_image",
    }
    read = read_like_robomimic(path, list(keys), "train")
    episode = make_episode(0, 6, 64, ("front", "wrist"))
    np.testing.assert_array_equal(read["demo_0"]["actions"], episode.actions)
    for theirs, own in keys.items():
        np.testing.assert_array_equal(read["demo_0"][f"obs/{theirs}"], episode.observations[own][:-1])
        np.testing.assert_array_equal(read["demo_0"][f"next_obs/{theirs}"], episode.observations[own][1:])
    with h5py.File(path) as file:
        assert file["data"].attrs["total"] == 6
        assert set(json.loads(file["data"].attrs["env_args"])) == {"env_name", "type", "env_kwargs"}
        assert file["mask/train"][()].tolist() == [b"demo_0"]


def test_robomimic_gets_back_its_own_names_and_environment(tmp_path: Path) -> None:
    source = write_robomimic(tmp_path / "a.hdf5", LENGTHS)
    own = run(source, "vla_cl", tmp_path / "own.hdf5")
    back = run(own, "robomimic", tmp_path / "back.hdf5")
    with h5py.File(source) as one, h5py.File(back) as two:
        assert json.loads(one["data"].attrs["env_args"]) == json.loads(two["data"].attrs["env_args"])
        for index, length in enumerate(LENGTHS):
            for key in one["data/demo_0/obs"]:
                for place in ("obs", "next_obs"):
                    theirs = one[f"data/demo_{2 * index}/{place}/{key}"][()]
                    written = two[f"data/demo_{index}/{place}/{key}"][()]
                    assert len(written) == length
                    np.testing.assert_array_equal(written, theirs.astype(written.dtype))


def eight_wide(index: int, length: int) -> Episode:
    """An episode of the known world of `foreign_files`, as our LIBERO backend would collect it."""
    times = range(length + 1)
    agent_pos = np.concatenate([vector(index, times, 6, 0.25), vector(index, times, 2, 0.5)], axis=1)
    return Episode(
        seed=index,
        attempt=index,
        actions=action(index, range(length)).astype(np.float32),
        executed_actions=action(index, range(length)).astype(np.float32),
        states=vector(index, range(length), 11),
        rewards=np.eye(1, length, length - 1, dtype=np.float32)[0],
        observations={
            "agent_pos": agent_pos.astype(np.float32),
            "agentview_image": upright(index, times, 0),
            "wrist_image": upright(index, times, 1),
        },
    )


def test_an_export_in_liberos_layout_is_as_liberos_script_would_have_written_it(
    make_header: Callable[..., Header], tmp_path: Path
) -> None:
    header = make_header(cameras=("agentview", "wrist"), task="turn_on_the_stove")
    header = Header(
        **{**vars(header), "instruction": LANGUAGE, "observation": {**header.observation, "privileged": False}}
    )
    lengths = (6, 4, 9)
    write_demonstrations(tmp_path / "a.hdf5", header, (eight_wide(*each) for each in enumerate(lengths)))
    exported = run(tmp_path / "a.hdf5", "libero", tmp_path)
    assert exported.name == "turn_on_the_stove_demo.hdf5"
    reference = write_libero(tmp_path / "reference.hdf5", lengths)
    with h5py.File(exported) as one, h5py.File(reference) as two:
        for name in ("macros_image_convention", "num_demos", "tag", "total"):
            assert one["data"].attrs[name] == two["data"].attrs[name]
        assert json.loads(one["data"].attrs["problem_info"])["language_instruction"] == LANGUAGE
        assert one["data"].attrs["bddl_file_name"].endswith("/turn_on_the_stove.bddl")
        for demo, length in enumerate(lengths):
            written, expected = one[f"data/demo_{demo}"], two[f"data/demo_{demo}"]
            assert written.attrs["num_samples"] == length
            for key in ("agentview_rgb", "eye_in_hand_rgb", "ee_states", "ee_pos", "ee_ori", "gripper_states"):
                theirs = expected[f"obs/{key}"][()]
                np.testing.assert_array_equal(written[f"obs/{key}"][()], theirs.astype(written[f"obs/{key}"].dtype))
            for key in ("actions", "rewards", "dones"):
                assert written[key].dtype == expected[key].dtype
                np.testing.assert_allclose(written[key][()], expected[key][()], atol=1e-7)
            assert written["robot_states"].shape == (length, 9)


def test_robot_states_hold_the_rotation_as_a_quaternion(tmp_path: Path) -> None:
    from scipy.spatial.transform import Rotation

    from vla_cl.data.export_libero import robot_states

    agent_pos = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    agent_pos[0, 3:6] = 0.0
    states = robot_states(agent_pos)
    rotations = Rotation.from_quat(states[:, 5:])
    np.testing.assert_allclose(rotations.as_matrix(), Rotation.from_rotvec(agent_pos[:, 3:6]).as_matrix(), atol=1e-6)
    np.testing.assert_array_equal(states[:, :5], agent_pos[:, [6, 7, 0, 1, 2]])


def test_states_in_liberos_layout_are_mujocos_own(collected: Path, tmp_path: Path) -> None:
    """`states[t]` is time, qpos, qvel before actions[t], read here off a simulator of its own."""
    from vla_cl.envs import make_environment

    exported = run(collected, "libero", tmp_path / "a.hdf5")
    with DemonstrationFile(collected) as file:
        episode = file.episode(0)
        env = make_environment(file.environment_spec(file.observation_options, file.rendering_options))
    with h5py.File(exported) as file:
        states = file["data/demo_0/states"][()]
        assert states.shape == (len(episode), 1 + env.model.nq + env.model.nv)
        np.testing.assert_array_equal(file["data/demo_0"].attrs["init_state"], states[0])
    env.set_state(episode.states[7])
    np.testing.assert_array_equal(states[7], np.concatenate([[env.data.time], env.data.qpos, env.data.qvel]))
    env.close()


def test_liberos_data_becomes_ours_with_what_it_lacks_said(tmp_path: Path) -> None:
    own = run(write_libero(tmp_path / "a.hdf5", LENGTHS), "vla_cl", tmp_path / "demonstrations")
    assert own.name == "turn_on_the_stove.hdf5"
    with DemonstrationFile(own) as file:
        assert file.lengths.tolist() == [length - 1 for length in LENGTHS]
        assert file.seeds.tolist() == [-1, -1, -1]
        assert file.header.collection["source"]["layout"] == "libero"
        assert "first action" in file.header.collection["source"]["note"]
        np.testing.assert_array_equal(file.episode(1).observations["wrist_image"], upright(1, range(1, 10), 1))
    found = validate_demonstrations(own)
    assert (found.problems, found.replayed) == ((), 0)
    assert "converted from elsewhere" in found.notes[-1]


# --- LeRobot ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lerobot(ours: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours as a LeRobot data set with images inside the tables."""
    return run(ours, "lerobot", tmp_path_factory.mktemp("lerobot") / "data")


def test_a_journey_through_lerobot_keeps_what_training_uses(ours: Path, lerobot: Path, tmp_path: Path) -> None:
    assert_same(ours, run(lerobot, "vla_cl", tmp_path / "back.hdf5"), simulation=False, last=False)


def test_a_journey_through_video_changes_only_pictures_and_those_little(tmp_path: Path) -> None:
    source = write_libero(tmp_path / "a.hdf5", (12,))
    own = run(source, "vla_cl", tmp_path / "own.hdf5")
    there = run(own, "lerobot", tmp_path / "there", png=False)
    back = run(there, "vla_cl", tmp_path / "back.hdf5")
    with DemonstrationFile(own) as one, DemonstrationFile(back) as two:
        a, b = one.episode(0), two.episode(0)
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.observations["agent_pos"][:-1], b.observations["agent_pos"][:-1])
        difference = np.abs(a.observations["agentview_image"][:-1].astype(int) - b.observations["agentview_image"][:-1])
        assert 0 < difference[:, 8:].mean() < 3
        assert "lossy" in two.header.collection["source"]["note"]


def test_tables_read_by_pyarrow_alone_hold_every_step(
    ours: Path, lerobot: Path, make_episode: Callable[..., Episode]
) -> None:
    info = json.loads((lerobot / "meta/info.json").read_text())
    assert (info["codebase_version"], info["total_episodes"], info["total_frames"]) == ("v3.0", 3, sum(LENGTHS))
    assert info["splits"] == {"train": "0:3"}
    assert info["fps"] == 80  # Meta-World's
    assert info["video_path"] is None
    assert info["features"]["observation.images.hand"] == {
        "dtype": "image",
        "shape": [64, 64, 3],
        "names": ["height", "width", "channels"],
    }
    table = pyarrow.parquet.read_table(lerobot / "data/chunk-000/file-000.parquet")
    assert set(table.column_names) == set(info["features"])
    assert json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["observation.images.hand"] == {
        "_type": "Image"
    }
    episodes = [make_episode(index, length) for index, length in enumerate(LENGTHS)]
    columns = {name: table[name].to_pylist() for name in table.column_names}
    for name, key in (("observation.state", "agent_pos"), ("observation.environment_state", "environment_state")):
        np.testing.assert_array_equal(columns[name], np.concatenate([each.observations[key][:-1] for each in episodes]))
    np.testing.assert_array_equal(columns["action"], np.concatenate([each.actions for each in episodes]))
    assert columns["episode_index"] == [0] * 5 + [1] * 9 + [2] * 3
    assert columns["frame_index"] == [*range(5), *range(9), *range(3)]
    assert columns["index"] == list(range(17))
    assert columns["task_index"] == [0] * 17
    np.testing.assert_allclose(columns["timestamp"], np.array(columns["frame_index"]) / 80, rtol=1e-6)
    assert columns["next.done"] == [
        frame + 1 == LENGTHS[episode]
        for frame, episode in zip(columns["frame_index"], columns["episode_index"], strict=True)
    ]
    picture = Image.open(io.BytesIO(columns["observation.images.front"][6]["bytes"]))
    np.testing.assert_array_equal(np.array(picture), episodes[1].observations["front_image"][1])


def test_episodes_and_tasks_are_described_as_lerobot_expects(
    lerobot: Path, make_episode: Callable[..., Episode]
) -> None:
    rows = pyarrow.parquet.read_table(lerobot / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["length"] for row in rows] == list(LENGTHS)
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 5), (5, 14), (14, 17)]
    assert all(row["tasks"] == ["close the window"] for row in rows)
    assert all((row["data/chunk_index"], row["data/file_index"]) == (0, 0) for row in rows)
    tasks = pyarrow.parquet.read_table(lerobot / "meta/tasks.parquet")
    assert tasks.to_pylist() == [{"task_index": 0, "task": "close the window"}]
    assert json.loads(tasks.schema.metadata[b"pandas"])["index_columns"] == ["task"]
    statistics = json.loads((lerobot / "meta/stats.json").read_text())
    actions = np.concatenate([make_episode(index, length).actions for index, length in enumerate(LENGTHS)])
    np.testing.assert_allclose(statistics["action"]["mean"], actions.mean(axis=0), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(statistics["action"]["std"], actions.std(axis=0), rtol=1e-5)
    np.testing.assert_array_equal(statistics["action"]["max"], actions.max(axis=0).astype(float))
    images = np.concatenate(
        [make_episode(index, length).observations["hand_image"][:-1] for index, length in enumerate(LENGTHS)]
    )
    found = statistics["observation.images.hand"]
    np.testing.assert_allclose(np.array(found["mean"])[:, 0, 0], images.mean(axis=(0, 1, 2)) / 255, rtol=1e-6)
    np.testing.assert_allclose(np.array(found["std"])[:, 0, 0], images.std(axis=(0, 1, 2)) / 255, rtol=1e-6)
    assert found["count"] == [sum(LENGTHS)]


def test_videos_read_by_av_alone_hold_every_step_in_order(tmp_path: Path) -> None:
    """The time is in the top rows of each image, so order and time stamps can be read off the decoded frames."""
    lengths = (6, 4, 9)
    write_libero(tmp_path / "a.hdf5", lengths)
    folder = run(tmp_path / "a.hdf5", "lerobot", tmp_path / "there", png=False)
    info = json.loads((folder / "meta/info.json").read_text())
    assert info["features"]["observation.images.wrist"]["dtype"] == "video"
    assert info["fps"] == 20
    with av.open(str(folder / "videos/observation.images.agentview/chunk-000/file-000.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.average_rate) == ("h264", 20)
        frames = [
            (float(frame.pts * frame.time_base), frame.to_ndarray(format="rgb24")) for frame in container.decode(stream)
        ]
    assert len(frames) == sum(lengths) - 3
    assert frames[0][1].shape == (SIZE, SIZE, 3)
    rows = pyarrow.parquet.read_table(folder / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    starts = [row["videos/observation.images.agentview/from_timestamp"] for row in rows]
    np.testing.assert_allclose(starts, np.array([0, 5, 8]) / 20)
    np.testing.assert_allclose([time for time, _ in frames], np.arange(16) / 20, atol=1e-6)
    ramp = np.arange(SIZE - 2) + 100
    for _, image in frames:  # upright: brightness rises from the top to the bottom
        assert np.abs(image[10:, 30, 1].astype(int) - ramp[8:]).max() < 12


def test_many_tasks_share_a_data_set_and_part_again(tmp_path: Path) -> None:
    for task in ("turn_on_the_stove", "open_the_drawer"):
        write_libero(tmp_path / f"{task}.hdf5", (3, 4), task=task, language=task.replace("_", " "))
    sources = sorted(tmp_path.glob("*.hdf5"))
    convert(plan_conversion(sources, "lerobot", tmp_path / "both"), png=True)
    assert [each.header.task for each in LeRobotDataset(tmp_path / "both").tasks()] == [
        "open_the_drawer",
        "turn_on_the_stove",
    ]
    (tmp_path / "both/meta/vla_cl.json").unlink()  # as others' data sets are
    conversion = plan_conversion([tmp_path / "both"], "vla_cl", tmp_path / "apart")
    convert(conversion)
    assert [path.name for path in conversion.outputs] == ["open_the_drawer.hdf5", "turn_on_the_stove.hdf5"]
    with DemonstrationFile(conversion.outputs[1]) as file:
        assert (file.instruction, len(file), file.cameras) == (LANGUAGE, 2, ("agentview", "wrist"))
        np.testing.assert_array_equal(file.episode(1).observations["agentview_image"][:3], upright(1, [1, 2, 3]))


def test_cameras_can_be_renamed_on_the_way(ours: Path, tmp_path: Path) -> None:
    path = run(ours, "vla_cl", tmp_path / "a.hdf5", cameras={"hand": "wrist"})
    with DemonstrationFile(path) as one, DemonstrationFile(ours) as two:
        assert one.cameras == ("front", "wrist")
        np.testing.assert_array_equal(
            one.episode(0).observations["wrist_image"], two.episode(0).observations["hand_image"]
        )


# --- what is refused --------------------------------------------------------------------------------------------------


def test_mistakes_are_told_before_anything_is_written(ours: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'robomimic'"):
        plan_conversion([ours], "robomimik", tmp_path / "a.hdf5")
    with pytest.raises(UnknownNameError, match=r"camera 'fromt'.*did you mean 'front'"):
        plan_conversion([ours], "libero", tmp_path / "a.hdf5", cameras={"fromt": "agentview"})
    with pytest.raises(ConfigurationError, match="2 tasks to convert and one file"):
        plan_conversion([ours, write_libero(tmp_path / "b.hdf5", (3,))], "vla_cl", tmp_path / "a.hdf5")
    with pytest.raises(ConfigurationError, match="merge them first"):
        plan_conversion([tmp_path / "b.hdf5", write_libero(tmp_path / "c.hdf5", (4,))], "vla_cl", tmp_path / "out")
    with pytest.raises(ConfigurationError, match="is a folder"):
        plan_conversion([ours], "lerobot", tmp_path / "a.hdf5")
    with pytest.raises(DataFileError, match="differ in frame rate"):
        convert(plan_conversion([ours, tmp_path / "b.hdf5"], "lerobot", tmp_path / "out"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(DataFileError, match="no LeRobot data set, so it is not replaced"):
        convert(plan_conversion([ours], "lerobot", tmp_path / "mine"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.hdf5", "c.hdf5", "mine"]


def test_a_damaged_source_is_not_converted(ours: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(ours, tmp_path / "damaged.hdf5"))
    with h5py.File(copy, "r+") as file:
        file["data/demo_0/rewards"][0] += 1
    with pytest.raises(DataFileError, match="was changed after it was written"):
        plan_conversion([copy], "lerobot", tmp_path / "out")


def edit(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "fragments"),
    [
        (lambda info: info.update(codebase_version="v2.1"), ("version v2.1", "v3.0", "own converter")),
        (lambda info: info["features"].pop("observation.state"), ("no feature 'observation.state'", "action")),
        (lambda info: info.update(data_path="../../elsewhere.parquet"), ("elsewhere.parquet", "not inside")),
        (lambda info: info.update(data_path="data/absent.parquet"), ("absent.parquet", "fetch it again")),
        (lambda info: info.pop("fps"), ("info.json", "fps")),
    ],
    ids=["version", "feature", "outside", "absent", "rate"],
)
def test_a_bad_lerobot_data_set_is_refused_in_one_line(
    lerobot: Path, tmp_path: Path, change: Callable[[dict], object], fragments: tuple[str, ...]
) -> None:
    copy = Path(shutil.copytree(lerobot, tmp_path / "copy"))
    edit(copy / "meta/info.json", change)
    with pytest.raises(DataFileError) as refused:
        run(copy, "vla_cl", tmp_path / "out.hdf5")
    for fragment in fragments:
        assert fragment in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out.hdf5").exists()


def test_a_truncated_video_is_refused(tmp_path: Path) -> None:
    folder = run(write_libero(tmp_path / "a.hdf5", (20,)), "lerobot", tmp_path / "there", png=False)
    video = folder / "videos/observation.images.wrist/chunk-000/file-000.mp4"
    video.write_bytes(video.read_bytes()[: video.stat().st_size // 2])
    with pytest.raises(DataFileError, match=r"file-000\.mp4.*fetch it again"):
        run(folder, "vla_cl", tmp_path / "out.hdf5")


def test_full_files_are_followed_by_others(
    make_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With files that are full at once, every episode gets its own, in numbered chunks of two."""
    from vla_cl.data import lerobot_layout

    source = make_file((4, 5, 6, 7, 8))
    for name, value in (("DATA_MEGABYTES", 0), ("VIDEO_MEGABYTES", 0), ("FILES_A_CHUNK", 2)):
        monkeypatch.setattr(lerobot_layout, name, value)
    folder = run(source, "lerobot", tmp_path / "there", png=False)
    places = [f"chunk-00{chunk}/file-00{file}" for chunk, file in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))]
    assert sorted(str(path.relative_to(folder)) for path in (folder / "data").rglob("*.parquet")) == [
        f"data/{place}.parquet" for place in places
    ]
    hand = folder / "videos/observation.images.hand"
    assert sorted(str(path.relative_to(hand)) for path in hand.rglob("*.mp4")) == [f"{place}.mp4" for place in places]
    back = run(folder, "vla_cl", tmp_path / "back.hdf5")
    assert_same(source, back, simulation=False, pictures=False, last=False)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_interrupted_conversion_leaves_what_was_there(ours: Path, tmp_path: Path, layout: str) -> None:
    output = tmp_path / ("there" if layout == "lerobot" else "there.hdf5")
    run(ours, layout, output, png=False)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    @contextmanager
    def interrupted() -> Iterator[Recordings]:
        with open_demonstrations(ours) as file:
            read = file.episode
            file.episode = lambda index: read(index) if index < 2 else signal.raise_signal(signal.SIGINT)  # type: ignore
            yield file

    with pytest.raises(KeyboardInterrupt):
        convert(Conversion((interrupted,), layout, (output,)))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
