"""Ray: one of our own on this machine that talks to nobody, or the user's cluster."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vla_cl.config import ExperimentConfig
from vla_cl.errors import ConfigurationError
from vla_cl.grid.worker import execute

_OBJECT_STORE_BYTES = 80 * 1024**2  # the least that Ray takes; runs pass files, not objects
_LONGEST_ROOT = 30  # characters: the path of a socket may have 107, most of them Ray's


class Cluster:
    """Where runs are sent to.

    Args:
        ray: The module.
        cores: Of this machine, where it is the cluster; None where Ray knows.
        gpus: Of a run, or None: one where the cluster has some and the run may use them.
    """

    def __init__(self, ray: Any, cores: int | None, gpus: float | None) -> None:
        self._ray = ray
        self._cores = cores
        self._gpus = gpus
        # A process ends with its run: nothing of one run can be seen by the next. Retries are ours, and are counted.
        self._execute = ray.remote(max_calls=1, max_retries=0)(execute)

    def submit(self, config: ExperimentConfig, log: Path, level: int) -> Any:
        """Send a run to wherever there is room, now or later. Returns what `wait` takes."""
        needed = max(config.threads, config.evaluation.processes or 1)
        cores = needed if self._cores is None else min(needed, self._cores)
        sent = self._execute.options(num_cpus=cores, num_gpus=self._gpus_of(config))
        return sent.remote(config, log, Path.cwd(), level)

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
        """
        try:
            return self._ray.get(sent)
        except self._ray.exceptions.RayError as error:
            raise ProcessLookupError(_told(error)) from None

    def cancel(self, sent: Sequence[Any]) -> None:
        """Kill the runs that have not ended."""
        for each in sent:
            self._ray.cancel(each, force=True)

    def _gpus_of(self, config: ExperimentConfig) -> float:
        if self._gpus is not None:
            return self._gpus
        return 1.0 if config.device != "cpu" and self._ray.cluster_resources().get("GPU", 0) else 0.0


@contextmanager
def connected(address: str | None, cores: int | None = None, gpus: float | None = None) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts.

    Args:
        address: Of a running Ray cluster, "auto" or "HOST:PORT", whose machines share this one's files; None starts
            one on this machine, bound to the loopback interface, without dashboard and usage reports, and ends it
            with the block.
        cores: Of this machine to use; None is all that this process may use. Not for a running cluster.
        gpus: Of a run; a fraction lets runs share one. None is one where there are some, unless device=cpu.

    Raises:
        ConfigurationError: Ray is not installed, or there is no cluster at `address`.
    """
    if address is not None and cores is not None:
        raise ConfigurationError("--cores is of this machine; a cluster at --address knows its own")
    with _environment({"RAY_USAGE_STATS_ENABLED": "0", **({} if address else _ALONE), **_token(address)}):
        ray = _import_ray()
        with _joined(ray, address) if address else _started(ray, cores or len(os.sched_getaffinity(0))) as known:
            yield Cluster(ray, known, gpus)


_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for staying on the loopback interface
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # that of the command, as for every other command
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # for which Ray's own processes outlive a driver that is killed
}


def _token(address: str | None) -> dict[str, str]:
    """What keeps other users of this machine out; Ray would write one into the home folder."""
    return {} if address else {"RAY_AUTH_TOKEN": secrets.token_hex(32)}


@contextmanager
def _joined(ray: Any, address: str) -> Iterator[None]:
    """A running cluster, whose cores Ray knows."""
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error")
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigurationError(f"no Ray cluster answers at {address}: {_told(error)}") from None
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _started(ray: Any, cores: int) -> Iterator[int]:
    """A cluster on this machine, of so many cores."""
    root = tempfile.mkdtemp(prefix="vla-cl-", dir="/tmp" if len(tempfile.gettempdir()) > _LONGEST_ROOT else None)
    try:
        ray.init(
            num_cpus=cores,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="error",
            object_store_memory=_OBJECT_STORE_BYTES,
            _temp_dir=root,
        )
        yield cores
    finally:
        ray.shutdown()
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Environment variables for as long as the block lasts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise ConfigurationError("vla-cl grid needs Ray; install it with: pip install 'vla_cl[ray]'") from None
    return ray


def _told(error: BaseException) -> str:
    """The first sentence of Ray's long explanations."""
    line = " ".join(str(error).split())
    return line.split(". ", 1)[0] or type(error).__name__
