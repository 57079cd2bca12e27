"""Files as LIBERO and robomimic write them, made by hand with h5py, in a world where state, action and image are known.

At the time k of a demonstration (0 before its first action) everything seen of the world is a function of the number
that names the moment, and action k leads from time k to time k + 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

SIZE = 64
LANGUAGE = "turn on the stove"


def number(demo: int, time: int) -> float:
    """What names a moment: demonstration and time."""
    return demo + time / 100


def vector(demo: int, times: Sequence[int], width: int, offset: float = 0.0) -> np.ndarray:
    """(len(times), width) float64: the moment's number, then 1, 2, ... more, and an offset that names the quantity."""
    return np.array([[number(demo, time) + offset + index for index in range(width)] for time in times])


def upright(demo: int, times: Sequence[int], camera: int = 0) -> np.ndarray:
    """(len(times), SIZE, SIZE, 3) uint8: the top row holds the time, the row below it the demonstration and camera."""
    images = np.zeros((len(times), SIZE, SIZE, 3), np.uint8)
    images[:, 2:] = np.arange(SIZE - 2, dtype=np.uint8)[:, None, None] + 100
    for index, time in enumerate(times):
        images[index, 0], images[index, 1] = time, 10 * camera + demo
    return images


def action(demo: int, times: Sequence[int]) -> np.ndarray:
    """(len(times), 7) float64 in [-1, 1]."""
    return vector(demo, times, 7) / 100


def write_libero(
    path: Path,
    lengths: Sequence[int] = (6, 4, 9),
    *,
    convention: str = "opengl",
    language: object = LANGUAGE,
    task: str = "turn_on_the_stove",
) -> Path:
    """As LIBERO's script does: it steps, then records what is seen; states are those before the step."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["bddl_file_name"] = f"libero/libero/bddl_files/libero_goal/{task}.bddl"
        data.attrs["env_name"] = "Libero_Tabletop_Manipulation"
        data.attrs["env_args"] = json.dumps(
            {"type": 1, "env_name": "Libero_Tabletop_Manipulation", "env_kwargs": {"horizon": 1000}}
        )
        data.attrs["macros_image_convention"] = convention
        data.attrs["num_demos"] = len(lengths)
        data.attrs["problem_info"] = json.dumps(
            {
                "problem_name": "libero_tabletop_manipulation",
                "domain_name": "robosuite",
                "language_instruction": language,
            }
        )
        data.attrs["tag"] = "libero-v1"
        data.attrs["total"] = sum(lengths)
        for demo, length in enumerate(lengths):
            group = data.create_group(f"demo_{demo}")
            before, after = range(length), range(1, length + 1)
            group.attrs["num_samples"] = length
            group.attrs["model_file"] = "<mujoco/>"
            group.attrs["init_state"] = vector(demo, [0], 11)[0]
            group["actions"] = action(demo, before)
            group["states"] = vector(demo, before, 11)
            group["robot_states"] = vector(demo, after, 9)
            group["rewards"] = np.eye(1, length, length - 1, dtype=np.uint8)[0]
            group["dones"] = np.eye(1, length, length - 1, dtype=np.uint8)[0]
            group["obs/ee_states"] = vector(demo, after, 6, 0.25)
            group["obs/ee_pos"], group["obs/ee_ori"] = np.split(vector(demo, after, 6, 0.25), 2, axis=1)
            group["obs/gripper_states"] = vector(demo, after, 2, 0.5)
            group["obs/joint_states"] = vector(demo, after, 7, 0.75)
            for camera, key in enumerate(("agentview_rgb", "eye_in_hand_rgb")):
                seen = upright(demo, after, camera)
                group[f"obs/{key}"] = seen[:, ::-1] if convention == "opengl" else seen
    return path


def write_robomimic(
    path: Path, lengths: Sequence[int] = (6, 4, 9), *, images: bool = True, next_obs: bool = True
) -> Path:
    """As robomimic's `dataset_states_to_obs` does, its images compressed and upright."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(lengths)
        data.attrs["env_args"] = json.dumps(
            {"env_name": "PickPlaceCan", "type": 1, "env_kwargs": {"robots": ["Panda"], "control_freq": 20}}
        )
        for demo, length in enumerate(lengths):
            group = data.create_group(f"demo_{2 * demo}")  # numbers may have gaps
            group.attrs["num_samples"] = length
            group.attrs["model_file"] = "<mujoco/>"
            group["actions"] = action(demo, range(length))
            group["states"] = vector(demo, range(length), 11)
            group["rewards"] = np.eye(1, length, length - 1)[0]
            group["dones"] = np.eye(1, length, length - 1, dtype=np.int64)[0]
            for place, times in (("obs", range(length)), ("next_obs", range(1, length + 1))):
                if place == "next_obs" and not next_obs:
                    continue
                group[f"{place}/robot0_eef_pos"] = vector(demo, times, 3, 0.25)
                group[f"{place}/robot0_eef_quat"] = vector(demo, times, 4, 0.5)
                group[f"{place}/robot0_gripper_qpos"] = vector(demo, times, 2, 0.75)
                group[f"{place}/object"] = vector(demo, times, 14, 0.9)
                for camera, key in enumerate(("agentview_image", "robot0_eye_in_hand_image") if images else ()):
                    seen = upright(demo, times, camera)
                    group.create_dataset(f"{place}/{key}", data=seen, compression="gzip")
        file["mask/train"] = np.array([f"demo_{2 * demo}" for demo in range(len(lengths) - 1)], dtype="S8")
        file["mask/valid"] = np.array([f"demo_{2 * len(lengths) - 2}"], dtype="S8")
    return path
