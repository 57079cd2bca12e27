"""LeRobot's data set layout, version 3.0: names, features and the tables that describe episodes.

    meta/info.json                          version, frame rate, counts, where things are, features
    meta/stats.json                         statistics of each feature
    meta/tasks.parquet                      instructions and their numbers
    meta/episodes/chunk-000/file-000.parquet one row an episode: length, instruction, which files, statistics
    data/chunk-000/file-000.parquet         one row a step, many episodes a file
    videos/<feature>/chunk-000/file-000.mp4 the images of many episodes, one frame a step

Source: LeRobot's `LeRobotDataset` v3.0 (Cadene et al., "LeRobot", 2024). What it has no place for is in
`meta/vla_cl.json`, at which it never looks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from vla_cl.data.schema import AGENT_POS, ENVIRONMENT_STATE
from vla_cl.envs import BACKENDS

if TYPE_CHECKING:
    import pyarrow

VERSION = "v3.0"
INFO, STATISTICS, TASKS, OURS = "meta/info.json", "meta/stats.json", "meta/tasks.parquet", "meta/vla_cl.json"
CHUNK = "chunk-{chunk_index:03d}/file-{file_index:03d}"
EPISODES, DATA = f"meta/episodes/{CHUNK}.parquet", f"data/{CHUNK}.parquet"
VIDEOS = "videos/{video_key}/" + CHUNK + ".mp4"
FILES_A_CHUNK, DATA_MEGABYTES, VIDEO_MEGABYTES = 1000, 100, 200

ACTION, STATE, PRIVILEGED = "action", "observation.state", "observation.environment_state"
IMAGES = "observation.images."
REWARD, DONE = "next.reward", "next.done"
VECTORS = {AGENT_POS: STATE, ENVIRONMENT_STATE: PRIVILEGED}
"""Our observation keys, LeRobot's."""

COUNTERS = {"timestamp": "float32", "frame_index": "int64", "episode_index": "int64", "index": "int64"}
COUNTERS |= {"task_index": "int64"}
"""Features that every data set has, each one number."""

DEFAULT_FRAME_RATE = 20


def frame_rate(backend: str) -> int:
    """Steps a second of a backend's environments; 20, robosuite's and LIBERO's, of those that are not registered."""
    return round(BACKENDS[backend].metadata["render_fps"]) if backend in BACKENDS else DEFAULT_FRAME_RATE


def features(
    action_dim: int, dimensions: dict[str, int], cameras: Sequence[str], size: int, fps: int, video: bool
) -> dict[str, Any]:
    """`info.json`'s description of every feature.

    Args:
        action_dim: A.
        dimensions: Size of each of our observation vectors.
        cameras: Whose images there are.
        size: Their height and width.
        fps: Steps a second.
        video: Whether images are frames of a video, instead of PNG inside the table.
    """
    described: dict[str, Any] = {ACTION: _vector("float32", action_dim)}
    described |= {VECTORS[key]: _vector("float32", width) for key, width in dimensions.items()}
    for camera in cameras:
        names = ["height", "width", "channels"]
        described[IMAGES + camera] = {"dtype": "image", "shape": [size, size, 3], "names": names}
        if video:
            about = {"video.height": size, "video.width": size, "video.channels": 3, "video.codec": "h264"}
            about |= {"video.pix_fmt": "yuv420p", "video.fps": fps, "video.is_depth_map": False, "has_audio": False}
            described[IMAGES + camera] |= {"dtype": "video", "info": about}
    described |= {REWARD: _vector("float32", 1), DONE: _vector("bool", 1)}
    return described | {name: _vector(kind, 1) for name, kind in COUNTERS.items()}


def _vector(kind: str, width: int) -> dict[str, Any]:
    return {"dtype": kind, "shape": [width], "names": None}


def information(described: dict[str, Any], episodes: int, frames: int, tasks: int, fps: int) -> dict[str, Any]:
    """The content of `info.json`."""
    video = any(feature["dtype"] == "video" for feature in described.values())
    return {
        "codebase_version": VERSION,
        "robot_type": None,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": DATA_MEGABYTES,
        "video_files_size_in_mb": VIDEO_MEGABYTES,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA,
        "video_path": VIDEOS if video else None,
        "features": described,
    }


def next_file(chunk: int, file: int) -> tuple[int, int]:
    """The numbers of the file after one."""
    return (chunk + 1, 0) if file == FILES_A_CHUNK - 1 else (chunk, file + 1)


def data_schema(described: dict[str, Any]) -> pyarrow.Schema:
    """Types of a data file's columns, with the note by which Hugging Face's `datasets` knows images."""
    import pyarrow

    columns, noted = [], {}
    for name, feature in described.items():
        if feature["dtype"] == "video":
            continue
        if feature["dtype"] == "image":
            kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
            noted[name] = {"_type": "Image"}
        else:
            one: Any = {"dtype": feature["dtype"], "_type": "Value"}
            kind = pyarrow.from_numpy_dtype(feature["dtype"])
            (width,) = feature["shape"]
            noted[name] = one if width == 1 else {"feature": one, "length": width, "_type": "Sequence"}
            kind = kind if width == 1 else pyarrow.list_(kind, width)
        columns.append(pyarrow.field(name, kind))
    return pyarrow.schema(columns, metadata={"huggingface": json.dumps({"info": {"features": noted}})})


def tasks_table(instructions: Sequence[str]) -> pyarrow.Table:
    """`tasks.parquet`: the instructions are the index of a pandas table, as LeRobot expects."""
    import pyarrow

    text = {"pandas_type": "unicode", "numpy_type": "object", "metadata": None}
    about = {
        "index_columns": ["task"],
        "column_indexes": [{"name": None, "field_name": None, **text, "metadata": {"encoding": "UTF-8"}}],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
            | {"metadata": None},
            {"name": "task", "field_name": "task", **text},
        ],
        "creator": {"library": "pyarrow", "version": pyarrow.__version__},
        "pandas_version": "2.2.0",
    }
    columns = {
        "task_index": pyarrow.array(range(len(instructions)), pyarrow.int64()),
        "task": pyarrow.array(instructions, pyarrow.string()),
    }
    return pyarrow.table(columns).replace_schema_metadata({"pandas": json.dumps(about)})
