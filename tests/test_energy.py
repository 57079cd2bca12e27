"""Joules from powercap files as Linux shows them, and meters that survive kills."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch

from vla_cl import energy
from vla_cl.energy import EnergyCounter, Source, machine_energy, processor_sources
from vla_cl.evaluation import ledger_totals
from vla_cl.ledger import Ledger
from vla_cl.meter import Meter, Spent

RANGE = 262_143_328_850
"""Microjoules after which Intel's counters begin at 0 again."""


def write_zone(powercap: Path, zone: str, name: str, microjoules: int, range: int = RANGE) -> Path:
    """A zone of powercap; the file of its counter."""
    folder = powercap / zone
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{range}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    return folder / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """Two packages with their cores, memory, the platform, and the first package once more through another driver."""
    for zone, name in (
        ("intel-rapl:0", "package-0"),
        ("intel-rapl:0:0", "core"),
        ("intel-rapl:0:1", "dram"),
        ("intel-rapl:1", "package-1"),
        ("intel-rapl:2", "psys"),
        ("intel-rapl-mmio:0", "package-0"),
    ):
        write_zone(tmp_path / "powercap", zone, name, 5_000_000)
    return tmp_path / "powercap"


def test_packages_and_memory_count_and_nothing_counts_twice(powercap: Path) -> None:
    counter = EnergyCounter(processor_sources(powercap))
    assert counter.names == ("package-0", "dram", "package-1")
    assert counter.joules() == 0.0
    for zone, microjoules in (("intel-rapl:0", 7_500_000), ("intel-rapl:0:1", 5_250_000), ("intel-rapl:1", 6_000_000)):
        (powercap / zone / "energy_uj").write_text(str(microjoules))
    for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        (powercap / zone / "energy_uj").write_text("900000000")
    assert counter.joules() == pytest.approx(2.5 + 0.25 + 1.0)


def test_a_counter_that_wraps_around_goes_on(tmp_path: Path) -> None:
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    counter = EnergyCounter(processor_sources(tmp_path))
    file.write_text("2000000")
    assert counter.joules() == pytest.approx(3.0)
    file.write_text("1000000")
    assert counter.joules() == pytest.approx(3.0 + RANGE / 1e6 - 1.0)


def test_wraps_are_not_missed_while_nobody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_LOOK_SECONDS", 0.0)
    readings, seen, gone = iter([90.0, 95.0, 5.0, 60.0, 2.0]), threading.Event(), threading.Event()

    def read() -> float:
        if gone.is_set():
            raise OSError("the counter is gone")
        reading = next(readings, 2.0)
        if reading == 2.0:
            seen.set()
        return reading

    counter = EnergyCounter([Source("package-0", read, range=100.0)])
    assert seen.wait(60), "two wraps, seen by the counter's own looks alone"
    assert counter.joules() == pytest.approx(5 + 10 + 55 + 42)
    gone.set()  # ends its looking
    assert counter.joules() is None


def test_a_machine_that_tells_nothing_is_not_measured(tmp_path: Path) -> None:
    assert EnergyCounter(processor_sources(tmp_path / "nowhere")).joules() is None
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    write_zone(tmp_path, "intel-rapl:1", "package-1", 1).unlink()
    assert processor_sources(tmp_path) == [], "a part is not passed off as the whole"
    (tmp_path / "intel-rapl:1" / "name").unlink()
    (tmp_path / "intel-rapl:1" / "max_energy_range_uj").unlink()
    (tmp_path / "intel-rapl:1").rmdir()
    counter = EnergyCounter(processor_sources(tmp_path))
    assert counter.joules() == 0.0
    file.unlink()
    assert counter.joules() is None and counter.joules() is None


def test_the_folder_of_a_container_is_named_by_a_variable(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_CL_POWERCAP", str(powercap))
    machine_energy.cache_clear()
    try:
        assert machine_energy(torch.device("cpu")).names == ("package-0", "dram", "package-1")
    finally:
        machine_energy.cache_clear()


def test_a_meter_goes_on_from_a_checkpoint_and_forgets_the_way_back_to_it(tmp_path: Path) -> None:
    file = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    counter = EnergyCounter(processor_sources(tmp_path))
    meter = Meter(counter)
    file.write_text("4000000")
    kept = meter.state_dict()
    assert kept["joules"] == pytest.approx(4.0) and kept["seconds"] > 0
    file.write_text("9000000")  # lost with the process

    again = Meter(counter)
    file.write_text("11000000")  # the way back to the checkpoint
    again.load_state_dict(kept)
    before = again.spent()
    file.write_text("12500000")
    assert again.spent().joules == pytest.approx(5.5)
    assert kept["seconds"] <= before.seconds <= again.spent().seconds < kept["seconds"] + 1.0


def test_what_is_not_measured_in_part_is_not_measured() -> None:
    assert Spent(1.0, 2.0) + Spent(3.0, 4.0) == Spent(4.0, 6.0)
    assert Spent(1.0, 2.0) + Spent(3.0, None) == Spent(4.0, None)
    nothing = Meter(EnergyCounter(()))
    nothing.load_state_dict({"seconds": 10.0, "joules": 5.0})
    assert nothing.spent().joules is None and nothing.spent().seconds >= 10.0


def test_a_stage_that_is_done_again_replaces_what_it_said_and_collecting_is_added_to(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger.json")
    ledger.add(0, "collect", Spent(20.0, 100.0))
    ledger.put(0, task="a", train_seconds=5.0, train_joules=50.0)
    ledger.put(-1, evaluate_seconds=1.0, evaluate_joules=None)
    ledger.add(0, "collect", Spent(0.5, 1.0))
    ledger.put(0, task="a", train_seconds=7.0, train_joules=70.0)
    zero_shot, first = Ledger(tmp_path / "ledger.json").entries()
    assert zero_shot == {"stage": -1, "evaluate_seconds": 1.0, "evaluate_joules": None}
    assert first["collect_seconds"] == 20.5 and first["collect_joules"] == 101.0 and first["train_seconds"] == 7.0


def test_totals_sum_what_was_spent_and_keep_what_there_is_at_the_end() -> None:
    entries = [
        {"stage": -1, "evaluate_seconds": 1.0, "evaluate_steps": 500, "evaluate_joules": None},
        {"stage": 0, "task": "a", "collect_steps": 300, "demonstration_bytes": 10, "train_joules": 2.0,
         "evaluate_seconds": 2.0, "evaluate_steps": 100, "evaluate_joules": 4.0, "strategy_bytes": 7},
        {"stage": 1, "task": "b", "collect_steps": 50, "demonstration_bytes": 20, "train_joules": 3.0,
         "evaluate_seconds": 3.0, "evaluate_steps": 200, "evaluate_joules": 4.0, "strategy_bytes": 9},
        {"stage": 2, "task": "a", "collect_steps": 300, "demonstration_bytes": 10, "train_joules": 0.5},
    ]  # fmt: skip
    totals = ledger_totals(entries)
    assert totals["evaluate_seconds"] == 6.0 and totals["evaluate_steps"] == 800
    assert totals["collect_steps"] == 350 and totals["demonstration_bytes"] == 30, "a task that returns counts once"
    assert totals["train_joules"] == 5.5 and totals["evaluate_joules"] is None
    assert totals["strategy_bytes"] == 9 and totals["policy_bytes"] is None
