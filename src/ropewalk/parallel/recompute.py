"""Activation recomputation: keep few activations of each block, and run the block again in the backward pass.

The model's own switch is used, so that sharding hooks stay outside of the code that runs twice. ``full`` keeps only the
block's input and costs one more forward pass, with its exchange of keys. ``save_attention`` also keeps attention's
output and log-sum-exp, so the part with quadratic cost in document length runs only once. It keeps two vectors of the
model's width per token and layer instead of one. The longer the documents, the more this pays (docs/parallel.md).
"""

from functools import partial
from typing import Any, Literal

from ropewalk.attention.recompute_cache import Keep, cache_attention

RecomputePolicy = Literal["none", "save_attention", "full"]


def set_recompute(model: Any, policy: RecomputePolicy, *, keep: Keep | None = None) -> None:
    """Recompute the blocks of a transformers ``model``: all of it (``full``), without attention, or not at all.

    ``save_attention`` recomputes all but attention, whose results wait where ``keep`` puts them (host_copies.py), or
    else on the device; ``none`` does nothing. The setting has an effect only while the model is in training mode. The
    switch has one name up to transformers 5.22, and another name from 5.23 on.
    """
    if policy == "none":
        return
    # The models that we train have no dropout, so there is no random state to keep.
    settings: dict[str, Any] = {"use_reentrant": False, "preserve_rng_state": False}
    if policy == "save_attention":
        settings["context_fn"] = partial(cache_attention, keep)
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable(settings)
    else:
        model.gradient_checkpointing_enable(settings)
