"""The setting of federated continual learning: who learns which task when, from which demonstrations.

Clients with streams of tasks of their own train side by side, and a server joins what they learned: FCIT, for robots
(Guo et al., "Federated Continual Instruction Tuning", ICCV 2025, arXiv 2503.12897).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vla_cl.data import WindowDataset, split_indices
from vla_cl.errors import ConfigurationError
from vla_cl.seeding import derive_seed, numpy_generator


@dataclass
class FederationOptions:
    """The configuration group `federation`.

    Args:
        clients: How many learn side by side; 0 is one learner and no server.
        rounds: How often in a stage the clients hear from each other: after every `training.steps / rounds` steps the
            server joins what they learned, and they go on from that.
        deal: "turns": the tasks of the sequence go to the clients in turn, and a stage is one task of each client
            (FCIT's heterogeneous setting). "same": a stage is one task, of which each client has a share of the
            demonstrations (FCIT's homogeneous setting).
        concentration: How equal those shares are, drawn from a symmetric Dirichlet distribution of this parameter;
            FCIT's beta, .5 to 5. null makes them equal. Each client has one episode at least.
        backend: "process": the clients take turns in this process. "ray": each is an actor of Ray, with a process of
            its own, here or on a cluster that shares the file system. Numbers do not depend on it.

    Raises:
        ConfigurationError: A value cannot be used.
    """

    clients: int = 0
    rounds: int = 1
    deal: str = "turns"
    concentration: float | None = None
    backend: str = "process"

    def __post_init__(self) -> None:
        if self.clients < 0:
            raise ConfigurationError(f"federation.clients must be at least 0, got {self.clients}")
        if self.rounds < 1:
            raise ConfigurationError(f"federation.rounds must be at least 1, got {self.rounds}")
        if self.deal not in ("turns", "same"):
            raise ConfigurationError(f"federation.deal must be turns or same, got {self.deal!r}")
        if self.concentration is not None and not self.concentration > 0:
            raise ConfigurationError(f"federation.concentration must be above 0, got {self.concentration}")
        if self.backend not in ("process", "ray"):
            raise ConfigurationError(f"federation.backend must be process or ray, got {self.backend!r}")

    def stages(self, tasks: int) -> list[tuple[int, ...]]:
        """The places in a sequence of so many tasks that are learned at once, stage by stage."""
        width = max(1, self.clients) if self.deal == "turns" else 1
        return [tuple(range(first, min(first + width, tasks))) for first in range(0, tasks, width)]

    def learners(self, places: tuple[int, ...]) -> list[tuple[int, int]]:
        """Which clients learn in a stage, each with the place in the sequence of its task."""
        if self.deal == "same":
            return [(client, places[0]) for client in range(max(1, self.clients))]
        return list(enumerate(places))

    def bounds(self, round_index: int, steps: int) -> tuple[int, int]:
        """The steps of a stage's training before and after a round."""
        return steps * round_index // self.rounds, steps * (round_index + 1) // self.rounds


def dealt_windows(data: WindowDataset, client: int, options: FederationOptions, seed: int) -> WindowDataset:
    """What a client has of a task's windows: all of them, or those of its share of the episodes.

    Args:
        data: The task's windows.
        client: From 0.
        options: Of the federation.
        seed: Of the run; who has which episodes is a function of it and of the task's name.

    Raises:
        ConfigurationError: There are fewer episodes than clients.
    """
    if options.deal != "same" or options.clients < 2:
        return data
    shares = episode_shares(len(data.episodes), options.clients, options.concentration, derive_seed(seed, data.task))
    episodes = [int(data.episodes[position]) for position in shares[client]]
    return WindowDataset.from_description({**data.describe(), "episodes": episodes})


def episode_shares(episodes: int, clients: int, concentration: float | None, seed: int) -> list[list[int]]:
    """Deal all of a task's episodes to clients, at random, at least one to each.

    Of the episodes beyond the first of each client, client i has a share p_i, p ~ Dirichlet(concentration, ...). (FCIT
    draws again until every client has enough; ours ends for any concentration.)

    Returns:
        For each client, its episodes in ascending order.

    Raises:
        ConfigurationError: There are fewer episodes than clients.
    """
    if episodes < clients:
        raise ConfigurationError(
            f"federation.clients={clients} cannot share {episodes} episodes; lower it, or raise collection.episodes"
        )
    if concentration is None:
        wanted = np.full(clients, 1 / clients)
    else:
        wanted = numpy_generator("shares", seed).dirichlet(np.full(clients, concentration))
    shares = (1 + wanted * (episodes - clients)) / episodes
    dealt = split_indices(episodes, {str(client): float(share) for client, share in enumerate(shares)}, seed)
    return [dealt[str(client)] for client in range(clients)]
