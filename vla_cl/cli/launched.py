"""Commands that `accelerate launch` or `torchrun` started several times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vla_cl.errors import ConfigurationError

if TYPE_CHECKING:
    from vla_cl.config import ExperimentConfig


@contextmanager
def launched(configs: Sequence[ExperimentConfig], jobs: int) -> Iterator[bool]:
    """Whether this process does the runs. Where a launcher started several, the others help it train, and when this
    block begins in them all is over.

    Raises:
        ConfigurationError: The runs differ in where they compute, or are to run side by side.
    """
    from vla_cl.training import follow, joined, launched_count, resolve_device

    if (launched_count() or 1) == 1:
        yield True
        return
    if jobs > 1:
        raise ConfigurationError("--jobs starts processes of its own; leave it out under a launcher")
    if len({(config.device, config.threads) for config in configs}) > 1:
        raise ConfigurationError("under a launcher all runs have the same device and threads; start them one by one")
    together = joined(resolve_device(configs[0].device).type == "cpu", configs[0].threads)
    if together.index > 0:
        follow(together)
        yield False
    else:
        yield True
        together.dismiss()
