"""Our attention on raw tensors: two packed documents, cut over the ranks. torchrun --nproc-per-node 2 FILE"""

import numpy as np
import torch
import torch.distributed as dist

from ropewalk import attend, partition_tokens

TOKENS, HEADS, KV_HEADS, HEAD_DIM = 512, 8, 2, 64


def main() -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    document = np.repeat(np.array([[0, 1]], np.int32), [200, TOKENS - 200], axis=1)  # [rows, context]
    partition = partition_tokens(document, ranks=ranks)
    mine = torch.from_numpy(partition.owned(rank))  # which tokens this rank has, in its order

    generator = torch.Generator().manual_seed(0)  # the same tensors on every rank, of which each keeps its part
    heads = (HEADS, KV_HEADS, KV_HEADS, HEADS)
    query, key, value, grad = (torch.randn(TOKENS, each, HEAD_DIM, generator=generator)[mine] for each in heads)
    for tensor in (query, key, value):
        tensor.requires_grad_()
    out = attend(query, key, value, partition=partition, group=dist.group.WORLD)
    out.backward(grad)

    sums = torch.stack([tensor.double().square().sum() for tensor in (out.detach(), query.grad, key.grad, value.grad)])
    dist.all_reduce(sums)
    if rank == 0:
        print("norms of output and gradients:", *(f"{norm:.4f}" for norm in sums.sqrt().tolist()))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
