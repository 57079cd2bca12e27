"""The `act` head: action chunking with transformers, a conditional VAE of chunks (Zhao et al., arXiv 2304.13705)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean, repeat_last
from vla_cl.policies.layers import TransformerLayer, token, zeroed
from vla_cl.policies.options import check_at_least


@dataclass(frozen=True)
class ACTOptions:
    """Sizes and the weight of the prior. The defaults suit small backbones; the paper's are in brackets.

    Args:
        width: Of all transformers (512).
        heads: Of their attention (8).
        encoder_layers: Of the transformer over the context (4).
        decoder_layers: Of the transformer over the chunk's queries (1: the authors' program has 7 and uses the first).
        style_layers: Of the transformer that reads the demonstrated chunk (4).
        latent: Numbers of the style variable (32).
        kl_weight: beta, of the divergence from the prior (10).
    """

    width: int = 128
    heads: int = 4
    encoder_layers: int = 2
    decoder_layers: int = 1
    style_layers: int = 2
    latent: int = 32
    kl_weight: float = 10.0

    def __post_init__(self) -> None:
        kind = "head 'act'"
        counts = ("width", "heads", "encoder_layers", "decoder_layers", "style_layers", "latent")
        check_at_least(kind, self, {**dict.fromkeys(counts, 1), "kl_weight": 0})
        if self.width % self.heads:
            raise ConfigurationError(f"width {self.width} of {kind} must be a multiple of its {self.heads} heads")


@HEADS.decorator("act")
class ACTHead(ActionHead):
    """Reads off a demonstrated chunk in what style it was done, a few numbers z near N(0, 1), and learns to tell the
    chunk from the context and z; to act, z = 0. So styles, which the context does not tell, are not averaged.

    Figure 4 of the paper. The layers are this package's: pre-norm, GELU, an MLP of ratio 2, no dropout, where the paper
    has DETR's. Temporal ensembling is not the head's matter; see `PolicyConfig.temporal_ensemble`.
    """

    Options = ACTOptions

    def __init__(self, options: ACTOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.latent, self.kl_weight = options.latent, options.kl_weight
        self.style = StyleEncoder(options, shape.agent_pos_dim, chunk, action_dim)
        self.decoder = ChunkDecoder(options, shape, chunk, action_dim)

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, latent): z in standard deviations from its mean."""
        return torch.randn(batch_size, self.latent, generator=generator)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """The actions themselves (B, chunk, A)."""
        return actions

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """The chunk (B, chunk, A), float32, told from the context and from z = mean + noise * deviation of the actions'
        own style, of which none is taken for padding.
        """
        predicted, _, _ = self.reconstruct(context, actions, torch.zeros_like(actions[..., 0], dtype=torch.bool), noise)
        return predicted

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Mean absolute error over dimensions and actions that are not padding, + kl_weight KL(q(z) || N(0, 1)), (B,)
        (equation of Algorithm 1); the divergence is summed over z. 0 where all is padding.
        """
        predicted, mean, log_variance = self.reconstruct(context, repeat_last(actions, padding), padding, noise)
        errors = (predicted - actions).abs().mean(dim=-1)
        divergence = divergence_from_prior(mean, log_variance).masked_fill(padding.all(dim=1), 0.0)
        return masked_mean(errors, padding) + self.kl_weight * divergence

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """The chunk at z = 0, the prior's mean; the noise is not used."""
        chunk: Tensor = self.decoder(context, initial_noise.new_zeros(len(initial_noise), self.latent))
        return chunk.float()

    def reconstruct(
        self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The chunk (B, chunk, A), and mean and log variance (B, latent) of its style, all float32."""
        mean, log_variance = self.style(context.agent_pos, actions, padding)
        style = mean + noise * (0.5 * log_variance).exp()
        return self.decoder(context, style).float(), mean, log_variance


class StyleEncoder(nn.Module):
    """q(z | actions, proprioception): a transformer over [class, proprioception, actions], read at the class token."""

    def __init__(self, options: ACTOptions, agent_pos_dim: int, chunk: int, action_dim: int) -> None:
        super().__init__()
        width = options.width
        self.first = token(1, width)
        self.agent_pos = nn.Linear(agent_pos_dim, width)
        self.actions = nn.Linear(action_dim, width)
        self.positions = token(2 + chunk, width)
        self.layers = nn.ModuleList(TransformerLayer(width, options.heads) for _ in range(options.style_layers))
        self.norm = nn.LayerNorm(width)
        self.output = zeroed(nn.Linear(width, 2 * options.latent))  # so that the posterior starts as the prior

    def forward(self, agent_pos: Tensor, actions: Tensor, padding: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance (B, latent), float32; actions that are padding (B, chunk) are not looked at."""
        batch = len(actions)
        parts = [self.first.expand(batch, 1, -1), self.agent_pos(agent_pos)[:, None], self.actions(actions)]
        hidden = torch.cat(parts, dim=1) + self.positions
        mask = torch.cat([padding.new_ones(batch, 2), ~padding], dim=1)[:, None, None]
        for layer in self.layers:
            hidden = layer(hidden, mask=mask)
        mean, log_variance = self.output(self.norm(hidden[:, 0])).float().chunk(2, dim=-1)
        return mean, log_variance


class ChunkDecoder(nn.Module):
    """A transformer encoder over [z, proprioception, context], and a decoder whose queries, one an action, attend to
    what it says.
    """

    def __init__(self, options: ACTOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        width, heads = options.width, options.heads
        self.latent = nn.Linear(options.latent, width)
        self.agent_pos = nn.Linear(shape.agent_pos_dim, width)
        self.context = nn.Linear(shape.width, width)
        self.kinds = token(3, width)
        self.encoder = nn.ModuleList(TransformerLayer(width, heads) for _ in range(options.encoder_layers))
        self.encoder_norm = nn.LayerNorm(width)
        self.queries = token(chunk, width)
        self.decoder = nn.ModuleList(TransformerLayer(width, heads, width) for _ in range(options.decoder_layers))
        self.norm = nn.LayerNorm(width)
        self.output = zeroed(nn.Linear(width, action_dim))

    def forward(self, context: Context, style: Tensor) -> Tensor:
        """(B, chunk, A) from a context and z (B, latent)."""
        own = torch.stack([self.latent(style), self.agent_pos(context.agent_pos)], dim=1) + self.kinds[:2]
        hidden = torch.cat([own, self.context(context.tokens) + self.kinds[2]], dim=1)
        mask = None
        if context.mask is not None:
            mask = torch.cat([context.mask.new_ones(len(style), 2), context.mask], dim=1)
        for layer in self.encoder:
            hidden = layer(hidden, mask=None if mask is None else mask[:, None, None])
        told = self.encoder_norm(hidden)

        slots = self.queries.expand(len(style), -1, -1)
        for layer in self.decoder:
            slots = layer(slots, layer.cross.remember(told, mask))  # type: ignore[union-attr, operator]
        output: Tensor = self.output(self.norm(slots))
        return output


def divergence_from_prior(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(mean, exp(log_variance)) || N(0, 1)) (B,), summed over (B, latent)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).sum(dim=-1)
