"""Writing demonstrations in LIBERO's HDF5 layout, its off-by-one and its upside-down images included."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.export import WriteEpisode, last_only, write_file
from vla_cl.data.flattened import FlattenStates, state_flattener
from vla_cl.data.foreign import OWN_STATES
from vla_cl.data.hdf5 import write_compressed
from vla_cl.data.libero_file import CAMERA_KEYS, END_EFFECTOR, FIRST_OBSERVATION, GRIPPER, OPENGL
from vla_cl.data.recordings import Recordings
from vla_cl.data.schema import AGENT_POS, IMAGE_SUFFIX, Episode, Header
from vla_cl.errors import VlaClError

AGENT_POS_WIDTH = 8
"""Of LIBERO's proprioception: position (3), axis-angle (3), fingers (2)."""

TAG = "libero-v1"


def write_libero(path: Path, recordings: Recordings, plugins: Sequence[str] = ()) -> None:
    """Write a file as LIBERO's own data sets are.

    `obs[t]` is what was seen after `actions[t]`, images are upside down (`macros_image_convention` says so). What was
    seen before the first action, for which that layout has no place, is in `first_obs`. `states` and `joint_states`
    are MuJoCo's, from restoring each stored state in the simulator; without one there are none. Proprioception is split
    into `ee_states` and `gripper_states` when it has 8 numbers, and is `agent_pos` otherwise.

    Args:
        path: Where it goes.
        recordings: What to write.
        plugins: Modules or files that register the backend of the demonstrations.

    Raises:
        VlaClError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    header = recordings.header

    def describe(data: h5py.Group) -> None:
        data.attrs.update(attributes(header))
        data.attrs["num_demos"] = len(recordings)

    write_file(path, recordings, describe, _writer(header, plugins))


def attributes(header: Header) -> dict[str, Any]:
    """LIBERO's attributes of `data`, but for the counts."""
    arguments = header.environment["arguments"]
    problem = str(arguments.get("problem", header.task))
    suite = str(arguments.get("suite", header.environment["backend"]))
    bddl_file = f"libero/libero/bddl_files/{suite}/{problem}.bddl"
    name = _problem_name(header) or problem
    env_name = "_".join(word.capitalize() for word in name.split("_")) if name != problem else header.env_name
    env_args = {
        "type": 1,
        "env_name": env_name,
        "problem_name": name,
        "bddl_file": bddl_file,
        "env_kwargs": {"horizon": header.environment["horizon"], "bddl_file_name": bddl_file},
    }
    return {
        "bddl_file_name": bddl_file,
        "env_name": env_name,
        "env_args": json.dumps(env_args),
        "macros_image_convention": OPENGL,
        "problem_info": json.dumps(
            {"problem_name": name, "domain_name": "robosuite", "language_instruction": header.instruction}
        ),
        "tag": TAG,
    }


def _problem_name(header: Header) -> str:
    """The class of a LIBERO task's problem ("libero_tabletop_manipulation"); "" where its file is not at hand."""
    if header.environment["backend"] != "libero":
        return ""
    from vla_cl.envs.libero.bddl import read_problem
    from vla_cl.envs.libero.root import libero_root

    arguments = header.environment["arguments"]
    try:
        return read_problem(libero_root().problem_path(arguments["suite"], arguments["problem"])).name
    except (VlaClError, KeyError):
        return ""


@contextmanager
def _writer(header: Header, plugins: Sequence[str]) -> Iterator[WriteEpisode]:
    with state_flattener(header, plugins) as flatten:
        yield lambda group, episode: _write_episode(group, episode, flatten)


def _write_episode(group: h5py.Group, episode: Episode, flatten: FlattenStates) -> None:
    length = len(episode)
    group["actions"] = episode.actions.astype(np.float64)
    group["dones"] = last_only(length)
    sparse = np.isin(episode.rewards, (0.0, 1.0)).all()
    group["rewards"] = episode.rewards.astype(np.uint8 if sparse else np.float32)
    flat = flatten(episode)
    if flat is not None:
        group["states"], group.attrs["init_state"] = flat.states[:length], flat.states[0]
    if episode.states.size and (flat is None or not np.array_equal(flat.states[:length], episode.states)):
        write_compressed(group, OWN_STATES, episode.states, rows_a_chunk=length)
    seen = dict(_observations(episode))
    if flat is not None and flat.joints is not None:
        seen["joint_states"] = flat.joints
    for key, values in seen.items():
        group[f"obs/{key}"], group[f"{FIRST_OBSERVATION}/{key}"] = values[1:], values[:1]
    if episode.observations[AGENT_POS].shape[1] == AGENT_POS_WIDTH:
        group["robot_states"] = robot_states(episode.observations[AGENT_POS][1:])


def _observations(episode: Episode) -> Iterator[tuple[str, NDArray[Any]]]:
    """The observations (T + 1, ...) under LIBERO's names."""
    for key, values in episode.observations.items():
        if key.endswith(IMAGE_SUFFIX):
            camera = key.removesuffix(IMAGE_SUFFIX)
            yield CAMERA_KEYS.get(camera, f"{camera}_rgb"), values[:, ::-1]
        elif key == AGENT_POS and values.shape[1] == AGENT_POS_WIDTH:
            yield END_EFFECTOR, values[:, :6]
            yield "ee_pos", values[:, :3]
            yield "ee_ori", values[:, 3:6]
            yield GRIPPER, values[:, 6:]
        else:
            yield key, values


def robot_states(agent_pos: NDArray[np.float32]) -> NDArray[np.float64]:
    """LIBERO's `robot_states` (T, 9) of `agent_pos` (T, 8): fingers (2), position (3), quaternion x, y, z, w (4)."""
    values = agent_pos.astype(np.float64)
    angle = np.linalg.norm(values[:, 3:6], axis=1, keepdims=True)
    axis = values[:, 3:6] / np.where(angle > 0, angle, 1.0)
    quaternion = np.concatenate([axis * np.sin(angle / 2), np.cos(angle / 2)], axis=1)
    return np.concatenate([values[:, 6:], values[:, :3], quaternion], axis=1)
