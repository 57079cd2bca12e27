"""Energy where the machine tells: joules of its processors (RAPL, through Linux's powercap) and of a run's GPU (NVML).

Processors' counters are of whole packages: whatever else runs on the machine is in them.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

POWERCAP = Path("/sys/class/powercap")
POWERCAP_VARIABLE = "VLA_CL_POWERCAP"
"""Names the folder where powercap is mounted elsewhere, as it is in some containers."""

_LOOK_SECONDS = 60.0
"""Between two looks at the counters. They wrap around, at full load after some minutes."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Something that counts energy.

    Args:
        name: What is measured ("package-0").
        read: The counter, in joules.
        range: Joules after which it begins at 0 again; None is never.

    `read` raises `OSError` or `ValueError` where it cannot tell.
    """

    name: str
    read: Callable[[], float]
    range: float | None = None


class EnergyCounter:
    """Joules since it was made, over all of its sources. For use from several threads at once.

    Args:
        sources: What is counted together; none of them counts nothing.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._lock = threading.Lock()
        self._sources = tuple(sources)
        self._total = 0.0
        self._last = [source.read() for source in self._sources]
        if self._sources:
            threading.Thread(target=self._keep_looking, name="energy", daemon=True).start()

    @property
    def names(self) -> tuple[str, ...]:
        """What is measured."""
        return tuple(source.name for source in self._sources)

    def joules(self) -> float | None:
        """Joules so far; None where nothing is measured, or a source has fallen silent."""
        with self._lock:
            try:
                now = [source.read() for source in self._sources]
            except (OSError, ValueError) as error:
                logger.warning("energy is not measured any more: %s", error)
                self._sources = ()
            if not self._sources:
                return None
            for source, before, after in zip(self._sources, self._last, now, strict=True):
                wrapped = source.range if source.range is not None and after < before else 0.0
                self._total += after - before + wrapped
            self._last = now
            return self._total

    def _keep_looking(self) -> None:
        while self._sources:
            time.sleep(_LOOK_SECONDS)
            self.joules()


@functools.cache
def machine_energy(device: torch.device) -> EnergyCounter:
    """What this machine tells of its processors and, where it is one, of the GPU `device`.

    Intel's and AMD's packages are read from the folder that `VLA_CL_POWERCAP` names, else from /sys/class/powercap,
    whose counters many systems show to root alone; NVIDIA's GPUs through the package nvidia-ml-py, if it is installed.
    """
    sources = processor_sources(Path(os.environ.get(POWERCAP_VARIABLE, POWERCAP)))
    if device.type == "cuda":
        sources += _gpu_sources(device)
    return EnergyCounter(sources)


def processor_sources(powercap: Path) -> list[Source]:
    """The processor packages below a powercap folder, and memory where it is counted apart.

    A package's counter contains those of its cores; the platform's ("psys") contains the package's, and another driver
    ("intel-rapl-mmio") shows the same packages again: neither is counted twice.

    Returns:
        Nothing where there are none, or where one of them may not be read: a part would pass for the whole.
    """
    sources = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if not name.startswith("package") and name != "dram":
                continue
            source = Source(
                name,
                functools.partial(_microjoules, zone / "energy_uj"),
                _microjoules(zone / "max_energy_range_uj"),
            )
            source.read()
        except (OSError, ValueError):
            return []
        sources.append(source)
    return sources


def _microjoules(path: Path) -> float:
    """The joules in a file of powercap."""
    return int(path.read_text()) / 1e6


def _gpu_sources(device: torch.device) -> list[Source]:
    try:
        import pynvml
        import torch
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
        properties = torch.cuda.get_device_properties(device)
        handle = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{properties.uuid}")
        read = functools.partial(_gpu_joules, handle)
        read()
    except (pynvml.NVMLError, OSError, RuntimeError, AttributeError):  # an old GPU counts no energy
        return []
    return [Source(properties.name, read)]


def _gpu_joules(handle: object) -> float:
    import pynvml

    try:
        return int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    except pynvml.NVMLError as error:
        raise OSError(f"NVML: {error}") from error
