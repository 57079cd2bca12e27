"""Federated continual learning: clients that train side by side, and the server that joins what they learned."""

from __future__ import annotations

from vla_cl.federation.check import check_federation
from vla_cl.federation.server import Federation, Learner

__all__ = ["Federation", "Learner", "check_federation"]
