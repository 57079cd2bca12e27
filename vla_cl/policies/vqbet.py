"""The `vqbet` head: which of a codebook's chunks, and how far from it: VQ-BeT (Lee et al., arXiv 2403.03181)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vla_cl.errors import ConfigurationError
from vla_cl.policies.base import HEADS, ActionHead, Context, ContextShape, masked_mean, repeat_last
from vla_cl.policies.layers import zeroed
from vla_cl.policies.networks import NETWORKS, chunk_network
from vla_cl.policies.options import check_at_least, check_choice
from vla_cl.policies.residual_vq import ChunkAutoencoder

KIND = "head 'vqbet'"


@dataclass(frozen=True)
class VQBeTOptions:
    """Network, codebook, loss and acting.

    Args:
        network: "mlp" (on the pooled context, fast) or "transformer" (one slot that attends to context tokens).
        width: Of its hidden layers.
        layers: Residual blocks, or transformer layers.
        heads: Of the transformer's attention.
        groups: G, codebooks; each refines what those before it chose.
        codes: C, of each codebook.
        dim: Of a code.
        autoencoder_width: Of the hidden layers of the codebook's encoder and decoder.
        autoencoder_steps: Gradient steps for which the codebook is learned, before the policy is.
        gamma: Of the focal loss; 0 is cross-entropy.
        primary_weight: Of the first codebook's focal loss.
        secondary_weight: Of each other codebook's.
        offset_weight: Of the offsets' mean absolute error.
        temperature: Codes are drawn when acting from softmax(logits / temperature); 0 takes the likeliest.
    """

    network: str = "mlp"
    width: int = 256
    layers: int = 3
    heads: int = 4
    groups: int = 2
    codes: int = 16
    dim: int = 64
    autoencoder_width: int = 128
    autoencoder_steps: int = 1000
    gamma: float = 2.0
    primary_weight: float = 5.0
    secondary_weight: float = 0.5
    offset_weight: float = 100.0
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_choice(KIND, "network", self.network, tuple(NETWORKS))
        least = {"width": 2, "layers": 1, "heads": 1, "groups": 1, "codes": 2, "dim": 1}
        check_at_least(KIND, self, {**least, "autoencoder_width": 1, "autoencoder_steps": 1})
        for name in ("gamma", "primary_weight", "secondary_weight", "offset_weight", "temperature"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ConfigurationError(f"option {name} of {KIND} must be at least 0, got {value}")


@HEADS.decorator("vqbet")
class VQBeTHead(ActionHead):
    """Classifies the chunk's codes, and adds to the chunk that they stand for an offset learned for each code.

    The codebook is learned in `prepare`, from the first task and synthetic chunks, and frozen; what it cannot say of
    later tasks, the offsets must. A codebook's logits depend on the codes chosen before it, the authors'
    `sequentially_select`: drawn independently, the codes of two ways to act mix into a third. The offset is trained
    at the demonstrated codes; the authors train it at drawn ones, and weigh it 10,000.

    Predictions are (B, chunk, G * C + A): log-probabilities of the codes, the same for every action, then the sum of
    the offsets; both at the codes of the actions that `predict` is given. Its noise is empty.
    """

    Options = VQBeTOptions
    adapter_targets = r"(?!autoencoder\.).*"
    code_weights: Tensor

    def __init__(self, options: VQBeTOptions, shape: ContextShape, chunk: int, action_dim: int) -> None:
        super().__init__()
        if options.groups > chunk * action_dim:
            raise ConfigurationError(
                f"{KIND} draws a code of each codebook from the chunk's noise, so its {options.groups} groups must be "
                f"at most chunk x actions = {chunk * action_dim}"
            )
        self.options = options
        self.chunk, self.action_dim = chunk, action_dim
        self.autoencoder = ChunkAutoencoder(
            chunk,
            action_dim,
            groups=options.groups,
            codes=options.codes,
            dim=options.dim,
            width=options.autoencoder_width,
        )
        self.network = chunk_network(options, shape, 1, options.width)
        self.network.output.reset_parameters()  # not the head's last layer
        self.chosen = nn.Parameter(torch.randn(options.groups - 1, options.codes, options.width))
        self.logits = nn.ModuleList(_classifier(options.width, options.codes) for _ in range(options.groups))
        self.offsets = zeroed(nn.Linear(options.width, options.groups * options.codes * chunk * action_dim))
        weights = torch.full((options.groups,), options.secondary_weight)
        weights[0] = options.primary_weight
        self.register_buffer("code_weights", weights, persistent=False)

    def prepare(self, chunks: Tensor, generator: torch.Generator) -> None:
        """Learn the codebook."""
        self.autoencoder.fit(chunks, generator, self.options.autoencoder_steps)

    def sample_noise(self, batch_size: int, generator: torch.Generator) -> Tensor:
        """(B, 0)."""
        return torch.empty(batch_size, 0)

    def target(self, actions: Tensor, noise: Tensor) -> Tensor:
        """One-hot codes, and the offsets that would be exact (B, chunk, G * C + A)."""
        codes = self._codes(actions)
        chosen = F.one_hot(codes, self.options.codes).to(actions.dtype)
        return self._pack(chosen, actions - self.autoencoder.decode(codes))

    def predict(self, context: Context, actions: Tensor, noise: Tensor) -> Tensor:
        """Log-probabilities of codes, and offsets at the codes of `actions` (B, chunk, G * C + A), float32."""
        codes, hidden = self._codes(actions), self._hidden(context)
        return self._pack(self._log_probabilities(hidden, codes), self._offset(hidden, codes))

    def loss(self, context: Context, actions: Tensor, padding: Tensor, noise: Tensor) -> Tensor:
        """Focal loss of each codebook's code (Lin et al., arXiv 1708.02002, equation 4), -(1 - p)^gamma log p, and the
        mean absolute error after the offset, over actions that are not padding; weighed and added (B,).
        """
        actions = repeat_last(actions, padding)
        codes, hidden = self._codes(actions), self._hidden(context)
        focal = focal_loss(self._log_probabilities(hidden, codes), codes, self.options.gamma) @ self.code_weights
        errors = (self.autoencoder.decode(codes) + self._offset(hidden, codes) - actions).abs().mean(dim=-1)
        seen = (~padding).any(dim=1).to(focal.dtype)
        return focal * seen + self.options.offset_weight * masked_mean(errors, padding)

    def divergence(self, predicted: Tensor, reference: Tensor, padding: Tensor) -> Tensor:
        """KL(reference || predicted) of each codebook's code, and mean squared difference of the offsets, weighed as in
        the loss (B,).
        """
        codes = self.options.groups * self.options.codes
        new, old = (
            each[..., :codes].reshape(*each.shape[:-1], self.options.groups, -1) for each in (predicted, reference)
        )
        divergences = (old.exp() * (old - new)).sum(dim=-1) @ self.code_weights
        offsets = (predicted[..., codes:] - reference[..., codes:]).square().mean(dim=-1)
        return masked_mean(divergences + self.options.offset_weight * offsets, padding)

    def sample(self, context: Context, initial_noise: Tensor) -> Tensor:
        """The chunk of the drawn codes and its offset. The code of codebook g falls where the normal distribution
        function of the row's g-th normal falls among the codes' cumulative probabilities.
        """
        self._check_fitted()
        hidden = self._hidden(context)
        uniform = torch.special.ndtr(initial_noise.float().flatten(1)[:, : self.options.groups, None])
        codes = torch.zeros(len(hidden), 0, dtype=torch.long, device=hidden.device)
        for group in range(self.options.groups):
            logits = self._logits(hidden, codes)
            if self.options.temperature == 0:
                code = logits.argmax(dim=-1)
            else:
                upper = (logits / self.options.temperature).softmax(dim=-1).cumsum(dim=-1)
                code = (uniform[:, group] >= upper[:, :-1]).sum(dim=-1)
            codes = torch.cat([codes, code[:, None]], dim=1)
        return self.autoencoder.decode(codes) + self._offset(hidden, codes)

    def _hidden(self, context: Context) -> Tensor:
        """What is made of a context (B, width)."""
        hidden: Tensor = self.network(self.network.prepare(context))[:, 0, 0]
        return hidden

    def _logits(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Of the next codebook (B, C), float32, given the codes (B, g) of those before it."""
        count = codes.shape[1]
        before = self.chosen[torch.arange(count, device=codes.device), codes].sum(dim=1)
        logits: Tensor = self.logits[count](hidden + before).float()
        return logits

    def _log_probabilities(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """Of each codebook's codes (B, G, C), given those of `codes` (B, G) before it."""
        each = [self._logits(hidden, codes[:, :group]) for group in range(self.options.groups)]
        return torch.stack(each, dim=1).log_softmax(dim=-1)

    def _offset(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """The sum (B, chunk, A), float32, of what each codebook adds at codes (B, G)."""
        every = self.offsets(hidden).float().view(*codes.shape, self.options.codes, self.chunk, self.action_dim)
        index = codes[:, :, None, None, None].expand(-1, -1, 1, self.chunk, self.action_dim)
        offset: Tensor = every.gather(2, index).squeeze(2).sum(dim=1)
        return offset

    def _codes(self, actions: Tensor) -> Tensor:
        """Codes (B, G) of actions (B, chunk, A)."""
        self._check_fitted()
        return self.autoencoder.encode(actions)

    def _pack(self, codes: Tensor, offsets: Tensor) -> Tensor:
        """(B, G, C) and (B, chunk, A) to (B, chunk, G * C + A)."""
        return torch.cat([codes.flatten(1)[:, None].expand(-1, self.chunk, -1), offsets], dim=-1)

    def _check_fitted(self) -> None:
        if not self.autoencoder.fitted:
            raise ConfigurationError("this policy has no codebook of actions yet; call policy.prepare before training")


def focal_loss(log_probabilities: Tensor, classes: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p (...) of the probability p of classes (...), given log-probabilities (..., C)."""
    log_p = log_probabilities.gather(-1, classes[..., None]).squeeze(-1)
    return -((-log_p.expm1()).clamp(min=1e-6) ** gamma) * log_p


def _classifier(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, classes))
