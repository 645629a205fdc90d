"""How context ranks share sequences of one document each: the partition that a run would make of them, in figures.

A partition is made of token ids, so its figures are kept: a search asks for the same cut many times. The tokens of one
document over more than 16 ranks are not cut for real. They are balanced, and each rank needs nearly all keys. What
recurrent layers send depends on the number of cuts alone, so there a short document stands for a long one.
"""

import functools
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from ropewalk.partition.choose import Sharing, choose_partition, make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.partition.partition import Partition, partition_tokens
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.partition.ulysses import UlyssesPartition
from ropewalk.plan.plan import Split
from ropewalk.plan.traffic import Exchange, Traffic, recurrent_traffic
from ropewalk.recipe.parallel import Parallel
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
    )


@functools.lru_cache(maxsize=4096)
def cut_sequences(context_tokens: int, sequences: int, *, ranks: int, sharing: Sharing) -> Cut:
    """The cut of ``sequences`` sequences of one document each over ``ranks`` context ranks.

    Raises UserError where the ranks, or the heads, make no groups of the Ulysses degree that ``sharing`` asks for.
    """
    degree = sharing.ulysses_degree
    if degree is None and sharing.exchange != "auto":
        degree = 1  # an exchange of keys was asked for
    if degree is not None and ranks // degree > _MOST_CUT:
        count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, degree)
        exchange = "ring" if sharing.exchange == "auto" else sharing.exchange
        short = np.zeros((1, 2 * ranks // degree), dtype=np.int32)
        sent = _recurrent_traffic(partition_tokens(short, ranks=ranks // degree, layout="zigzag"), sharing)
        why = f"{exchange} over {ranks // degree} ranks"
        local = context_tokens * sequences * degree // ranks
        held = _share_keys(sharing, degree) * local * (1 if exchange == "ring" else ranks // degree - 1)
        return Cut(degree, cast(Exchange, exchange), received_tokens=held, recurrent_traffic=sent, why=why)
    rows = np.repeat(np.arange(sequences, dtype=np.int32)[:, None], context_tokens, axis=1)
    choice = choose_partition(rows, ranks=ranks, sharing=sharing)
    chosen = choice.partition
    tokens, degree = (
        (chosen.token_partition, chosen.ulysses_degree) if isinstance(chosen, UlyssesPartition) else (chosen, 1)
    )
    needed_share = tokens.traffic_tokens.sum() / max((tokens.ranks - 1) * tokens.tokens, 1)
    sent, exchange = _recurrent_traffic(tokens, sharing), cast(Exchange, tokens.exchange)
    held = _share_keys(sharing, degree) * _count_held(tokens)
    return Cut(degree, exchange, tokens.balance, float(needed_share), held, sent, choice.explain())


def _count_held(partition: Partition) -> int:
    """The most tokens of others whose keys a rank holds at once: a ring's block, or all that it receives."""
    if not partition.exchanges:
        return 0
    return partition.local_tokens if partition.exchange == "ring" else int(partition.traffic_tokens.sum(1).max())


def _share_keys(sharing: Sharing, degree: int) -> float:
    """The part of the key heads that a rank of a Ulysses group has, copies included."""
    kept = count_shared_heads(sharing.heads.heads, sharing.heads.kv_heads, degree)
    return kept / degree / sharing.heads.kv_heads


def _recurrent_traffic(partition: Partition, sharing: Sharing) -> Traffic | None:
    price = sharing.price.recurrent
    return None if price is None else recurrent_traffic(partition, price)
