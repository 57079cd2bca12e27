"""Demonstrations: collected from scripted experts, kept in HDF5 files, served as training windows."""

from __future__ import annotations

from vla_cl.data.attempts import CollectionOptions
from vla_cl.data.batch import Batch, ObservationBatch, concatenate
from vla_cl.data.collect import collect_demonstrations
from vla_cl.data.concatenation import ConcatenatedWindows
from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.library import demonstrations_for, demonstrations_path
from vla_cl.data.normalisation import Statistics, VectorStatistics, compute_statistics
from vla_cl.data.replay import ReplayMemory
from vla_cl.data.rerender import rerender
from vla_cl.data.sampling import batch_indices, epoch_order
from vla_cl.data.schema import Episode, Header
from vla_cl.data.windows import WindowDataset

__all__ = [
    "Batch",
    "CollectionOptions",
    "ConcatenatedWindows",
    "DemonstrationFile",
    "Episode",
    "Header",
    "ObservationBatch",
    "ReplayMemory",
    "Statistics",
    "VectorStatistics",
    "WindowDataset",
    "batch_indices",
    "collect_demonstrations",
    "compute_statistics",
    "concatenate",
    "demonstrations_for",
    "demonstrations_path",
    "epoch_order",
    "rerender",
    "write_demonstrations",
]
