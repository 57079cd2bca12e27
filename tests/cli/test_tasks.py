"""`vla-cl tasks`: listing as before, writing a new task, proving one."""

from __future__ import annotations

import json

BROKEN_GOAL = ("REACHED = 0.03", "REACHED = 9.0")
BROKEN_MESH = ("<worldbody>", '<asset><mesh name="cup" file="cup.stl"/></asset><worldbody>')
LAZY_EXPERT = ("10 * (env.mark() - env.hand())", "0 * env.hand()")


def test_a_new_task_is_listed_proven_and_run_as_it_was_written(vla_cl, tmp_path):
    written = vla_cl("tasks", "new", "wipe-table")
    assert written.returncode == 0, written.stderr
    assert "next: vla-cl tasks check wipe-table --plugin wipe_table.py --picture wipe-table.png" in written.stderr
    plugin = ("--plugin", "wipe_table.py")
    assert "move the hand to the red mark" in vla_cl("tasks", "wipe-table", *plugin).stdout
    checked = vla_cl("tasks", "check", "wipe-table", *plugin, "--picture", "wipe-table.png")
    assert checked.returncode == 0, checked.stdout
    lines = checked.stdout.splitlines()
    assert lines[0].split() == ["check", "result", "measured"]
    assert len(lines) == 11 and all(" pass " in line for line in lines[1:])
    assert (tmp_path / "wipe-table.png").is_file()
    again = vla_cl("tasks", "new", "wipe-table")
    assert (again.returncode, len(again.stderr.splitlines())) == (2, 1)
    assert "wipe_table.py exists already" in again.stderr


def test_a_task_that_lacks_something_fails_its_checks_with_one_line_each(vla_cl, tmp_path):
    vla_cl("tasks", "new", "wipe-table")
    source = (tmp_path / "wipe_table.py").read_text()
    for (old, new), name, message in (
        (LAZY_EXPERT, "expert", "expert 'wipe-table/wipe-table': 0 of 3 episodes solved"),
        (BROKEN_GOAL, "builds", "the goal of task 'wipe-table' holds in 100 initial states in a row"),
        (BROKEN_MESH, "builds", "task 'wipe-table': the scene of WipeTableEnv cannot be compiled: "),
    ):
        assert old in source
        (tmp_path / "wipe_table.py").write_text(source.replace(old, new))
        words = ("tasks", "check", "wipe-table", "--plugin", "wipe_table.py", "--episodes", "3", "--json")
        result = vla_cl(*words)
        assert result.returncode == 1, result.stderr
        assert "Traceback" not in result.stderr
        failed = {check["name"]: check["told"] for check in json.loads(result.stdout)["checks"] if not check["passed"]}
        assert message in failed[name]
        assert "\n" not in failed[name]


def test_a_broken_scene_is_one_line_also_when_it_is_collected(vla_cl, tmp_path):
    vla_cl("tasks", "new", "wipe-table")
    source = (tmp_path / "wipe_table.py").read_text()
    (tmp_path / "wipe_table.py").write_text(source.replace(*BROKEN_MESH))
    result = vla_cl("collect", "wipe-table", "--episodes", "2", "--cameras", "none", "--plugin", "wipe_table.py")
    assert result.returncode == 2
    (*_, complaint) = result.stderr.splitlines()
    assert complaint.startswith("error: task 'wipe-table': the scene of WipeTableEnv cannot be compiled: ")
    assert "cup.stl" in complaint


def test_a_broken_plugin_is_one_line_and_the_rest_is_there_without_it(vla_cl, tmp_path):
    (tmp_path / "broken.py").write_text("from vla_cl.tasks import register_task\n\nregister_tusk = tusk\n")
    result = vla_cl("tasks", "mw3", "--plugin", "broken.py")
    assert (result.returncode, result.stderr) == (
        2,
        "error: plugin 'broken.py', line 3: NameError: name 'tusk' is not defined\n",
    )
    (tmp_path / "broken.py").write_text(
        "from vla_cl.tasks import register_suite\n\n@register_suite('broken')\ndef broken():\n    return {}['tasks']\n"
    )
    result = vla_cl("tasks", "--plugin", "broken.py")
    assert result.returncode == 0
    assert "window-close" in result.stdout
    assert result.stderr == "suite 'broken' is left out: suite 'broken' cannot be built: KeyError: 'tasks'\n"


def test_list_may_be_said_or_left_out(vla_cl):
    assert vla_cl("tasks", "list", "mw3").stdout == vla_cl("tasks", "mw3").stdout
    assert vla_cl("tasks", "check").returncode == 2
