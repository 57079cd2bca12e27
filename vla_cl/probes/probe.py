"""All probes of one run, one after another."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Collection
from pathlib import Path

from vla_cl.errors import UnknownNameError
from vla_cl.evaluation.report import write_report
from vla_cl.files import remove_partial_files
from vla_cl.probes.drift import probe_drift
from vla_cl.probes.options import ProbeOptions
from vla_cl.probes.recovery import probe_recovery
from vla_cl.probes.routing import probe_routing
from vla_cl.probes.scale import probe_scale
from vla_cl.probes.selection import judge
from vla_cl.probes.subject import Subject

logger = logging.getLogger(__name__)


def _routing(subject: Subject) -> None:
    if not probe_routing(subject):
        logger.info("the strategy of this run does not choose by itself whose parameters act: no routing to probe")


PROBES: dict[str, Callable[[Subject], None]] = {
    "drift": probe_drift,
    "routing": _routing,
    "scale": probe_scale,
    "recovery": probe_recovery,
}
"""By name, the cheap ones first."""


def probe_run(
    folder: Path, probes: Collection[str] = (), options: ProbeOptions | None = None, data: Path | None = None
) -> Path:
    """Find out what a finished run forgot, and how: write the probes' results into its folder, and draw its report
    again where there is one.

    A probe that was interrupted goes on; what is there under the same options is not measured again. The run's
    checkpoints, episodes and metrics stay as they are.

    Args:
        folder: That a run wrote.
        probes: Names of those to make; () makes all.
        options: How.
        data: Folder of the run's demonstrations, where that is another now; those that are gone are collected again.

    Returns:
        The folder of the results.

    Raises:
        UnknownNameError: There is no such probe.
        VlaClError: The folder is none, the run is not finished, or the machine or an option stops the probes.
    """
    for name in probes:
        if name not in PROBES:
            raise UnknownNameError("probe", name, PROBES)
    with Subject.of(Path(folder), options or ProbeOptions(), data) as subject:
        if subject.folder.is_dir():
            remove_partial_files(subject.folder)
            shutil.rmtree(subject.folder / ".fine_tuning.partial", ignore_errors=True)
        for name, probe in PROBES.items():
            if not probes or name in probes:
                probe(subject)
        judge(subject)
        report = subject.run.path / "report.html"
        if report.exists():
            write_report([subject.run.path], report)
        return subject.folder
