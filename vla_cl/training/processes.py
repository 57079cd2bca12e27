"""How the processes of a training come to be: started here, or by `accelerate launch` and `torchrun`."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from vla_cl.envs.process import WorkerGoneError, WorkerProcess
from vla_cl.errors import ConfigurationError, SimulationError
from vla_cl.registry import load_plugins
from vla_cl.training.loop import train
from vla_cl.training.options import TrainingOptions, resolve_device
from vla_cl.training.replicas import ALONE, Place, Replicas, Together
from vla_cl.training.watch import NotFiniteError

_WORKER = "vla_cl.training.processes"
_LAST_WORDS_SECONDS = 2.0
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def check_processes(options: TrainingOptions, device: str) -> None:
    """See that a training can have its processes here.

    Args:
        options: Of the training.
        device: As configured: "auto", "cpu", "cuda" or "cuda:N".

    Raises:
        ConfigurationError: A launcher started another number, there are fewer rows or GPUs, or one GPU is named.
    """
    count, launched = options.processes, launched_count()
    if launched is not None and launched != count:
        raise ConfigurationError(
            f"a launcher started {launched} processes, and training.processes={count}; "
            f"add training.processes={launched}"
        )
    if count == 1:
        return
    resolved = resolve_device(device)
    if resolved.type != "cuda":
        return
    local = int(os.environ.get("LOCAL_WORLD_SIZE", launched)) if launched is not None else count
    if local > torch.cuda.device_count():
        raise ConfigurationError(
            f"training.processes={count} takes a GPU each, and torch sees {torch.cuda.device_count()}; lower it, or "
            "use device=cpu"
        )
    if resolved.index:
        raise ConfigurationError(
            f"training.processes={count} takes the GPUs from the first on, not from device={device}; use device=cuda, "
            "and choose GPUs by CUDA_VISIBLE_DEVICES"
        )


@contextmanager
def training_processes(
    options: TrainingOptions, device: str, threads: int, plugins: Sequence[str] = ()
) -> Iterator[Replicas]:
    """The processes that train together, for as long as the block lasts; this one is the first.

    Args:
        options: Of the training; `processes` says how many.
        device: As configured.
        threads: Of torch, of each on a CPU.
        plugins: Modules or files that register what is sent.

    Raises:
        ConfigurationError: See `check_processes`.
        SimulationError: One does not start.
    """
    check_processes(options, device)
    if options.processes == 1:
        yield ALONE
    elif launched_count() is not None:
        yield joined(resolve_device(device).type == "cpu", threads)
    else:
        with _started(options.processes, resolve_device(device).type == "cpu", threads, plugins) as together:
            yield together


def launched_count() -> int | None:
    """How many processes a launcher started, this one among them; None where none did."""
    return int(os.environ["WORLD_SIZE"]) if all(name in os.environ for name in _LAUNCHED) else None


@functools.cache
def joined(cpu: bool, threads: int) -> Together:
    """This process among those that a launcher started, for as long as it lives. Waits for the others."""
    index, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Together(Place(index, count, local, int(os.environ.get("LOCAL_WORLD_SIZE", count)), cpu, threads))


def follow(together: Together) -> None:
    """Train what the first process sends, until it says that there will be no more.

    Raises:
        SimulationError: Another process is gone.
    """
    while (job := together.follow()) is not None:
        try:
            train(**job, replicas=together)
        except NotFiniteError:  # the first process knows as much, and says it
            continue


@contextmanager
def _started(count: int, cpu: bool, threads: int, plugins: Sequence[str]) -> Iterator[Together]:
    """Processes on this machine, which end with the block, or with this process, however that ends."""
    if torch.distributed.is_initialized():  # of which a process can have one
        raise ConfigurationError("this process trains together with others already; train one thing after the other")
    address = "127.0.0.1", _free_port()
    places = [Place(index, count, index, count, cpu, threads, address) for index in range(count)]
    with ExitStack() as stack:
        others = [WorkerProcess(_WORKER) for _ in places[1:]]
        for each in others:
            stack.callback(each.end, at_once=True)
        for each in others:
            each.wait_until_ready()
            each.send("prepare", tuple(plugins))
        for each in others:
            _answer(each)
        for each, place in zip(others, places[1:], strict=True):
            each.send("follow", place)
        together = Together(places[0])
        stack.callback(together.close)
        try:
            yield together
            together.dismiss()
        except SimulationError as lost:
            for each in others:
                if each.connection.poll(_LAST_WORDS_SECONDS):  # it says why it ended
                    _answer(each, lost)
            raise
        for each in others:
            _answer(each)


def _answer(process: WorkerProcess, lost: Exception | None = None) -> Any:
    """What a process answers to the last request; an error is raised, because of another one if that is given."""
    try:
        error, value = process.receive()
    except WorkerGoneError as gone:
        raise SimulationError(f"a process of the training ended ({gone}); run the same command again") from None
    if error is not None:
        raise error from lost
    return value


def _free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


def _follow_place(place: Place) -> None:
    together = Together(place)
    try:
        follow(together)
    finally:
        together.close()


def main(file_descriptor: int) -> None:
    """In a process that was started: serve until the connection closes."""
    from vla_cl.envs.process import serve

    serve(file_descriptor, {"prepare": load_plugins, "follow": _follow_place})
