"""The training loop, its options and its checkpoints."""

from __future__ import annotations

from vla_cl.training.average import ExponentialMovingAverage
from vla_cl.training.caching import caches_features, with_cached_features
from vla_cl.training.checkpoint import IntervalCheckpoints
from vla_cl.training.federated import FederationOptions, dealt_windows
from vla_cl.training.loop import TrainingRow, fit
from vla_cl.training.options import (
    TrainingOptions,
    emulates_bfloat16,
    free_memory,
    learning_rate_at,
    limit_threads,
    resolve_device,
)
from vla_cl.training.processes import check_processes, follow, joined, launched_count, training_processes
from vla_cl.training.replicas import ALONE, Replicas
from vla_cl.training.state import atomic_folder, check_folder, load_tree, remove_partial_folders, save_tree
from vla_cl.training.stream import BlurredStream, TaskStream

__all__ = [
    "ALONE",
    "BlurredStream",
    "ExponentialMovingAverage",
    "FederationOptions",
    "IntervalCheckpoints",
    "Replicas",
    "TaskStream",
    "TrainingOptions",
    "TrainingRow",
    "atomic_folder",
    "caches_features",
    "check_folder",
    "check_processes",
    "dealt_windows",
    "emulates_bfloat16",
    "fit",
    "follow",
    "free_memory",
    "joined",
    "launched_count",
    "learning_rate_at",
    "limit_threads",
    "load_tree",
    "remove_partial_folders",
    "resolve_device",
    "save_tree",
    "training_processes",
    "with_cached_features",
]
