"""Options of the training loop, and the schedule they describe."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from vla_cl.errors import ConfigurationError


@dataclass
class TrainingOptions:
    """How a policy is fitted to one task's demonstrations.

    Args:
        steps: Optimiser steps a task.
        batch_size: Windows a step, replayed ones included.
        accumulate: Parts into which a step's batch is cut, one after another, so that it fits in memory; gradients add
            up to the whole batch's. A strategy's loss is taken on each part, and averaged.
        processes: That train together, each on its share of every batch's rows: one a GPU, or as many as are wanted
            on a CPU. Results are those of one process within the rounding of sums (`vla_cl.training.replicas`).
        learning_rate: Peak of the schedule.
        schedule: After the warm-up: "cosine" decays to `final_learning_rate`, "constant" stays at the peak.
        warmup_steps: Steps of linear warm-up from 0.
        final_learning_rate: Where the cosine ends, as a share of the peak.
        weight_decay: AdamW's decoupled decay; not applied to biases, norms and other vectors.
        betas: AdamW's moments' decay rates.
        clip: Largest global gradient norm; 0 switches clipping off.
        ema: Decay of an exponential moving average of the weights, which is what is kept of a task; 0 switches it off.
        ema_power: How that decay grows at first (see `ExponentialMovingAverage`); Diffusion Policy's is 0.75, 0 takes
            TensorFlow's.
        precision: "float32" or "bfloat16" (autocast; the weights stay float32).
        compile: Whether the head's loss is compiled by `torch.compile`; needs a C++ compiler, or Triton on a GPU.
        cache_features: Whether what a frozen backbone makes of the demonstrations is computed once and kept beside
            them, instead of in every step.
        instructions: "canonical", "paraphrased" to train on the task's paraphrases too, episode by episode, or
            "declared", the instruction of the task's own files.
        checkpoint_every: Steps between checkpoints inside a task; 0 writes them only between tasks.
        log_every: Steps between rows of the training log.
    """

    steps: int = 2000
    batch_size: int = 64
    accumulate: int = 1
    processes: int = 1
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 100
    final_learning_rate: float = 0.05
    weight_decay: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    ema: float = 0.0
    ema_power: float = 0.0
    precision: str = "float32"
    compile: bool = False
    cache_features: bool = True
    instructions: str = "canonical"
    checkpoint_every: int = 500
    log_every: int = 50

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulate", "processes", "log_every"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"training.{name} must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "weight_decay", "clip", "warmup_steps", "checkpoint_every", "ema_power"):
            if getattr(self, name) < 0:
                raise ConfigurationError(f"training.{name} must be at least 0, got {getattr(self, name)}")
        if not 0.0 <= self.ema < 1.0:
            raise ConfigurationError(f"training.ema must be in [0, 1), got {self.ema}")
        if self.batch_size % self.accumulate:
            raise ConfigurationError(
                f"training.accumulate must divide training.batch_size={self.batch_size}, got {self.accumulate}"
            )
        if self.processes > self.batch_size:
            raise ConfigurationError(
                f"training.processes must be at most training.batch_size={self.batch_size}, got {self.processes}"
            )
        if self.schedule not in ("cosine", "constant"):
            raise ConfigurationError(f"training.schedule must be cosine or constant, got {self.schedule!r}")
        if self.instructions not in ("canonical", "paraphrased", "declared"):
            raise ConfigurationError(
                f"training.instructions must be canonical, paraphrased or declared, got {self.instructions!r}"
            )
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigurationError(f"training.precision must be float32 or bfloat16, got {self.precision!r}")


def learning_rate_at(step: int, options: TrainingOptions) -> float:
    """Linear warm-up, then the schedule: the learning rate of step `step` (from 0)."""
    if step < options.warmup_steps:
        return options.learning_rate * (step + 1) / options.warmup_steps
    if options.schedule == "constant":
        return options.learning_rate
    progress = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    floor = options.final_learning_rate
    return options.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def autocast_for(options: TrainingOptions, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which losses are computed."""
    if options.precision == "bfloat16":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def emulates_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 costs time instead of saving it: on CPUs without AMX or AVX-512's instructions for it, where a
    step of a small convolutional policy takes eight times as long as in float32.
    """
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return not (able.get("amx_bf16", False) or able.get("avx512_bf16", False))


def limit_threads(threads: int) -> None:
    """Let torch use this many threads in this process.

    Raises:
        ConfigurationError: It is not at least 1.
    """
    if threads < 1:
        raise ConfigurationError(f"threads must be at least 1, got {threads}")
    torch.set_num_threads(threads)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be taken on a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def resolve_device(device: str) -> torch.device:
    """The device that a name means; "auto" is the first GPU when there is one, else the CPU.

    Raises:
        ConfigurationError: The device is unknown or absent.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigurationError(f"device {device!r} is unknown; use auto, cpu, cuda or cuda:N") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(f"device {device!r} is not there: torch sees no GPU; use device=auto or device=cpu")
    return resolved
