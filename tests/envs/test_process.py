"""Worker processes, apart from what they serve."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from vla_cl.envs.process import WorkerProcess

STARTER = """
import subprocess
from pathlib import Path
from vla_cl.envs.process import serve

def main(file_descriptor):
    child = subprocess.Popen(["sleep", "1000"])
    Path(__file__).with_name("child").write_text(str(child.pid))
    serve(file_descriptor, {})
"""


def test_what_a_worker_starts_ends_with_it_when_it_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "starter.py").write_text(STARTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    process = WorkerProcess("starter")
    process.wait_until_ready()
    child = Path(f"/proc/{(tmp_path / 'child').read_text()}")
    assert child.exists() and os.getpgid(process.process_id) == process.process_id != os.getpgid(0)
    process.end(at_once=True)
    deadline = time.monotonic() + 20
    while child.exists() and "\nState:\tZ" not in (child / "status").read_text():
        assert time.monotonic() < deadline, "it outlives its worker"
        time.sleep(0.02)
