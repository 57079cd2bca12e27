"""The `flow` head: pi0's conditional flow matching (arXiv 2410.24164; Lipman et al., arXiv 2210.02747)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean, repeat_last
from vla_cl.policies.expert import ActionExpert
from vla_cl.policies.expert_layer import ACTIVATIONS
from vla_cl.policies.networks import NETWORKS, chunk_network, language_layers
from vla_cl.policies.options import check_at_least, check_choice

KIND = "head 'flow'"


@dataclass(frozen=True)
class FlowOptions:
    """Network and integration; from `attention` on, of the action expert alone.

    Args:
        network: "mlp" (on the pooled context, fast), "transformer" (cross-attends to context tokens) or "expert" (reads
            a language model layer by layer, as in pi0 and SmolVLA; `ActionExpert`).
        width: Of its hidden layers; even.
        layers: Residual blocks, or transformer layers; an expert has as many as the language model.
        heads: Of the transformer's attention; an expert has as many as the language model.
        steps: Euler steps of the sampler.
        spread: About the standard deviation of normalised actions; preconditions the network.
        noise_samples: Draws of (time, noise) for each context in a loss; the backbone runs once for all of them.
        preconditioned: Whether the network is preconditioned as `FlowHead.velocity` says; else, as in pi0 and SmolVLA,
            its output is the velocity.
        attention: "joint" (pi0) or "interleaved" (SmolVLA).
        action_mask: Which actions an action sees: "bidirectional" (pi0) or "causal" (SmolVLA).
        state_token: Whether the expert takes in proprioception (pi0); False where the backbone does (SmolVLA).
        width_ratio: Its width over the language model's (.5 in pi0, .75 in SmolVLA); 0 takes `width`.
        mlp_ratio: Width inside its MLPs over its width (4 in pi0, 2.84 in SmolVLA).
        activation: Of its MLPs, "gelu_tanh" (Gemma) or "silu" (Llama).
        shortest_period: Of the embedding of the time, which runs from 0 to 1.
        longest_period: Of that embedding.
    """

    network: str = "mlp"
    width: int = 256
    layers: int = 3
    heads: int = 4
    steps: int = 10
    spread: float = 0.5
    noise_samples: int = 4
    preconditioned: bool = True
    attention: str = "joint"
    action_mask: str = "bidirectional"
    state_token: bool = True
    width_ratio: float = 0.0
    mlp_ratio: float = 4.0
    activation: str = "gelu_tanh"
    shortest_period: float = 4e-3
    longest_period: float = 4.0

    def __post_init__(self) -> None:
        check_choice(KIND, "network", self.network, (*NETWORKS, "expert"))
        check_choice(KIND, "attention", self.attention, ("joint", "interleaved"))
        check_choice(KIND, "action_mask", self.action_mask, ("bidirectional", "causal"))
        check_choice(KIND, "activation", self.activation, ACTIVATIONS)
        check_at_least(
            KIND, self, {"width": 2, "layers": 1, "heads": 1, "steps": 1, "noise_samples": 1, "width_ratio": 0}
        )
        for name in ("spread", "mlp_ratio", "shortest_period"):
            if not getattr(self, name) > 0:
                raise ConfigurationError(f"option {name} of {KIND} must be positive, got {getattr(self, name)}")
        if self.width % 2:
            raise ConfigurationError(f"option width of {KIND} must be even, got {self.width}")
        if not self.longest_period > self.shortest_period:
            periods = f"{self.shortest_period} to {self.longest_period}"
            raise ConfigurationError(f"longest_period of {KIND} must be longer than shortest_period, got {periods}")


@HEADS.decorator("flow")
class FlowHead(ActionHead):
    """Regresses the velocity that carries noise (t = 1) to actions (t = 0) along straight lines.

    x_t = t eps + (1 - t) a, and the target is dx_t/dt = eps - a. Times are 0.999 Beta(1.5, 1) + 0.001, which favours
    noisy ones. With several draws for a context, their quantiles are stratified: each draw still has the same
    distribution on average, and the loss varies less.

    Time runs as in pi0's released code and transformers' PI0, whose t is one less the paper's. Their loss counts the
    actions past an episode's end; here these do not count.
    """

    Options = FlowOptions

    def __init__(self, options: FlowOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.chunk, self.action_dim = chunk, action_dim
        self.steps, self.draws, self.spread = options.steps, options.noise_samples, options.spread
        self.preconditioned = options.preconditioned
        self.needs_layers = options.network == "expert"
        self.network: Any = _network(options, shape, chunk, action_dim)

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

        Unless `preconditioned` is off, the network is preconditioned as in EDM (Karras et al., arXiv 2206.00364,
        section 5): it adds what the context tells to the velocity that is best for actions of which only the spread s
        is known. With D = t^2 + (1 - t)^2 s^2, the variance of x_t, that velocity is x_t (t - (1 - t) s^2) / D, what is
        left of the target has variance s^2 / D, and at t = 1 it is the action alone, so that the context is learned at
        once.
        """
        if not self.preconditioned:
            plain: Tensor = self.network(prepared, noisy, times).float()
            return plain
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


def _network(options: FlowOptions, shape: ContextShape, chunk: int, action_dim: int) -> nn.Module:
    if options.network != "expert":
        network: nn.Module = chunk_network(options, shape, chunk, action_dim, timed=True)
        return network
    layers = language_layers(KIND, options.network, shape)
    return ActionExpert(
        layers,
        shape.agent_pos_dim,
        chunk,
        action_dim,
        width=int(options.width_ratio * layers.width) // 2 * 2 or options.width,
        mlp_ratio=options.mlp_ratio,
        activation=options.activation,
        attention=options.attention,
        causal=options.action_mask == "causal",
        state_token=options.state_token,
        periods=(options.shortest_period, options.longest_period),
    )
