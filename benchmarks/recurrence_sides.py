"""The sides of recurrence.py: one whole layer with a recurrence, forward and backward, in the ways that are compared.

A layer is transformers' own mixer, a gated delta net of Qwen3.5 or the Mamba-2 of Granite 4, with norms and an MLP
around it. All sides have the same weights and the same row, and take the tokens that are theirs; only how the mixer
keeps states across ranks differs.

The peer ``ringmaster`` is axolotl-ringmaster 0.2.7, put into a folder of its own: ``pip install --no-deps --target
FOLDER axolotl-ringmaster==0.2.7``. On gloo two of its paths run. ``wire_mamba2`` passes states of Mamba-2, on packs
too. For the delta rule ``wire_recurrent_layers`` wants FLA's CUDA kernels, so the torch fallback of
``wrap_linear_attn_instance`` is taken. That one knows one document, and two ranks.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_to_all_single
from torch.nn import functional

from ropewalk.partition import Partition, partition_tokens
from ropewalk.partition.cost import Heads, price_of
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.recurrence import convolve, scan

Mix = Callable[[Any, Tensor], Tensor]
"""(the mixer, this rank's rows [local, width]) -> [local, width]."""


class Sizes(NamedTuple):
    """Of a layer; ``key_heads`` are groups in Mamba-2."""

    kind: str
    width: int
    mlp_width: int
    key_heads: int
    heads: int
    key_dim: int
    value_dim: int
    taps: int = 4

    @property
    def channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.heads * self.value_dim

    @property
    def states(self) -> RecurrentStates:
        """The layer as the price list wants it, in a model with three of them for each layer with attention."""
        kind = {"delta": "gated_delta", "mamba": "ssd"}[self.kind]
        return RecurrentStates(kind, self.heads, self.key_dim, self.value_dim, 3, self.channels, self.taps)


class Side(NamedTuple):
    """One layer, forward and backward once: output, gradient of the input, gradients of the weights, by ``names``; its
    own rows.
    """

    run: Callable[[], list[Tensor]]
    own: Tensor
    names: list[str]


class Layer(nn.Module):
    """A block as in a model: mixer and MLP, each after a norm."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norms = nn.ModuleList(nn.RMSNorm(sizes.width) for _ in range(2))
        self.mixer = make_mixer(sizes)
        self.gate, self.up = (nn.Linear(sizes.width, sizes.mlp_width, bias=False) for _ in range(2))
        self.down = nn.Linear(sizes.mlp_width, sizes.width, bias=False)

    def forward(self, hidden: Tensor, mix: Mix) -> Tensor:
        hidden = hidden + mix(self.mixer, self.norms[0](hidden))
        rows = self.norms[1](hidden)
        result: Tensor = hidden + self.down(functional.silu(self.gate(rows)) * self.up(rows))
        return result


def make_mixer(sizes: Sizes) -> nn.Module:
    """transformers' module; for Mamba-2 with chunks of 64 tokens, its fastest here."""
    if sizes.kind == "delta":
        from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
        from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

        config: Any = Qwen3_5TextConfig(
            hidden_size=sizes.width, num_hidden_layers=4, linear_num_value_heads=sizes.heads,
            linear_num_key_heads=sizes.key_heads, linear_key_head_dim=sizes.key_dim,
            linear_value_head_dim=sizes.value_dim, linear_conv_kernel_dim=sizes.taps,
        )  # fmt: skip
        return Qwen3_5GatedDeltaNet(config, 0)
    from transformers.models.granitemoehybrid.configuration_granitemoehybrid import GraniteMoeHybridConfig
    from transformers.models.granitemoehybrid.modeling_granitemoehybrid import GraniteMoeHybridMambaLayer

    assert sizes.heads * sizes.value_dim == 2 * sizes.width
    config = GraniteMoeHybridConfig(
        hidden_size=sizes.width, num_hidden_layers=2, layer_types=["linear_attention", "full_attention"],
        num_attention_heads=4, mamba_n_heads=sizes.heads, mamba_d_head=sizes.value_dim, mamba_d_state=sizes.key_dim,
        mamba_n_groups=sizes.key_heads, mamba_d_conv=sizes.taps, mamba_expand=2, mamba_chunk_size=64,
    )  # fmt: skip
    return GraniteMoeHybridMambaLayer(config, 0)


def cut(document: np.ndarray, sizes: Sizes, ranks: int) -> Partition:
    """As for a hybrid: attention of the same width, prices of both kinds of layers."""
    heads = Heads(sizes.width // 128, max(1, sizes.width // 512), 128)
    return partition_tokens(
        document, ranks=ranks, price=price_of(heads, device="cpu", element_bytes=4, recurrent=sizes.states)
    )


def ours(document: np.ndarray, sizes: Sizes, *, alone: bool = False) -> Side:
    """As this rank of the group, or ``alone`` as the only one."""
    ranks, rank = (1, 0) if alone else (dist.get_world_size(), dist.get_rank())
    partition = cut(document, sizes, ranks)
    group = dist.group.WORLD if ranks > 1 else None
    return _side(document, sizes, _mix_with(partition, group, sizes), torch.from_numpy(partition.owned(rank)))


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

    return _side(document, sizes, mix, _own_range(document))


def ringmaster(document: np.ndarray, sizes: Sizes, folder: Path) -> Side:
    """The peer's adapter on the mixer, and equal ranges of tokens, the one cut that it has for states."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    from ringmaster.config import RingmasterConfig
    from ringmaster.mamba import wire_mamba2
    from ringmaster.runtime import CPRuntime, set_runtime
    from ringmaster.strategies.linear_attn import wrap_linear_attn_instance

    lengths = np.diff(np.append(np.flatnonzero(np.diff(document[0], prepend=-1)), document.size))
    ends = torch.from_numpy(np.append(0, np.cumsum(lengths))).to(torch.int32)
    packed = (ends, int(lengths.max())) if len(lengths) > 1 else None
    runtime = CPRuntime(RingmasterConfig(size=dist.get_world_size()), cp_group=dist.group.WORLD, varlen=packed)
    wired: list[nn.Module] = []

    def mix(mixer: Any, rows: Tensor) -> Tensor:
        set_runtime(runtime)
        if not wired:
            wired.append(mixer)
            if sizes.kind == "mamba":
                wire_mamba2([mixer], dist.group.WORLD)
            else:  # it finds kernels as attributes, which earlier classes of transformers had
                module = sys.modules[type(mixer).__module__]
                mixer.chunk_gated_delta_rule = module.torch_chunk_gated_delta_rule
                mixer.causal_conv1d_fn = module.causal_conv1d_fn
                wrap_linear_attn_instance(mixer, sizes.taps)
        if sizes.kind == "mamba":
            return mixer(rows[None])[0]
        taps = mixer.conv1d.weight[:, 0]
        mixed = mixer.causal_conv1d_fn(mixer.in_proj_qkv(rows).T[None], taps, None, activation="silu")[0].T
        query, key, value = (each.unflatten(-1, (-1, sizes.key_dim))[None] for each in _split_heads(mixed, sizes))
        decay = -mixer.A_log.exp() * functional.softplus(mixer.in_proj_a(rows) + mixer.dt_bias)
        beta = mixer.in_proj_b(rows).sigmoid()
        output, _ = mixer.chunk_gated_delta_rule(
            query, key, value, g=decay[None], beta=beta[None], use_qk_l2norm_in_kernel=True
        )
        return _finish_delta(mixer, output[0], rows)

    return _side(document, sizes, mix, _own_range(document))


def _side(document: np.ndarray, sizes: Sizes, mix: Mix, own: Tensor) -> Side:
    layer = Layer(sizes)
    generator = torch.Generator().manual_seed(1)
    hidden, grad = (torch.randn(document.size, sizes.width, generator=generator)[own] for _ in range(2))

    def run() -> list[Tensor]:
        leaf = hidden.detach().requires_grad_()
        output = layer(leaf, mix)
        grads = torch.autograd.grad(output, [leaf, *layer.parameters()], grad)
        return [output.detach(), *grads]

    return Side(run, own, ["output", "input", *(name for name, _ in layer.named_parameters())])


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
