"""Activation recomputation: keep few activations of each block, and run the block again in the backward pass.

The model's own switch is used, so that sharding hooks stay outside of the code that runs twice. ``full`` keeps only the
block's input and costs one more forward pass, with its exchange of keys. ``save_attention`` also keeps attention's
output and log-sum-exp, so the part with quadratic cost in document length runs only once. It keeps two vectors of the
model's width per token and layer instead of one. The longer the documents, the more this pays (docs/parallel.md).

Where only some blocks are recomputed, they are the first ones: the backward begins with the last block, so what the
others keep is free again before the first second run (plan/block_memory.py).
"""

from collections.abc import Iterable
from functools import partial
from typing import Any, Literal

from torch import nn

from ropewalk.attention.recompute_cache import Keep, cache_attention
from ropewalk.core.error import UserError

RecomputePolicy = Literal["none", "save_attention", "full"]


def set_recompute(
    model: nn.Module, policy: RecomputePolicy, *, keep: Keep | None = None, spared: Iterable[nn.Module] = ()
) -> None:
    """Recompute the blocks of a transformers ``model``: all of it (``full``), without attention, or not at all.

    The blocks in ``spared`` keep everything. Raises UserError where their class has no switch of its own.

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
    switch: Any = model
    if hasattr(model, "activation_checkpointing_enable"):
        switch.activation_checkpointing_enable(settings)
    else:
        switch.gradient_checkpointing_enable(settings)
    for block in spared:
        if not hasattr(block, "gradient_checkpointing"):
            raise UserError(
                f"blocks of {type(model).__name__} are recomputed all or none",
                where="parallel.recompute_blocks",
                why=f"the class {type(block).__name__} has no switch of its own",
                fix=f"parallel.recompute={policy} without parallel.recompute_blocks",
            )
        place: Any = block
        place.gradient_checkpointing = False
