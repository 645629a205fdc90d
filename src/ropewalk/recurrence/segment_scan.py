"""A recurrent layer over packed documents on several ranks: partition x exchange x kernel, forward and backward.

Every rank calls it with its own tokens. It computes inside chunks first, runs the segments that begin a document, sums
up the inner ones as (M, U), and sends these. The received sums give the state before each segment; with it the rank
finishes. The state is zero before each document. Gradients of the summaries go back the same way.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition
from ropewalk.partition.ulysses import AnyPartition
from ropewalk.recurrence.chunk_table import ChunkTable, plan_chunks
from ropewalk.recurrence.chunks import Chunks, make_chunks
from ropewalk.recurrence.installed_kernels import choose_scan_kernel, narrowest
from ropewalk.recurrence.packed_scan import scan_packed
from ropewalk.recurrence.place_tokens import ChunkRows, FromChunks, IntoChunks
from ropewalk.recurrence.summaries import Join, Summary, SummaryExchange
from ropewalk.shape.recurrences import Recurrence, find_recurrence

Keys = Float[Tensor, "local key_heads key_dim"]
Values = Float[Tensor, "local heads value_dim"]
Decay = Float[Tensor, "local heads"] | Float[Tensor, "local heads key_dim"] | Float[Tensor, "heads"]
Placed = tuple[ChunkRows, ChunkRows, ChunkRows, ChunkRows, ChunkRows | None]
"""Query, key, value, decay and beta in chunks."""


def scan(
    query: Keys,
    key: Keys,
    value: Values,
    decay: Decay,
    beta: Float[Tensor, "local heads"] | None = None,
    *,
    kind: str,
    partition: AnyPartition,
    group: dist.ProcessGroup | None,
) -> Values:
    """The recurrence ``kind`` within documents for this rank's tokens, in the partition's local order.

    ``gated_delta`` and ``kda``: h becomes exp(decay) h, then h + beta key (value - key h). ``ssd`` and
    ``simple_decay``: h becomes exp(decay) h + key value. The output is query h; scale and normalise vectors before.
    ``decay`` is a logarithm, at most 0: [local, heads]; of ``kda`` [local, heads, key_dim]; of ``simple_decay``
    [heads], a constant.
    One key head serves ``heads / key_heads`` neighbouring heads. Differentiable; padding gets zeros; computed in
    float32 or better, the result has the dtype of ``value``. ``group`` holds the partition's ranks in order; None for
    a partition over one rank.

    Raises UserError for an unknown kind, and for a partition that cuts heads.
    """
    found = find_recurrence(kind)
    tokens = require_tokens(partition).with_window(None)
    assert tokens.ranks == (1 if group is None else dist.get_world_size(group)), "the group's ranks share the tokens"
    assert len(query) == tokens.local_tokens, "a rank brings the tokens that it owns"
    assert (beta is not None) == found.erases, "a beta for each token goes with the delta rule"
    assert decay.ndim == {"length": 1}.get(found.transition, 2 + found.decay_per_key), "a decay of the kind's shape"
    constant = decay.to(exact_dtype(value.dtype)) if decay.ndim == 1 else None
    low = narrowest(query, key, value)
    kernel = choose_scan_kernel(found, dtype=low, key_dim=query.shape[2], device=query.device)
    if kernel is not None:
        decays = decay if constant is None else constant.expand(len(value), -1)
        vectors = (query.to(low), key.to(low), value.to(low), decays, *([] if beta is None else [beta]))
        outputs = scan_packed(kernel, vectors, constant, kind=found, partition=tokens, group=group)
        return outputs.to(value.dtype)
    table = plan_chunks(tokens, 0 if group is None else dist.get_rank(group), found.chunk_tokens, query.device)
    placed = _place(query, key, value, decay, beta, table)
    outputs = _run(placed, table, found, constant, group if tokens.exchanges else None)
    rows: Tensor = FromChunks.apply(outputs, table)
    return rows.to(value.dtype)


def require_tokens(partition: AnyPartition) -> Partition:
    """Raises UserError where heads are cut: the state of a head needs all tokens in order."""
    if isinstance(partition, Partition):
        return partition
    raise UserError(
        "recurrent layers need a partition of tokens",
        where="parallel.ulysses_degree",
        why=f"heads are shared by {partition.ulysses_degree} ranks",
        fix="set ulysses_degree to 1",
    )


def _place(
    query: Keys, key: Keys, value: Values, decay: Decay, beta: Float[Tensor, "local heads"] | None, table: ChunkTable
) -> Placed:
    exact = exact_dtype(value.dtype)

    def place(rows: Float[Tensor, "local _ _"]) -> ChunkRows:
        placed: Tensor = IntoChunks.apply(rows.to(exact), table)
        return placed

    if decay.ndim == 1:
        decay = decay.expand(len(value), -1)
    decays = place(decay if decay.ndim == 3 else decay[:, :, None])
    return place(query), place(key), place(value), decays, None if beta is None else place(beta[:, :, None])


def _make_groups(placed: Placed, table: ChunkTable, kind: Recurrence) -> list[Chunks | None]:
    """Of segments that begin their document, inner ones, and those that end it; None without a segment."""
    groups = (table.begins, table.inner, table.ends)
    counts = [sum(each.sizes) for each in groups]
    # [chunks, heads, chunk, width] of each tensor -> [chunks of a group, heads, chunk, width]; a split is one copy in
    # the backward, where a slice would make a gradient as large as all of it
    rows = [(None,) * 3 if each is None else each.split(counts) for each in placed]
    columns = zip(groups, zip(*rows, strict=True), strict=True)
    return [make_chunks(of_group, group, kind) if group.sizes else None for group, of_group in columns]


def _run(
    placed: Placed,
    table: ChunkTable,
    kind: Recurrence,
    constant: Float[Tensor, "heads"] | None,
    group: dist.ProcessGroup | None,
) -> ChunkRows:
    _, key, value, *_ = placed
    empty = value.new_zeros(value.shape[1], key.shape[3], value.shape[3])
    begins, inner, ends = _make_groups(placed, table, kind)
    outputs, after = [value[:0]], empty[None, ...][:0]
    if begins is not None:
        before, added, after = begins.walk(empty.expand(len(table.begins.segments), *empty.shape))
        outputs.append(begins.read(added, before))
    if group is None:
        assert not table.own, "one rank owns whole documents"
        return outputs[-1]
    own = {each: Summary(state, None) for each, state in zip(table.begins.segments, after, strict=True)}
    own |= {} if inner is None else _sum_up(inner, kind, empty)
    tie = value.reshape(-1)[:0]
    exchange = SummaryExchange(own, table=table, kind=kind, like=empty, tie=tie, group=group)
    entries, arrived = exchange.finish(constant)
    for chunks in (inner, ends):
        if chunks is not None:
            # [heads, key_dim, value_dim] of each segment -> [segments, heads, key_dim, value_dim]
            before, added, _ = chunks.walk(torch.stack([entries[each] for each in chunks.group.segments]))
            outputs.append(chunks.read(added, before))
    # [chunks, heads, chunk, value_dim] of each group
    joined: Tensor = Join.apply(torch.cat(outputs), arrived)
    return joined


def _sum_up(chunks: Chunks, kind: Recurrence, empty: Float[Tensor, "heads key_dim value_dim"]) -> dict[int, Summary]:
    """What each inner segment does: the walk from state [0 | I], or where M is a number also the product of it."""
    segments, (heads, key_dim, value_dim) = chunks.group.segments, empty.shape
    entry = empty.expand(len(segments), *empty.shape)
    if kind.erases:
        unit = torch.eye(key_dim, dtype=empty.dtype, device=empty.device).expand(len(segments), heads, -1, -1)
        # [segments, heads, key_dim, value_dim] and [..., key_dim] -> [segments, heads, key_dim, value_dim + key_dim]
        _, _, after = chunks.walk(torch.cat([entry, unit], dim=-1))
        states, transitions = after.split([value_dim, key_dim], dim=-1)  # [segments, heads, key_dim, _]
    else:
        _, _, states = chunks.walk(entry)
        transitions = chunks.multiply_decays(empty.new_ones(len(segments), heads, 1, 1))
    parts = zip(segments, states, transitions, strict=True)
    return {each: Summary(state, transition) for each, state, transition in parts}
