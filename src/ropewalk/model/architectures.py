"""The supported model classes, and the places of their parts.

All of them have Llama's structure: an embedding, blocks of attention and MLP with rotary positions, a last norm, a
head. The list has only classes whose attention is plain causal softmax over the earlier tokens of the document, or over
a window of them.
"""

from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import (
    Gemma3ForCausalLM,
    LlamaForCausalLM,
    MinistralForCausalLM,
    MistralForCausalLM,
    Olmo2ForCausalLM,
    Olmo3ForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
    SmolLM3ForCausalLM,
)

CLASSES: dict[str, type[PreTrainedModel]] = {
    kind.__name__: kind
    for kind in (
        LlamaForCausalLM,
        MistralForCausalLM,
        MinistralForCausalLM,
        SmolLM3ForCausalLM,
        Qwen2ForCausalLM,
        Qwen3ForCausalLM,
        Olmo2ForCausalLM,
        Olmo3ForCausalLM,
        Gemma3ForCausalLM,
    )
}


def blocks_of(model: Any) -> nn.ModuleList:
    """The repeated blocks, first to last."""
    blocks: nn.ModuleList = model.model.layers
    return blocks


def head_of(model: Any) -> Float[Tensor, "vocabulary width"]:
    """The head's weight [vocabulary, width]; the embedding's own weight where the two are tied."""
    head = model.lm_head
    assert head.bias is None
    weight: Tensor = head.weight
    return weight


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Parameters that are the same tensor as another one: ``{name: name of the other}``."""
    return dict(model.all_tied_weights_keys) if model.config.tie_word_embeddings else {}
