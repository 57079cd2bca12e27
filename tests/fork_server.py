"""A process that has imported what a command needs, and forks for each: a command line without its seconds of imports.

A command that runs in a fork has its own working folder, environment, output, session and interrupts, and ends through
the interpreter's own finalisation, as a fresh one does.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

IMPORTED = (
    *("vla_cl.cli.main", "vla_cl.cli.jobs", "vla_cl.checkpoint", "vla_cl.experiment", "vla_cl.evaluation.report"),
    *("vla_cl.config", "vla_cl.envs.meta_world", "metaworld", "torch.utils.tensorboard", "matplotlib.figure"),
    *("torch._dynamo", "pydantic.type_adapter", "tokenizers", "jinja2", "PIL.GifImagePlugin", "antlr4"),
)
"""What most commands import, some of it as late as they need it (torch's optimisers import its compiler)."""


class ForkedCommand:
    """`vla-cl ...` in a fork of the server, leader of a session of its own. As far as it goes, a `subprocess.Popen`."""

    def __init__(self, server: ForkServer, number: int, process_id: int, folder: Path) -> None:
        self._server, self._number, self._folder = server, number, folder
        self.pid = process_id
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit status (minus the signal that ended it), or None while it runs."""
        self.returncode = self._server.status(self._number)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; after `timeout` seconds it is killed with all that it started."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if deadline is not None and time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(f"vla-cl (process {self.pid})", timeout or 0.0)
            self._server.listen(0.1)
        return status

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Wait for its end; what it wrote to its output and its errors."""
        self.wait(timeout)
        out, errors = (self._folder / f"{self._number}.{each}" for each in ("out", "err"))
        return out.read_text(encoding="utf-8"), errors.read_text(encoding="utf-8")

    def send_signal(self, number: int) -> None:
        """Signal the command alone."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill the command alone."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """The server's process, and the way to it.

    Args:
        folder: Where the output of commands goes.
        environment: Of the server, under which it imports.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._commands = 0
        self._ended: dict[int, int] = {}
        self._started: dict[int, int] = {}
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[1],
            )
        self._lines = b""

    def start(self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> ForkedCommand:
        """Start `vla-cl *arguments` in a folder."""
        number = self._commands
        self._commands += 1
        request = {
            "number": number,
            "arguments": list(arguments),
            "folder": str(folder),
            "environment": dict(environment),
            "output": [str(self._folder / f"{number}.{each}") for each in ("out", "err")],
        }
        self._connection.setblocking(True)
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        while number not in self._started:
            self.listen(1.0)
        return ForkedCommand(self, number, self._started[number], self._folder)

    def run(
        self, arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run `vla-cl *arguments` in a folder to its end; its exit status and output."""
        process = self.start(arguments, folder, environment)
        output, errors = process.communicate(timeout)
        return subprocess.CompletedProcess(arguments, process.wait(), output, errors)

    def status(self, number: int) -> int | None:
        """The exit status of a command that has ended."""
        self.listen(0.0)
        return self._ended.get(number)

    def listen(self, seconds: float) -> None:
        """Take what the server says within some seconds."""
        self._connection.settimeout(seconds or 1e-6)
        try:
            said = self._connection.recv(65536)
        except (TimeoutError, BlockingIOError):
            return
        if not said:
            raise RuntimeError("the fork server has ended; see its output")
        *whole, self._lines = (self._lines + said).split(b"\n")
        for line in whole:
            reply = json.loads(line)
            if "process" in reply:
                self._started[reply["number"]] = reply["process"]
            else:
                self._ended[reply["number"]] = reply["status"]

    def close(self) -> None:
        """End the server."""
        self._connection.close()
        self._process.wait(30)


def serve(connection: socket.socket) -> None:
    """In the server: fork for each request, tell how commands end, until the connection closes. In a fork, return."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        numbers: dict[int, tuple[int, int]] = {}  # by the descriptor that tells a process's end
        lines = b""
        while True:
            for key, _ in selector.select():
                if key.fd in numbers:
                    number, process = numbers.pop(key.fd)
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _, status = os.waitpid(process, 0)
                    _tell(connection, number=number, status=os.waitstatus_to_exitcode(status))
                    continue
                said = connection.recv(65536)
                if not said:
                    sys.exit(0)
                *whole, lines = (lines + said).split(b"\n")
                for line in whole:
                    request = json.loads(line)
                    process = os.fork()
                    if process == 0:
                        selector.close()
                        for descriptor in (*numbers, connection.detach()):
                            os.close(descriptor)
                        _become(request)
                        return
                    descriptor = os.pidfd_open(process)
                    numbers[descriptor] = request["number"], process
                    selector.register(descriptor, selectors.EVENT_READ)
                    _tell(connection, number=request["number"], process=process)


def _tell(connection: socket.socket, **what: Any) -> None:
    connection.sendall(json.dumps(what).encode() + b"\n")


def _become(request: Mapping[str, Any]) -> None:
    """Make a fork look to the command like a process that a shell has started."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, path in zip((1, 2), request["output"], strict=True):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    logging.getLogger().handlers.clear()
    sys.argv[:] = ["vla-cl", *request["arguments"]]
    # Processes that it spawns import its main module again: that is to be the command line, not this server.
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("vla_cl.cli.main")


def main() -> int:
    """Serve; in a fork, run the command."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the tests to handle
    for module in IMPORTED:
        importlib.import_module(module)
    serve(connection)
    command_line = importlib.import_module("vla_cl.cli.main")
    status: int = command_line.main()
    return status


if __name__ == "__main__":
    sys.exit(main())
