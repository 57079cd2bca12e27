"""What there is, for people and for programs."""

from __future__ import annotations

import json
import subprocess

import pytest

PLUGIN = '''
from vla_cl.strategies import STRATEGIES, Strategy


@STRATEGIES.decorator("patience")
class Patience(Strategy):
    """Wait and see."""
'''


def test_suites_as_json_hold_their_tasks_in_order(vla_cl):
    suites = {suite["name"]: suite for suite in json.loads(vla_cl("suites", "--json").stdout)}
    assert suites["mw5"]["tasks"] == ["window-close", "faucet-close", "handle-press-side", "peg-unplug-side", "push"]
    assert suites["cw20"]["tasks"] == suites["cw10"]["tasks"] * 2
    assert "default" in suites["cw10"]["orders"]


def test_many_numbered_orders_are_told_by_the_first_and_the_last(vla_cl):
    (row,) = [line for line in vla_cl("suites").stdout.splitlines() if line.startswith("libero_goal")]
    assert "default, order0 to order20 " in row


def test_tasks_as_json_hold_instructions(vla_cl):
    (task, *_) = json.loads(vla_cl("tasks", "mw5", "--json").stdout)
    assert task["name"] == "window-close"
    assert task["instruction"]
    assert len(task["paraphrases"]) + len(task["held_out_paraphrases"]) >= 5


def test_tasks_without_a_suite_lists_each_task_once(vla_cl):
    names = [task["name"] for task in json.loads(vla_cl("tasks", "--json").stdout)]
    assert len(names) == len(set(names)) >= 50


def test_policies_as_json_hold_presets_backbones_and_heads(vla_cl):
    listed = json.loads(vla_cl("policies", "--json").stdout)
    assert {"compact", "lowdim"} <= {preset["name"] for preset in listed["presets"]}
    assert {"compact", "lowdim"} <= {backbone["name"] for backbone in listed["backbones"]}
    assert {"flow", "regression"} <= {head["name"] for head in listed["heads"]}


def test_strategies_as_json_hold_needs_and_options(vla_cl):
    listed = {strategy["name"]: strategy for strategy in json.loads(vla_cl("strategies", "--json").stdout)}
    assert {"sequential", "replay", "ewc", "joint", "single_task"} <= set(listed)
    assert listed["replay"]["needs"] == ["raw_data"]
    assert listed["replay"]["options"]["fraction"] == 0.2


@pytest.mark.parametrize("command", ["suites", "tasks", "policies", "strategies"])
def test_tables_are_printed_without_json(vla_cl, command):
    result = vla_cl(command)
    assert result.returncode == 0
    assert len(result.stdout.splitlines()) > 3
    assert not result.stderr


def test_a_plugin_file_adds_to_the_list(vla_cl, tmp_path):
    (tmp_path / "patience.py").write_text(PLUGIN)
    result = vla_cl("strategies", "--json", "--plugin", "patience.py")
    listed = {strategy["name"]: strategy for strategy in json.loads(result.stdout)}
    assert listed["patience"]["description"] == "Wait and see"


def test_output_into_a_closed_pipe_ends_quietly(executable):
    command = f"'{executable}' tasks --json | head -n 1"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "["
    assert not result.stderr
