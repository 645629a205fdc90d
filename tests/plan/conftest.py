"""Shapes of public models, as their config.json gives them."""

from collections.abc import Mapping

import pytest

from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape


@pytest.fixture(scope="session")
def shapes() -> Mapping[str, ModelShape]:
    return {
        "llama-8b": ModelShape(
            "LlamaForCausalLM", 4096, 32, 8, 128, 14336, 128256, False, 131072, plain_layers(32, 5e5)
        ),
        "llama-1b": ModelShape("LlamaForCausalLM", 2048, 32, 8, 64, 8192, 128256, True, 131072, plain_layers(16, 5e5)),
        "qwen-0.6b": ModelShape(
            "Qwen3ForCausalLM", 1024, 16, 8, 128, 3072, 151936, True, 40960, plain_layers(28, 1e6), qk_norm="head"
        ),
        "qwen-8b": ModelShape(
            "Qwen3ForCausalLM", 4096, 32, 8, 128, 12288, 151936, False, 40960, plain_layers(36, 1e6), qk_norm="head"
        ),
    }
