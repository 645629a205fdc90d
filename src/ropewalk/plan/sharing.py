"""How context ranks share sequences of one document each: the partition that a run would make of them, in figures.

A partition is made of token ids, so its figures are kept: a search asks for the same cut many times. Where the recipe
names the exchange, the tokens of one document over more than 16 ranks are not cut for real. They are balanced, and each
rank needs nearly all keys. What recurrent layers send depends on the number of cuts alone, so there a short document
stands for a long one.
"""

import functools
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ropewalk.partition.choose import Sharing, choose_partition, count_held_tokens, make_sharing, share_keys
from ropewalk.partition.cost import Heads
from ropewalk.partition.partition import Partition, partition_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.partition.ulysses import UlyssesPartition
from ropewalk.plan.plan import Split
from ropewalk.plan.traffic import Exchange, Traffic, recurrent_traffic
from ropewalk.recipe.parallel import Parallel
from ropewalk.shape.families import row_of
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.shared_heads import count_shared_heads, limit_sharing

_MOST_CUT = 16


@dataclass(frozen=True, slots=True)
class Cut:
    """How a micro-batch is cut over context ranks; the fields are those of ``Split``."""

    ulysses_degree: int = 1
    exchange: Exchange = "needed_kv"
    imbalance: float = 1.0
    needed_share: float = 1.0
    received_tokens: float = 0.0
    recurrent_traffic: Traffic | None = None
    why: str = ""
    held_tokens: float | None = None
    """The most tokens of others whose keys memory has room for; None where it has room for any."""

    def apply(self, split: Split) -> Split:
        """``split`` with this cut."""
        return replace(
            split,
            ulysses_degree=self.ulysses_degree,
            exchange=self.exchange,
            imbalance=self.imbalance,
            needed_share=self.needed_share,
            received_tokens=self.received_tokens,
            recurrent_traffic=self.recurrent_traffic,
            why=self.why,
            held_tokens=self.held_tokens,
        )


def plan_sharing(parallel: Parallel, shape: ModelShape, *, device: str, element_bytes: int) -> Sharing:
    """The ways in which context ranks may share a batch, with costs for a model of ``shape`` on a kind of device."""
    asked = None if parallel.ulysses_degree == "auto" else parallel.ulysses_degree
    return make_sharing(
        Heads(shape.heads, shape.kv_heads, shape.head_dim, shape.sent_width if shape.latent else None),
        device=device,
        element_bytes=element_bytes,
        layout=parallel.layout,
        exchange=parallel.exchange,
        ulysses_degree=limit_sharing(asked, recurrent=shape.recurrent is not None),
        recurrent=RecurrentStates.of_shape(shape),
        gathers=gathers_keys(shape, device=device, element_bytes=element_bytes),
    )


def gathers_keys(shape: ModelShape, *, device: str, element_bytes: int) -> bool:
    """Whether the kernel of layers without a window wants all keys in one block: FlexAttention, on a GPU.

    It runs where flash attention cannot (attention/choose_kernel.py).
    """
    family = row_of(shape.architecture)
    capped = family is not None and family.score_cap
    return device == "cuda" and (capped or element_bytes > 2 or shape.head_dim % 8 != 0)


@functools.lru_cache(maxsize=4096)
def cut_sequences(context_tokens: int, sequences: int, *, ranks: int, sharing: Sharing) -> Cut:
    """The cut of ``sequences`` sequences of one document each over ``ranks`` context ranks.

    Raises UserError where the ranks, or the heads, make no groups of the Ulysses degree that ``sharing`` asks for.
    """
    if sharing.exchange != "auto":
        degree = sharing.ulysses_degree or 1  # an exchange of keys was asked for
        if ranks // degree > _MOST_CUT:
            return _cut_evenly(context_tokens * sequences, ranks=ranks, degree=degree, sharing=sharing)
    rows = np.repeat(np.arange(sequences, dtype=np.int32)[:, None], context_tokens, axis=1)
    choice = choose_partition(rows, ranks=ranks, sharing=sharing)
    chosen = choice.partition
    tokens, degree = (
        (chosen.token_partition, chosen.ulysses_degree) if isinstance(chosen, UlyssesPartition) else (chosen, 1)
    )
    needed_share = tokens.traffic_tokens.sum() / max((tokens.ranks - 1) * tokens.tokens, 1)
    sent, exchange = _recurrent_traffic(tokens, sharing), cast(Exchange, tokens.exchange)
    held = count_held_tokens(chosen, sharing)
    why = choice.explain(with_memory=sharing.held_tokens is None)  # choose_cut tells of the room
    return Cut(degree, exchange, tokens.balance, float(needed_share), held, sent, why)


def _cut_evenly(tokens: int, *, ranks: int, degree: int, sharing: Sharing) -> Cut:
    """The cut of ``tokens`` tokens in figures alone, for the exchange that ``sharing`` names."""
    count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, degree)
    parts, exchange = ranks // degree, sharing.exchange
    short = np.zeros((1, 2 * parts), dtype=np.int32)
    sent = _recurrent_traffic(partition_tokens(short, ranks=parts, layout="zigzag"), sharing)
    blocks = 1 if exchange == "ring" and not sharing.gathers else parts - 1
    held = share_keys(sharing, degree) * (tokens * degree // ranks) * blocks
    why = f"{exchange} over {parts} ranks"
    return Cut(degree, cast(Exchange, exchange), received_tokens=held, recurrent_traffic=sent, why=why)


def _recurrent_traffic(partition: Partition, sharing: Sharing) -> Traffic | None:
    price = sharing.price.recurrent
    return None if price is None else recurrent_traffic(partition, price)
