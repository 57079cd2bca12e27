"""How a task is simulated: one environment contract over several backends."""

from __future__ import annotations

from vla_cl.envs.base import (
    BACKENDS,
    UNSTABLE,
    Advance,
    EnvironmentSpec,
    ManipulationEnv,
    Observation,
    ObservationOptions,
    RenderingOptions,
)
from vla_cl.envs.building import find_backend, make_environment
from vla_cl.envs.chunk import ActionChunk, advance_chunk
from vla_cl.envs.gymnasium_env import GymnasiumEnv
from vla_cl.envs.meta_world import MetaWorldEnv
from vla_cl.envs.mujoco_env import MujocoTaskEnv
from vla_cl.envs.pool import ChunkResult, EnvironmentPool, EpisodeStart, WorkerDiedError

__all__ = [
    "BACKENDS",
    "UNSTABLE",
    "ActionChunk",
    "Advance",
    "ChunkResult",
    "EnvironmentPool",
    "EnvironmentSpec",
    "EpisodeStart",
    "GymnasiumEnv",
    "ManipulationEnv",
    "MetaWorldEnv",
    "MujocoTaskEnv",
    "Observation",
    "ObservationOptions",
    "RenderingOptions",
    "WorkerDiedError",
    "advance_chunk",
    "find_backend",
    "make_environment",
]
