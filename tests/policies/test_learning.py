"""Policies learn: where something is from an image, what to do from an instruction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from vla_cl.data import Batch, ObservationBatch
from vla_cl.policies import Policy
from vla_cl.seeding import torch_generator

INSTRUCTIONS = ("reach the red square", "move away from the red square")


def squares(count: int, seed: int) -> Batch:
    """A red square on noise; the action points at it, or away from it when told so."""
    generator = torch_generator(seed)
    position = torch.randint(4, 52, (count, 2), generator=generator)
    images = torch.randint(0, 120, (count, 64, 64, 3), generator=generator, dtype=torch.uint8)
    for image, (row, column) in zip(images, position.tolist(), strict=True):
        image[row : row + 8, column : column + 8] = torch.tensor([255, 20, 20], dtype=torch.uint8)
    away = torch.arange(count) % 2
    aim = (position.float() + 4 - 32) / 32 * (1 - 2 * away[:, None])
    actions = torch.cat([aim, torch.zeros(count, 2)], dim=1)[:, None].expand(-1, 8, -1)
    observation = ObservationBatch(
        tuple(INSTRUCTIONS[each] for each in away.tolist()),
        torch.zeros(count, 4),
        {"corner2": images},
    )
    return Batch(observation, actions.contiguous(), torch.zeros(count, 8, dtype=torch.bool))


@pytest.mark.parametrize(
    ("head", "options"),
    [
        ("flow", {}),
        ("regression", {}),
        ("act", {}),
        ("diffusion", {"network": "mlp", "width": 256, "prediction": "sample"}),
    ],
)
def test_a_compact_policy_learns_where_things_are_and_what_it_is_told(
    head: str, options: dict[str, object], policy_of: Callable[..., Policy]
) -> None:
    policy = policy_of(head=head, head_options=options, cameras=["corner2"])
    steps, batch_size, rate = 120, 32, 2e-3
    optimiser = torch.optim.AdamW(policy.parameters(), lr=rate, fused=True)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 2 * (steps - step) / steps)
        loss = policy.loss(squares(batch_size, seed=step), torch_generator("noise", step)).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimiser.step()

    unseen = squares(64, seed=10_000)
    errors = (policy.act(unseen.observation, range(64)) - unseen.actions)[..., :2].abs()
    assert float(errors.mean()) < 0.15  # of a range of 2; always guessing the middle errs by 0.4
