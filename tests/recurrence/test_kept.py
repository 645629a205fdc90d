"""What a rank of inner segments keeps besides, to find M and U, against torch's own count."""

import pytest
import torch
import torch.distributed as dist

from packs import pack
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import partition_tokens
from ropewalk.recurrence import scan
from ropewalk.shape.kept_recurrent import kept_summary_bytes
from ropewalk.shape.recurrent import RecurrentLayers

TOKENS, HEADS, KEY_HEADS, KEY_DIM, VALUE_DIM = 512, 2, 1, 32, 48


def keep_of_scan() -> float:
    """Bytes a token that a float32 scan keeps on this rank, of one document in equal ranges."""
    partition = partition_tokens(pack([3 * TOKENS], 3 * TOKENS), ranks=3, layout="contiguous")
    query, key = torch.rand(2, TOKENS, KEY_HEADS, KEY_DIM, requires_grad=True)
    value, decay, beta = torch.rand(TOKENS, HEADS, VALUE_DIM), -torch.rand(TOKENS, HEADS), torch.rand(TOKENS, HEADS)
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.is_floating_point():
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scan(query, key, value, decay, beta, kind="gated_delta", partition=partition, group=dist.group.WORLD)
    return sum(each.untyped_storage().nbytes() for each in kept.values()) / TOKENS


def test_an_inner_segment_keeps_what_its_summary_needs() -> None:
    _, inner, last = run_ranks(keep_of_scan, 3)
    layers = RecurrentLayers("gated_delta", "", (0,), (), 0, 0, 0, HEADS, KEY_DIM, VALUE_DIM)
    assert inner - last == pytest.approx(kept_summary_bytes(layers), rel=0.05)
