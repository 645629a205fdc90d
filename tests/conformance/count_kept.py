"""What autograd keeps of each class's blocks, counted on tiny models.

    PYTHONPATH=src:tests python tests/conformance/count_kept.py LlamaForCausalLM

prints how many tensors of each size a class keeps. Every width of the tiny model is another number, so the size says
what a tensor is: that is how a row of src/ropewalk/shape/kept.py is written.
"""

import sys
from collections import Counter
from typing import Any

import numpy as np
import torch

from conformance.tiny_families import make_model
from ropewalk.model.architectures import backbone_of, blocks_of, rotary_of
from ropewalk.model.attention_interface import NAME
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.model.pass_arguments import hand_on_arguments
from ropewalk.model.recurrent_layers import mix_documents
from ropewalk.partition import partition_tokens
from ropewalk.shape.families import SUPPORTED

TOKENS = 128
RECURRENT_TOKENS = 512
"""Several chunks of a recurrence, and rows before a document are few."""
_TIED_WIDTHS = ("Helium", "GPTNeoX", "StableLm", "Starcoder2", "Olmoe", "FlexOlmo")
"""Classes whose heads together are as wide as the model."""


def choose_sizes(architecture: str) -> dict[str, Any]:
    """Sizes of a tiny model, all different, and multiples of 8, which the product of experts needs."""
    family = SUPPORTED[architecture]
    sizes: dict[str, Any] = {"hidden_size": 72, "intermediate_size": 104, "max_position_embeddings": 512}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "shared_intermediate_size": 112}
    if architecture.removesuffix("ForCausalLM") in _TIED_WIDTHS:
        sizes |= {"hidden_size": 96}
    if family.latent:
        sizes = {key: sizes[key] for key in ("hidden_size", "intermediate_size", "max_position_embeddings")}
    if architecture == "GPTNeoXForCausalLM":  # it has a key head for each query head
        sizes |= {"num_key_value_heads": 4}
    if family.unequal:
        sizes |= {"global_head_dim": 24, "num_global_key_value_heads": 2, "num_kv_shared_layers": 0}
    if family.experts:
        counts = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
        sizes |= dict.fromkeys(counts, 8) | dict.fromkeys(
            ("num_experts_per_tok", "moe_k", "moe_topk", "top_k_experts"), 3
        )
        sizes |= {"moe_intermediate_size": 40, "shared_expert_intermediate_size": 56}
    if architecture == "GraniteMoeHybridForCausalLM":  # its MLP is the shared one
        sizes |= {"shared_intermediate_size": 104, "num_local_experts": 0}
    if family.recurrent:
        sizes |= {"linear_key_head_dim": 10, "linear_value_head_dim": 15}
        sizes |= {"mamba_n_heads": 8, "mamba_d_head": 18, "mamba_d_state": 11, "mamba_d_ssm": 144}
        sizes |= {"mamba_num_heads": 8, "mamba_head_dim": 18, "ssm_state_size": 11}
        sizes |= {"linear_num_heads": 5, "linear_head_dim": 11, "num_experts_per_token": 3, "num_shared_experts": 2}
        sizes |= {"model_max_length": 512} if family.own_names else {}
        sizes |= {"moe_shared_expert_intermediate_size": 56}
    return sizes


def count_storages(architecture: str, dtype: torch.dtype, sizes: dict[str, Any]) -> list[Counter[tuple[float, bool]]]:
    """The storages that each block of a tiny model keeps: numbers a token, and whether they are float32 in any type."""
    model: Any = make_model(architecture, **sizes).to(dtype).train()
    model.config._experts_implementation = "grouped_mm"
    model.set_attn_implementation(NAME)
    exchange_latents(model, NAME)
    hand_on_arguments(model)
    mix_documents(model)
    known = {each.untyped_storage().data_ptr() for each in (*model.parameters(), *model.buffers())}
    alive: list[torch.Tensor] = []  # keeps every tensor, so that no address is used twice
    inside, owner = [-1], dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        address = tensor.untyped_storage().data_ptr()
        if inside[0] < 0:
            known.add(address)
        owner.setdefault(address, inside[0])
        return tensor

    def leave_out(module: Any, given: Any, made: Any) -> None:
        for tensor in [made] if isinstance(made, torch.Tensor) else made:  # all layers share them
            alive.append(tensor)
            known.add(tensor.untyped_storage().data_ptr())

    if (rotary := rotary_of(model)) is not None:
        rotary.register_forward_hook(leave_out)
    blocks = blocks_of(model)
    for index, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *given, index=index: inside.__setitem__(0, index))
    blocks[-1].register_forward_hook(lambda *given: inside.__setitem__(0, -1))
    tokens = TOKENS if SUPPORTED[architecture].recurrent is None else RECURRENT_TOKENS
    places, partition = torch.arange(tokens)[None], partition_tokens(np.zeros((1, tokens), np.int32), ranks=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone_of(model)(places % 97, position_ids=places, use_cache=False, partition=partition, context_group=None)
    found = {tensor.untyped_storage().data_ptr(): tensor for tensor in alive}
    counts = [Counter[tuple[float, bool]]() for _ in blocks]
    for address, tensor in found.items():
        if address not in known:
            size = tensor.untyped_storage().nbytes() / tokens / tensor.dtype.itemsize
            counts[owner[address]][size, tensor.dtype == torch.float32] += 1
    return counts


def count_bytes(architecture: str, dtype: torch.dtype, sizes: dict[str, Any]) -> list[float]:
    """Bytes that each block keeps of one token, without the one or two numbers that a norm keeps of it.

    The states of a recurrence, one in each chunk, are no whole numbers of a token.
    """

    def weigh(counts: Counter[tuple[float, bool]]) -> float:
        kept = [each for each in counts.items() if each[0][0] not in (1, 2)]
        return sum(size * count * (4 if wide else dtype.itemsize) for (size, wide), count in kept)

    return [weigh(each) for each in count_storages(architecture, dtype, sizes)]


if __name__ == "__main__":
    for architecture in sys.argv[1:]:
        found = sum(count_storages(architecture, torch.bfloat16, choose_sizes(architecture)), Counter())
        print(architecture, *(f"{size:g}{' float32' * wide}: {count}" for (size, wide), count in sorted(found.items())))
