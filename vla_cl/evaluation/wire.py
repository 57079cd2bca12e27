"""What a policy server and its clients say to each other: msgpack maps over a WebSocket, arrays as raw bytes.

The server speaks first and says what it serves (`vla_cl.evaluation.served`). Then each message of the client is a
query, answered by `{"actions": array}` or `{"error": "one line"}`. A query holds all that its answer depends on, so it
may be asked again.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgpack
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vla_cl.data import ObservationBatch
from vla_cl.errors import ConfigurationError, ServerError
from vla_cl.policies import PolicyFeatures

MAX_MESSAGE = 64 * 2**20
"""Bytes: 80 observations of two 256 px cameras."""
MAX_ROWS = 4096
MAX_LINE = 500

DTYPES: dict[str, np.dtype[Any]] = {"uint8": np.dtype("u1"), "float32": np.dtype("<f4")}
"""All that travels: images, and vectors of numbers."""

Message = dict[str, Any]


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes."""
    packed: bytes = msgpack.packb(message)
    return packed


def unpack(received: bytes | str) -> Message:
    """The message that bytes hold.

    Raises:
        ServerError: They hold none.
    """
    if isinstance(received, str):
        raise ServerError("a message must be binary, got text")
    try:
        message = msgpack.unpackb(received)
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise ServerError(f"a message must be a msgpack map ({type(error).__name__})") from error
    if not isinstance(message, dict):
        raise ServerError(f"a message must be a msgpack map, got {type(message).__name__}")
    return message


def one_line(told: object) -> str:
    """What somebody else said, fit for a terminal: one line of printable characters, not too long."""
    line = " ".join(str(told).split())
    return "".join(character for character in line if character.isprintable())[:MAX_LINE]


def query(observation: ObservationBatch, seeds: Sequence[int], features: PolicyFeatures) -> Message:
    """What a client asks: the parts of B observations that the policy sees, and one seed a row.

    Raises:
        ConfigurationError: A camera is missing, or the simulator's state.
    """
    moments = [_moment(each, features) for each in observation.moments]
    names = {"episode": observation.episode, "task": observation.task}
    told = {key: list(value) for key, value in names.items() if value is not None}
    return {"moments": moments, "seeds": [int(seed) for seed in seeds], **told}


def _moment(observation: ObservationBatch, features: PolicyFeatures) -> Message:
    for camera in features.cameras:
        if camera not in observation.pixels:
            seen = ", ".join(observation.pixels) or "none"
            raise ConfigurationError(f"the server's policy sees through camera {camera!r}; the observation has {seen}")
    state = observation.environment_state if features.environment_state_dim else None
    if features.environment_state_dim and state is None:
        raise ConfigurationError("the server's policy sees environment_state; the observation has none")
    return {
        "instruction": list(observation.instruction),
        "agent_pos": array(observation.agent_pos.cpu().numpy()),
        "pixels": {camera: array(observation.pixels[camera].cpu().numpy()) for camera in features.cameras},
        "environment_state": None if state is None else array(state.cpu().numpy()),
    }


def read_query(message: Message, features: PolicyFeatures) -> tuple[ObservationBatch, list[int]]:
    """The observation (on the CPU, as much of it as the policy sees) and the seeds of a query.

    Raises:
        ServerError: Something is missing, or of another type or shape.
    """
    seeds, moments = message.get("seeds"), message.get("moments")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise ServerError("seeds must be a list of integers")
    if not 1 <= len(seeds) <= MAX_ROWS:
        raise ServerError(f"a query must have 1 to {MAX_ROWS} rows, got {len(seeds)} seeds")
    if not isinstance(moments, list) or len(moments) != features.history:
        told = len(moments) if isinstance(moments, list) else type(moments).__name__
        raise ServerError(f"moments must be a list of {features.history}, oldest first, got {told}")
    *past, present = (_read_moment(each, len(seeds), features) for each in moments)
    episode, task = (_read_names(message.get(key), key, len(seeds)) for key in ("episode", "task"))
    return dataclasses.replace(present, past=tuple(past), episode=episode, task=task), seeds


def _read_names(told: Any, key: str, rows: int) -> tuple[str, ...] | None:
    """Names of episodes or tasks, one a row, which a client may leave away."""
    if told is None:
        return None
    if not isinstance(told, list) or len(told) != rows or not all(isinstance(each, str) for each in told):
        raise ServerError(f"{key} must be a list of {rows} strings, one a seed")
    return tuple(told)


def _read_moment(told: Any, rows: int, features: PolicyFeatures) -> ObservationBatch:
    if not isinstance(told, dict):
        raise ServerError(f"a moment must be a map, got {type(told).__name__}")
    instruction, pixels = told.get("instruction"), told.get("pixels")
    strings = isinstance(instruction, list) and all(isinstance(text, str) for text in instruction)
    if not isinstance(instruction, list) or not strings or len(instruction) != rows:
        raise ServerError(f"instruction must be a list of {rows} strings, one a seed")
    if not isinstance(pixels, dict):
        raise ServerError(f"pixels must be a map of cameras: {', '.join(features.cameras) or 'an empty one'}")

    def vectors(name: str) -> Tensor:
        return torch.from_numpy(read_array(told.get(name), name, "float32", (rows, None)))

    def images(camera: str) -> Tensor:
        shape = (rows, features.image_size, features.image_size, 3)
        return torch.from_numpy(read_array(pixels.get(camera), f"pixels of camera {camera!r}", "uint8", shape))

    return ObservationBatch(
        instruction=tuple(instruction),
        agent_pos=vectors("agent_pos"),
        pixels={camera: images(camera) for camera in features.cameras},
        environment_state=vectors("environment_state") if features.environment_state_dim else None,
    )


# --- arrays ------------------------------------------------------------------------------------------------------


def array(values: NDArray[Any]) -> Message:
    """An array on the wire: `{"dtype": "float32", "shape": [2, 8, 4], "data": bytes}`, little-endian, C order.

    Raises:
        ConfigurationError: It holds another type than `DTYPES`.
    """
    name = values.dtype.name
    if name not in DTYPES:
        raise ConfigurationError(f"a policy server takes arrays of {' or '.join(DTYPES)}, got {name}")
    data = np.ascontiguousarray(values, dtype=DTYPES[name])
    return {"dtype": name, "shape": list(values.shape), "data": data.tobytes()}


def read_array(told: Any, name: str, dtype: str, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An array from the wire, which its reader may write to.

    Args:
        told: What came.
        name: For messages.
        dtype: Which type it must have.
        shape: Which shape it must have; None is any size.

    Raises:
        ServerError: It is no array, or has another type, shape or number of bytes.
    """
    wanted = f"{name} must be an array of {dtype}, {' x '.join('any' if each is None else str(each) for each in shape)}"
    if not isinstance(told, dict):
        raise ServerError(f"{wanted}, got {'nothing' if told is None else type(told).__name__}")
    sizes, data = told.get("shape"), told.get("data")
    if not isinstance(sizes, list) or not all(type(size) is int and size >= 0 for size in sizes):
        raise ServerError(f"{wanted}, got a shape that is no list of sizes")
    fits = len(sizes) == len(shape) and all(want in (None, size) for want, size in zip(shape, sizes, strict=True))
    if told.get("dtype") != dtype or not fits:
        raise ServerError(f"{wanted}, got {one_line(told.get('dtype'))}, {one_line(' x '.join(map(str, sizes)))}")
    if not isinstance(data, bytes) or len(data) != math.prod(sizes) * DTYPES[dtype].itemsize:
        held = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise ServerError(f"{wanted}, got {held} of data")
    return np.frombuffer(data, DTYPES[dtype]).reshape(sizes).astype(dtype)
