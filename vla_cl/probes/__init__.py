"""Probes of a finished run: what was forgotten, and how. `vla-cl probe`."""

from __future__ import annotations

from vla_cl.probes.options import ProbeOptions
from vla_cl.probes.probe import PROBES, probe_run

__all__ = ["PROBES", "ProbeOptions", "probe_run"]
