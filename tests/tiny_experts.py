"""Small random mixtures of experts of the classes of transformers, for tests of files, routers and training."""

import inspect
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, PreTrainedModel

_PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 24,
    "vocab_size": 97,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": 96,
    "pad_token_id": None,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 20,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "n_group": 1,
    "topk_group": 1,
}
MIXTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("MixtralForCausalLM", {}),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {}),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {"norm_topk_prob": True}),
    "olmoe": ("OlmoeForCausalLM", {}),
    "gpt_oss": ("GptOssForCausalLM", {"sliding_window": 6}),
    "granitemoe": ("GraniteMoeForCausalLM", {}),
    "ernie4_5_moe": ("Ernie4_5_MoeForCausalLM", {"moe_layer_start_index": 1}),
    "hunyuan_v1_moe": ("HunYuanMoEV1ForCausalLM", {}),
    "minimax_m2": ("MiniMaxM2ForCausalLM", {}),
    "glm4_moe": ("Glm4MoeForCausalLM", {"first_k_dense_replace": 1, "partial_rotary_factor": 1.0}),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {
            "kv_lora_rank": 12,
            "q_lora_rank": 10,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
            "first_k_dense_replace": 1,
            "num_key_value_heads": 4,
        },
    ),
}
"""The class of each model type, and the settings that only it has."""


def mixture_config(kind: str, **changes: Any) -> Any:
    """A config of model type ``kind``, with the keys that this type knows."""
    made = CONFIG_MAPPING[kind]
    known = {name for each in made.__mro__ for name in getattr(each, "__annotations__", ())}
    known |= {*inspect.signature(made.__init__).parameters, *getattr(made, "attribute_map", {})}
    plain = {name: value for name, value in _PLAIN.items() if name in known}
    return made(**plain | MIXTURES[kind][1] | changes)


def make_mixture(kind: str, *, experts: str | None = None, **changes: Any) -> PreTrainedModel:
    """A random model whose numbers all differ from the class's first values; its biases of the choice too."""
    torch.manual_seed(0)
    made = getattr(transformers, MIXTURES[kind][0])
    model: PreTrainedModel = made._from_config(
        mixture_config(kind, **changes), attn_implementation="eager", experts_implementation=experts
    )
    torch.manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):
                tensor.normal_(0, 0.01)
            elif tensor.dim() == 1 and "norm" in name:
                tensor.normal_(1, 0.1)
            else:
                tensor.normal_(0, 0.15)
    return model.eval()


def save_mixture(folder: Path, kind: str, *, shard_bytes: int = 10**9, dtype: Any = None, **changes: Any) -> Path:
    """Save ``make_mixture`` as anybody would save it."""
    model = make_mixture(kind, **changes)
    (model if dtype is None else model.to(dtype)).save_pretrained(folder, max_shard_size=shard_bytes)
    return folder
