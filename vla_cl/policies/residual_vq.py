"""A codebook of action chunks: an autoencoder with residual vector quantisation.

Lee et al., VQ-BeT, arXiv 2403.03181, section 3.2; residual quantisation as in SoundStream (Zeghidour et al.,
arXiv 2107.03312, section III-C); codes are moving averages (van den Oord et al., arXiv 1711.00937, appendix A.1).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BATCH = 256
LEARNING_RATE = 3e-3
COMMITMENT = 0.25
"""Weight of the squared distance from latents to their codes, beside the L1 of reconstruction; VQ-VAE's beta. VQ-BeT
says 5, which for chunks in [-1, 1] shrinks the latents until the second codebook has little left to say."""
DECAY = 0.95
"""Of the moving averages that codes are."""
RARELY = 0.1
"""A code that is used less than so often, relative to even use, is put where latents are."""


class ResidualQuantiser(nn.Module):
    """Sums of codes: each codebook quantises what those before it left over.

    Args:
        groups: G, codebooks.
        codes: C, of each.
        dim: D, of a code.

    Attributes:
        codebooks: (G, C, D).
    """

    codebooks: Tensor

    def __init__(self, groups: int, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codebooks", torch.zeros(groups, codes, dim))

    def encode(self, latents: Tensor) -> Tensor:
        """Codes (B, G) of latents (B, D): at each codebook the nearest to what is left over."""
        residual, found = latents, []
        for codebook in self.codebooks:
            code = _nearest(residual, codebook)
            residual = residual - codebook[code]
            found.append(code)
        return torch.stack(found, dim=1)

    def decode(self, codes: Tensor) -> Tensor:
        """Sums (B, D) of codes (B, G)."""
        groups = torch.arange(len(self.codebooks), device=codes.device)
        return self.codebooks[groups, codes].sum(dim=1)


class ChunkAutoencoder(nn.Module):
    """Chunks of actions as G of C codes, and back. Frozen: only `fit` changes it.

    Args:
        chunk: Actions of a chunk.
        action_dim: A.
        groups: G, codebooks.
        codes: C, of each.
        dim: Of a code.
        width: Of the hidden layers of encoder and decoder.

    Attributes:
        fitted: Whether `fit` has run, here or before the state was saved.
    """

    known: Tensor

    def __init__(self, chunk: int, action_dim: int, *, groups: int, codes: int, dim: int, width: int) -> None:
        super().__init__()
        self.chunk, self.action_dim = chunk, action_dim
        self.encoder = _mlp(chunk * action_dim, width, dim)
        self.quantiser = ResidualQuantiser(groups, codes, dim)
        self.decoder = _mlp(dim, width, chunk * action_dim)
        self.register_buffer("known", torch.tensor(False))  # `fitted`, as part of the state
        self.fitted = False
        self.register_load_state_dict_post_hook(_read_fitted)  # type: ignore[no-untyped-call]
        self.requires_grad_(False)

    def encode(self, actions: Tensor) -> Tensor:
        """Codes (B, G) of actions (B, chunk, A); the same under autocast, where rounding would change codes."""
        with torch.autocast(actions.device.type, enabled=False):
            return self.quantiser.encode(self.encoder(actions.float().flatten(1)))

    def decode(self, codes: Tensor) -> Tensor:
        """Actions (B, chunk, A), float32, of codes (B, G)."""
        with torch.autocast(codes.device.type, enabled=False):
            decoded: Tensor = self.decoder(self.quantiser.decode(codes))
        return decoded.view(-1, self.chunk, self.action_dim)

    def fit(self, chunks: Tensor, generator: torch.Generator, steps: int) -> None:
        """Learn, on the CPU, from chunks (W, chunk, A) and as many made-up ones.

        Half of each batch is synthetic (`smooth_chunks`): a codebook that knew one task's actions alone could not
        represent those of later tasks. The loss is L1 + |latent - code|^2 / 4, with gradients straight through
        the quantiser; codes are moving averages of the latents that they stand for.
        """
        chunks = chunks.float()
        reach = max(1.0, float(chunks.abs().max()))
        self.requires_grad_(True)
        optimiser = torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        averages = [_MovingCodes(codebook) for codebook in self.quantiser.codebooks]
        for step in range(steps):
            rows = torch.randint(len(chunks), (BATCH // 2,), generator=generator)
            made_up = reach * smooth_chunks(BATCH - len(rows), self.chunk, self.action_dim, generator)
            batch = torch.cat([chunks[rows], made_up])
            latents = self.encoder(batch.flatten(1))
            residual, commitment = latents, torch.zeros(())
            for each in averages:
                nearest = each.update(residual.detach(), generator, reseed=step < 0.8 * steps)
                commitment = commitment + (residual - nearest).square().mean()
                residual = residual - nearest
            quantised = latents - residual.detach()  # straight through
            loss = F.l1_loss(self.decoder(quantised), batch.flatten(1)) + COMMITMENT * commitment
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
        self.requires_grad_(False)
        self.known.fill_(True)
        self.fitted = True


def _read_fitted(autoencoder: nn.Module, keys: object) -> None:
    """Once, when a state is loaded: asking a GPU in every step would make it wait."""
    assert isinstance(autoencoder, ChunkAutoencoder)
    autoencoder.fitted = bool(autoencoder.known)


class _MovingCodes:
    """One codebook (C, D) while it is learned, changed in place."""

    def __init__(self, codebook: Tensor) -> None:
        self.codebook = codebook
        self.counts: Tensor | None = None
        self.sums = torch.zeros_like(codebook)

    @torch.no_grad()
    def update(self, latents: Tensor, generator: torch.Generator, *, reseed: bool) -> Tensor:
        """Take latents (B, D) into account, and return the codes (B, D) that stood for them before."""
        count = len(self.codebook)
        if self.counts is None:
            self.codebook.copy_(latents[torch.randint(len(latents), (count,), generator=generator)])
            self.counts = torch.full((count,), len(latents) / count)
            self.sums = self.codebook * self.counts[:, None]
        chosen = F.one_hot(_nearest(latents, self.codebook), count).to(latents.dtype)
        nearest = chosen @ self.codebook
        self.counts.lerp_(chosen.sum(dim=0), 1 - DECAY)
        self.sums.lerp_(chosen.T @ latents, 1 - DECAY)
        if reseed:
            even = len(latents) / count
            rare = (self.counts < RARELY * even)[:, None]
            fresh = latents[torch.randint(len(latents), (count,), generator=generator)]
            self.sums = torch.where(rare, fresh * even, self.sums)
            self.counts = torch.where(rare[:, 0], torch.full_like(self.counts, even), self.counts)
        self.codebook.copy_(self.sums / self.counts.clamp(min=1e-6)[:, None])
        return nearest


def smooth_chunks(count: int, chunk: int, action_dim: int, generator: torch.Generator) -> Tensor:
    """Random chunks (count, chunk, A) in [-1, 1] such as a robot might be told: in each dimension a constant, a curve
    of low frequency (four cosines), or a step; around any level, and of any scale between 0.1 and 1, chunk by chunk.
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * 2 - 1

    steps = (torch.arange(chunk) + 0.5) / chunk
    cosines = torch.cos(math.pi * torch.arange(4)[:, None] * steps)
    falling = torch.tensor([1.0, 1.0, 0.5, 0.25])[:, None]
    curves = (uniform(count, action_dim, 4) @ (cosines * falling)).transpose(1, 2) / 1.5
    levels, others = uniform(count, 1, action_dim), uniform(count, 1, action_dim)
    switch = torch.rand(count, 1, action_dim, generator=generator)
    stepped = torch.where(steps[:, None] < switch, levels, others)
    kind = torch.randint(3, (count, 1, action_dim), generator=generator)
    shapes = torch.where(kind == 0, levels, torch.where(kind == 1, levels / 2 + curves, stepped))
    scale = 0.1 ** torch.rand(count, 1, 1, generator=generator)
    return (shapes * scale).clamp(-1.0, 1.0)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU(), nn.Linear(width, outputs)
    )


def _nearest(points: Tensor, codebook: Tensor) -> Tensor:
    """Rows (B,) of the codebook (C, D) nearest to points (B, D)."""
    distances = codebook.square().sum(dim=-1) - 2 * points @ codebook.T
    return distances.argmin(dim=-1)
