"""Windows of a demonstration file as robomimic's `SequenceDataset` reads them. Run by a Python that has robomimic 0.3.

    <peer's python> robomimic_windows.py FILE CAMERA_KEY [CAMERA_KEY ...]

Answers are lines of JSON on standard output, the first `{"windows": N, "version": V}`. Then, for each line of standard
input, `{"seq_length": L, "cache": MODE, "batches": [[window, ...], ...]}`, how long reading these batches took:
`{"seconds"}`. A dataset is made, and a first batch read, before the clock starts.
"""

from __future__ import annotations

import json
import os
import sys
import time

import robomimic
import robomimic.utils.obs_utils as observation_utils
from robomimic.utils.dataset import SequenceDataset
from torch.utils.data import default_collate

LOW_DIM = "agent_pos"


def open_dataset(path: str, cameras: list[str], seq_length: int, cache: str | None) -> SequenceDataset:
    """The dataset as behaviour cloning on images uses it."""
    return SequenceDataset(
        hdf5_path=path,
        obs_keys=(LOW_DIM, *cameras),
        dataset_keys=("actions",),
        seq_length=seq_length,
        get_pad_mask=True,
        hdf5_cache_mode=cache,
        load_next_obs=False,
    )


def main() -> None:
    """Do what standard input says until it ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever robomimic prints goes to standard error
    path, cameras = sys.argv[1], sys.argv[2:]
    observation_utils.initialize_obs_utils_with_obs_specs({"obs": {"low_dim": [LOW_DIM], "rgb": cameras}})
    windows = len(open_dataset(path, cameras, 1, None))
    answers.write(json.dumps({"windows": windows, "version": robomimic.__version__}) + "\n")

    opened: dict[tuple[int, str | None], SequenceDataset] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        kind = (asked["seq_length"], asked["cache"])
        if kind not in opened:
            opened[kind] = open_dataset(path, cameras, *kind)
        dataset = opened[kind]
        default_collate([dataset[index] for index in asked["batches"][0]])
        started = time.perf_counter()
        for batch in asked["batches"]:
            default_collate([dataset[index] for index in batch])
        answers.write(json.dumps({"seconds": time.perf_counter() - started}) + "\n")


if __name__ == "__main__":
    main()
