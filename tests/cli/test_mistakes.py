"""Every mistake ends in one clear line on stderr, status 2, no traceback, and nothing lost."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

RUN = ("run", "suite=mw5", "policy=lowdim", "strategy=sequential")


def assert_one_line(result, *fragments):
    assert result.returncode == 2, result.stderr
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("tusks",), ("tusks", "tasks")),
        (("suites", "--jsom"), ("--jsom", "--json")),
        (("collect",), ("SUITE_OR_TASK",)),
        (("collect", "mw5", "--episodes", "many"), ("--episodes", "many")),
        (("tasks", "mw55"), ("mw55", "mw5", "vla-cl suites")),
        (("collect", "windw-close"), ("windw-close", "window-close")),
        (("collect", "mw5/windw-close"), ("windw-close", "window-close", "vla-cl tasks mw5")),
        (("tasks", "mw5", "--plugin", "absent.py"), ("absent.py",)),
        (("tasks", "mw5", "--plugin", "no_such_module_here"), ("no_such_module_here",)),
        (("run", "suite=mw55"), ("mw55", "mw5")),
        ((*RUN, "policy=compakt"), ("compakt", "compact", "vla-cl policies")),
        ((*RUN, "strategy=replai"), ("replai", "replay", "vla-cl strategies")),
        (("run", "--preset", "quickstat"), ("quickstat", "quickstart")),
        ((*RUN, "trainig.steps=3"), ("trainig.steps", "training.steps")),
        ((*RUN, "training.stepz=3"), ("training.stepz", "training.steps")),
        ((*RUN, "strategy.fractoin=0.1"), ("fractoin",)),
        ((*RUN, "training.steps=lots"), ("steps", "lots")),
        ((*RUN, "order=sideways"), ("sideways",)),
        ((*RUN, "evaluation.episodes=0"), ("episodes", "0")),
        ((*RUN, "device=abacus"), ("abacus",)),
        (("run", "policy=lowdim"), ("suite", "vla-cl suites")),
        (("run", "mw5"), ("mw5", "suite=mw5")),
        (("evaluate", "nowhere"), ("nowhere",)),
        (("report", "nowhere"), ("nowhere",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_mistake_is_one_line_that_names_the_way_out(vla_cl, tmp_path, words, fragments):
    assert_one_line(vla_cl(*words), *fragments)
    assert not list(tmp_path.rglob("*.hdf5"))


def test_debug_shows_the_traceback(vla_cl):
    result = vla_cl("tasks", "mw55", "--debug")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_a_full_disk_is_one_line(executable):
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            [executable, "tasks", "--json"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert "No space left on device" in line


def test_an_interrupt_says_how_to_go_on(executable, tmp_path):
    process = subprocess.Popen(
        [executable, "collect", "mw5", "--episodes", "500", "--cameras", "none"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(6)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does: the whole group gets it
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert complaint.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in complaint
