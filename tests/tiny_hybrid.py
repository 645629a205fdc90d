"""A small Qwen3.5, three gated delta nets for each layer with attention, and a run folder that has it extended."""

from pathlib import Path

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from ropewalk.model.extend import extend
from ropewalk.rope.scaling import Theta
from tiny_tokenizer import write_tokenizer


def make_hybrid() -> Qwen3_5ForCausalLM:
    """Random weights, the same at each call."""
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "full_attention_interval": 4},
        **{"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 8},
        **{"linear_value_head_dim": 8, "max_position_embeddings": 32, "initializer_range": 0.1, "eos_token_id": 96},
    )
    return Qwen3_5ForCausalLM(config)


def write_hybrid(run: Path, base: Path, *, context_tokens: int) -> None:
    """``base``, a folder of the model, and the same extended in ``run``."""
    make_hybrid().save_pretrained(base)
    write_tokenizer(base)
    (run / "stages" / "0").mkdir(parents=True)
    extend(base, run / "stages" / "0" / "extended", rope=Theta(theta=1e6), context_tokens=context_tokens)
