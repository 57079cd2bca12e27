"""The published ways to evaluate: what they say, and that it reaches the simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vla_cl.data import ObservationBatch
from vla_cl.envs import EnvironmentPool, ObservationOptions, make_environment
from vla_cl.envs.libero.root import ROOT_VARIABLE
from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.evaluation import Controller, EvaluationOptions, check_task, rollout, tasks_at_stage
from vla_cl.protocols import protocol_options
from vla_cl.tasks import SeedSplit, Task, find_task, get_suite

BLIND = ObservationOptions(cameras=())
STOVE = "libero_goal/turn_on_the_stove"
PLUGIN = str(Path(__file__).parent.parent / "envs" / "plugin_backend.py")


def test_the_libero_papers_protocol() -> None:
    """Liu et al., 2023: 20 rollouts, 600 steps, all tasks so far; settling as in its code (5 steps of zeros)."""
    options = protocol_options("libero_paper")
    assert (options.episodes, options.split, options.horizon) == (20, "test", 600)
    assert options.arguments == {"settle_steps": 5, "settle_gripper": 0.0}
    sequence = get_suite("libero_goal").sequence()
    assert [len(tasks_at_stage(sequence, stage, options)) for stage in range(-1, 10)] == list(range(11))


def test_the_vla_papers_protocol() -> None:
    """Kim et al., 2024: 50 rollouts a task, a cap for each suite, 10 steps of waiting with the gripper opening."""
    options = protocol_options("vla_paper")
    assert (options.episodes, options.split) == (50, "test")
    assert options.arguments == {"settle_steps": 10, "settle_gripper": -1.0}
    for suite, cap in (("libero_spatial", 220), ("libero_object", 280), ("libero_goal", 300), ("libero_10", 520)):
        for task in get_suite(suite).tasks:
            assert options.applied_to(task.environment_spec()).horizon == cap


def test_options_change_the_recipe_of_an_environment_and_nothing_else() -> None:
    spec = find_task(STOVE).environment_spec(BLIND)
    assert EvaluationOptions().applied_to(spec) == spec
    applied = protocol_options("libero_paper").applied_to(spec)
    assert applied.arguments == {**spec.arguments, "settle_steps": 5, "settle_gripper": 0.0}
    assert replace(applied, arguments=spec.arguments, horizon=spec.horizon) == spec
    assert "settle_steps" not in spec.arguments


def test_protocols_settle_the_gripper_as_published(libero_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the benchmark's stored states the fingers are half open; zero leaves them, -1 opens them to 4 cm each."""
    monkeypatch.setenv(ROOT_VARIABLE, str(libero_root))
    fingers = {}
    for name in ("libero_paper", "vla_paper"):
        spec = protocol_options(name).applied_to(find_task(STOVE).environment_spec(BLIND))
        with make_environment(spec) as environment:
            environment.restart(seed=2_000_000)
            fingers[name] = environment.agent_pos()[6:]
            assert environment.horizon == spec.horizon
    np.testing.assert_allclose(np.abs(fingers["libero_paper"]), 0.0208, atol=0.003)
    np.testing.assert_allclose(np.abs(fingers["vla_paper"]), 0.04, atol=0.003)


class Still(Controller):
    """A controller that does nothing."""

    execute = 8

    def act(self, observation: ObservationBatch, seeds: object) -> np.ndarray:
        return np.zeros((len(observation), 8, 4), np.float32)


def test_a_horizon_of_the_evaluation_ends_episodes(pool: EnvironmentPool, window_close: Task) -> None:
    rows = rollout(
        Still(),
        window_close,
        stage=0,
        options=EvaluationOptions(episodes=2, slots=2, horizon=11),
        observation=BLIND,
        pool=pool,
        seed=0,
    )
    assert [(row.steps, row.failure) for row in rows] == [(11, "horizon")] * 2


def test_arguments_of_the_evaluation_reach_the_simulator(pool: EnvironmentPool, window_close: Task) -> None:
    task = replace(window_close, backend="failing", arguments={**window_close.arguments, "error": ""})
    options = EvaluationOptions(episodes=1, slots=1, horizon=8, arguments={"error": "own"})

    def run(chosen: EvaluationOptions) -> None:
        rollout(Still(), task, stage=0, options=chosen, observation=BLIND, pool=pool, seed=0, plugins=[PLUGIN])

    run(replace(options, arguments={}))
    with pytest.raises(VlaClError, match="gripper 'left' is not registered"):
        run(options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arguments": {"settle_step": 3}}, "the arguments of backend 'meta_world' do not fit: .*'settle_step'"),
        ({"episodes": 4}, "task 'window-close' has 3 initial states for test; lower evaluation.episodes from 4"),
        ({"instructions": "declared"}, "task 'window-close' has no files that tell it; use canonical"),
    ],
)
def test_what_a_task_cannot_do_is_known_before_anything_is_simulated(
    window_close: Task, options: dict[str, object], message: str
) -> None:
    task = replace(window_close, seeds=SeedSplit(test=range(2_000_000, 2_000_003)))
    with pytest.raises(ConfigurationError, match=message):
        check_task(task, EvaluationOptions(**{"episodes": 2, **options}))  # type: ignore[arg-type]


def test_a_protocol_asks_libero_for_no_more_than_its_stored_states() -> None:
    task = find_task(STOVE)
    check_task(task, protocol_options("vla_paper"))
    with pytest.raises(ConfigurationError, match="has 50 initial states for test"):
        check_task(task, protocol_options("vla_paper", episodes=51))


def test_continual_worlds_protocol() -> None:
    """Wolczyk et al., 2021: 10 episodes of at most 200 steps on all tasks of the sequence."""
    options = protocol_options("continual_world")
    assert (options.episodes, options.horizon) == (10, 200)
    sequence = get_suite("cw20").sequence()
    assert [len(tasks_at_stage(sequence, stage, options)) for stage in (-1, 0, 19)] == [10, 10, 10]
