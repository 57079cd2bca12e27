"""Two strategies at once: losses add up, batches pass through both, and each is what it is alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.strategies.conftest import make_policy
from vla_cl.config import compose
from vla_cl.data import Batch, ObservationBatch, WindowDataset
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.policies import Policy, PolicyOutput
from vla_cl.strategies import STRATEGIES, Needs, Strategy, build_strategy, combined_needs
from vla_cl.strategies.composition import Composition
from vla_cl.tasks import Task
from vla_cl.training import TrainingOptions, fit

OPTIONS = TrainingOptions(steps=8, batch_size=8, warmup_steps=2, log_every=8)


def learned(strategy: Strategy, tasks: list[Task], datasets: list[WindowDataset]) -> Policy:
    policy = make_policy()
    for stage, (task, data) in enumerate(zip(tasks[:2], datasets[:2], strict=True)):
        strategy.begin_task(task, policy, data)
        fit(policy, data, strategy, OPTIONS, seed=0, stage=stage)
        strategy.end_task(task, policy, data)
    return policy


def same(first: Policy, second: Policy) -> bool:
    pairs = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_part_that_does_nothing_changes_nothing(tasks: list[Task], datasets: list[WindowDataset]) -> None:
    replay = learned(build_strategy("replay", {}, 0), tasks, datasets)
    options = {"ewc": {"strength": 0.0, "samples": 2}}
    assert same(learned(build_strategy("replay+ewc", options, 0), tasks, datasets), replay)
    options = {"replay": {"fraction": 0.0}, "ewc": {"strength": 10.0, "samples": 2}}
    ewc = learned(build_strategy("ewc", options["ewc"], 0), tasks, datasets)
    assert same(learned(build_strategy("replay+ewc", options, 0), tasks, datasets), ewc)
    assert not same(replay, ewc)


def test_losses_add_up_and_needs_are_the_union(
    policy: Policy, tasks: list[Task], datasets: list[WindowDataset]
) -> None:
    class Constant(Strategy):
        def loss(self, batch: Batch, output: PolicyOutput) -> float:
            return float(self.options)

    parts = {"two": Constant(2.0, 0), "three": Constant(3.0, 0)}
    for name in parts:
        STRATEGIES.register(name, Constant)
    nothing: Any = None
    assert Composition(parts, 0).loss(datasets[0].batch([0]), nothing) == 5.0
    assert combined_needs(["replay", "ewc"]) == Needs(raw_data=True)


def test_two_that_choose_adapters_are_refused() -> None:
    class Chooser(Strategy):
        def route(self, observation: ObservationBatch) -> dict[str, float]:
            return {}

    for name in ("left", "right"):
        STRATEGIES.register(name, Chooser)
    both = Composition({"left": Chooser(None, 0), "right": Chooser(None, 0)}, 0)
    observation = ObservationBatch(("do it",), torch.zeros(1, 4), {})
    with pytest.raises(ConfigurationError, match="left and right both choose adapters"):
        both.route(observation)


def test_its_options_are_configured_by_part() -> None:
    (config,) = compose(["suite=mw5", "strategy=replay+ewc", "strategy.replay.ratio=0.25", "strategy.ewc.decay=0.5"])
    assert config.strategy["name"] == "replay+ewc"
    assert config.strategy["replay"]["ratio"] == 0.25 and config.strategy["ewc"]["decay"] == 0.5
    strategy: Any = build_strategy("replay+ewc", config.strategy_options, 0)
    assert strategy.parts["replay"].options.ratio == 0.25 and strategy.parts["ewc"].options.decay == 0.5
    one, two = compose(["suite=mw5", "strategy=replay+ewc,sequential"])
    assert (one.strategy["name"], two.strategy["name"]) == ("replay+ewc", "sequential")


def test_mistakes_name_the_part() -> None:
    with pytest.raises(UnknownNameError, match="'ewd' is not registered; did you mean 'ewc'"):
        compose(["suite=mw5", "strategy=replay+ewd"])
    with pytest.raises(ConfigurationError, match="lists one strategy twice"):
        compose(["suite=mw5", "strategy=replay+replay"])
    with pytest.raises(ConfigurationError, match=r"strategy\.replay\.ratoi.*did you mean 'strategy\.replay\.ratio'"):
        compose(["suite=mw5", "strategy=replay+ewc", "strategy.replay.ratoi=0.25"])
