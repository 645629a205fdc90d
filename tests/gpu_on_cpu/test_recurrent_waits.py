"""A recurrent layer makes the host wait for no device: forward and backward, several layers under one partition.

That the count sees waits is tested beside (test_waits).
"""

from collections import Counter

import numpy as np
import torch
import torch.distributed as dist

from count_waits import CountReads, CountWaits
from packs import pack
from recurrence_cases import KINDS, Case, draw
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.recurrence import convolve, scan

DOCUMENT = np.concatenate([pack([1, 36, 2], 40), pack([37, 1], 40)])
LAYERS = 2


def count_waits(kind: str) -> tuple[Counter[str], Counter[str]]:
    """Of a convolution and a scan of each layer on this rank, forward and backward."""
    rank, partition = dist.get_rank(), partition_tokens(DOCUMENT, ranks=2, layout="zigzag")
    own = torch.from_numpy(partition.owned(rank))
    rows = [each[own] if len(each) == DOCUMENT.size else each for each in draw(Case("convolution", DOCUMENT, ""))[0]]
    inputs = [each[own] if len(each) == DOCUMENT.size else each for each in draw(Case(kind, DOCUMENT, ""))[0]]
    with CountWaits() as waits, CountReads(waits) as reads:
        for _ in range(LAYERS):
            leaves = [each.requires_grad_() for each in (*rows, *inputs)]
            mixed = convolve(*leaves[:3], partition=partition, group=dist.group.WORLD)
            output = scan(*leaves[3:], kind=kind, partition=partition, group=dist.group.WORLD)
            (mixed.sum() + output.sum()).backward()
    return waits.waits, reads.reads


def test_no_layer_waits() -> None:
    for counted in run_ranks(lambda: [count_waits(kind) for kind in KINDS], 2):
        for kind, (waits, reads) in zip(KINDS, counted, strict=True):
            assert not waits and not reads, (kind, waits, reads)
