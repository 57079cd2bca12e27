"""The only training loop. It calls the strategy's verbs at fixed places and never asks which strategy it is."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.data import Batch, WindowDataset
from vla_cl.meter import Meter
from vla_cl.policies import Policy
from vla_cl.policies.policy import HeadLoss
from vla_cl.seeding import derive_seed, torch_generator
from vla_cl.strategies import Strategy, trained_parameters
from vla_cl.training.average import ExponentialMovingAverage
from vla_cl.training.checkpoint import IntervalCheckpoints, load_optimiser_state, optimiser_state
from vla_cl.training.compilation import compiled_head_loss
from vla_cl.training.options import TrainingOptions, autocast_for, learning_rate_at
from vla_cl.training.prefetch import prefetched
from vla_cl.training.replicas import ALONE, Replicas
from vla_cl.training.stream import TaskStream
from vla_cl.training.watch import Watch, check_weights, explained


@dataclass(frozen=True)
class TrainingRow:
    """One line of the training log.

    Args:
        step: Optimiser steps done.
        loss: Imitation loss of the last batch plus the strategy's addition.
        imitation_loss: Mean imitation loss since the last row.
        gradient_norm: Global norm before clipping.
        learning_rate: Of the last step.
        seconds: Since the start of the task's training, in this process.
    """

    step: int
    loss: float
    imitation_loss: float
    gradient_norm: float
    learning_rate: float
    seconds: float

    def as_dict(self) -> dict[str, float]:
        """As JSON writes it."""
        return asdict(self)


def fit(
    policy: Policy,
    data: WindowDataset | TaskStream,
    strategy: Strategy,
    options: TrainingOptions,
    *,
    seed: int,
    stage: int,
    until: int | None = None,
    checkpoints: IntervalCheckpoints | None = None,
    meter: Meter | None = None,
    on_row: Callable[[TrainingRow], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    replicas: Replicas = ALONE,
) -> None:
    """Fit `policy` to one task's demonstrations, in place.

    Where nothing is trained, no batch is read and no step is made: the steps are only counted.

    Every draw is a function of (seed, stage, step), so training that was killed and goes on from `checkpoints` ends
    with the same weights, bit for bit on a CPU. On a GPU, kernels that sum with atomics make it inexact.

    Args:
        policy: On its device.
        data: The task's windows, or what is read of them step by step.
        strategy: Its `begin_task` has been called; `end_task` is the caller's.
        options: Steps, optimiser, schedule.
        seed: Of the run.
        stage: Index of the task in the sequence.
        until: Stop after so many of the steps, and leave a checkpoint there to go on from; None does all of them.
        checkpoints: Where interval checkpoints go and come from.
        meter: Of the stage so far; what it says is kept in checkpoints, too.
        on_row: Receives a row of the log every `options.log_every` steps.
        on_step: Receives the number of steps done.
        replicas: The processes that train together, of which this is the first.

    Raises:
        SimulationError: A loss, a gradient or a weight is not finite any more, and nothing of it was kept; or another
            of the processes is gone.
    """
    stage_seed = derive_seed(seed, "train", stage)
    stream = data if isinstance(data, TaskStream) else TaskStream(data, options.batch_size, stage_seed)
    job = {
        "policy": policy,
        "stream": stream,
        "strategy": strategy,
        "options": options,
        "seed": stage_seed,
        "until": until,
        "saved": checkpoints.latest() if checkpoints else None,
    }
    replicas.lead(job)
    with explained(stream.read, stage, checkpoints):
        train(
            **job,  # type: ignore[arg-type]
            checkpoints=checkpoints,
            meter=meter,
            on_row=on_row,
            on_step=on_step,
            replicas=replicas,
        )


def train(
    policy: Policy,
    stream: TaskStream,
    strategy: Strategy,
    options: TrainingOptions,
    *,
    seed: int,
    until: int | None,
    saved: Mapping[str, Any] | None,
    checkpoints: IntervalCheckpoints | None = None,
    meter: Meter | None = None,
    on_row: Callable[[TrainingRow], None] | None = None,
    on_step: Callable[[int], None] | None = None,
    replicas: Replicas = ALONE,
) -> None:
    """What each of the processes that train together does; arguments are those of `fit`, but for these.

    Args:
        stream: What is read step by step.
        seed: Of the stage.
        saved: The checkpoint from which it goes on; None begins at the beginning.
        checkpoints: Where interval checkpoints go; of the first process alone.

    Raises:
        NotFiniteError: A loss, a gradient or a weight is not finite any more; nothing of it was kept.
        SimulationError: Another of the processes is gone.
    """
    device = next(policy.parameters()).device
    strategy.begin_training(options.steps, partial(autocast_for, options, device))
    parameters = trained_parameters(policy, strategy)
    last = options.steps if until is None else until
    if not parameters:
        if on_step:
            for finished in range(1, last + 1):
                on_step(finished)
        policy.eval()
        return
    optimiser = _optimiser(parameters, options, strategy)
    average = ExponentialMovingAverage(parameters, options.ema, options.ema_power) if options.ema else None
    head_loss = compiled_head_loss(policy) if options.compile else None
    watch = Watch(device)
    started = time.perf_counter()
    imitation: list[Tensor] = []
    done = 0

    if saved is not None:
        done = _restore(saved, policy, optimiser, parameters, average, strategy)
        if meter and saved.get("spent"):
            meter.load_state_dict(saved["spent"])
        if on_step:
            on_step(done)

    def read(step: int) -> Batch:
        batch = stream.read(step)
        return batch.pinned() if device.type == "cuda" else batch

    policy.train()
    steps = range(done, last)
    with prefetched(read, steps) as batches:
        for step, drawn in zip(steps, batches, strict=True):
            torch.manual_seed(derive_seed(seed, "global", step))
            rate = learning_rate_at(step, options)
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]

            batch = strategy.batch(drawn).to(device, non_blocking=True)
            optimiser.zero_grad(set_to_none=True)
            generator = torch_generator(seed, "noise", step)
            own = _backward(policy, strategy, batch, options, generator, device, head_loss, replicas)
            loss, imitated = replicas.summed(parameters.values(), own)
            strategy.gradients(parameters)
            norm = nn.utils.clip_grad_norm_(parameters.values(), options.clip or math.inf)
            watch.note(step, loss, norm)
            optimiser.step()
            strategy.after_step(parameters)
            if average:
                average.update(parameters)

            imitation.append(imitated)
            finished = step + 1
            if finished % options.log_every == 0 or finished == options.steps:
                watch.check()
                replicas.align(parameters.values())
                row = TrainingRow(
                    step=finished,
                    loss=float(loss),
                    imitation_loss=float(torch.stack(imitation).mean()),
                    gradient_norm=float(norm),
                    learning_rate=rate,
                    seconds=time.perf_counter() - started,
                )
                imitation.clear()
                if on_row:
                    on_row(row)
            due = options.checkpoint_every and finished % options.checkpoint_every == 0 and finished < options.steps
            due = due or finished == until
            if finished == options.steps or (checkpoints and due):
                watch.check()
                check_weights(step, parameters)
            if checkpoints and due:
                tree = _state(finished, policy, optimiser, parameters, average, strategy)
                checkpoints.save(finished, {**tree, "spent": meter.state_dict() if meter else None})
            if on_step:
                on_step(finished)

    if average and last == options.steps:
        average.copy_to(parameters)
        strategy.after_step(parameters)
    policy.eval()


def _backward(
    policy: Policy,
    strategy: Strategy,
    batch: Batch,
    options: TrainingOptions,
    generator: torch.Generator,
    device: torch.device,
    head_loss: HeadLoss | None,
    replicas: Replicas,
) -> Tensor:
    """Add the gradients of a batch's loss, part by part, as far as it is on the rows of this process: what these rows
    contribute to that loss, and to the imitation loss in it, (2,) without gradient.
    """
    with autocast_for(options, device):
        batch, noise = policy.draw(batch, generator)
    own = replicas.rows(len(batch))
    size = max(1, math.ceil((own.stop - own.start) / options.accumulate))
    contributed = torch.zeros(2, device=device)
    for start in range(own.start, own.stop, size):
        rows = slice(start, min(start + size, own.stop))
        part = batch if size == len(batch) else batch[rows]
        share = len(part) / len(batch)
        with strategy.training_pass(part):
            with autocast_for(options, device):
                output = policy.imitate(part, noise[rows], head_loss)
                loss = (output.loss.mean() + strategy.loss(part, output)) * share
            loss.backward()  # type: ignore[no-untyped-call]
        contributed += torch.stack([loss.detach(), output.loss.detach().mean() * share])
    return contributed


def _optimiser(
    parameters: Mapping[str, nn.Parameter], options: TrainingOptions, strategy: Strategy
) -> torch.optim.AdamW:
    """Grouped by weight decay, which is for matrices alone, and by the strategy's factor on the learning rate."""
    grouped: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        decay = options.weight_decay if parameter.dim() > 1 else 0.0
        grouped.setdefault((decay, strategy.learning_rate(name)), []).append(parameter)
    groups = [
        {"params": members, "weight_decay": decay, "factor": factor} for (decay, factor), members in grouped.items()
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=tuple(options.betas), fused=True)  # type: ignore[arg-type]


def _state(
    step: int,
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    average: ExponentialMovingAverage | None,
    strategy: Strategy,
) -> dict[str, Any]:
    return {
        "step": step,
        "policy": policy.state_dict(),
        "optimiser": optimiser_state(optimiser, parameters),
        "average": average.state_dict() if average else None,
        "strategy": strategy.state_dict(),
    }


def _restore(
    saved: Mapping[str, Any],
    policy: Policy,
    optimiser: torch.optim.Optimizer,
    parameters: Mapping[str, nn.Parameter],
    average: ExponentialMovingAverage | None,
    strategy: Strategy,
) -> int:
    policy.load_state_dict(saved["policy"])
    load_optimiser_state(optimiser, parameters, saved["optimiser"])
    if average:
        average.load_state_dict(saved["average"])
    strategy.load_state_dict(saved["strategy"])
    return int(saved["step"])
