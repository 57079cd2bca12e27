"""Continual-learning strategies: one file each, seven verbs, no training loop."""

from __future__ import annotations

from vla_cl.strategies.averaging import ClientUpdate, trained_bytes
from vla_cl.strategies.base import STRATEGIES, Needs, Strategy, trained_parameters
from vla_cl.strategies.composition import build_strategy, combined_needs, strategy_names

__all__ = [
    "STRATEGIES",
    "ClientUpdate",
    "Needs",
    "Strategy",
    "build_strategy",
    "combined_needs",
    "trained_bytes",
    "strategy_names",
    "trained_parameters",
]
