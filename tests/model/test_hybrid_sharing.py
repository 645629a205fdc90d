"""A hybrid that transformers has built is cut with the prices of its own recurrent layers."""

import torch
from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

from ropewalk import parallelize
from ropewalk.partition.recurrent_cost import RecurrentStates


def test_the_model_tells_the_price_list_its_states() -> None:
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "full_attention_interval": 4},
        **{"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 8},
        **{"linear_value_head_dim": 8, "max_position_embeddings": 32},
    )
    price = parallelize(Qwen3_5ForCausalLM(config)).sharing.price.recurrent
    assert price is not None
    assert price.layers == RecurrentStates("gated_delta", 2, 8, 8, 3.0, channels=32, taps=4)
