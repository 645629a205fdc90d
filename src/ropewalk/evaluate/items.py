"""The common form of all measurements: texts whose scored tokens form groups, and one pass over all texts.

Items are distributed over ranks by cost, packed into sequences with their borders kept, read once, and summed per group
in float64. Only these sums are exchanged between ranks, so the figures are the same on any number of ranks, up to
rounding.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float64, Int32, Int64
from torch import Tensor

from ropewalk.core.progress import show_nothing, watch
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.collective import max_over_ranks, rank_and_ranks, sum_over_ranks
from ropewalk.parallel.fsdp import is_sharded, reshard_model
from ropewalk.partition import partition_tokens

SEQUENCE_TOKENS = 4096


@dataclass(frozen=True, slots=True)
class Item:
    """One text. ``group[t]`` is the group of the prediction of ``tokens[t]``; -1 where it does not count, as at 0."""

    tokens: Int64[np.ndarray, "tokens"]
    group: Int64[np.ndarray, "tokens"]


@dataclass(frozen=True, slots=True)
class Sums:
    """Per group: the number of predictions, the sum of their nll in nats, and how many were the likeliest token."""

    count: Float64[np.ndarray, "groups"]
    nll: Float64[np.ndarray, "groups"]
    correct: Float64[np.ndarray, "groups"]


def measure(
    learner: ModelWithLoss, items: Sequence[Item], groups: int, *, name: str, sequence_tokens: int = SEQUENCE_TOKENS
) -> Sums:
    """Read ``items`` with ``learner``, whole or sharded (open_model.py), and sum each of ``groups`` over all ranks.

    Items are packed into sequences of up to ``sequence_tokens``.

    Every rank calls it with the same items and gets the same sums. Ranks of a sharded learner gather each weight
    together, so they read equally many sequences: a rank that has no more items reads padding.
    """
    rank, ranks = rank_and_ranks()
    table = torch.zeros(3, groups, dtype=torch.float64)
    mine = [items[index] for index in deal([len(item.tokens) for item in items], ranks)[rank]]
    total, sequences = sum(len(item.tokens) for item in mine), list(pack_items(mine, sequence_tokens=sequence_tokens))
    sharded = is_sharded(learner)
    if sharded:
        turns = int(max_over_ranks(torch.tensor(len(sequences), dtype=torch.float64)))
        sequences += [[]] * (turns - len(sequences))
    mode = torch.no_grad() if sharded else torch.inference_mode()  # FSDP reuses its buffers in later passes
    with mode, nullcontext(show_nothing) if rank else watch(name, total, unit="tokens") as advance:
        for sequence in sequences:
            table.index_add_(1, *_read_sequence(learner, sequence))
            advance(sum(len(item.tokens) for item in sequence))
    if sharded:
        reshard_model(learner)
    count, nll, correct = sum_over_ranks(table).numpy()
    return Sums(count, nll, correct)


def deal(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """The items of each rank: the costliest first, always to the rank with the smallest load."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    loads = np.zeros(ranks)
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        rank = int(loads.argmin())
        shares[rank].append(index)
        loads[rank] += _cost(lengths[index])
    return shares


def pack_items(items: Sequence[Item], *, sequence_tokens: int = SEQUENCE_TOKENS) -> Iterator[list[Item]]:
    """Items in sequences of at most ``sequence_tokens``, in order; a longer item gets a sequence of its own."""
    sequence: list[Item] = []
    used = 0
    for item in items:
        if sequence and used + len(item.tokens) > sequence_tokens:
            yield sequence
            sequence, used = [], 0
        sequence.append(item)
        used += len(item.tokens)
    if sequence:
        yield sequence


def _cost(tokens: int) -> float:
    # In a small model, attention costs more than the matrix products from about a thousand tokens of context on.
    return tokens * (1 + tokens / 1024)


@dataclass(frozen=True, slots=True)
class LaidSequence:
    """Items end to end: ``labels[t]`` follows ``tokens[t]``, and ``group[t]`` is the group of that prediction."""

    tokens: Int64[np.ndarray, "sequence"]
    labels: Int64[np.ndarray, "sequence"]
    group: Int64[np.ndarray, "sequence"]
    positions: Int64[np.ndarray, "sequence"]
    document: Int32[np.ndarray, "sequence"]


def lay_sequence(sequence: Sequence[Item], *, multiple: int = 1) -> LaidSequence:
    """Lay items end to end, padded to a ``multiple`` of tokens; only padding where there are no items."""
    lengths = [len(item.tokens) for item in sequence]
    padding = -sum(lengths) % multiple if sequence else multiple
    nothing = np.zeros(padding, dtype=np.int64)
    tokens = np.concatenate([*(item.tokens for item in sequence), nothing])
    return LaidSequence(
        tokens=tokens,
        # The token at t is predicted at t - 1; the first token of a text has no prediction.
        labels=np.roll(tokens, -1),
        group=np.concatenate([*(np.append(item.group[1:], -1) for item in sequence), nothing - 1]),
        positions=np.concatenate([*(np.arange(length) for length in lengths), nothing]),
        document=np.repeat(np.array([*range(len(sequence)), -1], dtype=np.int32), [*lengths, padding]),
    )


def _read_sequence(
    learner: ModelWithLoss, sequence: list[Item]
) -> tuple[Int64[Tensor, "counted"], Float64[Tensor, "3 counted"]]:
    """(group, [1, nll, correct]) of every prediction of a sequence that counts."""
    laid = lay_sequence(sequence)
    counted = torch.from_numpy(laid.group >= 0)
    device = next(learner.parameters()).device
    _, nll, correct = learner(
        torch.from_numpy(laid.tokens).to(device),
        torch.from_numpy(laid.positions).to(device),
        torch.from_numpy(laid.labels).to(device),
        counted.float().to(device),
        partition=partition_tokens(laid.document[None], ranks=1),
    )
    figures = torch.stack((torch.ones_like(nll), nll, correct.float())).cpu()[:, counted]
    return torch.from_numpy(laid.group)[counted], figures.double()
