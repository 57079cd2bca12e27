"""A strategy whose need is not met is refused, in one line, before anything is collected."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.conftest import TINY
from vla_cl import needs
from vla_cl.cli.main import main
from vla_cl.strategies import STRATEGIES, Strategy

SEQUENCE = ("run", "suite=mw5", "length=2", *TINY)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (("policy=lowdim", "strategy=l2p"), "takes no prompts"),
        (("policy=lowdim", "strategy=replay+dualprompt"), "takes no prompts"),
        (("policy=lowdim", "strategy=olora", "strategy.targets=nothing"), "targets='nothing'"),
        (("policy=lowdim_transformer", "strategy=clare", "strategy.layers=nothing"), "strategy.layers='nothing'"),
        (("policy=lowdim", "strategy=tail", "evaluation.task_identity=false"), "must be told at test which task"),
        (("policy=lowdim", "strategy=replay+packnet", "evaluation.task_identity=false"), "evaluation.task_identity"),
        (("policy=lowdim", "strategy=lwf"), "keeps a copy of the policy as its teacher"),
        (("policy=lowdim", "strategy=ewc", "boundaries=unknown"), "must be told where tasks begin and end"),
    ],
)
def test_an_unmet_need_is_told_before_anything_is_collected(
    overrides: tuple[str, ...],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(needs, "free_memory", lambda device: 1000)
    places = (f"output={tmp_path / 'runs'}", f"data={tmp_path / 'demonstrations'}")
    assert main([*SEQUENCE, *overrides, *places]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and told in error
    assert not (tmp_path / "demonstrations").exists()


def test_declared_needs_are_checked() -> None:
    """Whoever declares that it needs layers for adapters, or prompts, has a check of its own."""
    for name in STRATEGIES:
        strategy = STRATEGIES[name]
        if strategy.needs.lora or strategy.needs.prompts:
            assert strategy.check is not Strategy.check, name
