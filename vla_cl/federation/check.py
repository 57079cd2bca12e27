"""What a federation cannot be, known before anything is done."""

from __future__ import annotations

from vla_cl.config import ExperimentConfig
from vla_cl.errors import ConfigurationError
from vla_cl.ray_session import check_ray
from vla_cl.strategies import Strategy


def check_federation(config: ExperimentConfig, strategy: Strategy, tasks: int) -> None:
    """Hold a configuration to what clients and a server can do together.

    Args:
        config: The experiment.
        strategy: Of the run.
        tasks: How many are learned.

    Raises:
        ConfigurationError: It asks for something else.
    """
    options = config.federation
    if not options.clients:
        return
    if config.blur or config.boundaries == "unknown":
        raise ConfigurationError(
            "a federation learns in stages that begin and end; use blur=0 boundaries=known, or federation.clients=0"
        )
    if config.training.processes > 1:
        raise ConfigurationError(
            f"training.processes={config.training.processes} is for one learner; the clients of a federation train "
            "side by side with federation.backend=ray"
        )
    if options.rounds > config.training.steps:
        raise ConfigurationError(
            f"federation.rounds={options.rounds} is more than training.steps={config.training.steps}; lower it"
        )
    if options.deal == "turns" and options.clients > tasks:
        raise ConfigurationError(
            f"federation.clients={options.clients} cannot take turns at {tasks} tasks; lower it, or use "
            "federation.deal=same"
        )
    if strategy.needs.task_id_at_test and options.deal == "turns" and options.clients > 1:
        raise ConfigurationError(
            f"strategy {config.strategy['name']!r} is told at test which task it faces, and each client knows its own "
            "alone; use federation.deal=same, or another strategy"
        )
    if options.backend == "ray":
        check_ray("federation.backend=ray", "use federation.backend=process")
