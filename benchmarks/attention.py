"""Attention on this CPU: ours against what torch has, in one run, turn by turn.

    python benchmarks/attention.py [--quick]

One rank: against scaled_dot_product_attention, with its causal flag for one document, and for packs with the dense mask
that transformers makes, or in a loop over documents. Two ranks: against torch's ring attention with head-tail balance,
which knows no documents: on a pack it computes every pair of the row, so its figure there is a price, not a peer's
result. Prints JSON lines; times are forward and backward of one layer, the smallest of all turns.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor.experimental._context_parallel import _attention as torch_ring
from torch.nn.functional import scaled_dot_product_attention

from ropewalk.attention import attend
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import Partition, partition_rows

HEADS, KV_HEADS, HEAD_DIM = 8, 4, 64


class Contest(NamedTuple):
    """Both sides of one case; each makes, from the whole tensors, a function to be timed and returns its output."""

    case: str
    peer: str
    ranks: int
    document: np.ndarray
    theirs: Callable[[np.ndarray], Callable[[], Tensor]]
    same_result: bool
    must_reach: float


def draw_tensors(tokens: int) -> list[Tensor]:
    """Query, key, value, and a gradient for the output: [tokens, heads, head_dim]."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(tokens, heads, HEAD_DIM, generator=generator) for heads in (HEADS, KV_HEADS, KV_HEADS, HEADS)]


def run_ours(document: np.ndarray) -> Callable[[], Tensor]:
    group = dist.group.WORLD if dist.get_world_size() > 1 else None
    partition = partition_rows(document, ranks=dist.get_world_size())
    own = torch.from_numpy(partition.owned(dist.get_rank()))
    query, key, value, grad = (tensor[own] for tensor in draw_tensors(document.size))

    def run() -> Tensor:
        leaves = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        out = attend(*leaves, partition=partition, group=group)
        out.backward(grad)
        return out.detach()

    return run


def run_sdpa(document: np.ndarray, *, how: str) -> Callable[[], Tensor]:
    """``causal`` over the row, ``mask`` with a dense matrix of all pairs, or a ``loop`` over documents."""
    query, key, value, grad = (tensor.transpose(0, 1)[None] for tensor in draw_tensors(document.size))
    kind: dict[str, Any] = {"is_causal": True}
    if how == "mask":
        ids = torch.from_numpy(document.reshape(-1))
        kind = {"attn_mask": (ids[:, None] == ids) & torch.ones(len(ids), len(ids), dtype=torch.bool).tril()}
    ends = [0, *np.flatnonzero(np.diff(document.reshape(-1), append=-2)) + 1]

    def run() -> Tensor:
        leaves = [tensor.detach().requires_grad_() for tensor in (query, key, value)]
        if how == "loop":
            parts = [
                scaled_dot_product_attention(*(t[:, :, a:b] for t in leaves), is_causal=True, enable_gqa=True)
                for a, b in pairwise(ends)
            ]
            out = torch.cat(parts, dim=2)
        else:
            out = scaled_dot_product_attention(*leaves, enable_gqa=True, **kind)
        out.backward(grad)
        return out.detach()[0].transpose(0, 1)

    return run


def run_torch_ring(document: np.ndarray) -> Callable[[], Tensor]:
    """torch's ring over the row as if it were one document, each rank with its head and its tail chunk."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    chunks = torch.arange(document.size).chunk(2 * ranks)
    own = torch.cat([chunks[rank], chunks[2 * ranks - 1 - rank]])
    query, key, value, grad = (tensor[own].transpose(0, 1)[None].contiguous() for tensor in draw_tensors(document.size))
    forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    settings = {"group": dist.group.WORLD, "seq_dim": 2}

    def forward_op(*tensors: Tensor, is_causal: bool) -> tuple[Tensor, Tensor]:
        return forward(*tensors, 0.0, is_causal)

    def backward_op(*, is_causal: bool, grad_out: Tensor, **tensors: Tensor) -> tuple[Tensor, ...]:
        return backward(grad_out=grad_out, dropout_p=0.0, is_causal=is_causal, **tensors)

    def run() -> Tensor:
        out, logsumexp = torch_ring._templated_ring_attention(
            op=forward_op, query=query, key=key, value=value, is_causal=True, **settings
        )
        torch_ring._templated_ring_attention_backward(
            op=backward_op,
            grad_out=grad,
            grad_out_name="grad_out",
            query=query,
            key=key,
            value=value,
            out=out,
            logsumexp=logsumexp,
            is_causal=True,
            **settings,
        )
        return out[0].transpose(0, 1)

    return run


def race(contest: Contest, seconds: float) -> tuple[float, float, list[Tensor]]:
    """Smallest times of ours and theirs, taken in turn for ``seconds``, and both outputs of this rank."""
    runs = [run_ours(contest.document), contest.theirs(contest.document)]
    outs = [run() for run in runs]
    best = torch.full((2,), torch.inf, dtype=torch.float64)
    until = time.perf_counter() + seconds
    enough = torch.zeros(1)
    while not enough:
        for side, run in enumerate(runs):
            dist.barrier()
            begun = time.perf_counter()
            run()
            took = torch.tensor([time.perf_counter() - begun], dtype=torch.float64)
            dist.all_reduce(took, op=dist.ReduceOp.MAX)
            best[side] = min(best[side], took[0])
        enough = torch.tensor([float(time.perf_counter() > until)])
        dist.all_reduce(enough, op=dist.ReduceOp.MAX)
    ours, theirs = best.tolist()
    return ours, theirs, outs


def pack(lengths: Sequence[int], tokens: int) -> np.ndarray:
    return np.repeat(np.arange(len(lengths)), lengths)[None, :tokens].astype(np.int32)


def list_contests(tokens: int) -> list[Contest]:
    random = np.random.default_rng(0)
    one = pack([tokens], tokens)
    mixed = pack(random.lognormal(np.log(tokens / 8), 1, size=200).astype(int) + 1, tokens)
    tiny = pack(random.integers(16, 65, size=tokens // 16), tokens)
    ring = "torch 2 ranks, ring attention head-tail"
    return [
        Contest("one document, 1 rank", "sdpa causal", 1, one, lambda d: run_sdpa(d, how="causal"), True, 0.9),
        Contest("mixed pack, 1 rank", "sdpa dense mask", 1, mixed, lambda d: run_sdpa(d, how="mask"), True, 3),
        Contest("tiny documents, 1 rank", "sdpa loop", 1, tiny, lambda d: run_sdpa(d, how="loop"), True, 1.2),
        Contest("one document, 2 ranks", ring, 2, one, run_torch_ring, True, 0.9),
        Contest("mixed pack, 2 ranks", f"{ring}, no document mask", 2, mixed, run_torch_ring, False, 2),
    ]


def check(contest: Contest, outs: list[list[Tensor]]) -> None:
    """Both sides have computed the same, if they should have."""
    whole = torch.empty(contest.document.size, HEADS, HEAD_DIM), torch.empty(contest.document.size, HEADS, HEAD_DIM)
    partition: Partition = partition_rows(contest.document, ranks=contest.ranks)
    chunks = torch.arange(contest.document.size).chunk(2 * contest.ranks)
    for rank, (ours, theirs) in enumerate(outs):
        whole[0][torch.from_numpy(partition.owned(rank))] = ours
        whole[1][torch.cat([chunks[rank], chunks[2 * contest.ranks - 1 - rank]])] = theirs
    assert (whole[0] - whole[1]).norm() <= 1e-5 * whole[1].norm(), contest.case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter rows, fewer turns: within 50 seconds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    tokens = 2048 if quick else 8192
    for contest in list_contests(tokens):
        results = run_ranks(race, contest.ranks, contest, 3.0 if quick else 20.0, threads=1)
        if contest.same_result:
            check(contest, [outs for _, _, outs in results])
        ours, theirs, _ = results[0]
        figures = {"ours": round(ours * 1e3, 2), "theirs": round(theirs * 1e3, 2), "unit": "ms"}
        ratio = {"ratio": round(theirs / ours, 3), "must_reach": contest.must_reach}
        print(
            json.dumps({"case": f"{contest.case}, {tokens} tokens", "peer": contest.peer, **figures, **ratio}),
            flush=True,
        )


if __name__ == "__main__":
    main()
