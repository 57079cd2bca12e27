"""A Ray of our own talks to nobody, leaves nothing behind, and ends in order when it is told to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vla_cl.errors import ConfigurationError, VlaClError
from vla_cl.ray_session import _start, check_ray, told

SESSION = """
import json, os, signal
from pathlib import Path
from vla_cl.ray_session import local_cluster

def descendants(process):
    started = [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return started + [below for each in started for below in descendants(each)]

def sockets(process):
    for descriptor in Path(f"/proc/{process}/fd").iterdir():
        try:
            yield os.readlink(descriptor)
        except OSError:
            continue

def listening():
    ours = {each for process in [os.getpid(), *descendants(os.getpid())] for each in sockets(process)}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in ours:
                yield words[1].split(":")[0]

before = set(os.environ)
interrupted = False
try:
    with local_cluster(1) as ray:
        folder = Path(ray._private.worker._global_node.get_session_dir_path()).parent
        value = ray.get(ray.remote(lambda: 6 * 7).remote())
        addresses = sorted(set(listening()))
        was_there = folder.is_dir()
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
except KeyboardInterrupt:
    interrupted = True
print(json.dumps({
    "value": value, "addresses": addresses, "was_there": was_there, "is_there": folder.exists(),
    "interrupted": interrupted, "set": sorted(set(os.environ) - before),
}))
"""

LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
"""127.0.0.1, the same written as an IPv6 address, and ::1, as /proc writes them."""


@pytest.mark.slow
def test_a_cluster_of_our_own_listens_to_this_machine_alone_and_leaves_nothing_behind(tmp_path: Path) -> None:
    home = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", SESSION], env=home, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["value"] == 42
    assert found["addresses"] and set(found["addresses"]) <= LOOPBACK
    assert found["was_there"] and not found["is_there"]
    assert not (tmp_path / ".ray").exists(), "no token in the home folder"
    assert found["interrupted"] and "SIGTERM" not in done.stderr
    assert not [name for name in found["set"] if "TOKEN" in name or "AUTH" in name], found["set"]


class SlowRay:
    """What Ray does on a machine that is too busy: it starts a process, and gives up on it."""

    def __init__(self, failures: int) -> None:
        self.failures = failures
        self.processes: list[subprocess.Popen[bytes]] = []

    def init(self, **_: object) -> None:
        self.processes.append(subprocess.Popen(["sleep", "1000"]))
        if len(self.processes) <= self.failures:
            raise Exception("The node timed out. Long explanation.")


def test_a_start_that_times_out_is_tried_again_without_what_it_left(tmp_path: Path) -> None:
    ray = SlowRay(failures=2)
    _start(ray, 1, str(tmp_path))
    *given_up, running = ray.processes
    assert [process.wait(10) for process in given_up] == [-signal.SIGKILL] * 2
    assert running.poll() is None
    running.kill()
    running.wait()
    hopeless = SlowRay(failures=100)
    with pytest.raises(VlaClError, match="Ray does not start: The node timed out; run the same command again"):
        _start(hopeless, 1, str(tmp_path))
    assert {process.wait(10) for process in hopeless.processes} == {-signal.SIGKILL}


def test_a_cluster_that_is_not_there_is_told_in_one_line() -> None:
    script = "from vla_cl.ray_session import joined_cluster\nwith joined_cluster('nonsense'): pass"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert "ConfigurationError: no Ray cluster answers at nonsense: " in done.stderr


def test_a_missing_ray_is_told_with_the_way_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigurationError, match=r"this needs Ray; install it with: pip install 'vla_cl\[ray\]'$"):
        check_ray("this")
    with pytest.raises(ConfigurationError, match=r"'vla_cl\[ray\]', or do without$"):
        check_ray("this", "do without")


def test_of_a_long_explanation_the_first_sentence_is_told() -> None:
    assert told(RuntimeError("The worker died.\n To troubleshoot, read on. And on.")) == "The worker died"
    assert told(RuntimeError("")) == "RuntimeError"
