"""Small random multimodal models, saved by transformers itself: a text model beside a vision tower and a projector."""

import json
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer, models

VOCABULARY, CONTEXT_TOKENS = 64, 64
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
TOWER |= {"image_size": 28, "patch_size": 14}
QWEN_TOWER = {"depth": 1, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": 32}
TEXT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.1,
}
QWEN_TEXT = {key: value for key, value in TEXT.items() if key != "head_dim"}
MARKS = {"image_token_id": 60, "video_token_id": 59, "vision_start_token_id": 58, "vision_end_token_id": 57}


def _rope(theta: float, **axes: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **axes}}


SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "gemma3": (
        "Gemma3",
        {
            "text_config": {**TEXT, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]},
            "vision_config": {**TOWER, "model_type": "siglip_vision_model"},
            "mm_tokens_per_image": 4,
            "image_token_index": 60,
        },
    ),
    "mistral3": (
        "Mistral3",
        {
            "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
            "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 16},
            "image_token_index": 60,
        },
    ),
    "ministral3": (
        "Mistral3",
        {
            "text_config": {
                **TEXT,
                "model_type": "ministral3",
                "rope_parameters": {
                    "rope_type": "yarn",
                    "rope_theta": 1e4,
                    "factor": 4.0,
                    "original_max_position_embeddings": 16,
                    "mscale": 1.0,
                    "mscale_all_dim": 1.0,
                    "llama_4_scaling_beta": 0.1,
                },
            },
            "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 16},
            "image_token_index": 60,
        },
    ),
    "qwen2_5_vl": (
        "Qwen2_5_VL",
        {
            "text_config": {**QWEN_TEXT, **_rope(1e6, mrope_section=[1, 1, 2])},
            "vision_config": {**QWEN_TOWER, "fullatt_block_indexes": [0]},
            **MARKS,
        },
    ),
    "qwen3_vl": (
        "Qwen3VL",
        {
            "text_config": {**TEXT, **_rope(5e6, mrope_section=[2, 1, 1], mrope_interleaved=True)},
            "vision_config": {**QWEN_TOWER, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            **MARKS,
        },
    ),
}
MORE: dict[str, tuple[str, dict[str, Any]]] = {
    "aya_vision": (
        "AyaVision",
        {
            "text_config": {**TEXT, "model_type": "cohere2", "sliding_window": 6, "pad_token_id": 0},
            "vision_config": {**TOWER, "model_type": "siglip_vision_model"},
            "image_token_index": 60,
        },
    ),
    "internvl": (
        "InternVL",
        {
            "text_config": {**TEXT, "model_type": "qwen3"},
            "vision_config": {**TOWER, "image_size": [28, 28], "patch_size": [14, 14]},
            "image_token_id": 60,
        },
    ),
    "llava": (
        "Llava",
        {
            "text_config": {**TEXT, "model_type": "mistral", "sliding_window": None},
            "vision_config": {**TOWER, "model_type": "pixtral", "head_dim": 16},
            "image_token_index": 60,
        },
    ),
    "qwen2_vl": (
        "Qwen2VL",
        {
            "text_config": {**QWEN_TEXT, **_rope(1e6, mrope_section=[1, 1, 2])},
            "vision_config": {"depth": 1, "embed_dim": 32, "hidden_size": 32, "num_heads": 2, "mlp_ratio": 2},
            **MARKS,
        },
    ),
    "gemma4": (
        "Gemma4",
        {
            "text_config": {
                **TEXT,
                **{"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2},
                **{"sliding_window": 6, "global_head_dim": 12, "num_kv_shared_layers": 2, "use_double_wide_mlp": True},
                **{"num_global_key_value_heads": 1, "attention_k_eq_v": True, "final_logit_softcapping": 2.0},
                **{"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "pad_token_id": 0},
            },
            "vision_config": {
                **TOWER,
                **{"model_type": "gemma4_vision", "num_key_value_heads": 2, "head_dim": 16},
                "position_embedding_size": 64,
            },
            "audio_config": None,
            **{"image_token_id": 60, "video_token_id": 59, "audio_token_id": 58, "boi_token_id": 57},
            **{"eoi_token_id": 56, "boa_token_id": 55, "eoa_token_id": 54, "eoa_token_index": 54},
        },
    ),
    "qwen3_vl_moe": (
        "Qwen3VLMoe",
        {
            "text_config": {
                **TEXT,
                **_rope(5e6, mrope_section=[2, 1, 1], mrope_interleaved=True),
                **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [0]},
            },
            "vision_config": {**QWEN_TOWER, "num_position_embeddings": 16, "deepstack_visual_indexes": [0]},
            **MARKS,
        },
    ),
    "qwen3_5": (
        "Qwen3_5",
        {
            "text_config": {
                **TEXT,
                **_rope(1e7, mrope_section=[1, 1, 0], mrope_interleaved=True, partial_rotary_factor=0.5),
                **{"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 1},
                **{"linear_num_value_heads": 2, "linear_key_head_dim": 4, "linear_value_head_dim": 4},
            },
            "vision_config": {**QWEN_TOWER, "num_position_embeddings": 16},
            **MARKS,
        },
    ),
    "smolvlm": (
        "SmolVLM",
        {
            "text_config": {**TEXT, "model_type": "llama"},
            "vision_config": TOWER,
            "image_token_id": 60,
            "scale_factor": 2,
        },
    ),
}
"""Classes of which the text part alone is loaded in tests: one more of each prefix, and of each rule for the text."""


def make_wrapper(kind: str, **changes: Any) -> Any:
    """The multimodal model of a row of ``SETTINGS`` or ``MORE``, untied and random; ``changes`` go to its config."""
    name, settings = (SETTINGS | MORE)[kind]
    config = getattr(transformers, f"{name}Config")(**{"tie_word_embeddings": False, **settings, **changes})
    torch.manual_seed(0)
    return getattr(transformers, f"{name}ForConditionalGeneration")(config).eval()


def save_wrapper(folder: Path, kind: str, shard_bytes: int = 10**9, dtype: str = "float32", **changes: Any) -> Path:
    """The same as a folder with a tokenizer and a processor's settings."""
    out = folder / f"base-{kind}"
    make_wrapper(kind, **changes).to(getattr(torch, dtype)).save_pretrained(out, max_shard_size=shard_bytes)
    tokenizer = Tokenizer(models.BPE(vocab={chr(33 + index): index for index in range(VOCABULARY - 1)}, merges=[]))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text('{"eos_token": "<|endoftext|>", "model_max_length": 64}')
    (out / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}\n')
    (out / "processor_config.json").write_text('{"image_seq_length": 4}\n')
    return out


def load_whole(folder: Path) -> Any:
    """The multimodal class of a folder in plain transformers; every tensor of the class must be in the files."""
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, report = getattr(transformers, name).from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
    )
    assert not any(report.values()), report
    return model.eval()


def read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder's files, by their names there."""
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def is_text(name: str) -> bool:
    """Whether a tensor's name in a file is one of the text model."""
    return not any(
        part in name for part in ("vision_tower", "visual", "projector", "vision_model", "connector", "embed_vision")
    )
