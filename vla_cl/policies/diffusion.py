"""The `diffusion` head: Diffusion Policy (Chi et al., arXiv 2303.04137), DDPM that acts by DDIM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean, repeat_last
from vla_cl.policies.diffusion_transformer import DenoisingTransformer
from vla_cl.policies.networks import ChunkMLP
from vla_cl.policies.options import check_at_least, check_choice
from vla_cl.policies.unet import ChunkUNet
from vla_cl.seeding import torch_generator


@dataclass(frozen=True)
class DiffusionOptions:
    """Network, noise schedule and sampler.

    Args:
        network: "unet" or "transformer", the paper's two, or "mlp" (on the pooled context, the fastest).
        width: Of the network's hidden layers; of the UNet's first level, which doubles at each further one.
        levels: Of the UNet.
        kernel: Of the UNet's convolutions.
        layers: Residual blocks, or transformer layers.
        heads: Of the transformer's attention.
        causal: Whether the transformer's actions see only those before them.
        train_steps: T, steps of the noise schedule.
        sample_steps: Steps of the sampler, of equal length; T at most.
        schedule: "squaredcos_cap_v2" (cosine, Nichol and Dhariwal, arXiv 2102.09672), or "linear" or "scaled_linear",
            which reach noise at about 1000 steps.
        prediction: What the network predicts: "epsilon", the noise; "sample", the actions; or "v_prediction" (Salimans
            and Ho, arXiv 2202.00512).
        sampler: "ddim" (Song et al., arXiv 2010.02502, eta = 0) or "ddpm" (Ho et al., arXiv 2006.11239).
        clip: Bound of the actions that the sampler believes in; 0 for none. 1 fits actions normalised to [-1, 1].
        noise_samples: Draws of (step, noise) for each context in a loss; the backbone runs once for all of them.
    """

    network: str = "unet"
    width: int = 64
    levels: int = 3
    kernel: int = 5
    layers: int = 3
    heads: int = 4
    causal: bool = True
    train_steps: int = 100
    sample_steps: int = 10
    schedule: str = "squaredcos_cap_v2"
    prediction: str = "epsilon"
    sampler: str = "ddim"
    clip: float = 1.0
    noise_samples: int = 4

    def __post_init__(self) -> None:
        kind = "head 'diffusion'"
        check_choice(kind, "network", self.network, ("unet", "transformer", "mlp"))
        check_choice(kind, "schedule", self.schedule, ("squaredcos_cap_v2", "linear", "scaled_linear"))
        check_choice(kind, "prediction", self.prediction, ("epsilon", "sample", "v_prediction"))
        check_choice(kind, "sampler", self.sampler, ("ddim", "ddpm"))
        least = {"width": 2, "levels": 1, "kernel": 1, "layers": 1, "heads": 1, "train_steps": 2, "noise_samples": 1}
        check_at_least(kind, self, {**least, "sample_steps": 1, "clip": 0})
        if self.sample_steps > self.train_steps:
            raise ConfigurationError(
                f"option sample_steps of {kind} must be at most train_steps={self.train_steps}, got {self.sample_steps}"
            )


@HEADS.decorator("diffusion")
class DiffusionHead(ActionHead):
    """Learns to tell the noise in noisy actions, and acts by taking it away step by step.

    x_t = sqrt(abar_t) a + sqrt(1 - abar_t) eps (DDPM, equation 4), t uniform in 0 to T - 1. With several draws for a
    context the steps are stratified: each draw still has the same distribution on average, and the loss varies less.

    Attributes:
        scheduler: Of diffusers, with the sampler's steps set.
    """

    Options = DiffusionOptions
    kept: Tensor

    def __init__(self, options: DiffusionOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.chunk, self.action_dim = chunk, action_dim
        self.train_steps, self.draws, self.prediction = options.train_steps, options.noise_samples, options.prediction
        self.network = _network(options, shape, chunk, action_dim)
        self.scheduler = _scheduler(options)
        self.stochastic = options.sampler == "ddpm"
        self.register_buffer("kept", self.scheduler.alphas_cumprod.clone(), persistent=False)

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, draws * (1 + chunk * A)): the steps of all draws, as whole numbers, then their noise."""
        uniform = torch.rand(batch_size, self.draws, generator=generator)
        quantiles = (torch.arange(self.draws) + uniform) / self.draws
        steps = (quantiles * self.train_steps).floor().clamp(max=self.train_steps - 1)  # rounding may reach 1
        noise = torch.randn(batch_size, self.draws * self.chunk * self.action_dim, generator=generator)
        return torch.cat([steps, noise], dim=1)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """What the network should predict of each draw (B, chunk, draws * A): eps, the actions a, or
        v = sqrt(abar_t) eps - sqrt(1 - abar_t) a.
        """
        steps, normal = self._unpack(noise)
        if self.prediction == "epsilon":
            return self._stack(normal)
        if self.prediction == "sample":
            return self._stack(actions[:, None].expand_as(normal))
        signal, spread = self._scales(steps)
        return self._stack(signal * normal - spread * actions[:, None])

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """The network's prediction at x_t of each draw (B, chunk, draws * A), float32."""
        steps, normal = self._unpack(noise)
        signal, spread = self._scales(steps)
        noisy = signal * actions[:, None] + spread * normal
        return self._stack(self.denoise(self.network.prepare(context), noisy, steps))

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Mean squared error (B,) over draws, dimensions and actions that are not padding (DDPM, equation 14)."""
        actions = repeat_last(actions, padding)
        errors = (self.predict(context, actions, noise) - self.target(actions, noise)).square().mean(dim=-1)
        return masked_mean(errors, padding)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """`sample_steps` steps from noise to actions.

        DDIM adds no noise. What DDPM adds to a row comes from a generator that is seeded with the row's own
        `initial_noise`, so that it is a function of the row alone.
        """
        prepared = self.network.prepare(context)
        noisy, added = initial_noise.float(), {}
        if self.stochastic:
            rows = noisy.cpu().numpy()
            added["generator"] = [torch_generator("diffusion steps", row.tobytes().hex()) for row in rows]
        for step in self.scheduler.timesteps.tolist():
            steps = torch.full((len(noisy), 1), float(step), device=noisy.device)
            predicted = self.denoise(prepared, noisy[:, None], steps)[:, 0]
            noisy = self.scheduler.step(predicted, step, noisy, **added).prev_sample
        return noisy

    def denoise(self, prepared: Any, noisy: Tensor, steps: Tensor) -> Tensor:
        """The network's prediction (B, draws, chunk, A), float32, at `noisy` of that shape and steps (B, draws)."""
        predicted: Tensor = self.network(prepared, noisy, steps / self.train_steps).float()
        return predicted

    def _scales(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t), (B, draws, 1, 1), at steps (B, draws)."""
        kept = self.kept[steps.long()][:, :, None, None]
        return kept.sqrt(), (1 - kept).sqrt()

    def _unpack(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Steps (B, draws) and noise (B, draws, chunk, A)."""
        steps, normal = noise[:, : self.draws], noise[:, self.draws :]
        return steps, normal.reshape(len(noise), self.draws, self.chunk, self.action_dim)

    @staticmethod
    def _stack(draws: Tensor) -> Tensor:
        """(B, draws, chunk, A) to (B, chunk, draws * A)."""
        return draws.transpose(1, 2).flatten(2)


def _network(
    options: DiffusionOptions, shape: ContextShape, chunk: int, action_dim: int
) -> ChunkUNet | DenoisingTransformer | ChunkMLP:
    """From contexts, noisy actions and times in two halves, `prepare` and `forward`."""
    width, layers, heads = options.width, options.layers, options.heads
    if options.network == "unet":
        return ChunkUNet(shape, action_dim, width=width, levels=options.levels, kernel=options.kernel)
    if options.network == "transformer":
        return DenoisingTransformer(
            shape, chunk, action_dim, width=width, layers=layers, heads=heads, causal=options.causal
        )
    return ChunkMLP(shape.width, chunk, action_dim, width=width, layers=layers, heads=heads, timed=True)


def _scheduler(options: DiffusionOptions) -> Any:
    """Diffusers' scheduler, as Diffusion Policy sets it: steps 0, s, 2 s, ... of s = T // sample_steps."""
    from diffusers import DDIMScheduler, DDPMScheduler  # takes seconds

    scheduler = (DDPMScheduler if options.sampler == "ddpm" else DDIMScheduler)(
        num_train_timesteps=options.train_steps,
        beta_schedule=options.schedule,
        prediction_type=options.prediction,
        clip_sample=options.clip > 0,
        clip_sample_range=options.clip,
    )
    scheduler.set_timesteps(options.sample_steps)
    return scheduler
