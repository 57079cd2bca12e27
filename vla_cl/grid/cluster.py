"""Where the runs of a grid are sent to."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig
from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.grid.worker import execute
from vla_cl.ray_session import check_ray, joined_cluster, local_cluster, told

_RUNS_OF_A_PROCESS = 10


class Cluster:
    """Ray, as far as a grid knows it.

    Args:
        ray: The module, connected.
        cores: Of this machine, where it is the cluster; None where Ray knows.
        gpus: Of a run, or None: one where the cluster has some and the run may use them.
    """

    def __init__(self, ray: Any, cores: int | None, gpus: float | None) -> None:
        self._ray = ray
        self._cores = cores
        self._gpus = gpus
        # Retries are ours, and are counted.
        self._shared = ray.remote(max_calls=_RUNS_OF_A_PROCESS, max_retries=0)(execute)
        self._alone = ray.remote(max_calls=1, max_retries=0)(execute)

    def submit(self, config: ExperimentConfig, log: Path, level: int, attempt: int) -> Any:
        """Send a run to wherever there is room, now or later. Returns what `wait` takes.

        Runs on a CPU follow each other in a process, which need not import everything again. A run on a GPU, whose
        memory is free again only when its process ends, and a second attempt have a process of their own.
        """
        needed = max(config.threads * config.training.processes, config.evaluation.processes or 1)
        place: dict[str, Any] = {
            "num_cpus": needed if self._cores is None else min(needed, self._cores),
            "num_gpus": self._gpus_of(config),
        }
        if attempt > 1:  # processes of different environments are different processes
            place["runtime_env"] = {"env_vars": {"VLA_CL_ATTEMPT": f"{config.folder.name} {attempt}"}}
        sent = self._alone if attempt > 1 or place["num_gpus"] else self._shared
        return sent.options(**place).remote(config, log, Path.cwd(), level)

    def wait(self, sent: Sequence[Any], seconds: float) -> list[Any]:
        """Those that ended, for whatever reason; returns at once when there are some."""
        ended, _ = self._ray.wait(list(sent), num_returns=len(sent), timeout=0)
        if not ended:
            ended, _ = self._ray.wait(list(sent), num_returns=1, timeout=seconds)
        return list(ended)

    def result(self, sent: Any) -> Any:
        """What a run that ended returned.

        Raises:
            ProcessLookupError: Its process, or its machine, is gone.
            VlaClError: Ray itself is gone.
        """
        try:
            return self._ray.get(sent)
        except self._ray.exceptions.LocalRayletDiedError as error:
            raise VlaClError(
                f"Ray ended on this machine ({told(error)}); run the same command again to go on"
            ) from None
        except self._ray.exceptions.RayError as error:
            raise ProcessLookupError(told(error)) from None

    def cancel(self, sent: Sequence[Any]) -> None:
        """Kill the runs that have not ended."""
        for each in sent:
            self._ray.cancel(each, force=True)

    def _gpus_of(self, config: ExperimentConfig) -> float:
        if self._gpus is not None:
            return self._gpus
        some = config.device != "cpu" and self._ray.cluster_resources().get("GPU", 0)
        return float(config.training.processes) if some else 0.0


@contextmanager
def connected(address: str | None, cores: int | None = None, gpus: float | None = None) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts.

    Args:
        address: Of a running Ray cluster, "auto" or "HOST:PORT", whose machines share this one's files; None starts
            one on this machine (`vla_cl.ray_session.local_cluster`).
        cores: Of this machine to use; None is all that this process may use. Not for a running cluster.
        gpus: Of a run; a fraction lets runs share one. None is one where there are some, unless device=cpu.

    Raises:
        ConfigurationError: Ray is not installed, or there is no cluster at `address`.
        VlaClError: Ray does not start.
    """
    check_ray("vla-cl grid", "use vla-cl run --jobs")
    if address is not None:
        if cores is not None:
            raise ConfigurationError("--cores is of this machine; a cluster at --address knows its own")
        with joined_cluster(address) as ray:
            yield Cluster(ray, None, gpus)
        return
    cores = cores or len(os.sched_getaffinity(0))
    with local_cluster(cores) as ray:
        yield Cluster(ray, cores, gpus)
