"""A simulator suite for continual learning of vision-language-action policies.

A robot learns a sequence of manipulation tasks one after another. The suite produces the demonstrations, trains the
policy under a continual-learning strategy, rolls it out on every task after every task, and measures what it forgot.
`vla_cl.experiment` holds the loop that drives it all: read that file first.
"""

__version__ = "0.1.0"
