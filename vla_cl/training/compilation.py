"""`torch.compile` of a head's loss, where the machine can compile."""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from vla_cl.policies import Context, Policy
from vla_cl.policies.policy import HeadLoss

logger = logging.getLogger(__name__)


def compiled_head_loss(policy: Policy) -> HeadLoss:
    """The head's loss, compiled at its first call; where that fails, a warning and the head's loss as it is.

    The backbone stays as it is: it reads strings, for which a compiled function would be compiled again.
    """
    from torch._dynamo.exc import TorchDynamoException
    from torch._inductor.exc import InductorError

    plain: HeadLoss = policy.head.loss
    compiled: HeadLoss = torch.compile(plain)
    works = True

    def loss(context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        nonlocal works
        if works:
            try:
                return compiled(context, actions, padding, noise)
            except (TorchDynamoException, InductorError) as error:
                works = False
                told = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
                logger.warning("cannot compile here (%s); training goes on without training.compile", told)
        return plain(context, actions, padding, noise)

    return loss
