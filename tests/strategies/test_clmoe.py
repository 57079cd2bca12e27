"""CL-MoE: what is merged and how much of it, and which weights two routers give together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies.routed import TRAINING, learn, observations, small_policy, speak, three_tasks
from vla_cl.errors import ConfigurationError
from vla_cl.policies.adapters import factors, mixture
from vla_cl.seeding import torch_generator
from vla_cl.strategies.clmoe import CLMoE, dual_gate, mean_weights, momentum
from vla_cl.strategies.experts import TokenRouters, token_mixture, token_widths
from vla_cl.strategies.moelora import EXPERTS
from vla_cl.strategies.routing import similarities
from vla_cl.training import fit

OPTIONS: dict[str, Any] = {"rank": 8, "experts": 4, "alpha": 16.0, "samples": 16}
SEEDS = list(range(24))


def test_shared_experts_keep_a_and_specific_ones_swap_the_roles() -> None:
    before = torch.tensor([0.4, 0.3, 0.2, 0.1])  # uses 0 and 1
    now = torch.tensor([0.1, 0.35, 0.3, 0.25])  # uses 1 and 2
    torch.testing.assert_close(momentum(before, now, 2, 0.7), torch.tensor([0.3, 0.7, 0.3, 0.7]))
    torch.testing.assert_close(momentum(before, before, 2, 0.9), torch.full((4,), 0.9))


def test_experts_are_merged_with_what_they_were_before_the_task(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLMoE(CLMoE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    (_, _), (_, _), (task, data) = tasks

    def copies() -> dict[str, Any]:
        return {
            layer: (each.down.detach().clone(), each.up.detach().clone())
            for layer, each in factors(policy, EXPERTS).items()
        }

    before = copies()
    strategy.begin_task(task, policy, data)
    fit(policy, data, strategy, TRAINING, seed=0, stage=2)
    trained = copies()
    strategy.end_task(task, policy, data)
    weights = list(strategy.task_weights.values())
    assert list(strategy.task_weights) == [tasks[1][0].name, task.name]  # the first task trained the base
    for layer, (down, up) in copies().items():
        kept = momentum(weights[0][layer], weights[1][layer], 2, 0.7)
        for expert in range(4):
            part, share = slice(2 * expert, 2 * expert + 2), float(kept[expert])
            expected = share * before[layer][0][part] + (1 - share) * trained[layer][0][part]
            torch.testing.assert_close(down[part], expected)
            expected = share * before[layer][1][:, part] + (1 - share) * trained[layer][1][:, part]
            torch.testing.assert_close(up[:, part], expected)
        assert not torch.equal(before[layer][1], trained[layer][1])
    assert not strategy.before


def test_the_first_task_of_the_experts_is_merged_with_nothing(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLMoE(CLMoE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:1])
    strategy.begin_task(*_swapped(tasks[1], policy))
    fit(policy, tasks[1][1], strategy, TRAINING, seed=0, stage=1)
    trained = {layer: each.up.detach().clone() for layer, each in factors(policy, EXPERTS).items()}
    strategy.end_task(*_swapped(tasks[1], policy))
    assert all(torch.equal(each.up, trained[layer]) for layer, each in factors(policy, EXPERTS).items())


def test_the_task_router_is_the_mean_of_the_instance_router_over_the_tasks_tokens(tmp_path: Path) -> None:
    (_, data), *_ = three_tasks(tmp_path)
    policy = small_policy()
    strategy = CLMoE(CLMoE.Options(**OPTIONS), 0)
    learn(strategy, policy, three_tasks(tmp_path)[:2])
    routers = strategy.routers
    assert routers is not None
    seen: dict[str, list[torch.Tensor]] = {}

    def keep(layer: str) -> Any:
        return lambda module, inputs: seen.setdefault(layer, []).append(inputs[0])

    windows = [1, 4, 6]
    measured = mean_weights(policy, routers, data, windows, 0)
    handles = [
        policy.get_submodule(layer).register_forward_pre_hook(keep(layer)) for layer in token_widths(policy, EXPERTS)
    ]
    with torch.no_grad(), token_mixture(policy, EXPERTS, routers):
        policy.loss(data.batch(windows), torch_generator(0, 0))
    for handle in handles:
        handle.remove()
    for layer, weights in measured.items():
        (tokens,) = seen[layer]
        torch.testing.assert_close(weights, routers(layer, tokens).flatten(0, -2).mean(dim=0))
        assert float(weights.sum()) == pytest.approx(1.0, abs=1e-5)


def test_two_routers_are_weighed_for_the_task_of_each_row() -> None:
    policy = small_policy()
    widths = {"head.layer": 6}
    routers = TokenRouters(widths, 4)
    task = {"head.layer": torch.tensor([0.7, 0.1, 0.1, 0.1])}
    gate = dual_gate(policy, routers, [task, None, task], 0.25)
    x = torch.randn(6, 5, 6)  # two draws of each of the three rows
    weights = gate("head.layer", x)
    expected = 0.25 * routers("head.layer", x) + 0.75 * task["head.layer"]
    expected[2:4] = 0.0
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(weights[[0, 1, 4, 5]].sum(dim=-1), torch.ones(4, 5))


def test_observations_go_to_their_own_task_and_those_of_the_base_to_the_base(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = CLMoE(CLMoE.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks)
    speak(policy, EXPERTS)
    observation, expected = observations(tasks)
    assert similarities(policy, observation, list(strategy.anchors.values())).argmax(dim=1).tolist() == expected
    with strategy.acting_pass(observation):
        acted = policy.act(observation, SEEDS)
    with mixture(policy, {}):
        base = policy.act(observation, SEEDS)
    torch.testing.assert_close(acted[:8], base[:8])
    assert ((acted - base)[8:].flatten(1).abs().amax(dim=1) > 1e-4).all()


@pytest.mark.parametrize("options", [{"share": 1.5}, {"momentum": -0.1}, {"top": 9}, {"samples": 0}, {"experts": 0}])
def test_unusable_options_are_named(options: dict[str, Any]) -> None:
    ((key, value),) = options.items()
    with pytest.raises(ConfigurationError, match=f"strategy.{key} .*got {value}"):
        CLMoE(CLMoE.Options(**options), 0)


def _swapped(pair: Any, policy: Any) -> tuple[Any, Any, Any]:
    task, data = pair
    return task, policy, data
