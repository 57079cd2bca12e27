"""Collection with real simulators: what comes out, and what happens when it is interrupted."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from vla_cl.data import (
    CollectionOptions,
    DemonstrationFile,
    collect_demonstrations,
    demonstrations_for,
    demonstrations_path,
)
from vla_cl.data import library as library_module
from vla_cl.data.attempts import initial_state_seed
from vla_cl.envs import ObservationOptions
from vla_cl.errors import ConfigurationError, DataFileError, SimulationError, UnknownNameError, VlaClError
from vla_cl.tasks import Task, find_task

TASK = "window-close"
BLIND = ObservationOptions(cameras=(), privileged=True)
EPISODES = 8
NOISY = CollectionOptions(episodes=EPISODES, seed=1, action_noise=0.3)

PLUGIN = '''
"""Experts that are not Meta-World's: one never moves, one waits until the test lets it go on, one ends its process."""
import os
import time
from pathlib import Path

import numpy as np

from vla_cl.tasks import EXPERTS, make_expert, find_task

class Idle:
    def reset(self, env, generator):
        pass
    def act(self, env):
        return np.zeros(4, np.float32)

class Patient:
    """The real expert, slowed down, so that a test can interrupt it."""
    def __init__(self):
        self.real = make_expert(find_task("window-close"))
    def reset(self, env, generator):
        self.real.reset(env, generator)
        time.sleep(0.2)
    def act(self, env):
        return self.real.act(env)

class Deadly(Idle):
    def act(self, env):
        os._exit(3)

EXPERTS.register("idle", Idle)
EXPERTS.register("patient", Patient)
EXPERTS.register("deadly", Deadly)
'''

SCRIPT = """
import dataclasses, logging, sys
from pathlib import Path
from vla_cl.data import CollectionOptions, collect_demonstrations
from vla_cl.envs import ObservationOptions
from vla_cl.registry import load_plugins
from vla_cl.tasks import find_task
logging.basicConfig(level=logging.INFO)
plugin, path, processes = sys.argv[1:]
load_plugins([plugin])
task = dataclasses.replace(find_task("window-close"), expert="patient")
collect_demonstrations(
    task, Path(path), CollectionOptions(6, 1, 0.3), ObservationOptions(cameras=(), privileged=True),
    processes=int(processes), plugins=[plugin],
)
"""


@pytest.fixture(scope="module")
def plugin(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("plugin") / "odd_experts.py"
    path.write_text(PLUGIN)
    return str(path)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, plugin: str) -> str:
    """The checksum that every interrupted collection must end with."""
    path = tmp_path_factory.mktemp("whole") / "d.hdf5"
    subprocess.run([sys.executable, "-c", SCRIPT, plugin, str(path), "2"], check=True, capture_output=True)
    return checksum(path)


@pytest.fixture
def collector(plugin: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a slow collection into `tmp_path / "d.hdf5"` in a process group of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(processes: int = 2) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, plugin, str(tmp_path / "d.hdf5"), str(processes)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def checksum(path: Path) -> str:
    with DemonstrationFile(path) as file:
        file.verify()
        return file.checksum


def journal(tmp_path: Path) -> list[Path]:
    return sorted(tmp_path.glob(".d.hdf5.*.collecting/*.npz"))


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def children(process_id: int) -> list[int]:
    text = Path(f"/proc/{process_id}/task/{process_id}/children").read_text()
    return [int(each) for each in text.split()]


def is_gone(process_id: int) -> bool:
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect_demonstrations(
        find_task(TASK), tmp_path_factory.mktemp("noisy") / "d.hdf5", NOISY, BLIND, processes=2
    )


def test_content_depends_on_task_and_seed_not_on_processes(noisy: Path, tmp_path: Path) -> None:
    alone = collect_demonstrations(find_task(TASK), tmp_path / "1.hdf5", NOISY, BLIND, processes=1)
    many = collect_demonstrations(find_task(TASK), tmp_path / "3.hdf5", NOISY, BLIND, processes=3)
    assert checksum(noisy) == checksum(alone) == checksum(many)
    other = dataclasses.replace(NOISY, seed=2, episodes=1)
    with DemonstrationFile(collect_demonstrations(find_task(TASK), tmp_path / "s.hdf5", other, BLIND)) as file:
        assert file.seeds[0] != initial_state_seed(find_task(TASK), 1, 0)


def test_only_first_successes_are_kept_and_each_ends_with_success(noisy: Path) -> None:
    task = find_task(TASK)
    env = task.environment(BLIND)
    with DemonstrationFile(noisy) as file:
        assert len(file) == EPISODES
        attempts = [file.episode(index).attempt for index in range(EPISODES)]
        assert attempts == sorted(set(attempts))
        for index in range(EPISODES):
            episode = file.episode(index)
            assert episode.seed == initial_state_seed(task, 1, episode.attempt)
            assert episode.seed in task.seeds.train
            env.restart(seed=episode.seed)
            successes = [env.advance(action).terminated for action in episode.executed_actions]
            assert successes == [False] * (len(episode) - 1) + [True]


def test_stored_states_observations_and_actions_are_aligned_bit_for_bit(collected: Path) -> None:
    """Living through each episode again shows, before every action, exactly what is stored, pixels included."""
    env = find_task(TASK).environment(ObservationOptions(cameras=("gripperPOV",), privileged=True))
    with DemonstrationFile(collected) as file:
        for index in range(len(file)):
            episode = file.episode(index)
            observation, _ = env.reset(seed=episode.seed)
            for step in range(len(episode) + 1):
                stored = {key: values[step] for key, values in episode.observations.items()}
                np.testing.assert_array_equal(observation["agent_pos"], stored["agent_pos"])
                np.testing.assert_array_equal(observation["environment_state"], stored["environment_state"])
                np.testing.assert_array_equal(observation["pixels"]["gripperPOV"], stored["gripperPOV_image"])
                if step < len(episode):
                    np.testing.assert_array_equal(env.get_state(), episode.states[step])
                    observation, reward, *_ = env.step(episode.executed_actions[step])
                    assert np.float32(reward) == episode.rewards[step]


def test_each_stored_state_leads_to_the_next(collected: Path) -> None:
    env = find_task(TASK).environment(ObservationOptions(cameras=()))
    with DemonstrationFile(collected) as file:
        episode = file.episode(1)
    for step in np.random.default_rng(0).permutation(len(episode) - 1)[:20]:
        env.set_state(episode.states[step])
        env.advance(episode.executed_actions[step])
        np.testing.assert_array_equal(env.get_state(), episode.states[step + 1])


def test_noise_moves_the_robot_and_labels_stay_the_experts(noisy: Path) -> None:
    from vla_cl.tasks import make_expert

    task = find_task(TASK)
    env, expert = task.environment(BLIND), make_expert(task)
    with DemonstrationFile(noisy) as file:
        episodes = [file.episode(index) for index in range(EPISODES)]
    for episode in episodes[:2]:
        env.restart(seed=episode.seed)
        expert.reset(env, np.random.default_rng(0))
        for action, executed in zip(episode.actions, episode.executed_actions, strict=True):
            np.testing.assert_array_equal(expert.act(env), action)
            env.advance(executed)
    labels = np.concatenate([each.actions for each in episodes])
    noise = np.concatenate([each.executed_actions for each in episodes]) - labels
    inside = np.abs(labels) < 0.05  # where clipping hardly touches the noise
    assert inside.sum() > 100
    assert abs(noise[inside].std() - 0.3) < 0.05
    assert np.abs(np.concatenate([each.executed_actions for each in episodes])).max() <= 1


def test_without_noise_what_is_done_is_the_label(tmp_path: Path) -> None:
    path = collect_demonstrations(find_task(TASK), tmp_path / "d.hdf5", CollectionOptions(2), BLIND, processes=1)
    with DemonstrationFile(path) as file:
        episode = file.episode(0)
    np.testing.assert_array_equal(episode.actions, episode.executed_actions)


def test_a_killed_collection_goes_on_where_it_was(
    collector: Callable[..., subprocess.Popen[str]], tmp_path: Path, uninterrupted: str
) -> None:
    first = collector()
    wait_for(lambda: len(journal(tmp_path)) >= 3)
    workers = children(first.pid)
    assert len(workers) == 2
    first.kill()
    first.wait()
    wait_for(lambda: all(map(is_gone, workers)))
    kept = {path: path.stat().st_mtime_ns for path in journal(tmp_path)}
    assert not (tmp_path / "d.hdf5").exists()
    second = collector(processes=1)
    _, log = second.communicate(timeout=120)
    assert second.returncode == 0, log
    assert f"{len(kept)} attempts were made before" in log
    assert checksum(tmp_path / "d.hdf5") == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["d.hdf5"]


def test_a_killed_worker_costs_nothing_but_time(
    collector: Callable[..., subprocess.Popen[str]], tmp_path: Path, uninterrupted: str
) -> None:
    process = collector()
    wait_for(lambda: len(journal(tmp_path)) >= 2)
    os.kill(children(process.pid)[0], signal.SIGKILL)
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    assert "signal SIGKILL" in log
    assert checksum(tmp_path / "d.hdf5") == uninterrupted


def test_ctrl_c_leaves_no_process_and_no_half_file_and_can_be_resumed(
    collector: Callable[..., subprocess.Popen[str]], tmp_path: Path, uninterrupted: str
) -> None:
    process = collector()
    wait_for(lambda: len(journal(tmp_path)) >= 2)
    workers = children(process.pid)
    os.killpg(process.pid, signal.SIGINT)
    _, log = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in log
    assert all(map(is_gone, workers))
    assert not (tmp_path / "d.hdf5").exists()
    second = collector()
    second.communicate(timeout=120)
    assert checksum(tmp_path / "d.hdf5") == uninterrupted


def test_two_processes_that_ask_for_one_file_collect_once(
    collector: Callable[..., subprocess.Popen[str]], tmp_path: Path, uninterrupted: str
) -> None:
    first, second = collector(processes=1), collector(processes=1)
    logs = [process.communicate(timeout=200)[1] for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], logs
    assert any("waiting for another process" in log for log in logs)
    assert checksum(tmp_path / "d.hdf5") == uninterrupted
    assert [path.name for path in tmp_path.iterdir()] == ["d.hdf5"]


def test_attempts_for_other_options_are_not_reused(tmp_path: Path) -> None:
    path = tmp_path / "d.hdf5"
    stale = tmp_path / ".d.hdf5.0badcafe.collecting"
    stale.mkdir()
    (stale / "000000.failed").touch()
    (tmp_path / ".d.hdf5.123.partial").touch()
    (tmp_path / ".other.hdf5.123.partial").touch()  # somebody else is writing it right now
    collect_demonstrations(find_task(TASK), path, CollectionOptions(1), BLIND, processes=1)
    with DemonstrationFile(path) as file:
        assert file.episode(0).attempt == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == [".other.hdf5.123.partial", "d.hdf5"]


def test_an_expert_that_fails_is_given_up_with_its_success_rate(tmp_path: Path, plugin: str) -> None:
    from vla_cl.registry import load_plugins

    load_plugins([plugin])
    task = dataclasses.replace(find_task(TASK), expert="idle", horizon=20)
    options = CollectionOptions(episodes=2, max_attempts=4)
    with pytest.raises(SimulationError, match=r"'idle' solved 'window-close' in 0 of 4 attempts \(0%\)"):
        collect_demonstrations(task, tmp_path / "d.hdf5", options, BLIND, processes=2, plugins=[plugin])
    assert not (tmp_path / "d.hdf5").exists()


def test_an_attempt_that_kills_every_worker_is_given_up(tmp_path: Path, plugin: str) -> None:
    from vla_cl.registry import load_plugins

    load_plugins([plugin])
    task = dataclasses.replace(find_task(TASK), expert="deadly")
    with pytest.raises(SimulationError, match="died at the same job"):
        collect_demonstrations(task, tmp_path / "d.hdf5", CollectionOptions(1), BLIND, processes=1, plugins=[plugin])


def test_a_task_without_expert_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no expert"):
        collect_demonstrations(
            dataclasses.replace(find_task(TASK), expert=""), tmp_path / "d.hdf5", CollectionOptions(1), BLIND
        )
    assert list(tmp_path.glob("*.hdf5")) == []


def test_errors_of_workers_are_raised_here(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="no-such-camera"):
        collect_demonstrations(
            find_task(TASK),
            tmp_path / "d.hdf5",
            CollectionOptions(1),
            ObservationOptions(cameras=("no-such-camera",)),
            processes=1,
        )


@pytest.mark.parametrize(
    "wrong", [{"episodes": 0}, {"processes": 0}, {"action_noise": -0.1}, {"action_noise": float("nan")}]
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigurationError, match="collection"):
        CollectionOptions(**wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="max_attempts"):
        CollectionOptions(episodes=5, max_attempts=4)


def test_a_full_disk_is_one_clear_line_and_the_collection_goes_on_later(tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        pytest.skip("mounting a small disk is not allowed here")
    try:
        path = folder / "d.hdf5"
        with pytest.raises(VlaClError, match="no space left"):
            collect_demonstrations(find_task(TASK), path, CollectionOptions(3), BLIND, processes=1)
        left = [each.name for each in folder.rglob("*")]
        assert not any(name.endswith(".partial") for name in left)
        assert "d.hdf5" not in left
        subprocess.run(["mount", "-o", "remount,size=20m", str(folder)], check=True)
        collect_demonstrations(find_task(TASK), path, CollectionOptions(3), BLIND, processes=1)
        assert len(checksum(path)) == 64
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_the_library_collects_what_is_missing_and_finds_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, options = find_task(TASK), CollectionOptions(1)
    path = demonstrations_for(task, tmp_path, options, BLIND, processes=1)
    assert path == demonstrations_path(tmp_path, task, options, BLIND)
    assert path.parent == tmp_path / "meta_world"
    assert path.name.startswith("window-close-")

    def fail(*arguments: object) -> None:
        raise AssertionError("collected again")

    monkeypatch.setattr(library_module, "collect_unlocked", fail)
    assert demonstrations_for(task, tmp_path, options, BLIND, processes=2) == path
    os.truncate(path, 5000)
    with pytest.raises(DataFileError, match="truncated"):
        demonstrations_for(task, tmp_path, options, BLIND)


def test_everything_that_decides_the_content_decides_the_name(tmp_path: Path) -> None:
    task, options, observation = find_task(TASK), CollectionOptions(), ObservationOptions()

    def name(
        task: Task = task, options: CollectionOptions = options, observation: ObservationOptions = observation
    ) -> str:
        return demonstrations_path(tmp_path, task, options, observation).name

    variants = [
        name(),
        name(options=CollectionOptions(episodes=51)),
        name(options=CollectionOptions(seed=1)),
        name(options=CollectionOptions(action_noise=0.1)),
        name(observation=ObservationOptions(image_size=128)),
        name(observation=ObservationOptions(privileged=True)),
        name(observation=ObservationOptions(cameras=("corner",))),
        name(task=dataclasses.replace(task, horizon=100)),
        name(task=dataclasses.replace(task, expert="another")),
        name(task=dataclasses.replace(task, instruction="shut it")),
    ]
    assert len(set(variants)) == len(variants)
    assert name(options=CollectionOptions(max_attempts=99, processes=7)) == name()
    assert name(observation=ObservationOptions(cameras=("corner2", "gripperPOV"))) == name()
