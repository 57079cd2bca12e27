"""Demonstrations: collected from scripted experts, kept in HDF5 files, served as training windows."""

from __future__ import annotations

from vla_cl.data.attempts import CollectionOptions
from vla_cl.data.batch import Batch, ObservationBatch, concatenate, concatenate_observations
from vla_cl.data.collect import collect_demonstrations
from vla_cl.data.concatenation import ConcatenatedWindows
from vla_cl.data.convert import LAYOUTS, Conversion, convert, plan_conversion
from vla_cl.data.demonstrations import DemonstrationFile
from vla_cl.data.given import check_given, check_instructions, given_checksum, given_demonstrations, needed_cameras
from vla_cl.data.hdf5 import write_demonstrations
from vla_cl.data.inspect import ActionStatistics, FileSummary, inspect_demonstrations
from vla_cl.data.library import collection_steps, demonstration_files, demonstrations_for, demonstrations_path
from vla_cl.data.merge import Merged, merge_demonstrations
from vla_cl.data.normalisation import Statistics, VectorStatistics, compute_statistics
from vla_cl.data.opening import open_demonstrations
from vla_cl.data.picture import demonstration_sheet
from vla_cl.data.replay import ReplayMemory
from vla_cl.data.rerender import rerender
from vla_cl.data.reservoir import RESERVOIR_RULES, Reservoir
from vla_cl.data.resimulate import Divergence, resimulate
from vla_cl.data.sampling import batch_indices, epoch_order
from vla_cl.data.schema import Episode, Header
from vla_cl.data.segments import UNITS, phases_of, units_of
from vla_cl.data.source import Demonstrations
from vla_cl.data.split import split_files, split_indices, split_masks, split_paths
from vla_cl.data.validate import Validation, validate_demonstrations
from vla_cl.data.windows import WindowDataset

__all__ = [
    "LAYOUTS",
    "RESERVOIR_RULES",
    "UNITS",
    "ActionStatistics",
    "Batch",
    "CollectionOptions",
    "ConcatenatedWindows",
    "Conversion",
    "DemonstrationFile",
    "Demonstrations",
    "Divergence",
    "Episode",
    "FileSummary",
    "Header",
    "Merged",
    "ObservationBatch",
    "ReplayMemory",
    "Reservoir",
    "Statistics",
    "Validation",
    "VectorStatistics",
    "WindowDataset",
    "batch_indices",
    "check_given",
    "check_instructions",
    "collect_demonstrations",
    "collection_steps",
    "compute_statistics",
    "concatenate",
    "concatenate_observations",
    "convert",
    "demonstration_files",
    "demonstration_sheet",
    "demonstrations_for",
    "demonstrations_path",
    "epoch_order",
    "given_checksum",
    "given_demonstrations",
    "inspect_demonstrations",
    "merge_demonstrations",
    "needed_cameras",
    "open_demonstrations",
    "phases_of",
    "plan_conversion",
    "rerender",
    "resimulate",
    "split_files",
    "split_indices",
    "split_masks",
    "split_paths",
    "units_of",
    "validate_demonstrations",
    "write_demonstrations",
]
