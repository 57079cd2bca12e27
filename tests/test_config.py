"""Composition of the configuration: what overrides mean, and how mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_cl.config import compose, policy_names, preset_names, to_dict
from vla_cl.errors import ConfigurationError, UnknownNameError
from vla_cl.protocols import protocol_names, protocol_options, register_protocol
from vla_cl.registry import load_plugins


def test_groups_and_keys_compose() -> None:
    (config,) = compose(["suite=mw5", "policy=lowdim", "strategy=replay", "strategy.fraction=0.1", "training.steps=7"])
    assert config.suite == "mw5" and config.policy.name == "lowdim" and config.training.steps == 7
    expected = {"name": "replay", "fraction": 0.1, "count": None, "by": "episode", "phases": 3, "keep": "task"}
    assert config.strategy == {**expected, "capacity": 1000, "ratio": 0.5}
    assert config.strategy_options["fraction"] == 0.1


def test_the_recipe_follows_the_policy() -> None:
    lowdim, compact = compose(["suite=mw5", "policy=lowdim,compact"])
    assert lowdim.training.batch_size != compact.training.batch_size or lowdim.training.steps != compact.training.steps
    assert lowdim.observation.cameras == () and lowdim.observation.privileged
    assert compact.observation.cameras is None and not compact.observation.privileged


def test_a_renderer_is_chosen_by_its_name_alone() -> None:
    default, chosen, spelled = (
        compose(["suite=mw5", *more])[0]
        for more in ([], ["rendering=raycast", "rendering.mesh_detail=0"], ["rendering.backend=raycast"])
    )
    assert [config.rendering.backend for config in (default, chosen, spelled)] == ["auto", "raycast", "raycast"]
    assert chosen.rendering.mesh_detail == 0 and spelled.rendering.mesh_detail == default.rendering.mesh_detail > 0
    with pytest.raises(UnknownNameError, match="did you mean 'raycast'"):
        compose(["suite=mw5", "rendering=raycasting"])
    with pytest.raises(ConfigurationError, match="use one of auto, egl, osmesa, raycast"):
        compose(["suite=mw5", "rendering.backend=glfw"])


def test_sweeps_are_the_product_of_their_choices() -> None:
    configs = compose(["suite=mw5", "strategy=sequential,ewc", "seed=0,1,2"])
    assert [(config.strategy["name"], config.seed) for config in configs] == [
        (strategy, seed) for strategy in ("sequential", "ewc") for seed in range(3)
    ]
    assert len({config.folder for config in configs}) == 6


def test_another_head_takes_over_what_it_knows_of_the_presets_options() -> None:
    words = ["suite=mw5", "strategy=replay", "policy=lowdim_transformer", "policy.head=flow,regression"]
    flow, regression = (config.policy.head_options for config in compose(words))
    assert flow == {"width": 128, "layers": 2, "steps": 5} and regression == {"width": 128, "layers": 2}
    (own,) = compose([*words[:3], "policy.head=regression", "policy.head_options.steps=3"])
    assert own.policy.head_options["steps"] == 3  # which building the policy refuses


def test_overrides_win_over_a_preset() -> None:
    assert preset_names() == ["quickstart"]
    (preset,) = compose([], preset="quickstart")
    (changed,) = compose(["training.steps=3"], preset="quickstart")
    assert changed.training.steps == 3 != preset.training.steps
    assert changed.suite == preset.suite


def test_early_stopping_decides_the_folder_only_where_a_rule_is_set() -> None:
    """Runs that were made without it stay the same runs."""
    plain, idle, ruled, stricter = (
        compose(["suite=mw5", "strategy=replay", *more])[0]
        for more in (
            [],
            ["evaluation.early_stop.error=0.01"],
            ["evaluation.early_stop.threshold=0.5"],
            ["evaluation.early_stop.threshold=0.5", "evaluation.early_stop.error=0.01"],
        )
    )
    assert plain.folder == idle.folder and "early_stop" not in plain.identity()["evaluation"]
    assert len({plain.folder, ruled.folder, stricter.folder}) == 3
    assert ruled.identity()["evaluation"]["early_stop"]["threshold"] == 0.5


def test_the_folder_is_a_function_of_what_decides_the_numbers() -> None:
    first, same, other = (
        compose(["suite=mw5", *more])[0] for more in ([], ["evaluation.processes=1", "data=elsewhere"], ["seed=1"])
    )
    assert first.folder == same.folder != other.folder


def test_where_assets_are_does_not_decide_the_numbers() -> None:
    here, there = (compose(["suite=mw5", *more])[0] for more in ([], ["assets.libero=/data/libero"]))
    assert here.folder == there.folder
    assert there.assets == {"libero": "/data/libero"}


def test_a_protocol_sets_the_evaluation_and_overrides_win() -> None:
    (config,) = compose(["suite=libero_goal", "protocol=libero_paper", "evaluation.arguments.settle_steps=7"])
    assert config.evaluation.horizon == 600
    assert config.evaluation.arguments == {"settle_steps": 7, "settle_gripper": 0.0}
    (changed,) = compose(["suite=libero_goal", "evaluation.episodes=3", "protocol=libero_paper"])
    assert changed.evaluation.episodes == 3


@pytest.mark.parametrize("name", protocol_names())
def test_a_protocol_means_the_same_outside_of_an_experiment(name: str) -> None:
    (config,) = compose(["suite=libero_goal", f"protocol={name}"])
    assert protocol_options(name) == config.evaluation
    assert protocol_options(name, arguments={"a": 1}).arguments == {**config.evaluation.arguments, "a": 1}


def test_an_unknown_protocol_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'vla_paper'"):
        protocol_options("vla_papr")


def test_a_registered_protocol_is_one_like_the_built_in_ones() -> None:
    own = {"episodes": 7, "upper_triangle": True, "arguments": {"settle_steps": 3}}
    register_protocol("seven", **own)
    register_protocol("seven", **own)  # a plug-in that is loaded twice
    assert "seven" in protocol_names()
    (config,) = compose(["suite=libero_goal", "protocol=seven", "evaluation.arguments.settle_gripper=0.0"])
    assert (config.evaluation.episodes, config.evaluation.upper_triangle) == (7, True)
    assert config.evaluation.arguments == {"settle_steps": 3, "settle_gripper": 0.0}
    assert protocol_options("seven", episodes=8).episodes == 8


@pytest.mark.parametrize(
    ("name", "evaluation", "told"),
    [
        ("eight", {"episode": 8}, "episode"),
        ("eight", {"episodes": 0}, "evaluation.episodes must be at least 1"),
        ("vla_paper", {"episodes": 8}, "ships with the package"),
        ("nine", {"episodes": 10}, "already registered"),
    ],
)
def test_a_protocol_that_means_nothing_is_refused(name: str, evaluation: dict[str, int], told: str) -> None:
    register_protocol("nine", episodes=9)
    with pytest.raises(ConfigurationError, match=told):
        register_protocol(name, **evaluation)
    assert "eight" not in protocol_names()


@pytest.mark.parametrize(
    ("override", "kind", "suggestion"),
    [
        ("policy=compct", "policy", "compact"),
        ("strategy=replai", "strategy", "replay"),
        ("preset=quikstart", "preset", "quickstart"),
        ("protocol=vla_papr", "protocol", "vla_paper"),
    ],
)
def test_an_unknown_choice_names_the_nearest(override: str, kind: str, suggestion: str) -> None:
    with pytest.raises(UnknownNameError, match=f"{kind} .* did you mean '{suggestion}'"):
        compose(["suite=mw5", override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stps=3", "key 'training.stps' is unknown; did you mean 'training.steps'"),
        ("sed=3", "key 'sed' is unknown; did you mean 'seed'"),
        ("steps=3", "did you mean 'training.steps'"),
        ("strategy.fractoin=3", "key 'strategy.fractoin' is unknown; did you mean 'strategy.fraction'"),
        ("evaluation.argumens.a=3", "did you mean 'evaluation.arguments'"),
        ("training.steps=many", "training.steps: value 'many' of type 'str' could not be converted to Integer"),
        ("training.steps=0", "training.steps must be at least 1, got 0"),
        ("evaluation.episodes=0", "evaluation.episodes must be at least 1, got 0"),
        ("suite", "has no '='"),
    ],
)
def test_a_wrong_key_or_value_is_one_line(override: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        compose(["suite=mw5", "strategy=replay", override])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_no_suite_is_said() -> None:
    with pytest.raises(ConfigurationError, match="say suite=NAME"):
        compose(["policy=lowdim"])


def test_a_configuration_survives_json() -> None:
    (config,) = compose(["suite=mw5", "policy=lowdim"])
    assert to_dict(config)["training"]["betas"] == list(config.training.betas)


PLUGIN = '''
from dataclasses import dataclass
from vla_cl.strategies import STRATEGIES, Strategy


@STRATEGIES.decorator("anchored")
class Anchored(Strategy):
    """A strategy from a file."""

    @dataclass
    class Options:
        """Strength of the anchor."""

        strength: float = 2.0
'''


def test_a_strategy_from_a_file_configures_like_a_built_in_one(tmp_path: Path) -> None:
    plugin = tmp_path / "anchored.py"
    plugin.write_text(PLUGIN)
    (config,) = compose(["suite=mw5", "strategy=anchored", "strategy.strength=3", f"plugins=[{plugin}]"])
    assert config.strategy == {"name": "anchored", "strength": 3.0}
    with pytest.raises(ConfigurationError, match="strenth"):
        compose(["suite=mw5", "strategy=anchored", "strategy.strenth=3", f"plugins=[{plugin}]"])


def test_a_missing_plugin_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"plugin 'nowhere.py' is not a file"):
        load_plugins(["nowhere.py"])


def test_presets_cover_the_built_in_policies() -> None:
    assert {"compact", "lowdim"} <= set(policy_names())
