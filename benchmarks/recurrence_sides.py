"""The sides of recurrence.py: the layers of recurrence_layers.py, forward and backward, in the ways that are compared.

All sides have the same weights and the same row, and take the tokens that are theirs; only how mixers keep states
across ranks differs, and how attention reads keys.

The peer ``ringmaster`` is axolotl-ringmaster 0.2.7, put into a folder of its own: ``pip install --no-deps --target
FOLDER axolotl-ringmaster==0.2.7``. On gloo two of its paths run. ``wire_mamba2`` passes states of Mamba-2, on packs
too. For the delta rule ``wire_recurrent_layers`` wants FLA's CUDA kernels, so the torch fallback of
``wrap_linear_attn_instance`` is taken. That one knows one document, and two ranks, so on packs it gets one document a
call; all else of a layer takes all rows at once. Attention is its Ulysses: with a dense mask on packs, unless it gets
one document a call too.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single
from torch.nn import functional

from recurrence_layers import HEAD_DIM, Blocks, Mix, Sizes
from ringmaster_peer import Ringmaster, import_from
from ropewalk.attention import attend
from ropewalk.partition import Partition, partition_tokens
from ropewalk.partition.cost import Heads, price_of
from ropewalk.recurrence import convolve, scan


class Side(NamedTuple):
    """Forward and backward once: output, gradient of the input, gradients of the weights, by ``names``; its own
    rows; and in words which kernels run the mixers.
    """

    run: Callable[[], list[Tensor]]
    own: Tensor
    names: list[str]
    path: str


def cut(document: np.ndarray, sizes: Sizes, ranks: int) -> Partition:
    """As for a hybrid: attention of the same width, prices of both kinds of layers."""
    heads = Heads(sizes.width // HEAD_DIM, sizes.width // HEAD_DIM, HEAD_DIM)
    return partition_tokens(
        document, ranks=ranks, price=price_of(heads, device="cpu", element_bytes=4, recurrent=sizes.states)
    )


def ours(document: np.ndarray, sizes: Sizes, *, alone: bool = False) -> Side:
    """As this rank of the group, or ``alone`` as the only one."""
    ranks, rank = (1, 0) if alone else (dist.get_world_size(), dist.get_rank())
    partition = cut(document, sizes, ranks)
    group = dist.group.WORLD if ranks > 1 else None
    own = torch.from_numpy(partition.owned(rank))

    def attend_ours(mixer: Any, rows: Tensor) -> Tensor:
        read: Tensor = attend(*mixer.project(rows), partition=partition, group=group)
        return mixer.output(read.flatten(1))  # type: ignore[no-any-return]

    recur = _mix_with(partition, group, sizes)
    return _side(document, sizes, recur, own, f"scan, torch code in chunks; layout {partition.layout}", attend_ours)


def exchange_heads(document: np.ndarray, sizes: Sizes) -> Side:
    """Each rank takes all tokens for its part of the heads in convolution and recurrence, as Ulysses does, and an equal
    range of tokens outside of them. The kernels are ours. Of a gated delta net only.
    """
    whole = partition_tokens(document, ranks=1)
    ranks, rank = dist.get_world_size(), dist.get_rank()
    part = sizes._replace(key_heads=sizes.key_heads // ranks, heads=sizes.heads // ranks)

    def mix(mixer: Any, rows: Tensor) -> Tensor:
        columns = [*_split_heads(mixer.in_proj_qkv(rows), sizes), mixer.in_proj_b(rows), mixer.in_proj_a(rows)]
        # [local, channels of all heads] of each -> [ranks, local, channels of a rank's heads]
        sent = torch.cat([each.unflatten(1, (ranks, -1)) for each in columns], dim=-1).transpose(0, 1).contiguous()
        arrived = all_to_all_single(torch.empty_like(sent), sent).flatten(0, 1)
        mixed, beta, step = arrived.split([part.channels, part.heads, part.heads], dim=1)  # [tokens, _]
        parts = _split_heads(mixer.conv1d.weight[:, 0], sizes, 0)
        taps = torch.cat([each.unflatten(0, (ranks, -1))[rank] for each in parts])
        mine = slice(rank * part.heads, (rank + 1) * part.heads)
        output = _recur_delta(mixed, taps, beta, step, mixer.A_log[mine], mixer.dt_bias[mine], part, whole, None)
        # [tokens, heads of a rank, value_dim] -> [ranks, local, ...] -> [local, heads, value_dim]
        back = output.unflatten(0, (ranks, -1)).contiguous()
        output = all_to_all_single(torch.empty_like(back), back).transpose(0, 1).flatten(1, 2)
        return _finish_delta(mixer, output, rows)

    return _side(document, sizes, mix, _own_range(document), "all-to-alls of heads, our torch code in chunks")


def ringmaster(document: np.ndarray, sizes: Sizes, folder: Path) -> Side:
    """The peer's adapters on the mixers. Equal ranges of tokens, the one cut that it has for states; of packs with the
    delta rule equal halves of each document, whose lengths must be even."""
    import_from(folder)
    starts = [0, *(np.flatnonzero(np.diff(document[0])) + 1).tolist(), document.size]
    if sizes.kind == "mamba" or len(starts) == 2:
        peer = Ringmaster(folder, document, "ulysses")
        recur = _wire_mamba2(peer.runtime) if sizes.kind == "mamba" else _wrap_delta(peer.runtime, sizes)
        path = "wire_mamba2" if sizes.kind == "mamba" else "torch fallback of wrap_linear_attn_instance"
        return _side(document, sizes, recur, _own_range(document), path, _attend_each([peer], [document.size]))
    lengths = [stop - start for start, stop in pairwise(starts)]
    peers = [Ringmaster(folder, np.zeros((1, length), dtype=np.int32), "ulysses") for length in lengths]
    halves = [_own_range(np.zeros((1, length))) + start for start, length in zip(starts, lengths, strict=False)]
    path = "torch fallback of wrap_linear_attn_instance, one document a call"
    recur = _wrap_delta(peers[0].runtime, sizes, lengths)
    return _side(document, sizes, recur, torch.cat(halves), path, _attend_each(peers, lengths))


def _attend_each(peers: list[Ringmaster], lengths: list[int]) -> Mix:
    def mix(mixer: Any, rows: Tensor) -> Tensor:
        ours = [length // dist.get_world_size() for length in lengths]
        # [local, heads, head_dim] -> [1, heads, rows, head_dim] of each document
        parts = zip(*(each.transpose(0, 1)[None].split(ours, dim=2) for each in mixer.project(rows)), strict=True)
        read = [peer.attend_alone(*part) for peer, part in zip(peers, parts, strict=True)]
        # [1, heads, rows, head_dim] of each document -> [local, width]
        return mixer.output(torch.cat(read, dim=2)[0].transpose(0, 1).flatten(1))  # type: ignore[no-any-return]

    return mix


def _wire_mamba2(runtime: Any) -> Mix:
    from ringmaster.mamba import wire_mamba2
    from ringmaster.runtime import set_runtime

    wired: list[nn.Module] = []

    def mix(mixer: Any, rows: Tensor) -> Tensor:
        set_runtime(runtime)
        if mixer not in wired:
            wired.append(mixer)
            wire_mamba2([mixer], dist.group.WORLD)
        return mixer(rows[None])[0]  # type: ignore[no-any-return]

    return mix


def _wrap_delta(runtime: Any, sizes: Sizes, lengths: list[int] | None = None) -> Mix:
    """With ``lengths``, one document after the other passes convolution and delta rule."""
    from ringmaster.runtime import set_runtime
    from ringmaster.strategies.linear_attn import wrap_linear_attn_instance

    wired: list[nn.Module] = []

    def mix(mixer: Any, rows: Tensor) -> Tensor:
        set_runtime(runtime)
        if mixer not in wired:  # it finds kernels as attributes, which earlier classes of transformers had
            wired.append(mixer)
            module = sys.modules[type(mixer).__module__]
            mixer.chunk_gated_delta_rule = module.torch_chunk_gated_delta_rule
            mixer.causal_conv1d_fn = module.causal_conv1d_fn
            wrap_linear_attn_instance(mixer, sizes.taps)
        ours = [len(rows)] if lengths is None else [length // dist.get_world_size() for length in lengths]
        decay = -mixer.A_log.exp() * functional.softplus(mixer.in_proj_a(rows) + mixer.dt_bias)
        vectors = mixer.in_proj_qkv(rows), decay, mixer.in_proj_b(rows).sigmoid()
        parts = zip(*(each.split(ours) for each in vectors), strict=True)
        # [rows, heads, value_dim] of each document -> [local, heads, value_dim]
        return _finish_delta(mixer, torch.cat([_call_delta(mixer, *part, sizes) for part in parts]), rows)

    return mix


def _call_delta(mixer: Any, mixed: Tensor, decay: Tensor, beta: Tensor, sizes: Sizes) -> Tensor:
    taps = mixer.conv1d.weight[:, 0]
    mixed = mixer.causal_conv1d_fn(mixed.T[None], taps, None, activation="silu")[0].T
    query, key, value = (each.unflatten(-1, (-1, sizes.key_dim))[None] for each in _split_heads(mixed, sizes))
    output, _ = mixer.chunk_gated_delta_rule(
        query, key, value, g=decay[None], beta=beta[None], use_qk_l2norm_in_kernel=True
    )
    return output[0]  # type: ignore[no-any-return]


def _refuse(mixer: Any, rows: Tensor) -> Tensor:
    raise AssertionError("this side has no attention")


def _side(document: np.ndarray, sizes: Sizes, recur: Mix, own: Tensor, path: str, attention: Mix = _refuse) -> Side:
    blocks = Blocks(sizes)
    generator = torch.Generator().manual_seed(1)
    hidden, grad = (torch.randn(document.size, sizes.width, generator=generator)[own] for _ in range(2))

    def run() -> list[Tensor]:
        leaf = hidden.detach().requires_grad_()
        output = blocks(leaf, recur, attention)
        grads = torch.autograd.grad(output, [leaf, *blocks.parameters()], grad)
        return [output.detach(), *grads]

    return Side(run, own, ["output", "input", *(name for name, _ in blocks.named_parameters())], path)


def _own_range(document: np.ndarray) -> Tensor:
    share = document.size // dist.get_world_size()
    return torch.arange(share) + dist.get_rank() * share


def _mix_with(partition: Partition, group: dist.ProcessGroup | None, sizes: Sizes) -> Mix:
    def mix_delta(mixer: Any, rows: Tensor) -> Tensor:
        output = _recur_delta(
            mixer.in_proj_qkv(rows), mixer.conv1d.weight[:, 0], mixer.in_proj_b(rows), mixer.in_proj_a(rows),
            mixer.A_log, mixer.dt_bias, sizes, partition, group,
        )  # fmt: skip
        return _finish_delta(mixer, output, rows)

    def mix_mamba(mixer: Any, rows: Tensor) -> Tensor:
        inner, state = sizes.heads * sizes.value_dim, sizes.key_heads * sizes.key_dim
        gate, mixed, step = mixer.in_proj(rows).split([inner, sizes.channels, sizes.heads], dim=-1)
        mixed = convolve(mixed, mixer.conv1d.weight[:, 0], mixer.conv1d.bias, partition=partition, group=group)
        value, key, query = functional.silu(mixed).split([inner, state, state], dim=-1)
        value = value.unflatten(-1, (sizes.heads, -1))
        key, query = (each.unflatten(-1, (sizes.key_heads, -1)) for each in (key, query))
        step = functional.softplus(step + mixer.dt_bias)
        added = value * step[..., None]
        output = scan(query, key, added, -mixer.A_log.exp() * step, kind="ssd", partition=partition, group=group)
        output = output + mixer.D[:, None] * value
        return mixer.out_proj(mixer.norm(output.flatten(1)[None], gate[None])[0])

    return {"delta": mix_delta, "mamba": mix_mamba}[sizes.kind]


def _recur_delta(
    mixed: Tensor, taps: Tensor, beta: Tensor, step: Tensor, decay: Tensor, bias: Tensor, sizes: Sizes,
    partition: Partition, group: dist.ProcessGroup | None,
) -> Tensor:  # fmt: skip
    """Convolution and delta rule: [local, channels] -> [local, heads, value_dim]."""
    mixed = functional.silu(convolve(mixed, taps, partition=partition, group=group))
    query, key, value = (each.unflatten(-1, (-1, sizes.key_dim)) for each in _split_heads(mixed, sizes))
    query, key = (each * torch.rsqrt(each.square().sum(-1, keepdim=True) + 1e-6) for each in (query, key))
    decays = -decay.exp() * functional.softplus(step + bias)
    query = query * sizes.key_dim**-0.5
    return scan(query, key, value, decays, beta.sigmoid(), kind="gated_delta", partition=partition, group=group)


def _split_heads(rows: Tensor, sizes: Sizes, dim: int = -1) -> tuple[Tensor, ...]:
    """Channels of queries, keys and values."""
    assert sizes.key_dim == sizes.value_dim
    keys = sizes.key_heads * sizes.key_dim
    return rows.split([keys, keys, rows.shape[dim] - 2 * keys], dim=dim)


def _finish_delta(mixer: Any, output: Tensor, rows: Tensor) -> Tensor:
    gate = mixer.in_proj_z(rows).unflatten(-1, output.shape[1:])
    result: Tensor = mixer.out_proj(mixer.norm(output.flatten(0, 1), gate.flatten(0, 1)).view(len(rows), -1))
    return result
