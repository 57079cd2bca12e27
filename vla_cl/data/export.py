"""Writing demonstrations in robomimic's and LIBERO's HDF5 layouts.

What their readers never look at keeps the rest: the description (attribute `vla_cl`), seeds, and the actions that were
executed under noise. So such a file reads back as what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vla_cl.data.embedded import embed
from vla_cl.data.hdf5 import disk_errors, write_compressed, write_observation, write_splits
from vla_cl.data.recordings import Recordings
from vla_cl.data.robomimic_file import CAMERA_KEYS, OBJECT, PROPRIOCEPTION
from vla_cl.data.schema import (
    AGENT_POS,
    ENVIRONMENT_STATE,
    IMAGE_SUFFIX,
    Episode,
    canonical_json,
    demonstration_name,
    image_key,
)
from vla_cl.files import atomic_path
from vla_cl.progress import counted, progress_bar

WriteEpisode = Callable[[h5py.Group, Episode], None]
_PROPRIOCEPTION_WIDTHS = (3, 4, 2)


def write_robomimic(path: Path, recordings: Recordings) -> None:
    """Write a file that robomimic's `SequenceDataset` reads.

    Images are `<camera>_image`, "wrist" is `robot0_eye_in_hand_image`; the privileged state is `object`. Proprioception
    that came from robomimic gets its three names back; other proprioception keeps its own, `agent_pos`.

    Raises:
        VlaClError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    header = recordings.header
    from_robomimic = header.environment["backend"] == "robomimic"

    def describe(data: h5py.Group) -> None:
        data.attrs["env_args"] = canonical_json(header.environment["arguments"]) if from_robomimic else header.env_args

    def write(group: h5py.Group, episode: Episode) -> None:
        for name, values in robomimic_observations(episode, split=from_robomimic):
            write_observation(group, name, values)
        if episode.states.size:
            write_compressed(group, "states", episode.states, rows_a_chunk=len(episode))
        group["actions"], group["rewards"] = episode.actions, episode.rewards
        group["dones"] = last_only(len(episode))

    write_file(path, recordings, describe, nullcontext(write))


def robomimic_observations(episode: Episode, split: bool) -> Iterator[tuple[str, NDArray[Any]]]:
    """The observations (T + 1, ...) under robomimic's names."""
    for key, values in episode.observations.items():
        camera = key.removesuffix(IMAGE_SUFFIX)
        if key == AGENT_POS and split and values.shape[1] == sum(_PROPRIOCEPTION_WIDTHS):
            ends = np.cumsum(_PROPRIOCEPTION_WIDTHS)[:-1]
            yield from zip(PROPRIOCEPTION, np.split(values, ends, axis=1), strict=True)
        elif key == ENVIRONMENT_STATE:
            yield OBJECT, values
        else:
            yield CAMERA_KEYS.get(camera, image_key(camera)) if key.endswith(IMAGE_SUFFIX) else key, values


def write_file(
    path: Path,
    recordings: Recordings,
    describe: Callable[[h5py.Group], None],
    writer: AbstractContextManager[WriteEpisode],
) -> None:
    """Write a file of numbered demonstrations with masks, one in memory at a time.

    Args:
        path: Where it goes.
        recordings: What to write.
        describe: Sets the layout's attributes of `data`.
        writer: Gives the function that writes one demonstration.
    """
    header, count = recordings.header, len(recordings)
    with (
        progress_bar(f"converting {header.task}", count) as advance,
        atomic_path(Path(path)) as temporary,
        disk_errors(),
        h5py.File(temporary, "w") as file,
        writer as write,
    ):
        data = file.create_group("data")
        total = 0
        for index in counted(range(count), advance):
            episode = recordings.episode(index)
            group = data.create_group(demonstration_name(index))
            group.attrs["num_samples"] = len(episode)
            group.attrs["seed"], group.attrs["attempt"] = episode.seed, episode.attempt
            if episode.model_file:
                group.attrs["model_file"] = episode.model_file
            write(group, episode)
            if not np.array_equal(episode.executed_actions, episode.actions):
                group["executed_actions"] = episode.executed_actions
            total += len(episode)
        data.attrs["total"] = total
        describe(data)
        embed(data, header)
        write_splits(file, {name: indices.tolist() for name, indices in recordings.splits.items()})


def last_only(length: int) -> NDArray[np.uint8]:
    """(length,) zeros with a one at the end."""
    marks = np.zeros(length, np.uint8)
    marks[-1] = 1
    return marks
