"""Several strategies at once: `strategy=replay+ewc`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.policies.adapters import Route
from vla_cl.strategies.averaging import ClientUpdate
from vla_cl.strategies.base import STRATEGIES, Needs, Precision, Strategy
from vla_cl.strategies.choice import Choice
from vla_cl.tasks import Task

SEPARATOR = "+"


class Composition(Strategy):
    """Strategies that run together, each verb in the order in which they are listed; losses add up.

    At most one of them may say which adapters act. Each has its own randomness, memory and state.

    Args:
        parts: By name, in order.
        seed: Of the run.

    Raises:
        ConfigurationError: A name repeats.
    """

    def __init__(self, parts: Mapping[str, Strategy], seed: int) -> None:
        super().__init__(None, seed)
        self.parts = dict(parts)
        self.needs = combined_needs(list(self.parts))  # type: ignore[misc]
        self.whole_batches = next((part.whole_batches for part in self.parts.values() if part.whole_batches), "")  # type: ignore[misc]
        self.task_free = all(part.task_free for part in self.parts.values())  # type: ignore[misc]

    def check(self, policy: Policy) -> None:
        for part in self.parts.values():
            part.check(policy)

    def bind(self, policy: Policy) -> None:
        super().bind(policy)
        for part in self.parts.values():
            part.bind(policy)

    def begin_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        super().begin_task(task, policy, data)
        for part in self.parts.values():
            part.begin_task(task, policy, data)

    def batch(self, batch: Batch) -> Batch:
        for part in self.parts.values():
            batch = part.batch(batch)
        return batch

    def loss(self, batch: Batch, output: PolicyOutput) -> Tensor | float:
        total: Tensor | float = 0.0
        for part in self.parts.values():
            total = total + part.loss(batch, output)
        return total

    def gradients(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for part in self.parts.values():
            part.gradients(parameters)

    def after_step(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for part in self.parts.values():
            part.after_step(parameters)

    def end_task(self, task: Task, policy: Policy, data: WindowDataset) -> None:
        for part in self.parts.values():
            part.end_task(task, policy, data)

    def route(self, observation: ObservationBatch) -> Route | None:
        routes = {name: part.route(observation) for name, part in self.parts.items()}
        said = [name for name, route in routes.items() if route is not None]
        if len(said) > 1:
            raise ConfigurationError(f"strategies {' and '.join(said)} both choose adapters; run one of them")
        return routes[said[0]] if said else None

    def modules(self) -> Mapping[str, nn.Module]:
        return {f"{name}_{key}": module for name, part in self.parts.items() for key, module in part.modules().items()}

    def learning_rate(self, parameter: str) -> float:
        factor = 1.0
        for part in self.parts.values():
            factor *= part.learning_rate(parameter)
        return factor

    def begin_training(self, steps: int, precision: Precision = nullcontext) -> None:
        super().begin_training(steps, precision)
        for part in self.parts.values():
            part.begin_training(steps, precision)

    def training_pass(self, batch: Batch) -> AbstractContextManager[Any]:
        return _all([part.training_pass(batch) for part in self.parts.values()])

    def acting_pass(self, observation: ObservationBatch) -> AbstractContextManager[Any]:
        self.route(observation)  # refuses two that disagree
        return _all([part.acting_pass(observation) for part in self.parts.values()])

    def decide(self, observation: ObservationBatch, actions: Tensor) -> Tensor:
        for part in self.parts.values():
            actions = part.decide(observation, actions)
        return actions

    def choice(self, observation: ObservationBatch) -> Choice | None:
        choices = (part.choice(observation) for part in self.parts.values())
        return next((choice for choice in choices if choice is not None), None)

    def aggregate(self, updates: Sequence[ClientUpdate]) -> None:
        for name, part in self.parts.items():
            part.aggregate([replace(each, strategy=_part(each.strategy, name)) for each in updates])

    @property
    def extra_passes(self) -> float:  # type: ignore[override]
        """The sum of the parts'."""
        return sum(part.extra_passes for part in self.parts.values())

    @property
    def acting_passes(self) -> float:  # type: ignore[override]
        """The sum of the parts'."""
        return sum(part.acting_passes for part in self.parts.values())

    @property
    def memory_bytes(self) -> int:
        return sum(part.memory_bytes for part in self.parts.values())

    def state_dict(self) -> dict[str, Any]:
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {**super().state_dict(), "parts": parts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])


def _part(strategy: Strategy, name: str) -> Strategy:
    assert isinstance(strategy, Composition)
    return strategy.parts[name]


@contextmanager
def _all(contexts: Sequence[AbstractContextManager[Any]]) -> Any:
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        yield


def strategy_names(name: str) -> list[str]:
    """The strategies that a name lists: "replay+ewc" lists two.

    Raises:
        ConfigurationError: One is listed twice.
    """
    names = name.split(SEPARATOR)
    if len(set(names)) < len(names):
        raise ConfigurationError(f"strategy {name!r} lists one strategy twice")
    return names


def combined_needs(names: Sequence[str]) -> Needs:
    """What strategies need together."""
    needs = Needs()
    for name in names:
        needs = needs | STRATEGIES[name].needs
    return needs


def build_strategy(name: str, options: Mapping[str, Any], seed: int) -> Strategy:
    """Build a registered strategy from plain options (checked against its `Options`), or several.

    Args:
        name: "replay", or several joined by "+": "replay+ewc".
        options: Of the one, or, of several, by name: `{"replay": {"ratio": 0.5}, "ewc": {}}`.
        seed: Of the run.

    Raises:
        UnknownNameError: There is no such strategy.
        ConfigurationError: An option cannot be used.
    """
    names = strategy_names(name)
    if len(names) == 1:
        strategy = STRATEGIES[name]
        return strategy(strategy.Options(**options), seed)
    return Composition({each: build_strategy(each, options.get(each, {}), seed) for each in names}, seed)
