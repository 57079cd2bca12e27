"""The one family of errors that a user of vla_cl is meant to read.

Every error names the thing, the offending value and the way out, in one line. The command line prints it
without a traceback and exits with a non-zero status; library callers can catch `VlaClError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class VlaClError(Exception):
    """A mistake of the user or of the machine, told in one line. Base of every error raised on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors cross process boundaries whole, whatever arguments their class takes."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(error_class: type[VlaClError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> VlaClError:
    error = error_class.__new__(error_class, *arguments)
    error.__dict__.update(attributes)
    return error


_FEW = 10


class UnknownNameError(VlaClError):
    """A suite, task, policy, strategy, backend, order or key that nobody registered."""

    def __init__(self, kind: str, name: str, known: Iterable[str], listing: str = "") -> None:
        known = sorted(known)
        matches = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"; did you mean {matches[0]!r}?" if matches else ""
        if listing:
            hint += f" ({listing} lists all)"
        elif not matches or len(known) <= _FEW:
            hint += f"; known: {', '.join(known) or 'none'}"
        super().__init__(f"{kind} {name!r} is not registered{hint}")
        self.kind, self.name, self.suggestion = kind, name, matches[0] if matches else None


class ConfigurationError(VlaClError):
    """A value in the configuration that cannot be used."""


class FolderInUseError(ConfigurationError):
    """Another process is working in the folder of this run; when it is done, or ends, this one can go on."""


class DataFileError(VlaClError):
    """A demonstration file that is truncated, foreign, corrupted or does not fit the experiment."""


class CheckpointError(VlaClError):
    """A checkpoint that is damaged or belongs to another policy, strategy or configuration."""


class RenderingError(VlaClError):
    """No usable way to draw images on this machine."""


class SimulationError(VlaClError):
    """The simulator, or a process that ran it, failed."""


class ServerError(VlaClError):
    """A policy server is not there, is none, refuses a query or went away; or a message breaks the protocol."""
