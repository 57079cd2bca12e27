"""The `gmm` head: a mixture of Gaussians for each action, as in BC-RNN-GMM and BC-Transformer.

Mandlekar et al., arXiv 2108.03298, section 4 and appendix; LIBERO's BC-Transformer, arXiv 2306.03310, appendix A.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean
from vla_cl.policies.networks import NETWORKS, chunk_network
from vla_cl.policies.options import check_at_least, check_choice

LOW_STD = 1e-4
"""Standard deviation with which robomimic's policies act (`low_noise_eval`)."""
SOBOL_SEED = 0
LARGEST_LOG_RATIO = 5.0


@dataclass(frozen=True)
class GMMOptions:
    """Network, mixture and acting.

    Args:
        network: "mlp" (on the pooled context, fast) or "transformer" (one slot an action, attending to context tokens).
        width: Of its hidden layers.
        layers: Residual blocks, or transformer layers.
        heads: Of the transformer's attention.
        modes: K, Gaussians of one action.
        min_std: Smallest standard deviation, in units of normalised actions.
        act_std: How it acts: "low" draws a mode and adds noise of 1e-4 (robomimic), "learned" draws from the mixture
            (LIBERO), "likeliest" takes the mean of the likeliest mode.
        divergence_samples: Of each mode, in the divergence of two mixtures.
    """

    network: str = "mlp"
    width: int = 256
    layers: int = 3
    heads: int = 4
    modes: int = 5
    min_std: float = 1e-4
    act_std: str = "low"
    divergence_samples: int = 16

    def __post_init__(self) -> None:
        kind = "head 'gmm'"
        check_choice(kind, "network", self.network, tuple(NETWORKS))
        check_choice(kind, "act_std", self.act_std, ("low", "learned", "likeliest"))
        check_at_least(kind, self, {"width": 2, "layers": 1, "heads": 1, "modes": 1, "divergence_samples": 1})
        if not 0 < self.min_std < math.inf:
            raise ConfigurationError(f"option min_std of {kind} must be positive, got {self.min_std}")


@dataclass(frozen=True)
class Mixture:
    """Mixtures of K Gaussians with diagonal covariance over A dimensions.

    Args:
        log_weights: (..., K), normalised.
        means: (..., K, A).
        stds: (..., K, A).
    """

    log_weights: Tensor
    means: Tensor
    stds: Tensor

    @staticmethod
    def unpack(packed: Tensor, modes: int) -> Mixture:
        """From (..., K * (1 + 2A)): log weights, means, standard deviations."""
        dimension = (packed.shape[-1] // modes - 1) // 2
        log_weights, means, stds = torch.split(packed, [modes, modes * dimension, modes * dimension], dim=-1)
        shape = (*packed.shape[:-1], modes, dimension)
        return Mixture(log_weights, means.reshape(shape), stds.reshape(shape))

    def pack(self) -> Tensor:
        """What `unpack` takes."""
        return torch.cat([self.log_weights, self.means.flatten(-2), self.stds.flatten(-2)], dim=-1)

    def log_prob(self, values: Tensor) -> Tensor:
        """Log-densities (...) of values (..., A)."""
        scaled = (values[..., None, :] - self.means) / self.stds
        each = -0.5 * scaled.square() - self.stds.log() - 0.5 * math.log(2 * math.pi)
        return torch.logsumexp(self.log_weights + each.sum(dim=-1), dim=-1)


@HEADS.decorator("gmm")
class GMMHead(ActionHead):
    """The conditional density of each action of the chunk; its loss is a negative log-likelihood, and may be negative.

    Means lie within (-1, 1) through a tanh, so actions should be normalised to that range ("min_max", "quantile").
    Predictions are the mixtures' parameters (B, chunk, K * (1 + 2A)), packed as in `Mixture`. Its noise is empty.
    """

    Options = GMMOptions
    normals: Tensor

    def __init__(self, options: GMMOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        self.modes, self.min_std, self.act_std = options.modes, options.min_std, options.act_std
        self.network = chunk_network(options, shape, chunk, options.modes * (1 + 2 * action_dim))
        self.network.output.reset_parameters()  # modes that start alike would stay alike
        self.register_buffer("normals", _quasi_normals(options.divergence_samples, action_dim), persistent=False)

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, 0)."""
        return torch.empty(batch_size, 0)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """The actions themselves (B, chunk, A), whose likelihood counts."""
        return actions

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """Parameters of the mixtures (B, chunk, K * (1 + 2A)), float32, from the context alone."""
        return self.mixture(context).pack()

    def mixture(self, context: Context) -> Mixture:
        """A mixture for each action (B, chunk), float32."""
        raw = Mixture.unpack(self.network(self.network.prepare(context))[:, 0].float(), self.modes)
        stds = F.softplus(raw.stds) + self.min_std
        return Mixture(raw.log_weights.log_softmax(dim=-1), raw.means.tanh(), stds)

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Negative log-likelihood (B,), averaged over actions that are not padding."""
        actions = actions.float().masked_fill(padding[:, :, None], 0.0)
        return masked_mean(-self.mixture(context).log_prob(actions), padding)

    def divergence(self, predicted: Tensor, reference: Tensor, padding: Tensor) -> Tensor:
        """KL(reference || predicted) of the mixtures (B,), averaged over actions that are not padding.

        M2Distill (Roy et al., arXiv 2410.00064) estimates it by Monte Carlo. Here each mode of the reference gives the
        same few quasi-random samples, weighed by the mode's weight, and with r = log(predicted / reference) each
        contributes exp(r) - 1 - r instead of -r: the mean is the same, as exp(r) averages to 1, but no term is
        negative, so that the estimate is least, and 0, where the two are equal, whatever the samples. Beyond r = 5 the
        exponential goes on as a straight line, so that nothing overflows.
        """
        new, old = (Mixture.unpack(each, self.modes) for each in (predicted, reference))
        # (samples, B, chunk, K, A) from every mode, seen by the whole mixtures
        samples = old.means + old.stds * self.normals[:, None, None, None]
        new, old_all = (
            Mixture(each.log_weights[..., None, :], each.means[..., None, :, :], each.stds[..., None, :, :])
            for each in (new, old)
        )
        ratio = new.log_prob(samples) - old_all.log_prob(samples)
        below = ratio.clamp(max=LARGEST_LOG_RATIO)
        terms = below.expm1() - below + math.expm1(LARGEST_LOG_RATIO) * (ratio - below)
        return masked_mean((old.log_weights.exp() * terms.mean(dim=0)).sum(dim=-1), padding)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """Actions (B, chunk, A), drawn as `act_std` says.

        The row's first normal, through the normal distribution function, is a uniform number that picks the modes of
        all its actions by their cumulative weights: neighbours whose mixtures agree take the same mode. Where in the
        first action's interval that number fell is uniform, too, and independent of the mode; it is turned back into
        the normal that the first action still needs. So each action follows its mixture exactly.
        """
        mixture = self.mixture(context)
        if self.act_std == "likeliest":
            return _of_mode(mixture.means, mixture.log_weights.argmax(dim=-1))
        normals = initial_noise.float()
        uniform = torch.special.ndtr(normals[:, 0, 0])[:, None]
        upper = mixture.log_weights.exp().cumsum(dim=-1)
        mode = (uniform[..., None] >= upper[..., :-1]).sum(dim=-1)  # (B, chunk)
        means, stds = _of_mode(mixture.means, mode), _of_mode(mixture.stds, mode)
        if self.act_std == "low":
            stds = torch.full_like(stds, LOW_STD)
        first = mode[:, :1]
        weight = mixture.log_weights[:, 0].exp().gather(-1, first)
        within = (uniform - (upper[:, 0].gather(-1, first) - weight)) / weight
        unused = torch.special.ndtri(within.clamp(1e-6, 1 - 1e-6))
        normals = torch.cat([torch.cat([unused[:, None], normals[:, :1, 1:]], dim=-1), normals[:, 1:]], dim=1)
        return means + stds * normals


def _of_mode(values: Tensor, mode: Tensor) -> Tensor:
    """(B, chunk, A) of values (B, chunk, K, A)."""
    return values.gather(-2, mode[..., None, None].expand(*mode.shape, 1, values.shape[-1])).squeeze(-2)


def _quasi_normals(count: int, dimension: int) -> Tensor:
    """Scrambled Sobol points (count, dimension) as standard normals, the same everywhere."""
    engine = torch.quasirandom.SobolEngine(dimension, scramble=True, seed=SOBOL_SEED)  # type: ignore[no-untyped-call]
    points: Tensor = engine.draw(count, dtype=torch.float64)
    normals: Tensor = torch.special.ndtri(points.clamp(1e-6, 1 - 1e-6)).float()
    return normals
