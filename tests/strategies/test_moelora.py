"""MoELoRA: the mixture is the weighed sum of its experts, token by token, and all of them go on training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.strategies.routed import learn, observations, small_policy, snapshot, speak, three_tasks
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.policies.adapters import AdapterOptions, add_adapter, factors, mixture
from vla_cl.strategies.experts import TokenRouters, token_mixture, token_widths
from vla_cl.strategies.moelora import EXPERTS, MoELoRA

OPTIONS = {"rank": 8, "experts": 4, "alpha": 16.0}
SEEDS = list(range(24))


def mixed_policy() -> tuple[Policy, TokenRouters]:
    policy = small_policy()
    add_adapter(policy, EXPERTS, AdapterOptions(8, 16.0, head=True))
    speak(policy, EXPERTS)
    routers = TokenRouters(token_widths(policy, EXPERTS), 4)
    return policy, routers


def test_weights_of_the_experts_are_a_distribution_for_every_token() -> None:
    policy, routers = mixed_policy()
    for layer, width in token_widths(policy, EXPERTS).items():
        weights = routers(layer, torch.randn(3, 5, width))
        assert weights.shape == (3, 5, 4)
        assert (weights >= 0).all()
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, 5))
        expected = torch.softmax(torch.ones(2, width) @ routers.layers[layer.replace(".", ":")].weight.T, dim=-1)
        torch.testing.assert_close(routers(layer, torch.ones(2, width)), expected)


def test_a_layer_adds_the_experts_weighed_token_by_token() -> None:
    policy, routers = mixed_policy()
    with token_mixture(policy, EXPERTS, routers), torch.no_grad():
        for layer, low_rank in factors(policy, EXPERTS).items():
            module: Any = policy.get_submodule(layer)
            x = torch.randn(3, 5, module.in_features)
            expected = module.base_layer(x)
            for row in range(3):
                for token in range(5):
                    weights = routers(layer, x[row, token])
                    for expert in range(4):
                        part = slice(2 * expert, 2 * expert + 2)
                        change = 16.0 / 8 * low_rank.up[:, part] @ low_rank.down[part]  # alpha / r B_i A_i
                        expected[row, token] += weights[expert] * change @ x[row, token]
            torch.testing.assert_close(module(x), expected, atol=1e-5, rtol=1e-4)


def test_nothing_stays_in_the_policy_after_a_pass() -> None:
    policy, routers = mixed_policy()
    with pytest.raises(KeyError), token_mixture(policy, EXPERTS, routers):
        raise KeyError
    assert policy.mixing is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules())


def test_experts_and_routers_train_in_every_task_and_the_base_only_in_the_first(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MoELoRA(MoELoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:1])
    assert not policy.adapters
    assert not strategy.modules()
    base = snapshot(policy)
    learn(strategy, policy, tasks[1:2], 1)
    second = snapshot(policy), snapshot(strategy.routers)
    learn(strategy, policy, tasks[2:], 2)
    for name, value in snapshot(policy).items():
        if "lora" in name:
            assert not torch.equal(value, second[0][name]), name
        else:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name
    changed = [not torch.equal(value, second[1][name]) for name, value in snapshot(strategy.routers).items()]
    assert all(changed)
    assert list(policy.adapters) == [EXPERTS]


def test_the_policy_acts_as_its_mixture(tmp_path: Path) -> None:
    tasks, policy = three_tasks(tmp_path), small_policy()
    strategy = MoELoRA(MoELoRA.Options(**OPTIONS), 0)
    learn(strategy, policy, tasks[:2])
    speak(policy, EXPERTS)
    observation, _ = observations(tasks)
    assert strategy.routers is not None
    with strategy.acting_pass(observation):
        acted = policy.act(observation, SEEDS)
    with token_mixture(policy, EXPERTS, strategy.routers):
        assert torch.equal(policy.act(observation, SEEDS), acted)
    assert not torch.allclose(policy.act(observation, SEEDS), acted, atol=1e-3)  # alone, it is the base
    for parameter in strategy.routers.parameters():
        torch.nn.init.zeros_(parameter)
    with strategy.acting_pass(observation):
        indifferent = policy.act(observation, SEEDS)
    with mixture(policy, {EXPERTS: 1 / 4}):  # routers that do not care make a mean of the experts
        torch.testing.assert_close(policy.act(observation, SEEDS), indifferent, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"experts": 0}, "strategy.experts must be at least 1, got 0"),
        ({"rank": 10, "experts": 4}, "strategy.rank must be a multiple of strategy.experts=4, got 10"),
        ({"first_task": "half"}, "strategy.first_task must be full or adapter, got 'half'"),
    ],
)
def test_unusable_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        MoELoRA(MoELoRA.Options(**options), 0)


def test_a_convolution_has_no_tokens() -> None:
    from tests.policies.adapted import backbone_policy

    policy = backbone_policy("compact")
    add_adapter(policy, EXPERTS, AdapterOptions(8, 16.0, targets=r".*(conv|stem|encoder|images).*"))
    with pytest.raises(ConfigurationError, match="is a convolution without tokens"):
        token_widths(policy, EXPERTS)
