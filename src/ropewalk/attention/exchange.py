"""How keys and values reach the ranks that read them, and how their gradients return.

Three exchanges have one signature: only the needed keys in one all-to-all, all keys in one all-gather, or block by
block in a ring. A fourth serves kernels that want a rank's own keys in the same block. ``fetch`` starts at once and
yields the blocks of steps 1, 2, ... as they arrive, so a rank computes on its own keys meanwhile.
``return_gradients`` takes the gradients of those blocks from an iterator, in the same order, and returns the sum of
all ranks' gradients for this rank's own keys. Sums have a fixed order, so two runs agree in all bits.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.gathered_keys import GatheredKeys
from ropewalk.partition.partition import Partition

Block = Float[Tensor, "rows both_heads head_dim"]
"""Keys and values of some rows, side by side in the second axis."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """One rank's part of a partition's exchange. Local indices; ``send`` goes out by destination."""

    rank: int
    ranks: int
    local_tokens: int
    send: Tensor
    send_rows: list[int]
    receive_rows: list[int]
    order: Tensor | None
    """Where each row of the block, in packed order, stands among the received ones; None where they agree."""
    all_gathered: Tensor
    """Where each row of the block stands when all ranks' rows are laid end to end."""
    gathered: Tensor
    """Where each row of the joint block stands among own rows followed by the block."""


Fetch = Callable[[Block, Traffic, dist.ProcessGroup], Iterator[Block]]
GiveBack = Callable[[Iterator[Block], Traffic, dist.ProcessGroup], Block]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A way there and the same way back."""

    fetch: Fetch
    return_gradients: GiveBack


def fetch_needed(own: Block, traffic: Traffic, group: dist.ProcessGroup) -> Iterator[Block]:
    """One block: the rows that this rank's tiles read, and nothing else."""
    outgoing = own.index_select(0, traffic.send)
    block = own.new_empty(sum(traffic.receive_rows), *own.shape[1:])
    work = dist.all_to_all_single(block, outgoing, traffic.receive_rows, traffic.send_rows, group=group, async_op=True)

    def arrive() -> Iterator[Block]:
        assert outgoing.is_contiguous()  # and alive until it has been sent
        work.wait()
        yield block if traffic.order is None else block.index_select(0, traffic.order)

    return arrive()


def return_needed(gradients: Iterator[Block], traffic: Traffic, group: dist.ProcessGroup) -> Block:
    """The all-to-all the other way round."""
    (block,) = gradients
    outgoing = block
    if traffic.order is not None:
        outgoing = torch.empty_like(block)
        outgoing[traffic.order] = block
    incoming = block.new_empty(len(traffic.send), *block.shape[1:])
    dist.all_to_all_single(incoming, outgoing.contiguous(), traffic.send_rows, traffic.receive_rows, group=group)
    total = block.new_zeros(traffic.local_tokens, *block.shape[1:])
    for rows, index in zip(incoming.split(traffic.send_rows), traffic.send.split(traffic.send_rows), strict=True):
        total[index] += rows  # a destination asks for a row once
    return total


def fetch_gathered(own: Block, traffic: Traffic, group: dist.ProcessGroup) -> Iterator[Block]:
    """One block: own rows and needed ones together, in packed order."""
    others = fetch_needed(own, traffic, group)

    def arrive() -> Iterator[Block]:
        (block,) = others
        yield torch.cat([own, block]).index_select(0, traffic.gathered)

    return arrive()


def return_gathered(gradients: Iterator[Block], traffic: Traffic, group: dist.ProcessGroup) -> Block:
    """Own rows' gradients stay, the others' go home."""
    (gathered,) = gradients
    parts = torch.empty_like(gathered)
    parts[traffic.gathered] = gathered
    own, block = parts.split([traffic.local_tokens, len(gathered) - traffic.local_tokens])
    total: Block = own + return_needed(iter([block]), traffic, group)
    return total


def fetch_all(own: Block, traffic: Traffic, group: dist.ProcessGroup) -> Iterator[Block]:
    """One block, picked from an all-gather of every row: more bytes, one regular collective."""
    everything = own.new_empty(traffic.ranks * traffic.local_tokens, *own.shape[1:])
    mine = own.contiguous()
    work = dist.all_gather(list(everything.chunk(traffic.ranks)), mine, group=group, async_op=True)

    def arrive() -> Iterator[Block]:
        assert mine.is_contiguous()
        assert work is not None
        work.wait()
        yield everything.index_select(0, traffic.all_gathered)

    return arrive()


def give_back_all(gradients: Iterator[Block], traffic: Traffic, group: dist.ProcessGroup) -> Block:
    """A reduce-scatter, written as an all-to-all and a sum in the order of ranks."""
    (block,) = gradients
    everything = block.new_zeros(traffic.ranks * traffic.local_tokens, *block.shape[1:])
    everything[traffic.all_gathered] = block
    incoming = torch.empty_like(everything)
    dist.all_to_all_single(incoming, everything, group=group)
    return incoming.view(traffic.ranks, traffic.local_tokens, *block.shape[1:]).sum(0)


def fetch_round(own: Block, traffic: Traffic, group: dist.ProcessGroup) -> Iterator[Block]:
    """The others' rows one rank after the other; while a block is computed on, the next one travels."""
    left, right = (traffic.rank - 1) % traffic.ranks, (traffic.rank + 1) % traffic.ranks
    first = _pass_on(own.contiguous(), left, right, group)

    def arrive() -> Iterator[Block]:
        moving = first
        for step in range(1, traffic.ranks):
            block = moving.wait()
            if step + 1 < traffic.ranks:
                moving = _pass_on(block, left, right, group)
            yield block

    return arrive()


def give_back_round(gradients: Iterator[Block], traffic: Traffic, group: dist.ProcessGroup) -> Block:
    """Each block's gradient follows its block, growing on the way, and ends one rank beyond: at home."""
    left, right = (traffic.rank - 1) % traffic.ranks, (traffic.rank + 1) % traffic.ranks
    moving: _Passing | None = None
    for gradient in gradients:
        total = gradient if moving is None else moving.wait() + gradient
        moving = _pass_on(total.contiguous(), left, right, group)
    assert moving is not None
    return moving.wait()


EXCHANGES = {
    "needed_kv": Exchange(fetch_needed, return_needed),
    "all_gather": Exchange(fetch_all, give_back_all),
    "ring": Exchange(fetch_round, give_back_round),
}
GATHERED = Exchange(fetch_gathered, return_gathered)
"""For kernels that want all keys at once, whatever exchange the partition names: the needed rows beside the own."""

_traffics: WeakKeyDictionary[Partition, dict[tuple[int, torch.device], Traffic]] = WeakKeyDictionary()


def plan_traffic(partition: Partition, rank: int, device: torch.device) -> Traffic:
    """What a rank sends and receives under a partition; made at the first request."""
    of_partition = _traffics.setdefault(partition, {})
    if (rank, device) not in of_partition:
        of_partition[rank, device] = _plan_traffic(partition, rank, device)
    return of_partition[rank, device]


def _plan_traffic(partition: Partition, rank: int, device: torch.device) -> Traffic:
    sent = [partition.localise(partition.received(other, rank))[1] for other in range(partition.ranks)]
    received = [partition.received(rank, other) for other in range(partition.ranks)]
    packed = np.concatenate(received)
    order = np.argsort(packed, kind="stable")
    owner, local = partition.localise(packed[order])

    def place(rows: np.ndarray) -> Tensor:
        return torch.from_numpy(rows).to(device)

    return Traffic(
        rank=rank,
        ranks=partition.ranks,
        local_tokens=partition.local_tokens,
        send=place(np.concatenate(sent)),
        send_rows=[len(rows) for rows in sent],
        receive_rows=[len(rows) for rows in received],
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
