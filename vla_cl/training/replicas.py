"""Several processes that train one policy together, each with a copy of it and a share of every batch's rows.

The first process is the run: it alone collects, evaluates, reads and writes. The others wait until it trains, are sent
policy, strategy and data as they are then, do the same steps, and drop them. In a step every process reads the same
batch, mixes in the same replay and draws the same noise, computes the loss on its own rows, and adds its gradients to
everybody's; from there on all of them do the same again. So the result is that of one process at the same batch size,
within the rounding of sums.

Places, devices and sums are accelerate's. A launcher (`accelerate launch`, `torchrun`) may start the processes, on
several machines too; otherwise the first one starts the others.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vla_cl.environ import environment_variables
from vla_cl.errors import ConfigurationError, SimulationError

if TYPE_CHECKING:
    from accelerate import Accelerator

_STEP_TIMEOUT = timedelta(minutes=30)
_IDLE_TIMEOUT = timedelta(days=30)
"""How long the others wait for the first one to train again: it may collect, and evaluate, for days."""
_BUCKET = 2**25
"""Numbers of gradients that are summed at once."""


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of a training, as launchers say it.

    Args:
        index: From 0, the first.
        count: Of processes.
        local_index: On its machine, which is also the number of its GPU.
        local_count: On its machine.
        cpu: Whether they train on CPUs.
        threads: Of torch on a CPU.
        address: Host and port where the first one waits for the others; None where a launcher has said it already.
    """

    index: int
    count: int
    local_index: int
    local_count: int
    cpu: bool
    threads: int
    address: tuple[str, int] | None = None

    def environment(self) -> dict[str, str]:
        """What torch.distributed and accelerate read, in the words of `torchrun`."""
        said = {"OMP_NUM_THREADS": str(self.threads)}
        if self.address is not None:
            host, port = self.address
            said |= {
                "RANK": str(self.index),
                "WORLD_SIZE": str(self.count),
                "LOCAL_RANK": str(self.local_index),
                "LOCAL_WORLD_SIZE": str(self.local_count),
                "MASTER_ADDR": host,
                "MASTER_PORT": str(port),
                "GLOO_SOCKET_IFNAME": "lo",  # one machine talks to itself alone
                "NCCL_SOCKET_IFNAME": "lo",
            }
        return said


class Replicas:
    """One process that trains alone: the whole batch is its own.

    Attributes:
        index: Of this process among those that train together; 0 is the run.
        count: Of those processes.
    """

    index = 0
    count = 1

    def rows(self, batch: int) -> slice:
        """The rows of a batch whose loss this process computes."""
        return slice(batch * self.index // self.count, batch * (self.index + 1) // self.count)

    def lead(self, job: Mapping[str, Any]) -> None:
        """Send the other processes what they are to train with this one."""

    def summed(self, parameters: Iterable[nn.Parameter], numbers: Tensor) -> Tensor:
        """Add up the gradients of all processes, in place in each, and some numbers (n,), which are returned."""
        return numbers

    def align(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take the first process's values: kernels of a GPU may round differently from call to call."""


ALONE = Replicas()


class Together(Replicas):
    """One of several processes that train together. Building it waits for the others.

    Args:
        place: Of this process.

    Attributes:
        device: Where this process computes.
    """

    def __init__(self, place: Place) -> None:
        from accelerate import Accelerator
        from accelerate.utils import InitProcessGroupKwargs

        self.index, self.count = place.index, place.count
        with environment_variables(place.environment()):
            timeout = InitProcessGroupKwargs(timeout=_STEP_TIMEOUT)
            self._accelerator: Accelerator = Accelerator(cpu=place.cpu, kwargs_handlers=[timeout])
        self.device = torch.device("cpu") if place.cpu else self._accelerator.device
        self._waiting = torch.distributed.new_group(backend="gloo", timeout=_IDLE_TIMEOUT)
        torch.set_num_threads(place.threads)

    def lead(self, job: Mapping[str, Any]) -> None:
        self._broadcast(_packed(job))

    def follow(self) -> dict[str, Any] | None:
        """What the first process sends, once it does; None when there will be no more."""
        packed = self._broadcast(b"")
        if not packed:
            return None
        job: dict[str, Any] = torch.load(io.BytesIO(packed), map_location=self.device, weights_only=False)
        return job

    def dismiss(self) -> None:
        """Tell the others that there will be no more."""
        self._broadcast(b"")

    def summed(self, parameters: Iterable[nn.Parameter], numbers: Tensor) -> Tensor:
        trained = list(parameters)
        try:
            for bucket in _buckets(self._with_gradients(trained)):
                parts = [torch.zeros_like(each) if each.grad is None else each.grad for each in bucket]
                total = self._sum(torch.cat([part.reshape(-1) for part in parts]))
                for each, part, values in zip(bucket, parts, _split(total, bucket), strict=True):
                    each.grad = part.copy_(values)
            return self._sum(numbers)
        except RuntimeError as error:
            raise SimulationError(_lost(error)) from error

    def align(self, parameters: Iterable[nn.Parameter]) -> None:
        from accelerate.utils import broadcast

        with torch.no_grad():
            for bucket in _buckets(list(parameters)):
                values = broadcast(torch.cat([each.reshape(-1) for each in bucket]))
                for each, own in zip(bucket, _split(values, bucket), strict=True):
                    each.copy_(own)

    def close(self) -> None:
        """Leave the others, so that another group can be made in this process."""
        from accelerate.state import AcceleratorState

        self._accelerator.end_training()
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        AcceleratorState._reset_state(reset_partial_state=True)

    def _sum(self, values: Tensor) -> Tensor:
        total: Tensor = self._accelerator.reduce(values, reduction="sum")
        return total

    def _with_gradients(self, parameters: Sequence[nn.Parameter]) -> list[nn.Parameter]:
        """Those that have a gradient in any process: for an optimiser, none and 0 are not the same."""
        known = torch.tensor([each.grad is not None for each in parameters], dtype=torch.uint8)
        torch.distributed.all_reduce(known, torch.distributed.ReduceOp.MAX, group=self._waiting)  # no GPU is waited for
        return [each for each, has in zip(parameters, known.tolist(), strict=True) if has]

    def _broadcast(self, packed: bytes) -> bytes:
        holder = [packed]
        try:
            torch.distributed.broadcast_object_list(holder, src=0, group=self._waiting)
        except RuntimeError as error:
            raise SimulationError(_lost(error)) from error
        return holder[0]


def _packed(job: Mapping[str, Any]) -> bytes:
    """Everything in one, so that what belongs to policy and strategy alike does so on the other side."""
    buffer = io.BytesIO()
    try:
        torch.save(dict(job), buffer)
    except (AttributeError, TypeError, ValueError, RuntimeError) as error:
        strategy = type(job.get("strategy")).__name__
        raise ConfigurationError(
            f"{strategy} or the policy holds what cannot be sent to another process ({error}); use training.processes=1"
        ) from error
    return buffer.getvalue()


def _buckets(parameters: Sequence[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Parameters in turn, of one type each and not many numbers: the same in every process."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for each in sorted(parameters, key=lambda parameter: str(parameter.dtype)):
        if not buckets or each.numel() > room or each.dtype != buckets[-1][0].dtype:
            buckets.append([])
            room = _BUCKET
        buckets[-1].append(each)
        room -= each.numel()
    return buckets


def _split(values: Tensor, bucket: Sequence[nn.Parameter]) -> list[Tensor]:
    """Numbers in a row as the tensors of a bucket."""
    parts = torch.split(values, [each.numel() for each in bucket])
    return [part.view(each.shape) for part, each in zip(parts, bucket, strict=True)]


def _lost(error: Exception) -> str:
    told = re.sub(r"\[/\S+\] ", "", " ".join(str(error).split())).split(". ", 1)[0]  # where in gloo's sources
    return f"a process of the training is gone ({told}); run the same command again to go on"
