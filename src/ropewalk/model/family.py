"""The model classes we take apart, and where their parts are.

All of them are Llama's shape: an embedding, blocks of attention and MLP with rotary positions, a last norm, a head. A
class is named here only when its attention is plain causal softmax over every earlier token of the document.
"""

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from transformers import (
    LlamaForCausalLM,
    MistralForCausalLM,
    Olmo2ForCausalLM,
    PreTrainedModel,
    Qwen2ForCausalLM,
    Qwen3ForCausalLM,
)

CLASSES: dict[str, type[PreTrainedModel]] = {
    kind.__name__: kind
    for kind in (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Olmo2ForCausalLM)
}


def blocks_of(model: Any) -> nn.ModuleList:
    """The repeated blocks, first to last."""
    blocks: nn.ModuleList = model.model.layers
    return blocks


def head_of(model: Any) -> Tensor:
    """The head's weight [vocabulary, width]; the embedding's own weight where the two are tied."""
    head = model.lm_head
    assert head.bias is None
    weight: Tensor = head.weight
    return weight


def rotaries_of(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Every module that turns positions into angles, with its name."""
    for name, module in model.named_modules():
        if hasattr(module, "inv_freq"):
            yield name, module


def tied_names(model: PreTrainedModel) -> dict[str, str]:
    """Names of parameters that are another parameter: ``{name: name of the one it is}``."""
    return dict(model.all_tied_weights_keys) if model.config.tie_word_embeddings else {}
