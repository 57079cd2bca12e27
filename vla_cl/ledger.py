"""The ledger of a run: what each stage stored, added and took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vla_cl.files import write_json
from vla_cl.meter import Spent
from vla_cl.policies import Policy
from vla_cl.policies.adapters import adapter_names, adapter_parameters
from vla_cl.strategies import Strategy, trained_parameters


class Ledger:
    """A file with an entry a stage (-1: before the first task).

    A stage's entry is written before what marks the stage, or its evaluation, as done: so a run that is killed between
    the two does it again, and the entry is replaced. None is what could not be measured.

    Args:
        path: The file (`<run>/ledger.json`).
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def entries(self) -> list[dict[str, Any]]:
        """What each stage took so far, by ascending stage."""
        found: list[dict[str, Any]] = json.loads(self.path.read_text()) if self.path.exists() else []
        return found

    def put(self, stage: int, **values: Any) -> None:
        """Record quantities of a stage, in place of what was said of them before."""
        entries = {entry["stage"]: entry for entry in self.entries()}
        entries[stage] = {**entries.get(stage, {"stage": stage}), **values}
        write_json(self.path, [entries[key] for key in sorted(entries)])

    def add(self, stage: int, work: str, spent: Spent) -> None:
        """Record what was spent on work ("collect") that a stage comes back to, beside what was spent on it before."""
        entry = next((entry for entry in self.entries() if entry["stage"] == stage), {})
        before = Spent(entry.get(f"{work}_seconds", 0.0), entry.get(f"{work}_joules", 0.0))
        self.put(stage, **(before + spent).named(work))


def costs(policy: Policy, strategy: Strategy) -> dict[str, float]:
    """What the policy and the strategy hold, in bytes and parameters, and what the strategy costs in forward passes."""
    parameters = list(policy.parameters())
    grown = [each for name in adapter_names(policy) for each in adapter_parameters(policy, name).values()]
    grown += [each for module in strategy.modules().values() for each in module.parameters()]
    return {
        "policy_bytes": sum(each.numel() * each.element_size() for each in parameters),
        "strategy_bytes": _tensor_bytes(strategy.state_dict()) + strategy.memory_bytes,
        "trainable_parameters": sum(each.numel() for each in trained_parameters(policy, strategy).values()),
        "extra_parameters": sum(each.numel() for each in grown),
        "extra_passes": float(strategy.extra_passes),
        "acting_passes": float(strategy.acting_passes),
    }


def _tensor_bytes(tree: Any) -> int:
    if hasattr(tree, "element_size"):
        return int(tree.numel() * tree.element_size())
    if isinstance(tree, dict):
        return sum(_tensor_bytes(each) for each in tree.values())
    return 0
