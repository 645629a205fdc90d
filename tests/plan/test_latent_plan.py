"""The plan of models with latent attention: against torch's own count, live adapters, and what autograd keeps."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import YoutuConfig, YoutuForCausalLM

from layer_bytes import stored_block_bytes
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.attention_interface import NAME
from ropewalk.model.latent_attention import exchange_latents
from ropewalk.partition import partition_tokens
from ropewalk.plan.flops import token_flops
from ropewalk.plan.traffic import attention_traffic
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

TOKENS = 128
V3 = {
    **{"architectures": ["DeepseekV3ForCausalLM"], "hidden_size": 7168, "intermediate_size": 18432},
    **{"vocab_size": 129280, "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128},
    **{"q_lora_rank": 1536, "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128},
    **{"n_routed_experts": 256, "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "n_shared_experts": 1},
    **{"first_k_dense_replace": 3, "max_position_embeddings": 163840, "rope_theta": 10000, "scoring_func": "sigmoid"},
    "rope_scaling": {
        **{"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "beta_fast": 32, "beta_slow": 1},
        **{"mscale": 1.0, "mscale_all_dim": 1.0},
    },
}


def settings(**changes: Any) -> dict[str, Any]:
    return {
        **{"vocab_size": 16, "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 40, "kv_lora_rank": 32},
        **{"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16, "max_position_embeddings": TOKENS},
        **{"tie_word_embeddings": False, "pad_token_id": None, "bos_token_id": 0, "eos_token_id": 1},
        **changes,
    }


def make(**changes: Any) -> tuple[YoutuForCausalLM, ModelShape]:
    given = settings(**changes)
    shape = parse_shape({"architectures": ["YoutuForCausalLM"], **given}, "config.json")
    return YoutuForCausalLM(YoutuConfig(**given, attn_implementation="eager")), shape


@pytest.mark.parametrize("rank", [40, None])
def test_flops_are_torch_s_own_count(rank: int | None) -> None:
    model, shape = make(q_lora_rank=rank)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, TOKENS, dtype=torch.long), use_cache=False)
    flops = token_flops(shape, TOKENS)
    # Eager attention computes the full square, a causal kernel its lower half with the diagonal.
    assert counter.get_total_flops() == TOKENS * (flops.linear + flops.attention * 2 * TOKENS / (TOKENS + 1))


@pytest.mark.parametrize("rank", [40, None])
@pytest.mark.parametrize("lora", [Lora(), Lora(rank=3, modules=("q_proj", "v_proj"), also_train=("norms",))], ids=str)
def test_the_live_model_has_as_many_adapters(rank: int | None, lora: Lora) -> None:
    model, shape = make(q_lora_rank=rank)
    attach_adapter(model, lora, seed=0)
    trained = count_trained(shape, lora)
    assert sum(each.numel() for each in model.parameters()) == shape.parameters + trained.adapters
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == trained.parameters
    frozen = [each.weight for each in model.modules() if type(each) is nn.Linear and not each.weight.requires_grad]
    assert sum(weight.numel() for weight in frozen) == trained.frozen_matrices


def count_kept_bytes(layers: int, value_dim: int) -> int:
    model, _ = make(num_hidden_layers=layers, v_head_dim=value_dim)
    model.set_attn_implementation(NAME)
    exchange_latents(model, NAME)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    alive: list[torch.Tensor] = []  # keeps every tensor, so that no address is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        return tensor

    partition = partition_tokens(np.zeros((1, TOKENS), np.int32), ranks=1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        tokens = torch.zeros(1, TOKENS, dtype=torch.long)
        model.model(tokens, position_ids=torch.arange(TOKENS)[None], use_cache=False, partition=partition)
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in alive}
    return sum(size for address, size in storages.items() if address not in weights)


@pytest.mark.parametrize("value_dim", [16, 24])
def test_autograd_keeps_what_the_formula_says(value_dim: int) -> None:
    _, shape = make(v_head_dim=value_dim)
    layer = count_kept_bytes(3, value_dim) - count_kept_bytes(2, value_dim)
    wanted = stored_block_bytes(shape, TOKENS, element_bytes=4)
    if value_dim == 24:  # the CPU kernel's output has heads first, so transformers copies it
        wanted += 4 * TOKENS * shape.output_width
    assert layer == pytest.approx(wanted, rel=0.01)


def test_deepseek_v3_sends_576_numbers_of_a_token() -> None:
    shape = parse_shape(V3, "config.json")
    assert shape.parameters == 671_026_404_352
    assert shape.sent_width == 576 and shape.heads * (shape.head_dim + shape.value_dim) == 40_960
    ring = attention_traffic(shape, 1024, ranks=2, exchange="ring")
    assert ring.forward == 512 * 576 * 2
    assert attention_traffic(shape, 1024, ranks=2, exchange="heads").forward == 256 * 2 * 128 * (192 + 128) * 2
    assert shape.score_scale == pytest.approx(0.1352337788608801)
