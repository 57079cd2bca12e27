"""Every mistake ends in one clear line on stderr, status 2, no traceback, and nothing lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import time
import weakref

import pytest

from vla_cl.cli.interrupts import interrupts_kept
from vla_cl.cli.main import main

RUN = ("run", "suite=mw5", "policy=lowdim", "strategy=sequential")


def assert_one_line(status, complaint, *fragments):
    assert status == 2, complaint
    lines = complaint.splitlines()
    assert len(lines) == 1, complaint
    assert lines[0].startswith("error: ")
    for fragment in fragments:
        assert fragment in lines[0]


@pytest.fixture
def in_process(tmp_path, monkeypatch, capfd):
    """Run the command line in this process, which has imported torch already; return status and stderr."""
    monkeypatch.chdir(tmp_path)
    root = logging.getLogger()
    handlers = list(root.handlers)

    def run(*words):
        status = main(words)
        return status, capfd.readouterr().err

    yield run
    root.handlers[:] = handlers  # the command's own writes to a stream that ends with the test


@pytest.mark.parametrize(
    ("words", "fragments"),
    [
        (("tusks",), ("tusks", "tasks")),
        (("suites", "--jsom"), ("--jsom", "--json")),
        (("collect",), ("SUITE_OR_TASK",)),
        (("collect", "mw5", "--episodes", "many"), ("--episodes", "integer")),
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
        ((*RUN, "length=9"), ("length", "9")),
        (("run", "suite=mw5", "policy=lowdim", "strategy=replay", "strategy.ratio=7"), ("strategy.ratio", "7")),
        ((*RUN, "policy.head=flou"), ("flou", "flow", "vla-cl policies")),
        ((*RUN, "policy.head_options.widht=3"), ("widht", "width")),
        (("evaluate", "nowhere"), ("nowhere",)),
        (("report", "nowhere"), ("nowhere",)),
    ],
    ids=lambda value: value[-1],
)
def test_a_mistake_is_one_line_that_names_the_way_out(in_process, tmp_path, words, fragments):
    assert_one_line(*in_process(*words), *fragments)
    assert not list(tmp_path.rglob("*.hdf5"))


@pytest.mark.parametrize("words", [("tusks",), ("tasks", "mw55"), (*RUN, "strategy=replai")])
def test_the_installed_command_ends_the_same_way(vla_cl, words):
    result = vla_cl(*words)
    assert_one_line(result.returncode, result.stderr)


def test_a_mistake_in_the_last_run_of_a_sweep_stops_before_the_first(in_process, tmp_path):
    assert_one_line(*in_process(*RUN[:-1], "strategy=replay", "strategy.ratio=0.5,7"), "ratio")
    assert not list(tmp_path.iterdir())


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
    deadline = time.monotonic() + 60
    while not (tmp_path / "demonstrations").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    os.killpg(process.pid, signal.SIGINT)  # what Ctrl-C in a terminal does: the whole group gets it
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130, complaint
    assert complaint.splitlines()[-1] == "interrupted; run the same command again to go on"
    assert "Traceback" not in complaint


def test_an_interrupt_that_python_would_lose_is_raised_again():
    """It falls into the callback of a weak reference, where Python prints exceptions and goes on."""

    class Thing:
        pass

    def callback(reference):
        raise KeyboardInterrupt

    thing = Thing()
    reference = weakref.ref(thing, callback)
    with pytest.raises(KeyboardInterrupt), interrupts_kept():
        del thing
        time.sleep(5.0)
    assert reference() is None
