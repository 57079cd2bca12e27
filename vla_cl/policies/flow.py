"""The `flow` head: pi0's conditional flow matching (arXiv 2410.24164; Lipman et al., arXiv 2210.02747)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean, repeat_last
from vla_cl.policies.networks import NETWORKS
from vla_cl.policies.options import check_at_least, check_choice


@dataclass(frozen=True)
class FlowOptions:
    """Network and integration.

    Args:
        network: "mlp" (on the pooled context, fast) or "transformer" (cross-attends to context tokens).
        width: Of its hidden layers.
        layers: Residual blocks, or transformer layers.
        heads: Of the transformer's attention.
        steps: Euler steps of the sampler.
        spread: About the standard deviation of normalised actions; preconditions the network.
        noise_samples: Draws of (time, noise) for each context in a loss; the backbone runs once for all of them.
    """

    network: str = "mlp"
    width: int = 256
    layers: int = 3
    heads: int = 4
    steps: int = 10
    spread: float = 0.5
    noise_samples: int = 4

    def __post_init__(self) -> None:
        kind = "head 'flow'"
        check_choice(kind, "network", self.network, tuple(NETWORKS))
        check_at_least(kind, self, {"width": 2, "layers": 1, "heads": 1, "steps": 1, "noise_samples": 1})
        if not self.spread > 0:
            raise ConfigurationError(f"option spread of {kind} must be positive, got {self.spread}")


@HEADS.decorator("flow")
class FlowHead(ActionHead):
    """Regresses the velocity that carries noise (t = 1) to actions (t = 0) along straight lines.

    x_t = t eps + (1 - t) a, and the target is dx_t/dt = eps - a. Times are 0.999 Beta(1.5, 1) + 0.001, which favours
    noisy ones. With several draws for a context, their quantiles are stratified: each draw still has the same
    distribution on average, and the loss varies less.
    """

    Options = FlowOptions

    def __init__(self, options: FlowOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.chunk, self.action_dim = chunk, action_dim
        self.steps, self.draws, self.spread = options.steps, options.noise_samples, options.spread
        self.network = NETWORKS[options.network](
            shape.width,
            chunk,
            action_dim,
            width=options.width,
            layers=options.layers,
            heads=options.heads,
            timed=True,
        )

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, draws * (1 + chunk * A)): the times of all draws, then their noise."""
        uniform = torch.rand(batch_size, self.draws, generator=generator)
        quantiles = (torch.arange(self.draws) + uniform) / self.draws
        times = 0.999 * quantiles ** (1 / 1.5) + 0.001  # the inverse of Beta(1.5, 1)'s distribution function, t**1.5
        noise = torch.randn(batch_size, self.draws * self.chunk * self.action_dim, generator=generator)
        return torch.cat([times, noise], dim=1)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """The velocity eps - a of each draw (B, chunk, draws * A)."""
        _, normal = self._unpack(noise)
        return self._stack(normal - actions[:, None])

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """The network's velocity at x_t of each draw (B, chunk, draws * A), float32."""
        times, normal = self._unpack(noise)
        t = times[:, :, None, None]
        noisy = t * normal + (1 - t) * actions[:, None]
        return self._stack(self.velocity(self.network.prepare(context), noisy, times))

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error of the velocity (B,) over draws, dimensions and actions that are not padding."""
        actions = repeat_last(actions, padding)
        errors = (self.predict(context, actions, noise) - self.target(actions, noise)).square().mean(dim=-1)
        return masked_mean(errors, padding)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """Euler's method from t = 1 down to 0 in `steps` equal steps."""
        prepared = self.network.prepare(context)
        actions = initial_noise[:, None]
        for step in range(self.steps):
            times = torch.full((len(actions), 1), 1 - step / self.steps, device=actions.device)
            actions = actions - self.velocity(prepared, actions, times) / self.steps
        return actions[:, 0]

    def velocity(self, prepared: Any, noisy: Tensor, times: Tensor) -> Tensor:
        """The velocity (B, draws, chunk, A), float32, at `noisy` of that shape and times (B, draws).

        The network is preconditioned as in EDM (Karras et al., arXiv 2206.00364, section 5): it adds what the context
        tells to the velocity that is best for actions of which only the spread s is known. With
        D = t^2 + (1 - t)^2 s^2, the variance of x_t, that velocity is x_t (t - (1 - t) s^2) / D, what is left of the
        target has variance s^2 / D, and at t = 1 it is the action alone, so that the context is learned at once.
        """
        t, variance = times[:, :, None, None], self.spread**2
        total = t**2 + (1 - t) ** 2 * variance
        told = self.network(prepared, noisy * total.rsqrt(), times).float()
        velocity: Tensor = noisy * (t - (1 - t) * variance) / total + told * self.spread * total.rsqrt()
        return velocity

    def _unpack(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B, draws) and noise (B, draws, chunk, A)."""
        times, normal = noise[:, : self.draws], noise[:, self.draws :]
        return times, normal.reshape(len(noise), self.draws, self.chunk, self.action_dim)

    @staticmethod
    def _stack(draws: Tensor) -> Tensor:
        """(B, draws, chunk, A) to (B, chunk, draws * A)."""
        return draws.transpose(1, 2).flatten(2)
