"""Ray for as long as it is needed: one of our own on this machine that talks to nobody, or the user's cluster."""

from __future__ import annotations

import functools
import importlib.util
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from vla_cl.environ import environment_variables
from vla_cl.errors import ConfigurationError, VlaClError

_OBJECT_STORE_BYTES = 80 * 1024**2  # the least that Ray takes; runs and clients pass files, not objects
_ATTEMPTS = 6
_START_SECONDS = 240.0
_LOOK_SECONDS = 0.2
_LONGEST_ROOT = 30  # characters: the path of a socket may have 107, most of them Ray's
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}
_ALONE = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray's word for staying on the loopback interface
    "RAY_AUTH_MODE": "token",
    "RAY_worker_niceness": "0",  # that of the command, as for every other command
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # for which Ray's own processes outlive a driver that is killed
    "RAY_health_check_failure_threshold": "60",  # a machine that is too busy to answer for a while is not dead
    "RAY_worker_register_timeout_seconds": "300",
}


def check_ray(used_by: str, instead: str = "") -> None:
    """See that Ray is installed, without importing it: it reads some of its environment only then.

    Args:
        used_by: What needs it, for the error message.
        instead: What to do without it, for the error message.

    Raises:
        ConfigurationError: It is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        otherwise = f", or {instead}" if instead else ""
        raise ConfigurationError(f"{used_by} needs Ray; install it with: pip install 'vla_cl[ray]'{otherwise}")


@contextmanager
def local_cluster(cores: int) -> Iterator[Any]:
    """Ray's module, with a cluster on this machine that ends with the block.

    It is bound to the loopback interface, has no dashboard, sends no usage reports, keeps its files in a temporary
    folder, and takes commands only from those who know its token, which stays in memory.

    Args:
        cores: That its tasks may take.

    Raises:
        VlaClError: Ray does not start.
    """
    root = tempfile.mkdtemp(prefix="vla-cl-", dir="/tmp" if len(tempfile.gettempdir()) > _LONGEST_ROOT else None)
    try:
        with environment_variables(_QUIET | _ALONE | {"RAY_AUTH_TOKEN": _token()}):
            import ray

            try:
                with patience(ray):
                    _start(ray, cores, root)
                with _terminations_as_interrupts():
                    yield ray
            finally:
                ray.shutdown()
    finally:
        shutil.rmtree(root, ignore_errors=True)


@contextmanager
def shared_cluster(used_by: str, address: str | None = None, least: int | None = None) -> Iterator[Any]:
    """Ray's module, with the cluster that this process belongs to already; else the one at `address`, or that
    `RAY_ADDRESS` names; else one of this machine's cores, which ends with the block.

    Args:
        used_by: What needs it, for the error message.
        address: "auto" or "HOST:PORT"; None where any cluster will do.
        least: Cores that a cluster of this machine's is to have at least; there may be fewer.

    Raises:
        ConfigurationError: Ray is not installed, or there is no cluster at the address.
        VlaClError: Ray does not start.
    """
    check_ray(used_by)
    known = sys.modules.get("ray")  # importing it here would be too early for a cluster of our own
    if known is not None and known.is_initialized():
        yield known
    elif address is not None or "RAY_ADDRESS" in os.environ:
        with joined_cluster(address) as ray:
            yield ray
    else:
        with local_cluster(max(len(os.sched_getaffinity(0)), least or 1)) as ray:
            yield ray


@contextmanager
def joined_cluster(address: str | None) -> Iterator[Any]:
    """Ray's module, connected to a cluster of the user's, until the block ends.

    Args:
        address: "auto" or "HOST:PORT"; None is what `RAY_ADDRESS` says.

    Raises:
        ConfigurationError: There is no such cluster.
    """
    with environment_variables(_QUIET):
        import ray

        try:
            ray.init(address=address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            place = address or os.environ.get("RAY_ADDRESS")
            raise ConfigurationError(f"no Ray cluster answers at {place}: {told(error)}") from None
        try:
            with _terminations_as_interrupts():
                yield ray
        finally:
            ray.shutdown()


def told(error: BaseException) -> str:
    """The first sentence of Ray's long explanations."""
    line = " ".join(str(error).split())
    return line.split(". ", 1)[0] or type(error).__name__


@contextmanager
def patience(ray: Any) -> Iterator[None]:
    """Let Ray wait for its own node longer than its half a minute, which a busy machine may need, while all that it has
    started is alive.
    """
    services = ray._private.services
    look_once, deadline, before = services.get_node, time.monotonic() + _START_SECONDS, _children()

    def look(*arguments: Any) -> Any:
        while True:
            try:
                return look_once(*arguments)
            except RuntimeError:
                if time.monotonic() > deadline or any(_has_ended(each) for each in _children() - before):
                    raise
                time.sleep(_LOOK_SECONDS)

    services.get_node = look
    try:
        yield
    finally:
        services.get_node = look_once


def _start(ray: Any, cores: int, root: str) -> None:
    """Start a cluster whose files lie in a folder; what was given up is tried again, without what it left.

    Raises:
        VlaClError: It does not start.
    """
    reason = ""
    for _ in range(_ATTEMPTS):
        before = _children()
        try:
            ray.init(
                num_cpus=cores,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                object_store_memory=_OBJECT_STORE_BYTES,
                _temp_dir=root,
            )
            return
        except Exception as error:  # noqa: BLE001  Ray raises bare ones, and leaves behind what it has started
            reason = told(error)
            for process in _children() - before:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
    raise VlaClError(f"Ray does not start: {reason}; run the same command again when the machine is less busy")


def _children() -> set[int]:
    """Processes that this thread started."""
    thread = threading.get_native_id()
    return {int(each) for each in Path(f"/proc/{os.getpid()}/task/{thread}/children").read_text().split()}


def _has_ended(process: int) -> bool:
    """Whether a process only waits to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@functools.cache
def _token() -> str:
    """What keeps other users of this machine out: one a process, since Ray reads it once, and in memory, since Ray
    would write it into the home folder.
    """
    return secrets.token_hex(32)


@contextmanager
def _terminations_as_interrupts() -> Iterator[None]:
    """Let a polite kill, of a batch system for instance, end everything in order; Ray's own handler prints a stack."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    usual = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, usual)
