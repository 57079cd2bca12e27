"""What clients of a federation send, and the average that a server makes of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy

if TYPE_CHECKING:
    from vla_cl.strategies.base import Strategy


@dataclass(frozen=True)
class ClientUpdate:
    """Where a client of a federation stands when it sends to the server, and, once the server has changed policy and
    strategy in place, what it goes on from.

    Args:
        policy: The client's.
        strategy: The client's, bound to it.
        windows: How many it learns from: its weight in averages.
    """

    policy: Policy
    strategy: Strategy
    windows: int


def weighted_mean(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """sum_i w_i x_i / sum_i w_i, in float32 at least. Equal tensors come back as they are, whatever the weights, so
    that nothing drifts on which all agree.

    Raises:
        ConfigurationError: The tensors' shapes differ.
    """
    first, total = tensors[0].to(torch.promote_types(tensors[0].dtype, torch.float32)), sum(weights)
    mean = first.clone()
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        if tensor.shape != first.shape:
            raise ConfigurationError(f"tensors of shapes {tuple(first.shape)} and {tuple(tensor.shape)} have no mean")
        mean += (tensor - first) * (weight / total)
    return mean


@torch.no_grad()
def federated_average(updates: Sequence[ClientUpdate]) -> None:
    """FedAvg: theta <- sum_k n_k theta_k / sum_k n_k, n_k the windows of client k (McMahan et al., "Communication-
    Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017, arXiv 1602.05629, algorithm 1).

    Each parameter, the policy's and those of the strategies' own modules, is averaged over the clients that train it,
    and every client that has it, trained or not, gets the average. Buffers of real numbers (running statistics) are
    averaged over all that have them. What nobody trains stays.

    Raises:
        ConfigurationError: Clients have given a parameter different shapes.
    """
    held = [_tensors(update) for update in updates]
    for name in dict.fromkeys(name for tensors in held for name in tensors):
        havers = [(each[name], update.windows) for each, update in zip(held, updates, strict=True) if name in each]
        learned = [(tensor, windows) for tensor, windows in havers if _is_learned(tensor)]
        if not learned:
            continue
        try:
            mean = weighted_mean([tensor for tensor, _ in learned], [windows for _, windows in learned])
        except ConfigurationError as error:
            raise ConfigurationError(f"{name} cannot be averaged over the clients: {error}") from None
        for tensor, _ in havers:
            tensor.copy_(mean)


def trained_bytes(update: ClientUpdate) -> int:
    """What one message with all that a client trains weighs; the strategy's state is not counted."""
    learned = [tensor for tensor in _tensors(update).values() if isinstance(tensor, torch.nn.Parameter)]
    return sum(each.numel() * each.element_size() for each in learned if each.requires_grad)


def _tensors(update: ClientUpdate) -> Mapping[str, Tensor]:
    """By name, parameters and persistent buffers of the policy and of the strategy's modules."""
    found = dict(_persistent(update.policy))
    for name, module in update.strategy.modules().items():
        found |= {f"strategy.{name}.{key}": tensor for key, tensor in _persistent(module)}
    return found


def _persistent(module: torch.nn.Module) -> Iterable[tuple[str, Tensor]]:
    return module.state_dict(keep_vars=True).items()


def _is_learned(tensor: Tensor) -> bool:
    if isinstance(tensor, torch.nn.Parameter):
        return tensor.requires_grad
    return tensor.is_floating_point()
