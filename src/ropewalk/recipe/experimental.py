"""Keys of experiments: what they do may change, and no claim rests on them."""

from ropewalk.core.quantity import Count
from ropewalk.core.spec import Spec


class Experimental(Spec):
    """The switch for what is an experiment, and its keys."""

    frozen_steps: Count = 0
    """First steps, in which only layers with a new ``mixer`` are trained, and all other weights stay."""
