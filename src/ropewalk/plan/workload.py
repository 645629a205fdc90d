"""The work of a step, and one rank's part of it under a split: tokens, arithmetic, messages."""

import functools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ropewalk.partition.partition import partition_tokens
from ropewalk.plan.flops import TokenFlops, token_flops
from ropewalk.plan.hardware import Machine
from ropewalk.plan.links import context_seconds, replica_seconds, state_seconds
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings
from ropewalk.plan.step_time import Work
from ropewalk.plan.traffic import attention_traffic, replica_traffic, shard_traffic
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape


@dataclass(frozen=True, slots=True)
class Workload:
    """``sequences`` of ``context_tokens`` for each step of a model of ``shape``.

    ``document_tokens`` are the lengths of the documents of a typical sequence.
    """

    shape: ModelShape
    context_tokens: int
    sequences: int
    document_tokens: tuple[int, ...]
    flops: TokenFlops
    trained_parameters: int
    windows: tuple[tuple[int | None, int], ...]
    """Windows in tokens, None for none, with the number of layers that have them."""
    lora: Lora | None = None

    @property
    def step_tokens(self) -> int:
        return self.sequences * self.context_tokens

    def count_busiest(self, ranks: int, context_ranks: int) -> int:
        """Sequences of a step that the busiest data rank takes."""
        return math.ceil(self.sequences / (ranks // context_ranks))


def describe_workload(
    shape: ModelShape,
    context_tokens: int,
    *,
    sequences: int,
    document_tokens: Sequence[int] | None = None,
    lora: Lora | None = None,
) -> Workload:
    """The workload of a step; ``document_tokens`` None means one document in each sequence."""
    return Workload(
        shape,
        context_tokens,
        sequences,
        (context_tokens,) if document_tokens is None else tuple(document_tokens),
        token_flops(shape, context_tokens, document_tokens=document_tokens, lora=lora),
        count_trained(shape, lora).parameters,
        tuple(Counter(layer.window_tokens for layer in shape.positions if layer.mixer is None).items()),
        lora,
    )


@dataclass(frozen=True, slots=True)
class RankWork:
    """What the busiest rank does of a step, and the bytes that it sends."""

    work: Work
    context_bytes: float
    state_bytes: float


def share_work(load: Workload, *, ranks: int, split: Split, savings: Savings, machine: Machine) -> RankWork:
    """What one of ``ranks`` ranks does of a step of ``load``, if it is split so."""
    own = load.count_busiest(ranks, split.context_ranks)
    micro_batches = math.ceil(own / split.micro_batch_size)
    # The last micro-batch may be smaller: messages for attention are by sequences, those for weights by micro-batches.
    context_bytes = own / split.micro_batch_size * _context_bytes(load, split=split, savings=savings)
    shards = ranks // split.replicas
    inside = micro_batches * shard_traffic(
        load.shape, shards=shards, element_bytes=split.element_bytes, lora=split.lora
    )
    between = micro_batches * replica_traffic(load.shape, shards=shards, replicas=split.replicas, lora=split.lora)
    work = Work(
        tokens=own * load.context_tokens / split.context_ranks,
        flops=load.flops,
        ranks=shards,
        micro_batches=micro_batches,
        imbalance=split.imbalance,
        trained_parameters=load.trained_parameters,
        context_seconds=context_seconds(context_bytes, split.context_ranks, split.exchange, machine),
        state_seconds=state_seconds(inside, shards, machine) + replica_seconds(between, ranks, shards, machine),
        element_bytes=split.element_bytes,
    )
    return RankWork(work, context_bytes, inside + between)


def _context_bytes(load: Workload, *, split: Split, savings: Savings) -> float:
    """Bytes that one rank sends for attention and recurrent layers of one micro-batch."""
    shape, total, blocks = load.shape, 0.0, savings.count_again(load.shape.layers)
    # Ulysses groups: each group holds one part of the sequence
    parts = split.context_ranks // split.ulysses_degree
    tokens = load.context_tokens * split.micro_batch_size
    swap = attention_traffic(
        shape,
        tokens // parts,
        ranks=split.ulysses_degree,
        exchange="heads",
        element_bytes=split.element_bytes,
    )
    for window, layers in load.windows:
        layer = attention_traffic(
            shape,
            tokens,
            ranks=parts,
            exchange=split.exchange,
            element_bytes=split.element_bytes,
            needed_share=_needed_share(load, split=split, ranks=parts, window=window),
        )
        again = layers if blocks == shape.layers else count_layers(shape, window, blocks)
        # each rank of a group sends only its own heads
        rows = layers * layer.training_bytes() + again * layer.forward * (savings.recompute == "full")
        # attention's own results may be kept: heads and summaries travel again in any case
        total += rows / split.ulysses_degree + layers * swap.training_bytes() + again * swap.forward
    if shape.recurrent is not None and split.recurrent_traffic is not None:
        sent = split.recurrent_traffic
        total += len(shape.recurrent.layers) * sent.training_bytes() + shape.recurring[blocks] * sent.forward
    return total


def count_layers(shape: ModelShape, window: int | None, blocks: int) -> int:
    """The layers with attention and this window among the first ``blocks``."""
    return sum(layer.mixer is None and layer.window_tokens == window for layer in shape.positions[:blocks])


def _needed_share(load: Workload, *, split: Split, ranks: int, window: int | None) -> float:
    """The share of other ranks' keys that one of ``ranks`` ranks needs, which hold one part of the sequence each.

    A layer with a window takes it from a partition; a layer without a window takes ``split.needed_share``.
    """
    sequences = split.micro_batch_size
    if window is None or ranks == 1 or load.context_tokens * sequences % ranks:
        return split.needed_share
    windowed = _windowed_share(load.context_tokens, load.document_tokens, sequences, ranks, split.layout, window)
    return min(split.needed_share, windowed)


@functools.lru_cache(maxsize=256)
def _windowed_share(
    context_tokens: int, document_tokens: tuple[int, ...], sequences: int, ranks: int, layout: str, window: int
) -> float:
    ids = np.full((sequences, context_tokens), -1, dtype=np.int32)
    row = np.repeat(np.arange(len(document_tokens)), document_tokens)
    ids[:, : len(row)] = row + len(document_tokens) * np.arange(sequences)[:, None]
    # One partition serves all layers, so it is chosen for the layers without a window.
    partition = partition_tokens(ids, ranks=ranks, layout=layout).with_window(window)
    return int(partition.traffic_tokens.sum()) / ((ranks - 1) * partition.tokens)
