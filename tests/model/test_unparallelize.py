"""A model that was parallelized and then not any more is the model from before, to the bit."""

import pytest
import torch
from transformers import (
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    StableLmConfig,
    StableLmForCausalLM,
)

from ropewalk import parallelize, unparallelize
from ropewalk.core.error import UserError

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
LATENT = {
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 2,
    "n_routed_experts": 2,
    "num_experts_per_tok": 1,
    "n_group": 1,
    "topk_group": 1,
}
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}}


def make(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if kind == "latent":
        return DeepseekV3ForCausalLM(DeepseekV3Config(**SHAPE, **LATENT))
    if kind == "drops arguments":
        return StableLmForCausalLM(StableLmConfig(**SHAPE))
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **(DYNAMIC if kind == "by length" else {})))


@pytest.mark.parametrize("kind", ["plain", "latent", "drops arguments", "by length"])
def test_it_runs_as_before(kind: str) -> None:
    model, ids = make(kind).eval(), torch.arange(48)[None]
    before = model(input_ids=ids).logits
    classes = [type(each) for each in model.modules()]
    for _ in range(2):  # a second time notes nothing new
        share = parallelize(model)
    assert model.config._attn_implementation == "ropewalk"
    ours = model(**share.cut(ids)).logits
    unparallelize(model)
    assert model.config._attn_implementation != "ropewalk"
    assert [type(each) for each in model.modules()] == classes
    assert all(not each._forward_pre_hooks and not each._forward_pre_hooks_with_kwargs for each in model.modules())
    assert torch.equal(model(input_ids=ids).logits, before)
    with pytest.raises(UserError, match="is not parallelized"):
        unparallelize(model)
    assert torch.equal(model(**parallelize(model).cut(ids)).logits, ours), "it can be parallelized again"
