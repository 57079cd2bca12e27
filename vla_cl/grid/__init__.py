"""Many experiments at once, each a Ray task: on the cores of this machine, or on a cluster."""

from __future__ import annotations

from vla_cl.grid.runs import GridRun, Outcome, RunProgress, State, grid_runs, progress_of
from vla_cl.grid.scheduler import Watcher, run_grid

__all__ = ["GridRun", "Outcome", "RunProgress", "State", "Watcher", "grid_runs", "progress_of", "run_grid"]
