"""The file as robomimic's reader sees it, and as ours does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gymnasium
import h5py
import numpy as np

import vla_cl.tasks
from vla_cl.data import DemonstrationFile, Episode, Header, write_demonstrations


def read_like_robomimic(path: Path, keys: list[str], mask: str | None = None) -> dict[str, dict[str, np.ndarray]]:
    """What robomimic 0.3's `SequenceDataset` does to a file: single-writer mode, numbered groups, whole datasets."""
    demonstrations = {}
    with h5py.File(path, "r", swmr=True, libver="latest") as file:
        names = [name.decode("utf-8") for name in np.array(file[f"mask/{mask}"][:])] if mask else list(file["data"])
        for name in sorted(names, key=lambda name: int(name[5:])):
            group = file[f"data/{name}"]
            read = {key: group[key][()].astype("float32") for key in ("actions", "rewards", "dones")}
            for place in ("obs", "next_obs"):
                read |= {f"{place}/{key}": group[f"{place}/{key}"][()] for key in keys}
            assert all(len(values) == group.attrs["num_samples"] for values in read.values())
            demonstrations[name] = read
    return demonstrations


def test_robomimic_finds_demonstrations_in_order_with_observations_before_and_after_each_action(
    file: Path, make_episode: Callable[..., Episode]
) -> None:
    keys = ["agent_pos", "environment_state", "front_image", "hand_image"]
    read = read_like_robomimic(file, keys)
    assert list(read) == ["demo_0", "demo_1", "demo_2"]
    for index, length in enumerate((5, 9, 3)):
        episode, found = make_episode(index, length), read[f"demo_{index}"]
        np.testing.assert_array_equal(found["actions"], episode.actions)
        assert found["dones"].tolist() == [0.0] * (length - 1) + [1.0]
        for key in keys:
            np.testing.assert_array_equal(found[f"obs/{key}"], episode.observations[key][:-1])
            np.testing.assert_array_equal(found[f"next_obs/{key}"], episode.observations[key][1:])


def test_masks_split_the_demonstrations_nine_to_one(make_file: Callable[..., Path]) -> None:
    path = make_file([2] * 20, cameras=())
    assert list(read_like_robomimic(path, ["agent_pos"], "valid")) == ["demo_9", "demo_19"]
    assert len(read_like_robomimic(path, ["agent_pos"], "train")) == 18
    with DemonstrationFile(path) as demonstrations:
        assert demonstrations.split("valid").tolist() == [9, 19]
        assert len(demonstrations.split("train")) == 18


def test_attributes_are_what_robomimic_asks_for(collected: Path) -> None:
    with h5py.File(collected, "r") as file:
        data = file["data"]
        assert data.attrs["total"] == sum(data[name].attrs["num_samples"] for name in data)
        env_args = json.loads(data.attrs["env_args"])
    assert set(env_args) == {"env_name", "type", "env_kwargs"}
    assert env_args["type"] == 2  # robomimic's EnvType.GYM_TYPE
    vla_cl.tasks.register_gymnasium_ids()
    env = gymnasium.make(env_args["env_name"], **env_args["env_kwargs"])
    observation, _ = env.reset(seed=0)
    env.close()
    with DemonstrationFile(collected) as file:
        stored = file.episode(0).observations
    assert {"agent_pos", "environment_state", "gripperPOV_image"} == set(stored)
    assert observation["pixels"]["gripperPOV"].shape == stored["gripperPOV_image"].shape[1:]
    assert observation["environment_state"].shape == stored["environment_state"].shape[1:]


def test_images_are_stored_once_each_compressed(make_file: Callable[..., Path]) -> None:
    path = make_file([40], size=64, cameras=("front",))
    assert path.stat().st_size < 41 * 64 * 64 * 3 * 1.1
    with h5py.File(path, "r") as file:
        images = file["data/demo_0/obs/front_image"]
        assert (images.chunks, images.compression) == ((1, 64, 64, 3), "gzip")
        assert file["data/demo_0/next_obs/front_image"].is_virtual


def test_next_observations_survive_moving_the_file(
    make_file: Callable[..., Path], tmp_path: Path, make_episode: Callable[..., Episode]
) -> None:
    moved = make_file([6]).rename(tmp_path / "elsewhere.hdf5")
    read = read_like_robomimic(moved, ["front_image"])
    np.testing.assert_array_equal(
        read["demo_0"]["next_obs/front_image"], make_episode(0, 6).observations["front_image"][1:]
    )


def test_an_episode_of_one_step_can_be_stored(
    make_file: Callable[..., Path], make_episode: Callable[..., Episode]
) -> None:
    with DemonstrationFile(make_file([1])) as file:
        np.testing.assert_array_equal(
            file.episode(0).observations["hand_image"], make_episode(0, 1).observations["hand_image"]
        )


def test_what_is_written_comes_back(file: Path, make_episode: Callable[..., Episode]) -> None:
    with DemonstrationFile(file) as demonstrations:
        assert demonstrations.lengths.tolist() == [5, 9, 3]
        assert demonstrations.seeds.tolist() == [1000, 1001, 1002]
        assert (demonstrations.action_dim, demonstrations.agent_pos_dim) == (4, 5)
        assert (demonstrations.environment_state_dim, demonstrations.state_dim) == (7, 11)
        assert (demonstrations.cameras, demonstrations.image_size) == (("front", "hand"), 64)
        assert (demonstrations.task, demonstrations.instruction) == ("window-close", "close the window")
        for index, length in enumerate((5, 9, 3)):
            written, read = make_episode(index, length), demonstrations.episode(index)
            assert (read.seed, read.attempt, read.model_file) == (written.seed, written.attempt, written.model_file)
            for name in ("actions", "executed_actions", "states", "rewards"):
                np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
            for key, values in written.observations.items():
                np.testing.assert_array_equal(read.observations[key], values)


def test_a_real_file_says_where_it_comes_from(collected: Path) -> None:
    with DemonstrationFile(collected) as file:
        metadata = file.metadata
        assert metadata["task"] == "window-close"
        assert metadata["instruction"]
        assert metadata["expert"]
        assert metadata["environment"]["backend"] == "meta_world"
        assert metadata["collection"]["action_noise"] == 0.2
        assert "expert's own action" in metadata["collection"]["actions"]
        assert metadata["versions"]["metaworld"].startswith("3.")
        assert metadata["schema_version"] == 1
        assert len(metadata["checksum"]) == 64
        assert len(set(file.seeds.tolist())) == len(file)
        assert file.episode(0).model_file.startswith("<mujoco")


def test_the_environment_keeps_the_order_in_which_it_was_declared(
    make_episode: Callable[..., Episode], make_header: Callable[..., Header], tmp_path: Path
) -> None:
    things = {"plate": {"size": 1}, "can": {"size": 2}, "box": {"size": 3}}
    environment = {"horizon": 5, "backend": "tabletop", "arguments": {"scene": {"things": things, "goal": []}}}
    write_demonstrations(tmp_path / "d.hdf5", replace(make_header(), environment=environment), [make_episode(0, 3)])
    with DemonstrationFile(tmp_path / "d.hdf5") as file:
        file.verify()
        assert list(file.header.environment["arguments"]["scene"]["things"]) == ["plate", "can", "box"]
