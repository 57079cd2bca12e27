"""A worker process that serves requests over a socket, and ends when its parent does, however that ends."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from vla_cl.errors import SimulationError, VlaClError

_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_SECONDS_TO_END = 5.0


class WorkerGoneError(Exception):
    """The other end of the connection has closed; says how the process ended."""


class WorkerProcess:
    """A fresh interpreter that serves requests, and the connection to it.

    Not a `multiprocessing.Process`: that would import the user's main script again in each worker, which costs seconds
    and breaks scripts without an `if __name__ == "__main__"` guard.

    Args:
        module: Dotted name of a module whose `main(file_descriptor)` calls `serve`.

    Attributes:
        connection: To wait for a reply on, with `multiprocessing.connection.wait`.
    """

    def __init__(self, module: str) -> None:
        self.connection, far_end = Pipe()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {module} import main; main({far_end.fileno()})"
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # inherited, until the worker ignores it
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.DEVNULL,
                pass_fds=[far_end.fileno()],
                env={**os.environ, **_ONE_THREAD},
                process_group=0,  # its own, to be ended with what it starts itself: packages probe libraries like that
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            far_end.close()

    @property
    def process_id(self) -> int:
        """The operating system's id of the process."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Wait until the process serves.

        Raises:
            SimulationError: It ended before.
        """
        try:
            self.connection.recv_bytes()
        except (EOFError, ConnectionError):
            raise SimulationError(f"a worker process cannot start ({self._how_it_ended()}); see its output") from None

    def send(self, method: str, argument: Any) -> None:
        """Send a request. A process that has died is noticed when its reply is asked for."""
        with contextlib.suppress(ConnectionError):
            self.connection.send_bytes(pickle.dumps((method, argument), pickle.HIGHEST_PROTOCOL))

    def receive(self) -> tuple[VlaClError | None, Any]:
        """The reply to the last request: (error, None) or (None, value).

        Raises:
            WorkerGoneError: The process has ended.
        """
        try:
            reply: tuple[VlaClError | None, Any] = pickle.loads(self.connection.recv_bytes())
        except (EOFError, ConnectionError):
            raise WorkerGoneError(self._how_it_ended()) from None
        return reply

    def end(self, at_once: bool = False) -> None:
        """Close the connection, which ends the process after its present request; kill it if it does not end.

        Args:
            at_once: Kill it without waiting.
        """
        self.connection.close()
        try:
            self._process.wait(0.0 if at_once else _SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return "connection lost"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def serve(file_descriptor: int, methods: Mapping[str, Callable[[Any], Any]]) -> None:
    """In the worker: answer requests `(method, argument)` with `(error or None, value)` until the connection closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it closes the connection
    connection = Connection(file_descriptor)
    try:
        connection.send_bytes(b"ready")
        while True:
            method, argument = pickle.loads(connection.recv_bytes())
            reply: tuple[VlaClError | None, Any]
            try:
                reply = None, methods[method](argument)
            except Exception as error:  # noqa: BLE001  whatever it is, the parent raises it
                reply = as_own_error(error), None
            connection.send_bytes(pickle.dumps(reply, pickle.HIGHEST_PROTOCOL))
    except (EOFError, ConnectionError):
        return


def as_own_error(error: Exception) -> VlaClError:
    """The error to raise in the parent: itself when it is ours, else told in one line with its traceback as a note."""
    if not isinstance(error, VlaClError):
        error_text = "".join(traceback.format_exception(error))
        error = SimulationError(f"an environment failed in its process: {type(error).__name__}: {error}")
        error.add_note(error_text)
    return error
