"""Cross-entropy of a long row without its logits: [131072, 128000] of them would be 62 GiB.

Tokens pass the head in chunks, and each chunk's gradient is taken at once, while its logits exist: three matrix
products instead of the four that recomputing them later would cost. The price is a float32 copy of the head's gradient.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

CHUNK_TOKENS = 1024
_BLOCK_BYTES = {False: 4 << 20, True: 64 << 20}
"""Of float32 logits at a time, by whether they are on a GPU: what stays in a core's cache between a dozen passes."""


def chunked_cross_entropy(
    hidden: Float[Tensor, "tokens width"],
    head: Float[Tensor, "vocabulary width"],
    labels: Int[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    chunk_tokens: int = CHUNK_TOKENS,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens"]]:
    """``(sum of weights x nll, nll)`` in float32 (float64 for float64 inputs), nll in nats, not differentiable.

    Labels are the tokens to predict, shifted already; where a weight is 0 the label may be anything, also negative,
    and its nll is 0. Gradients flow to ``hidden`` and ``head`` through the sum.
    """
    loss_sum, nll, _ = score_labels(hidden, head, labels, weights, chunk_tokens=chunk_tokens)
    return loss_sum, nll


def score_labels(
    hidden: Float[Tensor, "tokens width"],
    head: Float[Tensor, "vocabulary width"],
    labels: Int[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    chunk_tokens: int = CHUNK_TOKENS,
    z_loss: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens"], Bool[Tensor, "tokens"]]:
    """``chunked_cross_entropy``, and where no token is likelier than the label (False where the weight is 0).

    ``z_loss`` x (log of the softmax's denominator)^2 is added to each token's loss, not to its nll: it holds logits
    near where they are, as in PaLM (2204.02311), whose factor was 1e-4.
    """
    loss_sum, nll, correct = _ChunkedCrossEntropy.apply(hidden, head, labels, weights, chunk_tokens, z_loss)
    return loss_sum, nll, correct


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, labels: Tensor, weights: Tensor, chunk_tokens: int, z_loss: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.zeros(len(hidden), dtype=exact, device=hidden.device)
        correct = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        z_sum = torch.zeros((), dtype=exact, device=hidden.device)
        hidden_grad = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        head_grad = torch.zeros_like(head, dtype=exact) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            rows = torch.nonzero(weights[chunk]).squeeze(1) + start
            if not len(rows):
                continue  # padding, or instructions: nothing to learn here
            everything = len(rows) == len(nll[chunk])
            inputs = hidden[chunk] if everything else hidden[rows]
            wanted = labels[rows, None].long()
            weight = None if hidden_grad is None and head_grad is None else weights[rows, None].to(exact)
            nll[rows], correct[rows], denominator, slope_at_inputs = _read_chunk(
                inputs, head, wanted, weight=weight, head_grad=head_grad, z_loss=z_loss
            )
            z_sum += z_loss * (weights[rows].to(exact) * denominator.square()).sum()
            if hidden_grad is not None:
                assert slope_at_inputs is not None
                hidden_grad[rows] = slope_at_inputs
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(nll, correct)
        return (nll * weights.to(exact)).sum() + z_sum, nll, correct

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden_grad, head_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad = hidden_grad * upstream  # a scalar: the product is taken in float32, then rounded
        if head_grad is not None:
            head_grad = (head_grad * upstream).to(ctx.head_dtype)
        return hidden_grad, head_grad, None, None, None, None


def _read_chunk(
    inputs: Tensor, head: Tensor, wanted: Tensor, *, weight: Tensor | None, head_grad: Tensor | None, z_loss: float
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """nll, whether the label is likeliest, the log of the softmax's denominator, and with ``weight`` the gradient of
    the inputs; adds to ``head_grad``.

    A function of its own, so that a chunk's logits are gone before the next ones are made.
    """
    logits = inputs @ head.T
    block_tokens = max(_BLOCK_BYTES[logits.is_cuda] // (4 * logits.shape[1]), 1)
    weights = [None] * len(logits) if weight is None else weight.split(block_tokens)
    blocks = zip(logits.split(block_tokens), wanted.split(block_tokens), weights, strict=False)
    read = [_read_block(block, labels, weight=each, z_loss=z_loss) for block, labels, each in blocks]
    nll, correct, denominator = map(torch.cat, zip(*read, strict=True))
    if weight is None:
        return nll, correct, denominator, None
    slope = logits
    if head_grad is not None and head_grad.dtype == slope.dtype:
        head_grad.addmm_(slope.T, inputs)  # in one pass, without a second head's worth of memory
    elif head_grad is not None:
        head_grad += slope.T @ inputs
    return nll, correct, denominator, slope @ head


def _read_block(
    logits: Tensor, wanted: Tensor, *, weight: Tensor | None, z_loss: float
) -> tuple[Tensor, Tensor, Tensor]:
    """nll, whether the label is likeliest, log of the denominator; ``logits`` become the loss's slope in their place.

    In float32, whatever the logits are. Not by logsumexp: one pass over the logits less, and the largest for nothing.
    """
    powers = logits.to(torch.promote_types(logits.dtype, torch.float32))
    largest, given = powers.amax(dim=1, keepdim=True), powers.gather(1, wanted)
    total = powers.sub_(largest).exp_().sum(dim=1, keepdim=True)
    denominator = total.log() + largest
    if weight is not None:
        slope = powers.mul_(weight * (1 + 2 * z_loss * denominator) / total).scatter_add_(1, wanted, -weight)
        if slope.dtype != logits.dtype:
            logits.copy_(slope)
    return (denominator - given).squeeze(1), (given >= largest).squeeze(1), denominator.squeeze(1)
