"""What TensorBoard reads of runs: read back through its own reader and its own table of hyper-parameters."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import get_experiment, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import GetExperimentRequest, ListSessionGroupsRequest
from tensorboard.plugins.hparams.backend_context import Context

from vla_cl.evaluation.rows import EpisodeRow
from vla_cl.tensorboard import TensorBoardLog
from vla_cl.training import TrainingRow


def row(step: int, loss: float = 0.5) -> TrainingRow:
    return TrainingRow(step=step, loss=loss, imitation_loss=loss, gradient_norm=1.0, learning_rate=1e-3, seconds=0.1)


def episodes(stage: int, successes: int) -> list[EpisodeRow]:
    return [EpisodeRow(stage, "push", "test", index, index, "push", index < successes, 10) for index in range(4)]


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def config(strategy: str, seed: int, **options: Any) -> dict[str, Any]:
    return {
        "suite": "mw3",
        "seed": seed,
        "strategy": {"name": strategy, **options},
        "training": {"steps": 100},
        "output": "somewhere",
    }


def test_training_and_success_share_an_axis_of_steps(tmp_path: Path) -> None:
    with closing(TensorBoardLog(tmp_path, steps_per_stage=100)) as log:
        log.evaluation(-1, episodes(-1, 0), ["push"])
        log.training(0, row(50))
        log.training(0, row(100, loss=0.25))
        log.evaluation(0, [*episodes(-1, 0), *episodes(0, 3)], ["push"])
    assert scalars(tmp_path, "training/loss") == [(50, 0.5), (100, 0.25)]
    assert scalars(tmp_path, "success/push") == [(0, 0.0), (100, 0.75)]


def test_a_run_that_goes_on_replaces_what_it_trains_again(tmp_path: Path) -> None:
    with closing(TensorBoardLog(tmp_path, steps_per_stage=100)) as log:
        log.evaluation(-1, episodes(-1, 1), ["push"])
        for step in (20, 40, 60):
            log.training(0, row(step))
    with closing(TensorBoardLog(tmp_path, steps_per_stage=100)) as log:
        log.training(0, row(40, loss=0.125))
        log.training(0, row(60, loss=0.0625))
    assert scalars(tmp_path, "training/loss") == [(20, 0.5), (40, 0.125), (60, 0.0625)]
    assert scalars(tmp_path, "success/push") == [(0, 0.25)]


def test_a_run_that_only_says_its_results_again_leaves_one_file(tmp_path: Path) -> None:
    for _ in range(2):
        with closing(TensorBoardLog(tmp_path, steps_per_stage=100)) as log:
            log.results(config("ewc", 0), {"final_average": 0.5, "forgetting": None})
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_a_grid_is_one_table_of_hyper_parameters_and_results(tmp_path: Path) -> None:
    made = {
        "a": (config("ewc", 0, strength=50.0), {"final_average": 0.5, "forgetting": 0.25}),
        "b": (config("ewc", 1, strength=50.0), {"final_average": 0.75, "forgetting": None}),
        "c": (config("replay", 0, fraction=0.5, by="episode"), {"final_average": 1.0, "forgetting": 0.0}),
    }
    for name, (settings, metrics) in made.items():
        with closing(TensorBoardLog(tmp_path / name / "tensorboard", steps_per_stage=100)) as log:
            log.training(0, row(50))
            log.results(settings, metrics)
    multiplexer = EventMultiplexer()
    multiplexer.AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    context = Context(TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(tmp_path))))

    experiment = get_experiment.Handler(RequestContext(), context, "", GetExperimentRequest()).run()
    columns = {info.name: info for info in experiment.hparam_infos}
    assert set(columns) == {
        "suite", "seed", "strategy.name", "strategy.strength", "strategy.fraction", "strategy.by", "training.steps",
    }  # fmt: skip
    names = columns["strategy.name"].domain_discrete.values
    assert {value.string_value for value in names} == {"ewc", "replay"}
    assert {info.name.tag for info in experiment.metric_infos} == {"final_average", "forgetting"}

    request = ListSessionGroupsRequest(start_index=0, slice_size=10, include_metrics=True)
    request.allowed_statuses.extend([0, 1, 2, 3])
    for info in experiment.metric_infos:
        request.col_params.add().metric.CopyFrom(info.name)
    groups = list_session_groups.Handler(RequestContext(), context, "", request).run().session_groups
    found = {
        group.sessions[0].name.split("/")[0]: (
            group.hparams["strategy.name"].string_value,
            {value.name.tag: value.value for value in group.sessions[0].metric_values},
        )
        for group in groups
    }
    assert found == {
        "a": ("ewc", {"final_average": 0.5, "forgetting": 0.25}),
        "b": ("ewc", {"final_average": 0.75}),
        "c": ("replay", {"final_average": 1.0, "forgetting": 0.0}),
    }
