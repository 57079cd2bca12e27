"""Continual-learning strategies: one file each, seven verbs, no training loop."""

from __future__ import annotations

from vla_cl.strategies.base import STRATEGIES, Needs, Strategy, build_strategy

__all__ = ["STRATEGIES", "Needs", "Strategy", "build_strategy"]
