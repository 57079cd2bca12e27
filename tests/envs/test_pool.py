"""Episodes in parallel processes: the same results however many, and nothing lost or left over when one dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.envs.scenes import expert_actions, meta_world, meta_world_spec, random_actions
from vla_cl.envs import ChunkResult, EnvironmentPool, EnvironmentSpec, EpisodeStart, ObservationOptions, WorkerDiedError
from vla_cl.envs.worker import FILM_SIZE
from vla_cl.errors import ConfigurationError, SimulationError, UnknownNameError

PLUGIN = str(Path(__file__).with_name("plugin_backend.py"))


@pytest.fixture(scope="module")
def pool() -> Iterator[EnvironmentPool]:
    with EnvironmentPool(2) as pool:
        yield pool


def failing(error: str) -> EnvironmentSpec:
    arguments = {"task": "reach-v3", "error": error}
    return EnvironmentSpec("failing", arguments, observation=ObservationOptions(()), plugins=(PLUGIN,))


def play(pool: EnvironmentPool, starts: dict[int, EpisodeStart], chunk: int) -> dict[int, list[Any]]:
    """Every observation and every result of the episodes, with random actions, until the horizon."""
    record: dict[int, list[Any]] = {slot: [observation] for slot, observation in pool.start(starts).items()}
    running = set(starts)
    step = 0
    while running:
        results = pool.advance({slot: random_actions(chunk, seed=100 * slot + step) for slot in running})
        for slot, result in results.items():
            record[slot].append(vars(result))
            if result.observation is None:
                running.remove(slot)
        step += 1
    return record


def test_results_do_not_depend_on_the_number_of_processes(pool: EnvironmentPool) -> None:
    tasks = ("reach-v3", "window-close-v3", "push-v3")
    starts = {
        slot: EpisodeStart(
            meta_world_spec(tasks[slot % 3], privileged=True, cameras=("corner2",) if slot == 1 else (), horizon=30),
            seed=slot,
            record_every=5 if slot == 2 else 0,
        )
        for slot in range(5)
    }
    with EnvironmentPool(1) as single:
        alone = play(single, starts, chunk=7)
    for _ in range(2):  # the second time in environments that have been used
        np.testing.assert_equal(play(pool, starts, chunk=7), alone)


def test_it_does_what_the_environment_does_here(pool: EnvironmentPool) -> None:
    spec = meta_world_spec(privileged=True, horizon=20)
    env = meta_world(privileged=True, horizon=20)
    expected, _ = env.reset(seed=4)
    np.testing.assert_equal(pool.start({3: EpisodeStart(spec, seed=4)})[3], expected)
    actions = random_actions(8)
    rewards = [env.advance(action).reward for action in actions]
    result = pool.advance({3: actions})[3]
    assert result == ChunkResult(result.observation, False, False, False, 8, sum(rewards), "", [])
    np.testing.assert_equal(result.observation, env.observe())


def test_success_ends_an_episode(pool: EnvironmentPool) -> None:
    env = meta_world("reach-v3", horizon=300)
    env.restart(seed=0)
    actions = expert_actions(env, 100, noise=0.0)
    pool.start({0: EpisodeStart(env.specification, seed=0)})
    result = pool.advance({0: actions})[0]
    assert (result.success, result.terminated, result.truncated, result.failure) == (True, True, False, "")
    assert result.observation is None
    assert result.steps < 100
    with pytest.raises(ConfigurationError, match="slot 0 has no running episode"):
        pool.advance({0: actions})


def test_the_horizon_is_a_failure(pool: EnvironmentPool) -> None:
    pool.start({0: EpisodeStart(meta_world_spec(horizon=5), seed=0)})
    result = pool.advance({0: random_actions(8)})[0]
    assert (result.success, result.truncated, result.steps, result.failure) == (False, True, 5, "horizon")


def test_frames_are_kept_at_the_asked_rate_and_at_the_end(pool: EnvironmentPool) -> None:
    pool.start({0: EpisodeStart(meta_world_spec(horizon=20), seed=0, record_every=6)})
    actions = random_actions(20)
    frames = [pool.advance({0: part})[0].frames for part in (actions[:8], actions[8:13], actions[13:])]
    assert [len(part) for part in frames] == [2, 1, 2]  # steps 0, 6; 12; 18, 20
    env = meta_world(horizon=20)
    env.restart(seed=0)
    for count, action in enumerate(actions, start=1):
        env.advance(action)
        if count in (6, 20):
            frame = frames[0][1] if count == 6 else frames[2][1]
            np.testing.assert_array_equal(frame, env.render_camera("corner2", FILM_SIZE, FILM_SIZE))


def test_a_killed_process_loses_its_own_episodes_only(pool: EnvironmentPool) -> None:
    spec = meta_world_spec("reach-v3", horizon=30)
    starts = {slot: EpisodeStart(spec, seed=slot) for slot in range(4)}
    expected = play(pool, starts, chunk=10)

    first = pool.start(starts)
    pool.start({5: EpisodeStart(spec, seed=5)})
    victim = pool.process_ids()[1]
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerDiedError, match="SIGKILL") as caught:
        pool.advance({slot: random_actions(10, seed=100 * slot) for slot in range(4)})
    assert caught.value.slots == {1, 3, 5}
    assert set(caught.value.results) == {0, 2}
    np.testing.assert_equal(vars(caught.value.results[0]), expected[0][1])
    np.testing.assert_equal(first[1], expected[1][0])
    with pytest.raises(ConfigurationError, match="slot 5 has no running episode"):
        pool.advance({5: random_actions(1)})

    lost = {slot: starts[slot] for slot in (1, 3)}
    again = play(pool, lost, chunk=10)
    assert pool.process_ids()[1] != victim
    np.testing.assert_equal(again, {slot: expected[slot] for slot in (1, 3)})
    later = pool.advance({0: random_actions(10, seed=1), 2: random_actions(10, seed=201)})
    for slot in (0, 2):
        np.testing.assert_equal(vars(later[slot]), expected[slot][2])


def test_a_process_that_dies_while_it_works_is_noticed(pool: EnvironmentPool) -> None:
    pool.start({1: EpisodeStart(failing("exit"), seed=0)})
    with pytest.raises(WorkerDiedError, match="exit code 3") as caught:
        pool.advance({1: random_actions(5)})
    assert caught.value.slots == {1}


def test_our_own_errors_arrive_whole(pool: EnvironmentPool) -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'reach-v3'") as unknown:
        pool.start({0: EpisodeStart(meta_world_spec("reah-v3"), seed=0)})
    assert unknown.value.suggestion == "reach-v3"
    pool.start({0: EpisodeStart(failing("own"), seed=0)})
    with pytest.raises(UnknownNameError, match="gripper 'left' is not registered"):
        pool.advance({0: random_actions(5)})


def test_other_errors_are_told_in_one_line_with_the_traceback_as_a_note(pool: EnvironmentPool) -> None:
    pool.start({0: EpisodeStart(failing("foreign"), seed=0)})
    with pytest.raises(SimulationError, match="ValueError: the arm fell off") as caught:
        pool.advance({0: random_actions(5)})
    assert "plugin_backend.py" in "".join(caught.value.__notes__)
    pool.start({0: EpisodeStart(meta_world_spec(), seed=0)})
    assert pool.advance({0: random_actions(2)})[0].steps == 2


def test_environments_beyond_the_bound_are_built_again() -> None:
    from vla_cl.envs.worker import Worker

    worker = Worker(max_environments=2)
    starts = [EpisodeStart(meta_world_spec(horizon=horizon), seed=1) for horizon in (10, 11, 12)]
    first = worker.start({0: starts[0]})
    kept = worker._episodes[0].env
    worker.start({1: starts[1]})
    worker.start({2: starts[2]})
    assert len(worker._environments) == 2
    worker.advance({0: random_actions(2)})  # an episode outlives its place among the kept ones
    np.testing.assert_equal(worker.start({0: starts[0]}), first)
    assert worker._episodes[0].env is not kept
    assert len(worker._environments) == 2


def test_a_pool_can_be_closed_twice_and_used_again() -> None:
    pool = EnvironmentPool(1)
    pool.close()
    pool.start({0: EpisodeStart(meta_world_spec(), seed=0)})
    (process,) = pool.process_ids().values()
    pool.close()
    pool.close()
    assert not _is_alive(process)
    pool.start({0: EpisodeStart(meta_world_spec(), seed=0)})
    pool.close()


def test_at_least_one_process_is_needed() -> None:
    with pytest.raises(ConfigurationError, match="processes must be at least 1"):
        EnvironmentPool(0)
    assert EnvironmentPool().processes == len(os.sched_getaffinity(0))


PARENT = textwrap.dedent("""
    # without an `if __name__ == "__main__"` guard, on purpose
    import numpy as np
    from tests.envs.scenes import meta_world_spec
    from vla_cl.envs import EnvironmentPool, EpisodeStart

    with EnvironmentPool(2) as pool:
        slots = range(4)
        pool.start({slot: EpisodeStart(meta_world_spec(horizon=1_000_000), slot) for slot in slots})
        print(*pool.process_ids().values(), flush=True)
        while True:
            pool.advance({slot: np.zeros((50, 4), np.float32) for slot in slots})
""")


@pytest.mark.parametrize("how", ["ctrl_c", "kill"])
def test_no_process_outlives_its_parent(tmp_path: Path, how: str) -> None:
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert parent.stdout is not None
    workers = [int(word) for word in parent.stdout.readline().split()]
    assert len(workers) == 2
    if how == "ctrl_c":
        os.killpg(parent.pid, signal.SIGINT)  # as a terminal does: to the parent and to its children
    else:
        os.kill(parent.pid, signal.SIGKILL)
    _, complaints = parent.communicate(timeout=30)
    _wait_until(lambda: not any(map(_is_alive, workers)))
    if how == "ctrl_c":
        assert complaints.count("KeyboardInterrupt") == 1, "the workers leave Ctrl-C to the parent"
    else:
        assert complaints == ""


def test_ctrl_c_does_not_confuse_later_calls(pool: EnvironmentPool, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = {slot: EpisodeStart(meta_world_spec(horizon=1000), seed=slot) for slot in (0, 1)}
    pool.start(starts)
    from vla_cl.envs.process import WorkerProcess

    def interrupted(self: WorkerProcess) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(WorkerProcess, "receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.advance({slot: random_actions(3) for slot in (0, 1)})
    fresh = pool.start(starts)
    assert set(fresh) == {0, 1}
    assert pool.advance({0: random_actions(3)})[0].steps == 3


def _is_alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def _wait_until(condition: Callable[[], bool], seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_simulation_that_diverges_ends_alone_and_its_environment_is_built_anew() -> None:
    """Three slots share an environment; the one that diverges takes it along, and the others go on in a new one."""
    spec = EnvironmentSpec(
        "diverging",
        {"task": "reach-v3"},
        horizon=12,
        observation=ObservationOptions((), privileged=True),
        plugins=(PLUGIN,),
    )
    healthy = replace(spec, backend="meta_world", plugins=())

    def states(record: dict[int, list[Any]], slot: int) -> list[Any]:
        seen = [each["observation"] for each in record[slot][1:] if each["observation"] is not None]
        return [each["environment_state"].tolist() for each in (record[slot][0], *seen)]

    with EnvironmentPool(1) as own:
        usual = play(own, {slot: EpisodeStart(healthy, seed) for slot, seed in ((0, 4), (2, 6))}, chunk=2)
        record = play(own, {slot: EpisodeStart(spec, seed) for slot, seed in ((0, 4), (1, 5), (2, 6))}, chunk=2)
        (_, first, last) = record[1]
        assert (first["failure"], first["truncated"]) == ("", False)
        assert (last["failure"], last["truncated"], last["success"], last["steps"]) == ("unstable", True, False, 1)
        for slot in (0, 2):
            assert states(record, slot) == states(usual, slot)
            assert record[slot][1]["reward"] / record[slot][1]["steps"] == 1
            assert record[slot][-1]["reward"] / record[slot][-1]["steps"] == 2
        alone = play(own, {0: EpisodeStart(spec, 5)}, chunk=2)  # nobody waits for a new one: it is built when needed
        assert alone[0][-1]["failure"] == "unstable"
        again = play(own, {0: EpisodeStart(spec, 4)}, chunk=2)
        assert states(again, 0) == states(usual, 0)
        assert again[0][-1]["reward"] / again[0][-1]["steps"] == 3
