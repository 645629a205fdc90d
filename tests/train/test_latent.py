"""A small model like DeepSeek-V2-Lite is extended, trained on two context ranks as on one, and exported."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3ForCausalLM

from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.latent_attention import LatentAttention
from ropewalk.model.load import load_model
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Linear, Theta, Yarn
from tiny_run import train_extended
from tiny_tokenizer import write_tokenizer

YARN = {
    **{"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 8},
    **{"mscale": 0.707, "mscale_all_dim": 0.707},
}
CONTEXT_TOKENS = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latent") / "base"
    torch.manual_seed(0)
    config = DeepseekV2Config(
        **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3},
        **{"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": None, "kv_lora_rank": 16},
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1},
        **{"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
        **{"max_position_embeddings": 32, "rope_parameters": YARN, "pad_token_id": None},
        **{"bos_token_id": None, "eos_token_id": 96, "initializer_range": 0.1},
    )
    DeepseekV2ForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_extend_train_on_two_ranks_and_export(base: Path, prepared: tuple[Path, Path], tmp_path: Path) -> None:
    extended, out = tmp_path / "extended", tmp_path / "out"
    extend(base, extended, rope=Yarn(), context_tokens=CONTEXT_TOKENS)
    facts = read_manifest(extended)["facts"]
    assert facts["base_score_scale"] == pytest.approx(16**-0.5 * (0.0707 * torch.tensor(4.0).log().item() + 1) ** 2)
    assert facts["score_scale"] == pytest.approx(16**-0.5 * (0.0707 * torch.tensor(8.0).log().item() + 1) ** 2)
    one, two = (train_extended(tmp_path / str(ranks), extended, prepared[1], ranks) for ranks in (1, 2))
    assert len(one) == 3 and two == pytest.approx(one, rel=1e-5)
    checkpoint = newest(RunFolder(tmp_path / "2").checkpoints(0))
    assert checkpoint is not None
    export(load_weights(checkpoint), extended, out, dtype="float32")
    theirs, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ours = load_model(out)
    assert isinstance(ours.model.layers[0].self_attn, LatentAttention)
    assert theirs.model.layers[0].self_attn.scaling == pytest.approx(facts["score_scale"])
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens).logits, theirs.eval()(tokens).logits, rtol=0, atol=1e-5)


def test_the_scale_of_scores_stays_or_the_method_is_refused(base: Path, tmp_path: Path) -> None:
    extend(base, tmp_path / "theta", rope=Theta(theta=5e5), context_tokens=CONTEXT_TOKENS)
    facts = read_manifest(tmp_path / "theta")["facts"]
    assert facts["score_scale"] >= facts["base_score_scale"], "a new theta keeps the base's yarn"
    live = load_model(tmp_path / "theta").model.layers[0].self_attn.scaling
    assert live == pytest.approx(facts["score_scale"])
    for layers in ((), ({"window": 16}, {}, {})):
        with pytest.raises(UserError) as refused:
            rules = tuple(LayerRule.model_validate(each) for each in layers)
            extend(base, tmp_path / "no", rope=Linear() if not layers else Yarn(), layers=rules, context_tokens=64)
        assert "scores" in str(refused.value) or "on top of yarn" in str(refused.value)
        assert not (tmp_path / "no").exists()


def test_kimi_s_type_is_read_through_the_class_of_deepseek_v3(tmp_path: Path) -> None:
    kind = DeepseekV3ForCausalLM
    config = kind.config_class(
        **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 12, "kv_lora_rank": 16},
        **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "first_k_dense_replace": 1},
        **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1},
        **{"topk_group": 1, "max_position_embeddings": 32, "pad_token_id": None, "eos_token_id": 96},
    )
    kind(config).save_pretrained(tmp_path / "kimi")
    write_tokenizer(tmp_path / "kimi")
    file = tmp_path / "kimi" / "config.json"
    file.write_text(file.read_text().replace('"deepseek_v3"', '"kimi_k2"'))
    extend(tmp_path / "kimi", tmp_path / "out", rope=Theta(theta=1e6), context_tokens=CONTEXT_TOKENS)
    assert type(load_model(tmp_path / "kimi")).__name__ == "DeepseekV3ForCausalLM"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.model_type == "deepseek_v3"
