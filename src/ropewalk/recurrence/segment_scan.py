"""A recurrent layer over packed documents on several ranks: partition x exchange x kernel, forward and backward.

Every rank calls it with its own tokens. It computes inside chunks first, runs the segments that begin a document, sums
up the inner ones as (M, U), and sends these. The received sums give the state before each segment; with it the rank
finishes. The state is zero before each document. torch differentiates all of it; gradients of the summaries go back the
same way.
"""

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from ropewalk.attention.differentiate_tiles import exact_dtype
from ropewalk.core.error import UserError
from ropewalk.partition.partition import Partition
from ropewalk.partition.ulysses import AnyPartition
from ropewalk.recurrence.chunk_table import ChunkTable, SegmentGroup, plan_chunks
from ropewalk.recurrence.chunks import Added, Chunks, State, make_chunks, run_group
from ropewalk.recurrence.installed_kernels import choose_scan_kernel, narrowest
from ropewalk.recurrence.packed_scan import scan_packed
from ropewalk.recurrence.summaries import Join, Summary, SummaryExchange
from ropewalk.shape.recurrences import Recurrence, find_recurrence

Keys = Float[Tensor, "local key_heads key_dim"]
Values = Float[Tensor, "local heads value_dim"]
Decay = Float[Tensor, "local heads"] | Float[Tensor, "local heads key_dim"] | Float[Tensor, "heads"]
ChunkRows = Float[Tensor, "chunks _ chunk _"]


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
    chunks = _gather(query, key, value, decay, beta, table, found)
    empty = chunks.values.new_zeros(value.shape[1], key.shape[2], value.shape[2])
    exchange = group if tokens.exchanges else None
    outputs = _run(chunks, table, found, empty, constant, exchange)
    # [slots, heads, value_dim] and a row of zeros for padding -> [local, heads, value_dim]
    rows = torch.cat([outputs, outputs.new_zeros(1, *outputs.shape[1:])]).index_select(0, table.places)
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


def _gather(
    query: Keys,
    key: Keys,
    value: Values,
    decay: Decay,
    beta: Float[Tensor, "local heads"] | None,
    table: ChunkTable,
    kind: Recurrence,
) -> Chunks:
    heads, exact = value.shape[1], exact_dtype(value.dtype)

    def place(rows: Float[Tensor, "local _ _"]) -> ChunkRows:
        # [local, heads, width] and a row of zeros -> [chunks, chunk, heads, width] -> [chunks, heads, chunk, width]
        ended = torch.cat([rows, rows.new_zeros(1, *rows.shape[1:])]).to(exact).index_select(0, table.tokens)
        return ended.view(-1, table.chunk_tokens, *rows.shape[1:]).transpose(1, 2)

    if decay.ndim == 1:
        decay = decay.expand(len(value), heads)
    decays = place(decay if decay.ndim == 3 else decay[:, :, None])
    betas = None if beta is None else place(beta[:, :, None])
    return make_chunks(place(query), place(key), place(value), decays, betas, kind)


def _run(
    chunks: Chunks,
    table: ChunkTable,
    kind: Recurrence,
    empty: Float[Tensor, "heads key_dim value_dim"],
    constant: Float[Tensor, "heads"] | None,
    group: dist.ProcessGroup | None,
) -> Float[Tensor, "slots heads value_dim"]:
    zeros = empty.expand(len(table.begins.segments), *empty.shape)
    before, after, added = run_group(table.begins, zeros, chunks.steps(table.begins))
    if group is None:
        assert not table.own, "one rank owns whole documents"
        return _flatten(_output(chunks, table.begins, before, added))
    own = {each: Summary(state, None) for each, state in zip(table.begins.segments, after, strict=True)}
    own |= _sum_up(chunks, table.inner, kind, empty)
    tie = chunks.values.reshape(-1)[:0]
    exchange = SummaryExchange(own, table=table, kind=kind, like=empty, tie=tie, group=group)
    outputs = [_output(chunks, table.begins, before, added)]
    entries, arrived = exchange.finish(constant)
    for segments in (table.inner, table.ends):
        entry = torch.stack([entries[each] for each in segments.segments] or [empty])  # [segments, heads, key_dim, _]
        before, _, added = run_group(segments, entry[: len(segments.segments)], chunks.steps(segments))
        outputs.append(_output(chunks, segments, before, added))
    # [chunks, heads, chunk, value_dim] of each group
    joined: Tensor = Join.apply(_flatten(torch.cat(outputs)), arrived)
    return joined


def _sum_up(
    chunks: Chunks, group: SegmentGroup, kind: Recurrence, empty: Float[Tensor, "heads key_dim value_dim"]
) -> dict[int, Summary]:
    """What each inner segment does: the steps from state [0 | I], or where M is a number also the product of it."""
    count, (heads, key_dim, value_dim) = len(group.segments), empty.shape
    entry: State = empty.expand(count, *empty.shape)
    if kind.erases:
        unit = torch.eye(key_dim, dtype=empty.dtype, device=empty.device).expand(count, heads, -1, -1)
        # [segments, heads, key_dim, value_dim] and [..., key_dim] -> [segments, heads, key_dim, value_dim + key_dim]
        _, after, _ = run_group(group, torch.cat([entry, unit], dim=-1), chunks.steps(group))
        states, transitions = after.split([value_dim, key_dim], dim=-1)  # [segments, heads, key_dim, _]
    else:
        _, states, _ = run_group(group, entry, chunks.steps(group))
        one = empty.new_ones(count, heads, 1, 1)
        _, transitions, _ = run_group(group, one, chunks.decays(group))
    parts = zip(group.segments, states, transitions, strict=True)
    return {each: Summary(state, transition) for each, state, transition in parts}


def _output(chunks: Chunks, group: SegmentGroup, before: State, added: Added) -> State:
    if not group.sizes:
        return chunks.values[group.chunks]  # none
    return chunks.output(group.chunks, before, added)


def _flatten(outputs: Float[Tensor, "chunks heads chunk value_dim"]) -> Float[Tensor, "slots heads value_dim"]:
    chunks, heads, chunk, value_dim = outputs.shape
    return outputs.transpose(1, 2).reshape(chunks * chunk, heads, value_dim)
