"""How keys and values reach the ranks that read them, and how their gradients return.

Three exchanges have one signature: only the needed keys in one all-to-all, all keys in one all-gather, or block by
block in a ring. A fourth serves kernels that want a rank's own keys in the same block. ``fetch`` starts at once and
yields the blocks of steps 1, 2, ... as they arrive, so a rank computes on its own keys meanwhile.
``return_gradients`` takes the gradients of those blocks from an iterator, in the same order, and starts to send them;
what it returns waits for all ranks' gradients of this rank's own keys, and gives their sum. Gradients travel in the
keys' own dtype and are summed in float32 or better, but for a ring's, whose sums travel. Sums have a fixed order, so
two runs agree in all bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.attention.gathered_keys import GatheredKeys
from ropewalk.partition.partition import Partition

Block = Float[Tensor, "_ both_heads head_dim"]
"""Keys and values of some tokens, side by side in the second axis."""


@dataclass(frozen=True, slots=True)
class RankExchange:
    """One rank's part of a partition's exchange: which tokens' keys and values go to whom, and where they belong.

    ``send`` holds local indices, sorted by destination; ``send_tokens`` counts them by destination, ``receive_tokens``
    by source.
    """

    rank: int
    ranks: int
    local_tokens: int
    send: Int64[Tensor, "sent"]
    send_tokens: list[int]
    receive_tokens: list[int]
    order: Int64[Tensor, "received"] | None
    """Where each token of the block, in packed order, stands among the received ones; None where they agree."""
    all_gathered: Int64[Tensor, "received"]
    """Where each token of the block stands when all ranks' tokens are laid end to end."""
    gathered: Int64[Tensor, "local_and_received"]
    """Where each of the gathered keys stands among own tokens followed by the block."""


Fetch = Callable[[Block, RankExchange, dist.ProcessGroup], Iterator[Block]]
Arrival = Callable[[], Block]
"""Waits for the gradients of a rank's own keys, and returns their sum."""
ReturnGradients = Callable[[Iterator[Block], RankExchange, dist.ProcessGroup, torch.dtype], Arrival]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A way there and the same way back."""

    fetch: Fetch
    return_gradients: ReturnGradients


def fetch_needed(own: Block, traffic: RankExchange, group: dist.ProcessGroup) -> Iterator[Block]:
    """One block: the keys that this rank's tiles read, and nothing else."""
    # [local, both_heads, head_dim] -> [sent, both_heads, head_dim]
    outgoing = own.index_select(0, traffic.send)
    block = own.new_empty(sum(traffic.receive_tokens), *own.shape[1:])
    work = dist.all_to_all_single(
        block, outgoing, traffic.receive_tokens, traffic.send_tokens, group=group, async_op=True
    )

    def arrive(block: Block) -> Iterator[Block]:
        assert outgoing.is_contiguous()  # and alive until it has been sent
        work.wait()
        if traffic.order is not None:
            # [received, both_heads, head_dim], in packed order; nothing keeps the other one
            block = block.index_select(0, traffic.order)
        yield block

    return arrive(block)


def return_needed(
    gradients: Iterator[Block], traffic: RankExchange, group: dist.ProcessGroup, dtype: torch.dtype
) -> Arrival:
    """The all-to-all the other way round."""
    (block,) = gradients
    outgoing = block.to(dtype).contiguous()
    if traffic.order is not None:
        outgoing = torch.empty_like(outgoing)
        outgoing[traffic.order] = block.to(dtype)  # [received, both_heads, head_dim], in the order in which they came
    incoming = outgoing.new_empty(len(traffic.send), *block.shape[1:])
    work = dist.all_to_all_single(
        incoming, outgoing, traffic.send_tokens, traffic.receive_tokens, group=group, async_op=True
    )

    def arrive() -> Block:
        assert outgoing.is_contiguous()  # and alive until it has been sent
        work.wait()
        total = block.new_zeros(traffic.local_tokens, *block.shape[1:])
        # [sent, both_heads, head_dim] and [sent], a part of each for every destination
        parts = zip(incoming.split(traffic.send_tokens), traffic.send.split(traffic.send_tokens), strict=True)
        for part, index in parts:
            total[index] += part  # a destination asks for a token once
        return total

    return arrive


def fetch_gathered(own: Block, traffic: RankExchange, group: dist.ProcessGroup) -> Iterator[Block]:
    """One block: own keys and needed ones together, in packed order."""
    others = fetch_needed(own, traffic, group)

    def arrive() -> Iterator[Block]:
        (block,) = others
        # [local, both_heads, head_dim] and [received, both_heads, head_dim] -> [local + received, both_heads, head_dim]
        yield torch.cat([own, block]).index_select(0, traffic.gathered)

    return arrive()


def return_gathered(
    gradients: Iterator[Block], traffic: RankExchange, group: dist.ProcessGroup, dtype: torch.dtype
) -> Arrival:
    """Gradients of own keys stay, those of others return to their owners."""
    (gathered,) = gradients
    parts = torch.empty_like(gathered)
    parts[traffic.gathered] = gathered  # [local + received, both_heads, head_dim]: own tokens first
    # -> [local, both_heads, head_dim] and [received, both_heads, head_dim]
    own, block = parts.split([traffic.local_tokens, len(gathered) - traffic.local_tokens])
    others = return_needed(iter([block]), traffic, group, dtype)
    return lambda: own + others()


def fetch_all(own: Block, traffic: RankExchange, group: dist.ProcessGroup) -> Iterator[Block]:
    """One block, picked from an all-gather of all keys: more bytes, one regular collective."""
    everything = own.new_empty(traffic.ranks * traffic.local_tokens, *own.shape[1:])
    mine = own.contiguous()
    # [ranks * local, both_heads, head_dim], a part [local, both_heads, head_dim] for each rank
    work = dist.all_gather(list(everything.chunk(traffic.ranks)), mine, group=group, async_op=True)

    def arrive() -> Iterator[Block]:
        assert mine.is_contiguous()
        assert work is not None
        work.wait()
        # [ranks * local, both_heads, head_dim] -> [received, both_heads, head_dim]
        yield everything.index_select(0, traffic.all_gathered)

    return arrive()


def return_all(
    gradients: Iterator[Block], traffic: RankExchange, group: dist.ProcessGroup, dtype: torch.dtype
) -> Arrival:
    """A reduce-scatter, written as an all-to-all and a sum in the order of ranks."""
    (block,) = gradients
    everything = block.new_zeros(traffic.ranks * traffic.local_tokens, *block.shape[1:], dtype=dtype)
    everything[traffic.all_gathered] = block.to(dtype)  # [received, ...] into [ranks * local, both_heads, head_dim]
    incoming = torch.empty_like(everything)
    work = dist.all_to_all_single(incoming, everything, group=group, async_op=True)

    def arrive() -> Block:
        assert everything.is_contiguous()
        work.wait()
        parts = incoming.view(traffic.ranks, traffic.local_tokens, *block.shape[1:])
        return parts.sum(0, dtype=block.dtype)

    return arrive


def fetch_ring(own: Block, traffic: RankExchange, group: dist.ProcessGroup) -> Iterator[Block]:
    """The others' keys one rank after the other; while a block is computed on, the next one travels."""
    left, right = (traffic.rank - 1) % traffic.ranks, (traffic.rank + 1) % traffic.ranks

    def arrive(moving: _Passing) -> Iterator[Block]:
        for step in range(1, traffic.ranks):
            block = moving.wait()
            if step + 1 < traffic.ranks:
                moving = _pass_on(block, left, right, group)
            yield block

    return arrive(_pass_on(own.contiguous(), left, right, group))


def return_ring(
    gradients: Iterator[Block], traffic: RankExchange, group: dist.ProcessGroup, dtype: torch.dtype
) -> Arrival:
    """Each block's gradient follows its block, is added to on the way, and ends one rank beyond: at its owner.

    It travels as it is, not in ``dtype``: sums that are rounded at every rank would lose more than one rounding.
    """
    left, right = (traffic.rank - 1) % traffic.ranks, (traffic.rank + 1) % traffic.ranks
    moving: _Passing | None = None
    for gradient in gradients:
        total = gradient if moving is None else moving.wait().add_(gradient)
        moving = _pass_on(total.contiguous(), left, right, group)
        del gradient, total  # while the next block is computed only what travels takes memory
    assert moving is not None
    return moving.wait


EXCHANGES = {
    "needed_kv": Exchange(fetch_needed, return_needed),
    "all_gather": Exchange(fetch_all, return_all),
    "ring": Exchange(fetch_ring, return_ring),
}
GATHERED = Exchange(fetch_gathered, return_gathered)
"""For kernels that want all keys at once, whatever exchange the partition names: the needed ones beside the own."""

_traffics: WeakKeyDictionary[Partition, dict[tuple[int, torch.device], RankExchange]] = WeakKeyDictionary()


def plan_traffic(partition: Partition, rank: int, device: torch.device) -> RankExchange:
    """What a rank sends and receives under a partition; made at the first request."""
    of_partition = _traffics.setdefault(partition, {})
    if (rank, device) not in of_partition:
        of_partition[rank, device] = _plan_traffic(partition, rank, device)
    return of_partition[rank, device]


def _plan_traffic(partition: Partition, rank: int, device: torch.device) -> RankExchange:
    sent = [partition.localise(partition.received(other, rank))[1] for other in range(partition.ranks)]
    received = [partition.received(rank, other) for other in range(partition.ranks)]
    # [tokens] from each source -> [received]
    packed = np.concatenate(received)
    order = np.argsort(packed, kind="stable")
    owner, local = partition.localise(packed[order])

    def place(indices: Int64[np.ndarray, "tokens"]) -> Int64[Tensor, "tokens"]:
        return copy_to_device(indices, device)

    return RankExchange(
        rank=rank,
        ranks=partition.ranks,
        local_tokens=partition.local_tokens,
        # [tokens] for each destination -> [sent]
        send=place(np.concatenate(sent)),
        send_tokens=[len(tokens) for tokens in sent],
        receive_tokens=[len(tokens) for tokens in received],
        order=None if (order[1:] > order[:-1]).all() else place(order),
        all_gathered=place(owner * partition.local_tokens + local),
        gathered=place(GatheredKeys(partition, rank).order),
    )


@dataclass(frozen=True, slots=True)
class _Passing:
    """A block on its way to the right while another one comes from the left."""

    works: tuple[dist.Work, ...]
    incoming: Block
    outgoing: Block

    def wait(self) -> Block:
        for work in self.works:
            work.wait()
        return self.incoming


def _pass_on(outgoing: Block, left: int, right: int, group: dist.ProcessGroup) -> _Passing:
    incoming = torch.empty_like(outgoing)
    # As one batch: NCCL runs what is sent and received one by one in order, and all ranks would send and wait.
    both = [
        dist.P2POp(dist.isend, outgoing, group=group, group_peer=right),
        dist.P2POp(dist.irecv, incoming, group=group, group_peer=left),
    ]
    return _Passing(tuple(dist.batch_isend_irecv(both)), incoming, outgoing)
