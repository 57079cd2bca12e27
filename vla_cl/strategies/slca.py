"""SLCA's slow learner: what represents learns slowly, what decides learns fast.

Zhang et al., "SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model", ICCV 2023
(arXiv 2303.05118), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.errors import ConfigurationError
from vla_cl.strategies.base import STRATEGIES, Strategy
from vla_cl.strategies.weights import OWN_MODULES

HEAD = "head."


@STRATEGIES.decorator("slca")
class SLCA(Strategy):
    """The learning rate of everything before the action head is multiplied: `eta_backbone = slow * eta_head`.

    The paper's second half, classifier alignment, is left out: it draws features of every class seen so far from a
    Gaussian a class and trains the classifier's outputs on them, and a policy's head has no outputs that compete
    between tasks; demonstrated actions belong to moments, not to classes.

    Ours: a policy from scratch learns its first task at the full rate, since the paper starts from a pretrained model.
    """

    @dataclass
    class Options:
        """Learning rates.

        Args:
            slow: Factor on the learning rate of the representation, 0 to 1; 1 is sequential fine-tuning, and 0 trains
                the head alone. The paper uses 0.01.
            pretrained: Whether the representation is pretrained, and so learns slowly from the first task on.
        """

        slow: float = 0.1
        pretrained: bool = False

    def __init__(self, options: Options, seed: int) -> None:
        super().__init__(options, seed)
        if not 0.0 <= options.slow <= 1.0:
            raise ConfigurationError(f"strategy.slow must be 0 to 1, got {options.slow}")

    def learning_rate(self, parameter: str) -> float:
        if parameter.startswith((HEAD, OWN_MODULES)) or (self.stage == 0 and not self.options.pretrained):
            return 1.0
        slow: float = self.options.slow
        return slow
