"""robomimic's HDF5 files, low-dimensional or with images, read as they are.

Mandlekar et al., "What Matters in Learning from Offline Human Demonstrations for Robot Manipulation", 2021.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import h5py

from vla_cl.data.columns import Run
from vla_cl.data.foreign import ForeignDemonstrations, text, tree
from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE, IMAGE_SUFFIX, Header, image_key

PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
"""robomimic's own low-dimensional convention: position (3), quaternion x, y, z, w (4), fingers (2)."""

OBJECT = "object"
"""robomimic's key for what the simulator knows of the objects."""

CAMERA_KEYS = {"wrist": "robot0_eye_in_hand_image"}
"""Our camera, robomimic's key; other cameras are `<camera>_image` in both."""

DEFAULT_HORIZON = 1000


def is_robomimic(data: h5py.Group) -> bool:
    """Whether the group `data` of a file has robomimic's attributes."""
    return "env_args" in data.attrs


class RobomimicFile(ForeignDemonstrations):
    """A file in robomimic's layout: `obs[t]` was seen before `actions[t]`, images are upright.

    `agent_pos` is position, quaternion and fingers of robot0, (9,), or `obs/agent_pos` where the file has that;
    `obs/object` is the privileged state; `<camera>_image` is a camera, `robot0_eye_in_hand` is called "wrist". Without
    `next_obs` nobody knows what was seen after the last action: the observation before it stands in.
    """

    layout = "robomimic"

    def _describe(self, data: h5py.Group, first: h5py.Group) -> tuple[Header, str]:
        stored = first.get("obs", {})
        own = AGENT_POS in stored
        self.parts = {AGENT_POS: (f"obs/{AGENT_POS}",) if own else tuple(f"obs/{key}" for key in PROPRIOCEPTION)}
        for key in (ENVIRONMENT_STATE, OBJECT):
            if key in stored:
                self.parts.setdefault(ENVIRONMENT_STATE, (f"obs/{key}",))
        cameras = {key: camera for camera, key in CAMERA_KEYS.items()}
        images = [key for key in sorted(stored) if key.endswith(IMAGE_SUFFIX)]
        self.parts |= {image_key(cameras.get(key, key.removesuffix(IMAGE_SUFFIX))): (f"obs/{key}",) for key in images}
        env_args = tree(data, "env_args")
        name = text(env_args.get("env_name", ""))
        header = Header(
            task=re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") or self.path.stem,
            instruction=self._instruction(first, name),
            expert="",
            env_name=name,
            environment={
                "backend": "robomimic",
                "arguments": env_args,
                "horizon": int(env_args.get("env_kwargs", {}).get("horizon") or DEFAULT_HORIZON),
            },
            observation={},
            rendering={},
        )
        note = "states are those of the simulator named in environment.arguments"
        if "next_obs" not in first:
            note += "; after the last action of a demonstration stands what was seen before it"
        return header, note

    def _instruction(self, first: h5py.Group, env_name: str) -> str:
        """What newer files say of an episode (`ep_meta`), else the words in the environment's name."""
        about = json.loads(text(first.attrs["ep_meta"])) if "ep_meta" in first.attrs else {}
        told = about.get("lang") if isinstance(about, dict) else None
        return str(told) if told else re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", " ", env_name).strip().lower()

    def _rows(self, index: int, name: str, following: bool) -> list[Run]:
        stored = self.dataset(index, name)
        runs = [Run(stored, 0, len(stored))]
        if not following:
            return runs
        after = f"next_{name}"
        last = self.dataset(index, after) if after in self.group(index) else stored
        return [*runs, Run(last, len(stored) - 1, 1)]

    def _beside(self, group: h5py.Group, name: str, length: int) -> Iterator[tuple[str, int]]:
        if f"next_{name}" in group:
            yield f"next_{name}", length
