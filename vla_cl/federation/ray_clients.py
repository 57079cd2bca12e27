"""Clients as actors of Ray, each in a process of its own."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig
from vla_cl.errors import ConfigurationError, SimulationError, VlaClError
from vla_cl.federation.client import Client
from vla_cl.training import resolve_device

_ADDRESS = "RAY_ADDRESS"
_OBJECT_STORE_BYTES = 80 * 1024**2  # the least that Ray takes; clients pass files, not objects


def import_ray() -> Any:
    """Ray's module; a cluster that is then started on this machine listens to this process alone.

    Raises:
        ConfigurationError: It is not installed.
    """
    if "ray" not in sys.modules and _ADDRESS not in os.environ:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # Ray's word for the loopback interface
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray would write one into the home folder
    try:
        import ray
    except ImportError:
        raise ConfigurationError(
            "federation.backend=ray needs Ray; install it with: pip install 'vla_cl[ray]', or use "
            "federation.backend=process"
        ) from None
    return ray


class RayClients:
    """Clients that work at the same time: on the Ray cluster that this process belongs to, or that `RAY_ADDRESS` names,
    else on one of their own on this machine. They read and write the run's folder and the demonstrations where this
    process does, so machines must share both.

    Args:
        config: Of the run.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config
        self.actors: dict[int, Any] = {}
        self._root: str | None = None
        self._ours = False

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some clients, each with its arguments, at once; what each returns.

        Raises:
            SimulationError: A client's process died.
        """
        ray = import_ray()
        for client in arguments.keys() - self.actors.keys():
            self.actors[client] = self._start(ray, client)
        sent = [self.actors[client].call.remote(method, *each) for client, each in arguments.items()]
        try:
            return dict(zip(arguments, ray.get(sent), strict=True))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, VlaClError) else error.as_instanceof_cause()
            raise cause from None
        except ray.exceptions.RayError as error:
            told = " ".join(str(error).split()).split(". ", 1)[0]
            raise SimulationError(f"a client of the federation died: {told}; run the same command again") from None

    def close(self) -> None:
        """End the clients, and the cluster if it is theirs."""
        if self.actors:
            ray = import_ray()
            for actor in self.actors.values():
                ray.kill(actor)
            self.actors.clear()
            if self._ours:
                ray.shutdown()
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def _start(self, ray: Any, client: int) -> Any:
        if not ray.is_initialized():
            self._ours = True
            self._connect(ray)
        gpus = ray.cluster_resources().get("GPU", 0.0) if resolve_device(self.config.device).type == "cuda" else 0.0
        share = min(1.0, gpus / self.config.federation.clients)
        return ray.remote(_ClientProcess).options(num_cpus=1, num_gpus=share).remote(self.config, client, Path.cwd())

    def _connect(self, ray: Any) -> None:
        quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "error"}
        if _ADDRESS in os.environ:
            ray.init(log_to_driver=False, logging_level="error")
            return
        self._root = tempfile.mkdtemp(prefix="vla-cl-", dir="/tmp")  # paths of sockets must be short
        cores = max(len(os.sched_getaffinity(0)), self.config.federation.clients)
        ray.init(num_cpus=cores, object_store_memory=_OBJECT_STORE_BYTES, _temp_dir=self._root, **quiet)


class _ClientProcess:
    """What an actor's process holds."""

    def __init__(self, config: ExperimentConfig, index: int, folder: Path) -> None:
        os.chdir(folder)  # relative paths mean what they mean to the server
        from vla_cl import progress

        progress.bars = False
        self.client = Client(config, index)

    def call(self, method: str, *arguments: Any) -> Any:
        return getattr(self.client, method)(*arguments)
