"""What a stage trains, counted from a shape and on the live model that peft has given adapters."""

from collections.abc import Mapping

import pytest
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from conformance.tiny_families import make_model, make_settings
from ropewalk.model.adapter import attach_adapter
from ropewalk.plan.flops import token_flops
from ropewalk.plan.traffic import state_traffic
from ropewalk.plan.trained import count_trained
from ropewalk.recipe.lora import Lora
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

SIZES = {"vocab_size": 50, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8}
LORAS = [
    Lora(),
    Lora(rank=3, modules=("attention", "down_proj"), also_train=("norms", "head")),
    Lora(modules=("up_proj",), also_train=()),
    Lora(also_train=("head", "embeddings")),
]


@pytest.mark.parametrize("lora", LORAS, ids=str)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_the_live_model_has_as_many(kind: str, tied: bool, lora: Lora) -> None:
    settings = {**SIZES, "num_key_value_heads": 2, "intermediate_size": 40, "tie_word_embeddings": tied}
    model = (
        LlamaForCausalLM(LlamaConfig(**settings))
        if kind == "LlamaForCausalLM"
        else Qwen3ForCausalLM(Qwen3Config(**settings))
    )
    norm = "none" if kind == "LlamaForCausalLM" else "head"
    shape = ModelShape(kind, 24, 4, 2, 8, 40, 50, tied, 2048, plain_layers(2, 1e4), qk_norm=norm)  # type: ignore[arg-type]
    assert sum(each.numel() for each in model.parameters()) == shape.parameters == count_trained(shape, None).parameters
    attach_adapter(model, lora, seed=0)
    trained = count_trained(shape, lora)
    assert sum(each.numel() for each in model.parameters()) == shape.parameters + trained.adapters
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == trained.parameters
    assert model.lm_head.weight.requires_grad == trained.head
    frozen = [each.weight for each in model.modules() if type(each) is nn.Linear and not each.weight.requires_grad]
    assert sum(weight.numel() for weight in frozen) == trained.frozen_matrices


@pytest.mark.parametrize("lora", LORAS, ids=str)
def test_a_live_model_whose_layers_differ_has_as_many(lora: Lora) -> None:
    """Gemma 4: heads of two sizes, layers without keys, MLPs of two widths, experts, an input for each layer."""
    shape, model = parse_shape(make_settings("Gemma4ForCausalLM"), "config.json"), make_model("Gemma4ForCausalLM")
    assert sum(each.numel() for each in model.parameters()) == shape.parameters
    attach_adapter(model, lora, seed=0)
    trained = count_trained(shape, lora)
    assert sum(each.numel() for each in model.parameters()) == shape.parameters + trained.adapters
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == trained.parameters
    frozen = [each.weight for each in model.modules() if type(each) is nn.Linear and not each.weight.requires_grad]
    assert shape.experts is not None
    chosen = shape.mixtures * shape.experts.per_token * 3 * shape.width * shape.experts.width
    assert sum(weight.numel() for weight in frozen) + chosen == trained.frozen_matrices


def test_frozen_weights_cost_two_passes_of_three(shapes: Mapping[str, ModelShape]) -> None:
    shape = shapes["llama-8b"]
    full, part = (token_flops(shape, 8192, lora=lora) for lora in (None, Lora(rank=8, also_train=())))
    extra = 2 * count_trained(shape, Lora(rank=8)).adapters
    assert part.linear == full.linear + extra and part.attention == full.attention
    assert part.model == pytest.approx(3 * full.attention + 2 * full.linear + 3 * extra)
    assert part.hardware("none") == pytest.approx(part.model + 0.5 * full.attention)


def test_gradients_of_frozen_weights_do_not_travel(shapes: Mapping[str, ModelShape]) -> None:
    shape, lora = shapes["llama-8b"], Lora(also_train=())
    adapters = count_trained(shape, lora).adapters
    root = 2 * shape.vocabulary * shape.width + shape.width
    assert state_traffic(shape, ranks=4, lora=lora) == pytest.approx(
        0.75 * (4 * (shape.parameters + adapters) - 2 * root + 4 * adapters)
    )
