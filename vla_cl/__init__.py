"""A simulator suite for continual learning of vision-language-action policies.

A robot learns a sequence of manipulation tasks one after another. The suite produces the demonstrations, trains the
policy under a continual-learning strategy, rolls it out on every task after every task, and measures what it forgot.
`vla_cl.experiment` holds the loop that drives it all: read that file first.

Importing the package registers one Gymnasium id for each task (`vla_cl.tasks.gymnasium_ids`); `vla_cl.make` builds the
same environments from "suite/task".
"""

from vla_cl.tasks import make, register_gymnasium_ids

__all__ = ["__version__", "make"]

__version__ = "0.1.0"

register_gymnasium_ids()
