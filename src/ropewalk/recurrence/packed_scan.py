"""A scan by an installed kernel: a rank's segments packed one after the other, with a state before and after each.

The kernel runs three times at most: segments that begin their document, inner ones, and after the exchange those that
end it. With the delta rule an inner segment runs once with values [v | 0] from the state [0 | I]: its outputs are
[o0 | R] and its state [U | M]. Else M is a number, and R_t is exp(decays up to t) q_t. Then o = o0 + R h with the state
h before the segment.
"""

from dataclasses import dataclass, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from ropewalk.attention.copy_to_device import copy_to_device
from ropewalk.partition.partition import Partition
from ropewalk.recurrence.chunk_table import ChunkTable, plan_chunks
from ropewalk.recurrence.running_sum import running_sum
from ropewalk.recurrence.scan_kernel import PackedVectors, ScanKernel, States
from ropewalk.recurrence.summaries import Join, Summary, SummaryExchange
from ropewalk.shape.recurrences import Recurrence

Outputs = Float[Tensor, "tokens heads value_dim"]


@dataclass(frozen=True, slots=True)
class _Pack:
    """Segments of one group: their local tokens one after the other, where each starts, and their lengths."""

    segments: list[int]
    tokens: Int64[Tensor, "tokens"]
    starts: Int64[Tensor, "starts"]
    host_starts: Int64[Tensor, "starts"]
    lengths: list[int]


@dataclass(frozen=True, slots=True)
class _Packs:
    """``places`` of the local tokens among those of all groups; a token of padding has the place behind them."""

    begins: _Pack
    inner: _Pack
    ends: _Pack
    places: Int64[Tensor, "local"]


_packs: WeakKeyDictionary[ChunkTable, _Packs] = WeakKeyDictionary()


def scan_packed(
    kernel: ScanKernel,
    vectors: tuple[Float[Tensor, "_ ..."], ...],
    constant: Float[Tensor, "heads"] | None,
    *,
    kind: Recurrence,
    partition: Partition,
    group: dist.ProcessGroup | None,
) -> Float[Tensor, "local heads value_dim"]:
    """The scan of ``vectors``: query, key, value, decay and with the delta rule beta, in the kernel's types.

    ``constant`` is the decay of a kind whose decays are constants; ``vectors`` have it for each token.
    """
    query, _, value, *_ = vectors
    table = plan_chunks(partition, 0 if group is None else dist.get_rank(group), kind.chunk_tokens, query.device)
    packs = _packs.get(table) or _packs.setdefault(table, _pack(table, partition, query.device))
    empty = torch.zeros(value.shape[1], query.shape[2], value.shape[2], device=value.device)
    begun, after = _run_from(kernel, _choose(vectors, packs.begins), empty)
    if not partition.exchanges or group is None:
        assert not table.own, "one rank owns whole documents"
        return _place([begun], packs)
    own = {each: Summary(state, None) for each, state in zip(packs.begins.segments, after, strict=True)}
    first, reading, summaries = _sum_up(kernel, _choose(vectors, packs.inner), packs.inner, kind, empty)
    tie = after.reshape(-1)[:0] + value.reshape(-1)[:0].float()
    exchange = SummaryExchange(own | summaries, table=table, kind=kind, like=empty, tie=tie, group=group)
    entries, arrived = exchange.finish(None if constant is None else constant.float())
    inner = _read(first, reading, [entries[each] for each in packs.inner.segments], packs.inner)
    # [heads, key_dim, value_dim] of each segment -> [segments, heads, key_dim, value_dim]
    entry = torch.stack([entries[each] for each in packs.ends.segments] or [empty])[: len(packs.ends.segments)]
    ended, _ = _run(kernel, _choose(vectors, packs.ends), entry)
    joined: Tensor = Join.apply(_place([begun, inner, ended], packs), arrived)
    return joined


def _pack(table: ChunkTable, partition: Partition, device: torch.device) -> _Packs:
    segments, made, count = partition.segments, [], 0
    places = np.full(partition.local_tokens, -1)
    for group in (table.begins, table.inner, table.ends):
        lengths = [int(segments.ranges.length[each]) for each in group.segments]
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)  # a zero and [segments] -> [starts]
        local = [segments.local[each] + np.arange(length) for each, length in zip(group.segments, lengths, strict=True)]
        tokens = np.concatenate([np.empty(0, np.int64), *local])  # [tokens] of each segment -> [tokens]
        places[tokens] = count + np.arange(len(tokens))
        count += len(tokens)
        own = copy_to_device(tokens, device), copy_to_device(starts, device)
        made.append(_Pack(group.segments, *own, torch.from_numpy(starts), lengths))
    begins, inner, ends = made
    return _Packs(begins, inner, ends, copy_to_device(np.where(places < 0, count, places), device))


def _choose(vectors: tuple[Float[Tensor, "_ ..."], ...], pack: _Pack) -> PackedVectors:
    # [local, ...] -> [tokens, ...]
    query, key, value, decay, *beta = (each.index_select(0, pack.tokens) for each in vectors)
    return PackedVectors(query, key, value, decay, beta[0] if beta else None, pack.starts, pack.host_starts)


def _run(kernel: ScanKernel, vectors: PackedVectors, before: States) -> tuple[Float[Tensor, "tokens heads _"], States]:
    """No call without segments; what a layer's inputs are tied to then is empty."""
    return (vectors.value, before) if not len(vectors.value) else kernel.run(vectors, before)


def _run_from(
    kernel: ScanKernel, vectors: PackedVectors, state: Float[Tensor, "heads key_dim _"]
) -> tuple[Float[Tensor, "tokens heads _"], States]:
    return _run(kernel, vectors, state.expand(len(vectors.starts) - 1, *state.shape))


def _sum_up(
    kernel: ScanKernel,
    vectors: PackedVectors,
    pack: _Pack,
    kind: Recurrence,
    empty: Float[Tensor, "heads key_dim value_dim"],
) -> tuple[Outputs, Float[Tensor, "tokens heads key_dim"], dict[int, Summary]]:
    """o0 and R of each token, and what each segment does."""
    heads, key_dim, value_dim = empty.shape
    if kind.erases:
        unit = torch.eye(key_dim, device=empty.device).expand(heads, -1, -1)
        # [heads, key_dim, value_dim] and [heads, key_dim, key_dim]; [tokens, heads, value_dim] and zeros
        state = torch.cat([empty, unit], dim=-1)
        wide = replace(vectors, value=functional.pad(vectors.value, (0, key_dim)))
        outputs, after = _run_from(kernel, wide, state)
        outputs, reading = outputs.split([value_dim, key_dim], dim=-1)  # [tokens, heads, _]
        states, transitions = after.split([value_dim, key_dim], dim=-1)  # [segments, heads, key_dim, _]
    else:
        outputs, states = _run_from(kernel, vectors, empty)
        # [tokens, heads] -> [tokens, heads] of each segment
        sums = [running_sum(each.float(), 0) for each in vectors.decay.split(pack.lengths)]
        decays = torch.cat([vectors.decay[:0].float(), *sums])  # [tokens, heads]
        query = vectors.query.repeat_interleave(heads // vectors.query.shape[1], dim=1)
        reading = query * decays.exp()[..., None]
        # [heads, 1, 1] of each segment -> [segments, heads, 1, 1]
        transitions = torch.stack([each[-1].exp()[:, None, None] for each in sums]) if sums else states[:, :, :1, :1]
    parts = zip(pack.segments, states, transitions, strict=True)
    return outputs, reading, {each: Summary(*found) for each, *found in parts}


def _read(
    first: Outputs,
    reading: Float[Tensor, "tokens heads key_dim"],
    entries: list[Float[Tensor, "heads key_dim value_dim"]],
    pack: _Pack,
) -> Outputs:
    """o0 + R h, of each segment with the state before it."""
    # [tokens, heads, key_dim] -> [tokens, heads, key_dim] of each segment
    rows = zip(reading.split(pack.lengths), entries, strict=True)
    # [tokens, heads, value_dim] of each segment -> [tokens, heads, value_dim]
    read = torch.cat([first[:0].float(), *(torch.einsum("thk,hkv->thv", part.float(), state) for part, state in rows)])
    return first + read.to(first.dtype)


def _place(outputs: list[Float[Tensor, "_ heads value_dim"]], packs: _Packs) -> Float[Tensor, "local heads value_dim"]:
    # [tokens, heads, value_dim] of each group and a row of zeros for padding -> [slots, heads, value_dim]
    joined = torch.cat([*outputs, outputs[0].new_zeros(1, *outputs[0].shape[1:])])
    return joined.index_select(0, packs.places)  # [slots, heads, value_dim] -> [local, heads, value_dim]
