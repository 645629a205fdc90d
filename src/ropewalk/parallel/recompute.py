"""Trade time for memory: keep little of each block, and run the block again in the backward pass.

It goes through the model's own switch, so that sharding hooks stay outside what is run twice. ``full`` keeps the
block's input and costs one more forward pass, exchange of keys included; ``save_attention`` keeps attention's output
and log-sum-exp beside it, so the part that grows with the square of a document runs once. That is the better bargain
the longer the documents are: two rows of the model's width per token and layer instead of one (docs/parallel.md).
"""

from typing import Any, Literal

from ropewalk.attention.recompute_cache import cache_attention

RecomputePolicy = Literal["none", "save_attention", "full"]


def set_recompute(model: Any, policy: RecomputePolicy) -> None:
    """Recompute every block of a transformers ``model``, but for its attention (``save_attention``), wholly, or none.

    It acts while the model is in training mode. The switch is called one thing up to 5.22 and another from 5.23 on.
    """
    if policy == "none":
        return
    # There is no dropout in what we train, so there is no random state to keep.
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if policy == "save_attention":
        settings["context_fn"] = cache_attention
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)
