"""Layers into config.json and back, for every architecture and pattern, and against the models transformers builds."""

import json
from collections.abc import Callable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, PreTrainedModel

from conformance.tiny_families import make_settings
from ropewalk.rope.layers import LayerPosition, LayerRule, stretch_layers
from ropewalk.rope.scaling import Dynamic, Linear, Llama3, LongRope, Rope, Theta, Yarn
from ropewalk.shape.layer_keys import POSITION_KEYS, SpelledLayers, spell_layers
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

Live = Callable[[Any], list[tuple[int | None, np.ndarray, float]]]
Build = Callable[[Mapping[str, Any]], PreTrainedModel]

KEPT = LayerRule(window=64, rope="unchanged")
PATTERNS: dict[str, tuple[LayerRule, ...]] = {
    "none": (),
    "all the same": (LayerRule(),),
    "windows": (LayerRule(window=64),),
    "half windows": (LayerRule(window=64), LayerRule()),
    "windows kept, full stretched": (KEPT, KEPT, KEPT, LayerRule()),
    "windows of two sizes": (LayerRule(window=64), LayerRule(window=32), LayerRule(), LayerRule()),
    "nope everywhere": (LayerRule(rope="nope"),),
    "every fourth nope": (LayerRule(), LayerRule(), LayerRule(), LayerRule(rope="nope")),
    "rnope": (KEPT, KEPT, KEPT, LayerRule(rope="nope")),
    "windows on nope": (LayerRule(window=64, rope="nope"), LayerRule()),
    "temperature": (LayerRule(), LayerRule(temperature="log_n")),
    "bias": (LayerRule(bias="alibi"), LayerRule()),
}
METHODS: dict[str, Rope] = {
    "theta": Theta(theta=2e7),
    "linear": Linear(),
    "yarn": Yarn(truncate=False),
    "llama3": Llama3(),
    "dynamic": Dynamic(),
}
BASES = (
    *("llama", "llama, biases", "mistral", "mistral, window", "ministral", "smollm3", "smollm3, all turn"),
    *("qwen2", "qwen3", "olmo2", "olmo3", "gemma3"),
)
FITS = {base: tuple(PATTERNS) for base in BASES} | {
    "smollm3": ("none", "every fourth nope", "rnope", "nope everywhere")
}


def stretch(shape: ModelShape, pattern: str, method: Rope) -> tuple[LayerPosition, ...]:
    if pattern == "none" and shape.stretched.window_tokens:
        pattern = "all the same"  # nothing of such a base can be stretched without a pattern
    return stretch_layers(
        shape.positions,
        PATTERNS[pattern],
        rope=method,
        head_dim=shape.head_dim,
        base_tokens=shape.context_tokens,
        context_tokens=512,
    )


def spell(config: Mapping[str, Any], pattern: str, method: Rope) -> tuple[tuple[LayerPosition, ...], SpelledLayers]:
    positions = stretch(parse_shape(config, "test"), pattern, method)
    return positions, spell_layers(config, positions, context_tokens=512)


def assert_same(found: LayerPosition, wanted: LayerPosition, head_dim: int) -> None:
    assert (found.window_tokens, found.log_n_tokens, found.bias) == (
        wanted.window_tokens,
        wanted.log_n_tokens,
        wanted.bias,
    )
    assert found.attention_factor == wanted.attention_factor
    for tokens in (100, 128, 500):
        np.testing.assert_allclose(found.inv_freq_at(tokens, head_dim), wanted.inv_freq_at(tokens, head_dim), 1e-12)


@pytest.mark.parametrize(("base", "method"), list(product(BASES, METHODS)))
def test_what_is_spelled_is_read_back(bases: Mapping[str, dict[str, Any]], base: str, method: str) -> None:
    for pattern in FITS[base]:
        positions, spelled = spell(bases[base], pattern, METHODS[method])
        config = json.loads(json.dumps(spelled.apply(bases[base])))
        read = parse_shape(config, "test")
        for found, wanted in zip(read.positions, positions, strict=True):
            assert_same(found, wanted, read.head_dim)
        again = spell_layers(config, read.positions, context_tokens=512)
        assert again.native == spelled.native and bool(spelled.why_not) != spelled.native
        assert parse_shape(again.apply(config), "test") == read


@pytest.mark.parametrize(("base", "pattern"), [(base, pattern) for base in BASES for pattern in FITS[base]])
def test_transformers_runs_what_is_native(
    bases: Mapping[str, dict[str, Any]], build: Build, live_layers: Live, base: str, pattern: str
) -> None:
    for method in (Yarn(), Theta(theta=2e7)):
        positions, spelled = spell(bases[base], pattern, method)
        if not spelled.native:
            continue
        head_dim = parse_shape(bases[base], "test").head_dim
        model = build(spelled.apply(bases[base]))
        for (window, frequencies, factor), wanted in zip(live_layers(model), positions, strict=True):
            assert window == wanted.window_tokens
            assert frequencies == pytest.approx(wanted.inv_freq(head_dim), rel=5e-6)
            assert factor == pytest.approx(wanted.attention_factor)


CLASSES: dict[tuple[str, str], str] = {
    ("llama", "none"): "LlamaForCausalLM",
    ("llama", "windows"): "MistralForCausalLM",
    ("llama", "half windows"): "MinistralForCausalLM",
    ("llama", "nope everywhere"): "SmolLM3ForCausalLM",
    ("llama", "rnope"): "SmolLM3ForCausalLM",
    ("llama", "windows kept, full stretched"): "RopewalkForCausalLM",
    ("llama, biases", "half windows"): "SmolLM3ForCausalLM",
    ("mistral, window", "windows"): "MistralForCausalLM",
    ("mistral, window", "all the same"): "MistralForCausalLM",
    ("mistral", "half windows"): "MinistralForCausalLM",
    ("ministral", "every fourth nope"): "SmolLM3ForCausalLM",
    ("smollm3", "none"): "SmolLM3ForCausalLM",
    ("smollm3, all turn", "half windows"): "SmolLM3ForCausalLM",
    ("qwen3", "half windows"): "Qwen3ForCausalLM",
    ("qwen3", "rnope"): "RopewalkForCausalLM",
    ("olmo2", "windows kept, full stretched"): "Olmo3ForCausalLM",
    ("olmo3", "none"): "Olmo3ForCausalLM",
    ("olmo3", "rnope"): "Olmo3ForCausalLM",
    ("gemma3", "windows kept, full stretched"): "Gemma3ForCausalLM",
    ("gemma3", "every fourth nope"): "RopewalkForCausalLM",
    ("llama", "temperature"): "RopewalkForCausalLM",
}


@pytest.mark.parametrize(("base", "pattern"), CLASSES)
def test_the_class_of_a_pattern(bases: Mapping[str, dict[str, Any]], base: str, pattern: str) -> None:
    _, spelled = spell(bases[base], pattern, Theta(theta=2e7))
    assert spelled.architecture == CLASSES[base, pattern]
    assert spelled.native == (spelled.architecture != "RopewalkForCausalLM")


def test_why_a_pattern_has_no_class(bases: Mapping[str, dict[str, Any]]) -> None:
    def why(base: str, pattern: str, method: Rope) -> str:
        return spell(bases[base], pattern, method)[1].why_not

    assert "smollm3 has one RoPE" in why("llama", "windows kept, full stretched", Theta(theta=1e6))
    assert "one window for all" in why("olmo3", "windows of two sizes", Theta(theta=2e7))
    assert "length-dependent temperature" in why("llama", "temperature", Yarn())
    assert "truncate: false" in why("olmo3", "none", Yarn(truncate=False))
    assert why("llama", "none", Yarn(truncate=False)) == why("olmo3", "none", Yarn()) == ""


MOVES = (
    ("llama", "windows"),
    ("llama", "half windows"),
    ("llama, biases", "half windows"),
    ("mistral", "half windows"),
)


@pytest.mark.parametrize(("base", "pattern"), (*MOVES, ("olmo2", "half windows"), ("ministral", "half windows")))
def test_another_class_runs_the_same_weights(
    bases: Mapping[str, dict[str, Any]], build: Build, base: str, pattern: str
) -> None:
    config = bases[base]
    positions = stretch(parse_shape(config, "test"), pattern, Linear(factor=1.0))
    spelled = spell_layers(config, positions, context_tokens=128)
    before, after = build(config), build(spelled.apply(config))
    assert type(before) is not type(after) or base == "ministral"
    after.load_state_dict(before.state_dict(), strict=True)
    tokens = torch.arange(20)[None] * 7 % 96  # fewer than any window, so that windows change nothing
    with torch.no_grad():
        assert torch.equal(before(tokens).logits, after(tokens).logits)


@pytest.mark.parametrize("pattern", ["windows", "half windows", "rnope"])
@pytest.mark.parametrize("base", ["llama", "mistral", "ministral"])
def test_what_a_silent_file_left_to_its_class_survives_another(
    bases: Mapping[str, dict[str, Any]], base: str, pattern: str
) -> None:
    config = bases[base]
    spelled = spell(config, pattern, Theta(theta=2e7))[1].apply(config)
    before, after = (
        AutoConfig.for_model(values["model_type"], **{k: v for k, v in values.items() if k != "model_type"}).to_dict()
        for values in (config, spelled)
    )
    told = {*POSITION_KEYS, "architectures", "model_type", "max_position_embeddings", "head_dim", "pretraining_tp"}
    assert {key: after[key] for key in before.keys() - told} == {key: before[key] for key in before.keys() - told}


@pytest.mark.parametrize("base", BASES)
def test_the_older_keys_alone_tell_the_same(bases: Mapping[str, dict[str, Any]], base: str) -> None:
    for pattern, method in product(FITS[base], (Yarn(), Theta(theta=2e7), LongRope(long_factor=(4.0,) * 6))):
        shape = parse_shape(bases[base], "test")
        if isinstance(method, LongRope) and shape.head_dim != 12:
            continue
        positions, spelled = spell(bases[base], pattern, method)
        config = spelled.apply(bases[base])
        if not spelled.native or not spelled.legacy:
            assert not spelled.native or config["rope_theta"] is None, "a reader of transformers 4 fails aloud"
            continue
        del config["rope_parameters"]
        if (
            base in ("olmo2", "olmo3")
            and config["rope_theta"] != 5e5
            and config["architectures"][0].startswith("Olmo3")
        ):
            continue  # transformers 5 gives windowed layers 500,000 here whatever the file says
        for found, wanted in zip(parse_shape(config, "test").positions, positions, strict=True):
            assert_same(found, wanted, shape.head_dim)


def test_numbers_that_are_whole_stay_whole(bases: Mapping[str, dict[str, Any]]) -> None:
    config = spell(bases["olmo3"], "none", Yarn())[1].apply(bases["olmo3"])
    text = json.dumps(config)
    assert '"original_max_position_embeddings": 128,' in text and '"sliding_window": 32,' in text
    assert config["max_position_embeddings"] == 512


def test_a_length_that_a_method_needs_is_written(bases: Mapping[str, dict[str, Any]]) -> None:
    _, spelled = spell(bases["llama"], "half windows", Dynamic())
    assert spelled.native and spelled.keys["max_position_embeddings"] == 128


def test_nothing_of_the_old_positions_stays(bases: Mapping[str, dict[str, Any]]) -> None:
    config = {**bases["qwen2"], "use_sliding_window": True, "max_window_layers": 2, "sliding_window": 32}
    assert [layer.window_tokens for layer in parse_shape(config, "test").positions] == [None, None, 32, 32]
    positions = stretch(parse_shape(config, "test"), "all the same", Theta(theta=2e7))
    spelled = spell_layers(config, positions, context_tokens=512).apply(config)
    assert "max_window_layers" not in spelled and spelled["use_sliding_window"] is False
    assert {layer.window_tokens for layer in parse_shape(spelled, "test").positions} == {None}


def test_the_kin_of_olmo_2_gets_no_default_of_llama() -> None:
    """Olmo3 has the defaults of Olmo2, and others than Llama's, so a key that the file lacks stays away."""
    config = {key: value for key, value in make_settings("Olmo2ForCausalLM").items() if key != "rms_norm_eps"}
    shape = parse_shape(config, "config.json")
    windowed = [
        layer.model_copy(update={"window_tokens": 8}) if index % 2 else layer
        for index, layer in enumerate(shape.positions)
    ]
    spelled = spell_layers(config, windowed, context_tokens=32)
    assert spelled.architecture == "Olmo3ForCausalLM" and "rms_norm_eps" not in spelled.keys
