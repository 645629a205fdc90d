"""Trade time for memory: keep only each block's input, and run the block again in the backward pass.

It goes through the model's own switch, so that sharding hooks stay outside what is run twice. Costs one more forward
pass of the blocks, exchange of keys included.
"""

from typing import Any, Literal

RecomputePolicy = Literal["none", "full"]


def set_recompute(model: Any, policy: RecomputePolicy) -> None:
    """Recompute every block of a transformers ``model`` (``full``) or none.

    It acts while the model is in training mode. The switch is called one thing up to 5.22 and another from 5.23 on.
    """
    if policy == "none":
        return
    # There is no dropout in what we train, so there is no random state to keep.
    settings = {"use_reentrant": False, "preserve_rng_state": False}
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)
