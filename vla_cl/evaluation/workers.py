"""Where the simulators of an evaluation run: in processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from vla_cl.envs import EnvironmentPool
from vla_cl.envs.ray_worker import RayWorker
from vla_cl.evaluation.options import LOCAL, OWN_CLUSTER, EvaluationOptions
from vla_cl.ray_session import shared_cluster


@contextmanager
def simulators(options: EvaluationOptions) -> Iterator[EnvironmentPool]:
    """The pool that an evaluation's `workers` and `processes` describe, for as long as the block lasts.

    Raises:
        ConfigurationError: Ray is not installed, or there is no such cluster.
        VlaClError: Ray does not start.
    """
    if options.workers == LOCAL:
        with EnvironmentPool(options.processes) as pool:
            yield pool
        return
    address = None if options.workers == OWN_CLUSTER else options.workers
    with shared_cluster(f"evaluation.workers={options.workers}", address, options.processes) as ray:
        cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        with EnvironmentPool(options.processes or cores, partial(RayWorker, ray)) as pool:
            yield pool
