"""Clients as actors of Ray, each in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig
from vla_cl.errors import SimulationError, VlaClError
from vla_cl.federation.client import Client
from vla_cl.ray_session import shared_cluster, told
from vla_cl.training import resolve_device


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
        self._ray: Any = None
        self._session = ExitStack()

    def call(self, method: str, arguments: Mapping[int, tuple[Any, ...]]) -> dict[int, Any]:
        """Call a method of some clients, each with its arguments, at once; what each returns.

        Raises:
            SimulationError: A client's process died.
        """
        ray = self._connected()
        for client in arguments.keys() - self.actors.keys():
            gpus = ray.cluster_resources().get("GPU", 0.0) if resolve_device(self.config.device).type == "cuda" else 0.0
            place = {"num_cpus": 1, "num_gpus": min(1.0, gpus / self.config.federation.clients)}
            self.actors[client] = ray.remote(_ClientProcess).options(**place).remote(self.config, client, Path.cwd())
        sent = [self.actors[client].call.remote(method, *each) for client, each in arguments.items()]
        try:
            return dict(zip(arguments, ray.get(sent), strict=True))
        except ray.exceptions.RayTaskError as error:
            cause = error.cause if isinstance(error.cause, VlaClError) else error.as_instanceof_cause()
            raise cause from None
        except ray.exceptions.RayError as error:
            reason = told(error)
            raise SimulationError(f"a client of the federation died: {reason}; run the same command again") from None

    def close(self) -> None:
        """End the clients, and the cluster if it is theirs."""
        for actor in self.actors.values():
            self._ray.kill(actor)
        self.actors.clear()
        self._session.close()

    def _connected(self) -> Any:
        """Ray's module, with a cluster behind it."""
        if self._ray is None:
            cluster = shared_cluster("federation.backend=ray", least=self.config.federation.clients)
            self._ray = self._session.enter_context(cluster)
        return self._ray


class _ClientProcess:
    """What an actor's process holds. The client is made at the first call, where its errors come back as they are."""

    def __init__(self, config: ExperimentConfig, index: int, folder: Path) -> None:
        from vla_cl import progress

        os.chdir(folder)  # relative paths mean what they mean to the server
        progress.bars = False
        self.arguments = config, index
        self.client: Client | None = None

    def call(self, method: str, *arguments: Any) -> Any:
        if self.client is None:
            self.client = Client(*self.arguments)
        return getattr(self.client, method)(*arguments)
