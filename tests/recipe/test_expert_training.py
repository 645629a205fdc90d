"""Keys of a mixture of experts: what contradicts itself, or does not fit the base, is refused before any training."""

from typing import Any

import pytest
from pydantic import ValidationError

from llama2 import LLAMA2_7B
from ropewalk.core.error import UserError
from ropewalk.plan.memory import UNIT_BYTES, gathered_bytes
from ropewalk.plan.savings import list_savings
from ropewalk.recipe.check import check
from ropewalk.recipe.expert_training import ExpertTraining, refuse_misfits
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.parallel import Parallel
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

QWEN3_30B: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "intermediate_size": 6144,
    "moe_intermediate_size": 768,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_hidden_layers": 48,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [],
    "max_position_embeddings": 40960,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": False,
    "vocab_size": 151936,
}
GLM_AIR = QWEN3_30B | {
    "architectures": ["Glm4MoeForCausalLM"],
    "model_type": "glm4_moe",
    "n_routed_experts": 128,
    "n_shared_experts": 1,
    "first_k_dense_replace": 1,
    "partial_rotary_factor": 0.5,
}


def shape_of(config: dict[str, Any]) -> ModelShape:
    return parse_shape(config, where="test")


def find(
    config: dict[str, Any], stage: dict[str, Any], *, level: str = "error", **parallel: Any
) -> list[tuple[str, str]]:
    plain = {"context_length": "64Ki", "rope": {"kind": "yarn"}, "tokens": "1B", "step_tokens": "1Mi", "lr": 1e-5}
    sources = [{"name": "web", "path": "a", "role": "general", "language": "en"}]
    data = {
        "model": "base",
        "run": "run",
        "corpus": {"sources": sources, "mix": {"general": 1}},
        "stages": [plain | stage],
        "parallel": {"ranks": 8, "context_parallel": 8, **parallel},
    }
    found = check(parse_recipe(data, where="test"), shape_of(config))
    return [(each.key, each.message) for each in found if each.level == level]


@pytest.mark.parametrize(
    ("config", "stage", "parallel", "key"),
    [
        (LLAMA2_7B, {"experts": {}}, {}, "stages.0.experts"),
        (QWEN3_30B, {"experts": {"bias_update": 0.001}}, {}, "stages.0.experts.bias_update"),
        (GLM_AIR, {"experts": {"z_loss": 0.001}}, {}, "stages.0.experts.z_loss"),
        (QWEN3_30B, {}, {"mlp_tile_tokens": 4096}, "parallel.mlp_tile_tokens"),
    ],
)
def test_what_the_base_does_not_have_is_an_error(
    config: dict[str, Any], stage: dict[str, Any], parallel: dict[str, Any], key: str
) -> None:
    assert key in dict(find(config, stage, **parallel))


def test_what_it_has_is_none() -> None:
    everything = {"balance_loss": 0.001, "balance_counts": "step", "z_loss": 0.001}
    assert find(QWEN3_30B, {"experts": everything}) == []
    assert find(GLM_AIR, {"experts": {"balance_loss": 0.001, "bias_update": 0.001}}) == []
    assert find(LLAMA2_7B, {}, mlp_tile_tokens=4096) == []


def test_a_value_far_above_the_published_ones_is_told() -> None:
    def warned(config: dict[str, Any], **stage: Any) -> set[str]:
        return {key for key, _ in find(config, stage, level="warning") if "experts" in key or "lora" in key}

    assert warned(QWEN3_30B, experts={"balance_loss": 5}) == {"stages.0.experts.balance_loss"}
    assert warned(QWEN3_30B, experts={"z_loss": 1}) == {"stages.0.experts.z_loss"}
    assert warned(GLM_AIR, experts={"bias_update": 0.1}) == {"stages.0.experts.bias_update"}
    assert warned(GLM_AIR, experts={"balance_loss": 0.01, "bias_update": 0.001}) == set()


def test_adapters_that_a_mixture_does_not_get_are_told() -> None:
    for config, modules, told in (
        (QWEN3_30B, ["attention", "mlp"], "the experts of 48 of 48 layers"),
        (GLM_AIR, ["up_proj"], "the experts of 47 of 48 layers"),
        (QWEN3_30B, ["attention"], ""),
        (LLAMA2_7B, ["mlp"], ""),
    ):
        found = dict(find(config, {"lora": {"modules": modules}}, level="warning")).get("stages.0.lora.modules", "")
        assert told in found and bool(told) == bool(found)


@pytest.mark.parametrize(
    "stage",
    [
        {"experts": {"router": "frozen", "balance_loss": 0.1}},
        {"experts": {"router": "frozen", "bias_update": 0.1}},
        {"experts": {"z_loss": 0.1}, "lora": {"rank": 8}},
        {"experts": {"balance_loss": -1}},
    ],
)
def test_a_contradiction_is_refused(stage: dict[str, Any]) -> None:
    with pytest.raises((UserError, ValidationError)):
        find(QWEN3_30B, stage)


def test_training_refuses_what_check_names() -> None:
    refuse_misfits(None, "auto", shape_of(LLAMA2_7B))
    refuse_misfits(ExpertTraining(balance_loss=1.0), None, shape_of(QWEN3_30B))
    with pytest.raises(UserError, match="experts does not fit this model"):
        refuse_misfits(ExpertTraining(), "auto", shape_of(LLAMA2_7B))


def test_no_way_to_save_memory_cuts_a_mixture_into_tiles() -> None:
    for config, cut in ((LLAMA2_7B, True), (QWEN3_30B, False)):
        ways = list_savings(Parallel(), shape_of(config), host_is_apart=True)
        assert any(way.mlp_tile_tokens for way in ways) == cut and len(ways) == len(set(ways))


def test_the_plan_gathers_the_experts_of_one_layer_where_a_block_is_large() -> None:
    small, large = (shape_of(config) for config in (QWEN3_30B, GLM_AIR | {"hidden_size": 4096, "head_dim": 128}))
    root = 2 * small.vocabulary * small.width  # embedding and head
    assert gathered_bytes(small) == 2 * (2 * small.block_parameters + root)
    wide = shape_of(GLM_AIR | {"hidden_size": 4096, "moe_intermediate_size": 1408})
    experts = 128 * 3 * 4096 * 1408
    assert 4 * wide.block_parameters > UNIT_BYTES > 4 * large.block_parameters
    assert gathered_bytes(wide) == 2 * (2 * wide.block_parameters - experts + 2 * wide.vocabulary * wide.width)


def test_names_of_other_trainers_lead_to_ours() -> None:
    for name, ours in (("router_aux_loss_coef", "balance_loss"), ("expert_parallel_size", "gathered")):
        with pytest.raises(UserError) as refusal:
            find(QWEN3_30B, {name: 1})
        assert ours in str(refusal.value)


@pytest.mark.parametrize("name", ["experts", "gate_up_proj", "router"])
def test_adapters_of_experts_are_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: experts and routers get no adapters"):
        Lora.model_validate({"modules": ["attention", name]})
    assert Lora.model_validate({"modules": ["attention", "mlp"]}).modules == ("attention", "mlp")
