"""Attention with a bias on its scores, through torch's FlexAttention: one rank, a GPU.

A query's keys lie in one run, from its document's first token, or its window's, to itself. So blocks are told from
these starts alone, without a look at any pair. On a CPU FlexAttention has no backward and makes the matrix of all
pairs: it serves tests there and nothing else, and whoever would run a model so is told first (``require_gpu``).
"""

from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from ropewalk.attention.bias import Alibi, Fire
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition

BLOCK_TOKENS = 128

_masks: WeakKeyDictionary[Partition, BlockMask] = WeakKeyDictionary()


def attend_biased(
    query: Float[Tensor, "tokens heads head_dim"],
    key: Float[Tensor, "tokens kv_heads head_dim"],
    value: Float[Tensor, "tokens kv_heads head_dim"],
    *,
    bias: Alibi | Fire,
    positions: Int[Tensor, "tokens"],
    partition: Partition,
    scale: float | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Causal attention within documents, ``bias`` added to the scaled scores; padding sees itself.

    ``positions`` are those in the document that the model was given, so distances are skip-wise where they are. Raises
    UserError for a partition over several ranks.
    """
    if partition.ranks > 1:
        raise UserError(
            "a bias needs whole rows on a rank",
            where="parallel.context",
            why=f"rows are cut over {partition.ranks} ranks, and FlexAttention sees one rank's keys",
            fix="use parallel.context=1, or layers without a bias",
        )
    if partition not in _masks:
        _masks[partition] = make_block_mask(first_keys(partition), device=query.device)
    exact = torch.promote_types(query.dtype, torch.float32)
    out: Tensor = _kernel(query.device.type)(
        *(tensor.transpose(0, 1)[None] for tensor in (query, key, value)),
        score_mod=bias.score_mod(positions, exact),
        block_mask=_masks[partition],
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out[0].transpose(0, 1)


def require_gpu() -> None:
    """Raise UserError on a machine where a model with a bias would not run."""
    if not torch.cuda.is_available():
        raise UserError(
            "a bias on attention scores needs a GPU",
            where="layers: bias",
            why="it runs through FlexAttention, which has no backward on a CPU, and there is none but a CPU here",
            fix="go on where there is a GPU, or leave bias out of layers",
        )


def first_keys(partition: Partition) -> Int64[np.ndarray, "tokens"]:
    """The packed index of the first key that each token sees; a token of padding sees itself."""
    pieces, index = partition.pieces, np.arange(partition.tokens)
    first = np.repeat(np.where(pieces.document >= 0, pieces.begin, partition.tokens), pieces.stop - pieces.start)
    if partition.window is not None:
        first = np.maximum(first, index - partition.window + 1)
    seen: np.ndarray = np.minimum(first, index)
    return seen


def make_block_mask(first: Int64[np.ndarray, "tokens"], *, device: torch.device) -> BlockMask:
    """Queries that see the keys from ``first`` to themselves, in blocks of 128 x 128."""
    tokens = len(first)
    starts = np.arange(0, tokens, BLOCK_TOKENS)
    lowest, highest = np.minimum.reduceat(first, starts), np.maximum.reduceat(first, starts)
    own, other = np.arange(len(starts))[:, None], np.arange(len(starts))
    seen = (other <= own) & (other >= lowest[:, None] // BLOCK_TOKENS)
    whole = (other < own) & (other * BLOCK_TOKENS >= highest[:, None])
    bound = torch.from_numpy(first).to(device)

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (key <= query) & (key >= bound[query])

    return BlockMask.from_kv_blocks(
        *_list_blocks(seen & ~whole, device),
        *_list_blocks(whole, device),
        BLOCK_SIZE=BLOCK_TOKENS,
        mask_mod=sees,
        seq_lengths=(tokens, tokens),
    )


def _list_blocks(chosen: Bool[np.ndarray, "blocks blocks"], device: torch.device) -> tuple[Tensor, Tensor]:
    """How many blocks each block of queries has, and their numbers, those that it has first."""
    order = np.argsort(~chosen, axis=1, kind="stable").astype(np.int32)
    count = chosen.sum(axis=1, dtype=np.int32)
    return torch.from_numpy(count).to(device)[None, None], torch.from_numpy(order).to(device)[None, None]


@cache
def _kernel(device_type: str) -> Any:
    return torch.compile(flex_attention) if device_type == "cuda" else flex_attention
