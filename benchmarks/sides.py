"""The sides of attention.py: one layer's attention, forward and backward, in the ways that are compared.

All sides draw the same whole tensors and take the rows that are theirs, so their results can be laid side by side.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from ringmaster_peer import Ringmaster
from ropewalk.attention import attend
from ropewalk.partition import partition_tokens
from torch_ring import attend_ring, own_rows
from ulysses import Ulysses
from zigzag_ring import ZigzagRing, own_zigzag_rows

SHAPES = {"cpu": (8, 2, 64), "cuda": (32, 8, 128)}
"""Heads, key heads and head_dim: the small ones that two CPU cores can race, and those of Llama 3 8B."""
NAMES = ("out", "d_query", "d_key", "d_value")
SAME = {"float32": 1e-5, "float64": 1e-12, "bfloat16": 3e-2}
"""Torch's CPU kernel sums a key's gradients in bfloat16: 2.6 % from float32's at 32Ki (docs/log.md)."""


class Setting(NamedTuple):
    """What all cases of a run share."""

    tokens: int
    dtype: str
    device: str
    turns: int
    deepspeed_python: Path | None
    ringmaster: Path | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return SHAPES[self.device]


class Side(NamedTuple):
    """Attention of one side: forward and backward once, giving this rank's ``NAMES``, about its ``own`` rows."""

    run: Callable[[], tuple[Tensor, ...]]
    own: Tensor


def draw_inputs(setting: Setting) -> dict[str, Tensor]:
    """The whole row's tensors [tokens, heads, head_dim], the same on all ranks."""
    generator = torch.Generator().manual_seed(0)
    heads, kv_heads, head_dim = setting.shape
    sizes = {"query": heads, "key": kv_heads, "value": kv_heads, "grad": heads}
    drawn = {
        name: torch.randn(setting.tokens, each, head_dim, generator=generator).to(getattr(torch, setting.dtype))
        for name, each in sizes.items()
    }
    return {name: tensor.to(setting.device) for name, tensor in drawn.items()}


def ours(document: np.ndarray, setting: Setting, *, alone: bool = False) -> Side:
    """Attend as this rank of the group, or ``alone`` as the only one."""
    ranks, rank = (1, 0) if alone else (dist.get_world_size(), dist.get_rank())
    partition = partition_tokens(document, ranks=ranks)
    own = torch.from_numpy(partition.owned(rank))
    *inputs, grad = (tensor[own.to(setting.device)] for tensor in draw_inputs(setting).values())

    def run() -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = attend(*leaves, partition=partition, group=dist.group.WORLD if ranks > 1 else None)
        return out.detach(), *torch.autograd.grad(out, leaves, grad)

    return Side(run, own)


def theirs(setting: Setting, attention: Callable[..., Tensor], own: np.ndarray | None = None) -> Side:
    """Attention of another on [1, heads, rows, head_dim], contiguous as it likes them."""
    rows = torch.arange(setting.tokens) if own is None else torch.from_numpy(own)
    drawn = (each[rows.to(setting.device)] for each in draw_inputs(setting).values())
    *inputs, grad = (each.transpose(0, 1)[None].contiguous() for each in drawn)

    def run() -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = attention(*leaves)
        return tuple(each[0].transpose(0, 1) for each in (out.detach(), *torch.autograd.grad(out, leaves, grad)))

    return Side(run, rows)


def ring(setting: Setting) -> Side:
    ranks, rank = dist.get_world_size(), dist.get_rank()

    def attention(*tensors: Tensor) -> Tensor:
        return attend_ring(*tensors, group=dist.group.WORLD, balanced=True, scale=setting.shape[2] ** -0.5)

    return theirs(setting, attention, own_rows(setting.tokens, ranks=ranks, rank=rank, balanced=True))


def zigzag(document: np.ndarray, setting: Setting) -> Side:
    """The ring that knows documents, whose lengths divide by twice the ranks."""
    ranks, rank = dist.get_world_size(), dist.get_rank()
    peer, scale = ZigzagRing(document, dist.group.WORLD), setting.shape[2] ** -0.5
    own = own_zigzag_rows(document, ranks=ranks, rank=rank)
    return theirs(setting, lambda *tensors: peer.attend(*tensors, scale=scale), own)


def ringmaster(document: np.ndarray, setting: Setting, kind: str) -> Side:
    """A kind of attention of axolotl-ringmaster, which a folder of the setting has."""
    assert setting.ringmaster is not None
    peer = Ringmaster(setting.ringmaster, document, kind)
    return theirs(setting, peer.attend_alone, peer.own)


def ulysses(setting: Setting, folder: Path, python: Path) -> tuple[Side, Ulysses]:
    rank, inputs = dist.get_rank(), folder / "inputs.safetensors"
    if rank == 0:
        save_file({name: each.cpu() for name, each in draw_inputs(setting).items()}, inputs)
    dist.barrier()
    peer = Ulysses(python, folder, "attention", device=setting.device, tokens=setting.tokens, inputs=str(inputs))
    share = setting.tokens // dist.get_world_size()

    def run() -> tuple[Tensor, ...]:
        peer.run()
        return ()

    return Side(run, torch.arange(share) + rank * share), peer


def sdpa(document: np.ndarray, setting: Setting, how: str) -> Side:
    """``causal`` over the row, ``mask`` with a dense matrix of all pairs, a ``loop`` over documents, or ``flex``."""
    kind: dict[str, Any] = {"is_causal": True, "enable_gqa": True}
    ids = torch.from_numpy(document.reshape(-1)).to(setting.device)
    if how == "flex":
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def visible(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (query >= key) & (ids[query] == ids[key])

        blocks = create_block_mask(visible, None, None, len(ids), len(ids), device=setting.device)
        compiled = torch.compile(flex_attention)
        return theirs(setting, lambda *tensors: compiled(*tensors, block_mask=blocks, enable_gqa=True))
    if how == "mask":
        seen = torch.ones(len(ids), len(ids), dtype=torch.bool, device=setting.device).tril()
        kind = {"attn_mask": seen.logical_and_(ids[:, None] == ids), "enable_gqa": True}
    ends = [0, *np.flatnonzero(np.diff(document.reshape(-1))) + 1, len(ids)] if how == "loop" else [0, len(ids)]

    def attention(*tensors: Tensor) -> Tensor:
        parts = [
            scaled_dot_product_attention(*(each[:, :, start:stop] for each in tensors), **kind)
            for start, stop in pairwise(ends)
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)

    return theirs(setting, attention)


def check_same(one: Side, other: Side, results: tuple[tuple[Tensor, ...], ...], setting: Setting) -> float:
    """The largest norm-relative difference of output and gradients, all ranks' rows together."""
    largest = 0.0
    for mine, its in zip(*results, strict=True):
        wholes = []
        for side, share in ((one, mine), (other, its)):
            whole = torch.zeros(setting.tokens, *share.shape[1:])
            whole[side.own] = share.float().cpu()
            if dist.get_world_size() > 1 and len(side.own) < setting.tokens:
                dist.all_reduce(whole)
            wholes.append(whole)
        largest = max(largest, float((wholes[0] - wholes[1]).norm() / wholes[1].norm()))
    assert largest <= SAME[setting.dtype], f"the sides compute different things: {largest}"
    return largest
