"""Cross-entropy of a long sequence without all its logits: [131072, 128000] of them would take 62 GiB.

Tokens with a weight pass the head in chunks. Each chunk's gradient is computed at once, while its logits exist: three
matrix products instead of the four that recomputing would take. The cost is a float32 copy of the head's gradient, to
which a GPU adds each chunk's product without rounding it first. Which tokens have a weight comes with the batch, so the
host never waits for a GPU here.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Int64, Shaped
from torch import Tensor

from ropewalk.recipe.parallel import LOSS_CHUNK_TOKENS

_BLOCK_BYTES = {False: 4 << 20, True: 64 << 20}
"""Bytes of float32 logits at a time, by whether they are on a GPU; on the CPU they stay in a core's cache."""


class LossRules(NamedTuple):
    """``chunk_tokens`` pass the head at once; None is 4096 on a GPU, 1024 on a CPU.

    ``z_loss`` x (log of the softmax's denominator)^2 is added to each token's loss, not to its nll. It keeps logits
    near their present level, as in PaLM (2204.02311) with a factor of 1e-4. ``most`` bounds ``weigh_by_context``.
    Logits x become ``cap`` tanh(x / ``cap``) first, as in Gemma 2 (2408.00118).
    """

    chunk_tokens: int | None = None
    z_loss: float = 0.0
    most: float = 1.0
    cap: float | None = None


def chunked_cross_entropy(
    hidden: Float[Tensor, "tokens width"],
    head: Float[Tensor, "vocabulary width"],
    labels: Int[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    chunk_tokens: int | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens"]]:
    """``(sum of weights x nll, nll)`` in float32 (float64 for float64 inputs), nll in nats, not differentiable.

    Labels are the tokens to predict, shifted already. Where a
    weight is 0, the label may have any value, also negative, and its nll is 0. Gradients flow to ``hidden`` and
    ``head`` through the sum.
    """
    loss_sum, nll, _ = score_labels(hidden, head, labels, weights, rules=LossRules(chunk_tokens))
    return loss_sum, nll


def score_labels(
    hidden: Float[Tensor, "tokens width"],
    head: Float[Tensor, "vocabulary width"],
    labels: Int[Tensor, "tokens"],
    weights: Float[Tensor, "tokens"],
    *,
    rules: LossRules | None = None,
    truncated_nll: Float[Tensor, "tokens"] | None = None,
    counted: Int64[Tensor, "counted"] | None = None,
) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens"], Bool[Tensor, "tokens"]]:
    """``chunked_cross_entropy``, and whether each label is a likeliest token (False where the weight is 0).

    With ``truncated_nll`` each weight is multiplied by the result of ``weigh_by_context``. ``counted`` are
    the indices of the tokens whose weight is not 0, ascending. None looks for them, and the host waits once for a GPU.
    """
    if counted is None:
        counted = torch.nonzero(weights).squeeze(1)
    rules = rules or LossRules()
    rules = rules._replace(chunk_tokens=rules.chunk_tokens or LOSS_CHUNK_TOKENS[hidden.is_cuda])
    loss_sum, nll, correct = _ChunkedCrossEntropy.apply(hidden, head, labels, weights, counted, truncated_nll, rules)
    return loss_sum, nll, correct


def weigh_by_context(
    nll: Float[Tensor, "tokens"], truncated_nll: Float[Tensor, "tokens"], *, most: float
) -> Float[Tensor, "tokens"]:
    """LongCE's weight (Fang et al., 2410.23771): a token's likelihood with full over that with truncated context.

    The weight is at most ``most``, and 1 where ``truncated_nll`` is NaN, because full and truncated context are the
    same there. No gradient flows through it.
    """
    return torch.where(truncated_nll.isnan(), 1.0, (truncated_nll - nll).exp().clamp(max=most))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Float[Tensor, "tokens width"],
        head: Float[Tensor, "vocabulary width"],
        labels: Int[Tensor, "tokens"],
        weights: Float[Tensor, "tokens"],
        counted: Int64[Tensor, "counted"],
        truncated_nll: Float[Tensor, "tokens"] | None,
        rules: LossRules,
    ) -> tuple[Float[Tensor, ""], Float[Tensor, "tokens"], Bool[Tensor, "tokens"]]:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        nll = torch.zeros(len(hidden), dtype=exact, device=hidden.device)
        correct = torch.zeros(len(hidden), dtype=torch.bool, device=hidden.device)
        loss_sum = torch.zeros((), dtype=exact, device=hidden.device)
        hidden_grad = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        head_grad = torch.zeros_like(head, dtype=exact) if ctx.needs_input_grad[1] else None
        assert rules.chunk_tokens is not None
        everything = len(counted) == len(hidden)
        for start in range(0, len(counted), rules.chunk_tokens):
            chunk = slice(start, start + rules.chunk_tokens)
            rows = counted[chunk]
            # [tokens, width] -> [counted, width], and likewise [tokens] -> [counted]; labels [tokens] -> [counted, 1]
            nll[rows], correct[rows], loss, slope_at_inputs = _read_chunk(
                hidden[chunk] if everything else hidden[rows],
                head,
                labels[rows, None].long(),
                weight=weights[rows].to(exact),
                truncated_nll=None if truncated_nll is None else truncated_nll[rows].to(exact),
                learns=hidden_grad is not None or head_grad is not None,
                head_grad=head_grad,
                rules=rules,
            )
            loss_sum += loss
            if hidden_grad is not None:
                assert slope_at_inputs is not None
                hidden_grad[rows] = slope_at_inputs
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(nll, correct)
        return loss_sum, nll, correct

    @staticmethod
    def backward(  # type: ignore[override]
        ctx: Any, upstream: Float[Tensor, ""], *_: Shaped[Tensor, "tokens"] | None
    ) -> tuple[Float[Tensor, "..."] | None, ...]:
        hidden_grad, head_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad = hidden_grad * upstream  # a scalar: the product is taken in float32, then rounded
        if head_grad is not None:
            # Without a product in float32 beside it, which would be a step's peak where the vocabulary is large.
            head_grad = torch.mul(head_grad, upstream, out=torch.empty_like(head_grad, dtype=ctx.head_dtype))
        return hidden_grad, head_grad, None, None, None, None, None


def _read_chunk(
    inputs: Float[Tensor, "counted width"],
    head: Float[Tensor, "vocabulary width"],
    wanted: Int64[Tensor, "counted 1"],
    *,
    weight: Float[Tensor, "counted"],
    truncated_nll: Float[Tensor, "counted"] | None,
    learns: bool,
    head_grad: Float[Tensor, "vocabulary width"] | None,
    rules: LossRules,
) -> tuple[Float[Tensor, "counted"], Bool[Tensor, "counted"], Float[Tensor, ""], Float[Tensor, "counted width"] | None]:
    """Return nll, whether the label is likeliest, the sum of the loss, and the gradient of the inputs if it ``learns``.

    It also adds to ``head_grad``. It is a separate function, so that a chunk's logits are freed before the next chunk's
    logits are made.
    """
    logits = inputs @ head.T
    block_tokens = max(_BLOCK_BYTES[logits.is_cuda] // (4 * logits.shape[1]), 1)
    # [counted] -> blocks x [block]
    truncated = [None] * len(logits) if truncated_nll is None else truncated_nll.split(block_tokens)
    # [counted, vocabulary], [counted, 1], [counted] -> blocks x ([block, vocabulary], [block, 1], [block])
    blocks = zip(*(each.split(block_tokens) for each in (logits, wanted, weight)), truncated, strict=False)
    read = [_read_block(*block, learns=learns, rules=rules) for block in blocks]
    # blocks x [block] -> [counted], three times
    nll, correct, loss = map(torch.cat, zip(*read, strict=True))
    if not learns:
        return nll, correct, loss.sum(), None
    slope = logits
    if head_grad is not None:
        add_product(head_grad, slope.T, inputs)
    return nll, correct, loss.sum(), slope @ head


def add_product(
    total: Float[Tensor, "rows columns"], left: Float[Tensor, "rows inner"], right: Float[Tensor, "inner columns"]
) -> None:
    """Add ``left @ right`` to ``total``, in one pass and without a second buffer of that size, where torch can.

    On a CPU the product of narrower types is rounded to them before it is added.
    """
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    elif _adds_widely(left):
        torch.addmm(total, left, right, out_dtype=total.dtype, out=total)
    else:
        total += left @ right


def _adds_widely(left: Float[Tensor, "rows inner"]) -> bool:
    """Whether a product of 16-bit tensors can be added to a float32 one unrounded: torch 2.11 can on CUDA alone."""
    return left.is_cuda


def _read_block(
    logits: Float[Tensor, "block vocabulary"],
    wanted: Int64[Tensor, "block 1"],
    weight: Float[Tensor, "block"],
    truncated_nll: Float[Tensor, "block"] | None,
    *,
    learns: bool,
    rules: LossRules,
) -> tuple[Float[Tensor, "block"], Bool[Tensor, "block"], Float[Tensor, "block"]]:
    """Return nll, whether the label is likeliest, and the weighed loss; the loss's slope overwrites ``logits``.

    Computed in float32 for every type of logits. It does not use logsumexp: this saves one pass over the logits, and
    the maximum is a by-product.
    """
    powers = logits.to(torch.promote_types(logits.dtype, torch.float32))
    rise = None
    if rules.cap is not None:
        powers = (powers / rules.cap).tanh_()
        rise = 1 - powers.square() if learns else None  # the cap's own slope
        powers *= rules.cap
    # [block, vocabulary] at [block, 1] -> [block, 1]
    largest, given = powers.amax(dim=1, keepdim=True), powers.gather(1, wanted)
    total = powers.sub_(largest).exp_().sum(dim=1, keepdim=True)
    denominator = total.log() + largest
    nll, correct = (denominator - given).squeeze(1), (given >= largest).squeeze(1)
    if truncated_nll is not None:
        weight = weight * weigh_by_context(nll, truncated_nll, most=rules.most)
    if learns:
        each = weight[:, None]
        # [block, 1] into [block, vocabulary]
        slope = powers.mul_(each * (1 + 2 * rules.z_loss * denominator) / total).scatter_add_(1, wanted, -each)
        if rise is not None:
            slope *= rise
        if slope is not logits:
            logits.copy_(slope)
    return nll, correct, weight * (nll + rules.z_loss * denominator.squeeze(1).square())
