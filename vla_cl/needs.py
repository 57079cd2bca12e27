"""What a strategy requires, held against the configuration, the policy and the machine before anything is done."""

from __future__ import annotations

from vla_cl.config import ExperimentConfig
from vla_cl.errors import ConfigurationError
from vla_cl.policies import Policy
from vla_cl.strategies import STRATEGIES, Strategy
from vla_cl.training import check_processes, free_memory


def check_boundaries(config: ExperimentConfig, strategy: Strategy) -> None:
    """Hold a strategy to what it can do without.

    Raises:
        ConfigurationError: Boundaries are not announced, and it cannot do without.
    """
    if config.boundaries == "unknown" and not strategy.task_free:
        able = ", ".join(name for name in STRATEGIES if STRATEGIES[name].task_free)
        optional = {name: STRATEGIES[name].task_free_with for name in STRATEGIES if STRATEGIES[name].task_free_with}
        able += "".join(f", {name} with strategy.{option}" for name, option in optional.items())
        raise ConfigurationError(
            f"strategy {config.strategy['name']!r} must be told where tasks begin and end, and boundaries=unknown says "
            f"nothing of that; use boundaries=known, or one of: {able}"
        )


def check_needs(config: ExperimentConfig, strategy: Strategy, policy: Policy) -> None:
    """Hold a strategy's needs against the protocol, the policy and the machine.

    Raises:
        ConfigurationError: One is not met.
    """
    check_protocol(config, strategy)
    strategy.check(policy)
    if not strategy.needs.teacher:
        return
    device = next(policy.parameters()).device
    trained = sum(each.numel() * each.element_size() for each in policy.parameters() if each.requires_grad)
    teacher = sum(each.numel() * each.element_size() for each in policy.parameters())
    wanted = teacher + 3 * trained  # gradients, and the optimiser's two moments
    free = free_memory(device)
    if wanted > free:
        raise ConfigurationError(
            f"strategy {config.strategy['name']!r} keeps a copy of the policy as its teacher, and with gradients and "
            f"the optimiser's moments that takes {wanted / 1e9:.1f} GB more, of which {free / 1e9:.1f} GB are free on "
            f"{device}; use a smaller policy, or a strategy without a teacher (vla-cl strategies)"
        )


def check_protocol(config: ExperimentConfig, strategy: Strategy) -> None:
    """Hold a strategy to what a protocol lets it know.

    Raises:
        ConfigurationError: It must be told at test which task it faces, and the protocol says nothing of that.
    """
    if strategy.needs.task_id_at_test and not config.evaluation.task_identity:
        raise ConfigurationError(
            f"strategy {config.strategy['name']!r} must be told at test which task it faces, and "
            "evaluation.task_identity=false withholds that; use a strategy that finds out by itself (vla-cl strategies)"
        )


def check_training(config: ExperimentConfig, strategy: Strategy) -> None:
    """Hold a strategy and the machine to the processes that are to train together.

    Raises:
        ConfigurationError: The strategy must see whole batches, or there are not as many processes or GPUs.
    """
    check_processes(config.training, config.device)
    if config.training.processes > 1 and strategy.whole_batches:
        raise ConfigurationError(
            f"strategy {config.strategy['name']!r} cannot be trained by several processes: {strategy.whole_batches}; "
            "use training.processes=1"
        )


def enforce_needs(strategy: Strategy) -> None:
    """Hold a strategy to what it declares, since the report prints that.

    Raises:
        ConfigurationError: It keeps demonstrations of earlier tasks without saying so.
    """
    if strategy.memory_bytes and not strategy.needs.raw_data:
        name = type(strategy).__name__
        raise ConfigurationError(f"strategy {name} keeps demonstrations; declare `needs = Needs(raw_data=True)`")
