"""A simulator process on a machine of a Ray cluster, with the interface of one on this machine."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

from vla_cl.envs.assets import ASSETS
from vla_cl.envs.process import WorkerGoneError, as_own_error
from vla_cl.errors import SimulationError, VlaClError
from vla_cl.ray_session import told


class RayWorker:
    """An actor that keeps environments, as `vla_cl.envs.process.WorkerProcess` with `vla_cl.envs.worker` does here.

    It takes a core of the cluster, and is on as idle a machine as there is. Where it was killed, or its machine is
    gone, that is noticed when a reply is asked for, and another one may be started in its place.

    Args:
        ray: The module, connected to a cluster.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        variables = {ASSETS[name].variable for name in ASSETS} & os.environ.keys()
        folders = {name: os.environ[name] for name in variables}
        place = {"num_cpus": 1, "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        self._actor = ray.remote(_Simulator).options(**place).remote(Path.cwd(), folders)
        self._process: Any = self._actor.process_id.remote()
        self._reply: Any = None

    @property
    def process_id(self) -> int:
        """The id of the process on its machine."""
        return int(self._ray.get(self._process))

    def wait_until_ready(self) -> None:
        """Wait until there is room for the process, and it serves.

        Raises:
            SimulationError: It ended before.
        """
        try:
            self._ray.get(self._process)
        except self._ray.exceptions.RayError as error:
            raise SimulationError(f"a simulator cannot start on the Ray cluster: {told(error)}") from None

    def send(self, method: str, argument: Any) -> None:
        """Send a request. A process that has died is noticed when its reply is asked for."""
        packed = pickle.dumps((method, argument), pickle.HIGHEST_PROTOCOL)
        self._reply = self._actor.serve.remote(packed)

    def receive(self) -> tuple[VlaClError | None, Any]:
        """The reply to the last request: (error, None) or (None, value).

        Raises:
            WorkerGoneError: The process, or its machine, is gone.
        """
        try:
            reply: tuple[VlaClError | None, Any] = pickle.loads(self._ray.get(self._reply))
        except self._ray.exceptions.RayError as error:
            raise WorkerGoneError(told(error)) from None
        return reply

    def end(self) -> None:
        """End the process at once."""
        if self._ray.is_initialized():  # else it has ended with the cluster, or with this process's part in it
            self._ray.kill(self._actor)


class _Simulator:
    """What the actor's process holds. Requests and replies are packed here, so that both sides see what a socket would
    have brought them: arrays of their own, and errors as they were raised.
    """

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        from vla_cl.envs.worker import Worker

        os.chdir(folder)  # relative paths mean what they mean there
        os.environ.update(variables)
        self._worker = Worker()

    def process_id(self) -> int:
        return os.getpid()

    def serve(self, packed: bytes) -> bytes:
        method, argument = pickle.loads(packed)
        reply: tuple[VlaClError | None, Any]
        try:
            reply = None, getattr(self._worker, method)(argument)
        except Exception as error:  # noqa: BLE001  whatever it is, the other side raises it
            reply = as_own_error(error), None
        return pickle.dumps(reply, pickle.HIGHEST_PROTOCOL)
