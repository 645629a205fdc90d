"""Merge two partial attentions over disjoint keys exactly: a weighted mean in log-sum-exp arithmetic."""

import torch
from jaxtyping import Float
from torch import Tensor


def merge(
    out: Float[Tensor, "queries heads head_dim"],
    logsum: Float[Tensor, "queries heads"],
    other: tuple[Float[Tensor, "queries heads head_dim"], Float[Tensor, "queries heads"]],
) -> tuple[Float[Tensor, "queries heads head_dim"], Float[Tensor, "queries heads"]]:
    """Outputs and log-sum-exps of both parts together, in the dtype of ``out``: float32 or better.

    Every query has seen a key in the second part, so only the first's log-sum-exps may be minus infinity.
    """
    other_out, other_logsum = other
    share = torch.sigmoid(other_logsum - logsum).unsqueeze(-1)
    return torch.lerp(out, other_out.to(out.dtype), share.to(out.dtype)), torch.logaddexp(logsum, other_logsum)


def sink(
    out: Float[Tensor, "queries heads head_dim"], logsum: Float[Tensor, "queries heads"], sinks: Float[Tensor, "heads"]
) -> tuple[Float[Tensor, "queries heads head_dim"], Float[Tensor, "queries heads"]]:
    """Merge with one more score per head that has no value: it takes part of the softmax, and adds nothing."""
    total = torch.logaddexp(logsum, sinks.to(logsum.dtype))
    return out * (logsum - total).exp().unsqueeze(-1).to(out.dtype), total
