"""Any published config.json gives right values, or a refusal with the true reason.

Right values are those of transformers: it builds each text model from the same file, and its parameters, the windows of
its layers, the frequencies that they turn with, and its context are compared.
"""

import json
from dataclasses import replace

import numpy as np
import pytest

from conformance.published import FILE, build_text, count, read_live, read_published, save_as_transformers
from ropewalk.core.error import UserError
from ropewalk.rope.scaling import Nope
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape
from ropewalk.shape.shipped import read_sources

_INPUTS = "inputs other than text"
_FP8 = "their method is fp8, and training needs the numbers themselves"
_REMOTE = "code that comes with a checkpoint"
_RECURRENT = "linear or recurrent attention"
_LATENT = "latent attention (MLA)"
REFUSED = {
    "mistralai/Ministral-8B-Instruct-2410": "name a class that has layer_types, such as MinistralForCausalLM",
    "facebook/cwm": "it names windows for 47 of 64 layers, and llama ignores it",
    "microsoft/Phi-3.5-MoE-instruct": "routing that is random in training",
    "microsoft/phi-2": "a bias of the head",
    "zai-org/glm-4-9b-chat": _REMOTE,
    "zai-org/GLM-5": "a sparse indexer (DSA)",
    "ibm-granite/granite-4.0-h-small": "its mixture of experts",
    **dict.fromkeys((f"deepseek-ai/DeepSeek-{each}-Base#fp8" for each in ("V3", "V3.1")), "their method is fp8"),
    "moonshotai/Kimi-K2-Instruct#fp8": "their method is fp8",
    "moonshotai/Kimi-K2.5": _LATENT,
    "deepseek-ai/DeepSeek-V3.2": "a sparse indexer (DSA)",
    "deepseek-ai/DeepSeek-V4-Flash": "compressed attention",
    "deepseek-ai/deepseek-moe-16b-base": _REMOTE,
    "openai/gpt-oss-20b#mxfp4": "quantization_config=Mxfp4Config(dequantize=True)",
    "LGAI-EXAONE/EXAONE-4.5-33B": _INPUTS,
    "MiniMaxAI/MiniMax-M2#fp8": _FP8,
    "MiniMaxAI/MiniMax-M2.5": _FP8,
    "openbmb/MiniCPM-2B-128k": _REMOTE,
    "XiaomiMiMo/MiMo-7B-Base": _REMOTE,
    "arcee-ai/Trinity-Mini": "gated attention",
    "Qwen/Qwen-7B": _REMOTE,
    "meta-llama/Llama-4-Scout-17B-16E": "attention in chunks",
    "meta-llama/Llama-3.2-11B-Vision": _INPUTS,
    "mistralai/Devstral-Small-2-24B-Instruct-2512": _FP8,
    "mistralai/Mistral-Small-4-119B-2603": _LATENT,
    "LiquidAI/LFM2-8B-A1B": _RECURRENT,
    "baichuan-inc/Baichuan2-7B-Base": _REMOTE,
    "internlm/internlm2-7b": _REMOTE,
    "microsoft/bitnet-b1.58-2B-4T-bf16": "weights of three values",
    "kajuma/DiffLlama-1B": "differential attention",
}
"""Files that cannot be used, each with words of the reason."""
PUBLISHED = read_published()


def test_the_rows_are_told_apart() -> None:
    rows = [json.loads(line) for line in FILE.read_text().splitlines()]
    names = [row["name"] for row in rows]
    assert len(names) == len(set(names)) and not set(names) & set(read_sources()) and len(PUBLISHED) >= 60
    for row in rows:
        assert set(row) == {"name", "read", "how", "from", "config"} and row["from"] and row["config"]["model_type"]
    assert set(REFUSED) < set(PUBLISHED)
    assert not set(REFUSED) & set(read_sources()), "what is shipped can be used"


@pytest.mark.parametrize("name", REFUSED)
def test_the_reason_is_the_true_one(name: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_shape(PUBLISHED[name], "config.json")
    assert REFUSED[name] in f"{refused.value.why} {refused.value.fix}"


def parse_published(name: str) -> ModelShape:
    """The shape of a published file."""
    return parse_shape(PUBLISHED[name], "config.json")


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in REFUSED])
def test_a_published_file_gives_the_values_of_transformers(name: str) -> None:
    shape = parse_published(name)
    model = build_text(read_published()[name])
    assert shape.parameters == count(model)
    assert shape.context_tokens == model.config.max_position_embeddings
    for layer, dim, live in zip(shape.positions, shape.rotary_dims, read_live(model), strict=True):
        assert layer.window_tokens == live.window
        assert isinstance(layer.rope, Nope) == (live.frequencies is None)
        if live.frequencies is not None:
            assert np.allclose(layer.inv_freq(dim), live.frequencies, rtol=1e-5, atol=0)
            assert layer.attention_factor == pytest.approx(live.factor, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if name not in REFUSED])
def test_the_other_spelling_gives_the_same(name: str) -> None:
    """transformers 5 reads the file and writes it in its own keys, with every default: the same shape comes out."""
    shape, config = parse_published(name), read_published()[name]
    saved = json.loads(save_as_transformers(config))
    saved |= {"architectures": config["architectures"], "dtype": config.get("torch_dtype", config.get("dtype"))}
    wrapper = "vision_config" in config
    ids = {"bos_id": "bos_token_id", "eos_id": "eos_token_id"}
    silent = [field for field, key in ids.items() if wrapper or key not in config]  # a wrapper has them elsewhere
    if wrapper and "tie_word_embeddings" not in config:
        silent.append("tied")  # Mistral 3's class ties then, and no published base of it is tied
    again = replace(parse_shape(saved, "saved"), **{field: getattr(shape, field) for field in silent})
    assert again == shape


def test_a_dense_granite_4_says_what_its_class_does_not_assume() -> None:
    """Its class is that of hybrids: without these keys it has recurrent layers, experts, and no positions."""
    name = "ibm-granite/granite-4.0-micro-base"
    config, shape = PUBLISHED[name], parse_shape(PUBLISHED[name], "config.json")
    longer = [layer.model_copy(update={"theta": 5e7}) for layer in shape.positions]
    written = spell_layers(config, longer, context_tokens=1 << 18).apply(config)
    assert written["layer_types"] == config["layer_types"] == ["attention"] * 40
    assert parse_shape(written, "written").positions == tuple(longer)
    for key in ("position_embedding_type", "num_local_experts", "layer_types"):
        with pytest.raises(UserError) as refused:
            parse_shape({name: value for name, value in config.items() if name != key}, "config.json")
        assert key in refused.value.where and "missing" in refused.value.why
    with pytest.raises(UserError, match="mamba_expand is not usable"):
        parse_shape({**config, "layer_types": ["mamba", "attention"] * 20}, "config.json")
