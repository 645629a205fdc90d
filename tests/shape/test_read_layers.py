"""What each layer does, read from config.json, against the models that transformers builds from the same file."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.rope.scaling import Nope, Unchanged, Yarn
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import parse_shape

Live = Callable[[Any], list[tuple[int | None, np.ndarray, float]]]
Build = Callable[[Mapping[str, Any]], PreTrainedModel]

SLIDING, FULL = "sliding_attention", "full_attention"
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
DEFAULT = {"rope_type": "default", "rope_theta": 1e4}
MIXED = [SLIDING, FULL, FULL, SLIDING]
WINDOW = {"use_sliding_window": True, "sliding_window": 64}

# Keys over a base of conftest; a value of ... takes the key out.
FILES: dict[str, tuple[str, dict[str, Any]]] = {
    "mistral that says nothing has a window": ("mistral", {"sliding_window": ...}),
    "mistral's window": ("mistral", {"sliding_window": 64}),
    "mistral without": ("mistral", {"sliding_window": None}),
    "mistral, layer types that agree": ("mistral", {"sliding_window": 64, "layer_types": [SLIDING] * 4}),
    "ministral that says nothing": ("ministral", {"sliding_window": ...}),
    "ministral, some": ("ministral", {"layer_types": MIXED}),
    "ministral, none": ("ministral", {"sliding_window": None}),
    "ministral, yarn in older keys": ("ministral", {"layer_types": MIXED, "rope_theta": 5e5, "rope_scaling": YARN}),
    "qwen2, off": ("qwen2", {"sliding_window": 64, "use_sliding_window": False}),
    "qwen2, upper layers": ("qwen2", {**WINDOW, "max_window_layers": 2}),
    "qwen2, none of so few layers": ("qwen2", WINDOW),
    "qwen3, some": ("qwen3", {**WINDOW, "layer_types": MIXED}),
    "qwen3, all": ("qwen3", {**WINDOW, "max_window_layers": 0}),
    "smollm3": ("smollm3", {}),
    "smollm3, interval": ("smollm3", {"no_rope_layer_interval": 2}),
    "smollm3, list": ("smollm3", {"no_rope_layers": [0, 1, 1, 0, 1]}),
    "smollm3, windows where nothing turns": ("smollm3", WINDOW),
    "smollm3, windows elsewhere": ("smollm3", {**WINDOW, "layer_types": [SLIDING] * 3 + [FULL]}),
    "smollm3, window without its switch": ("smollm3", {"sliding_window": 64, "layer_types": [FULL] * 4}),
    "smollm3, theta": ("smollm3", {"rope_theta": 5e6}),
    "olmo3": ("olmo3", {}),
    "olmo3 that says nothing of windows": ("olmo3", {"sliding_window": ...}),
    "olmo3, older keys": ("olmo3", {"rope_theta": 5e5, "rope_scaling": {**YARN, "beta_fast": 16}}),
    "olmo3, one per type": ("olmo3", {"rope_parameters": {FULL: YARN | {"rope_theta": 8e6}, SLIDING: DEFAULT}}),
    "olmo3, one type told": ("olmo3", {"rope_parameters": {FULL: YARN}}),
    "olmo3, both dialects": ("olmo3", {"rope_parameters": {FULL: YARN, SLIDING: None}, "rope_scaling": YARN}),
    "olmo3, no windows": ("olmo3", {"layer_types": [FULL] * 4, "sliding_window": None}),
    "gemma3": ("gemma3", {}),
    "gemma3 that says nothing of windows": ("gemma3", {"sliding_window": ...}),
    "gemma3, pattern": ("gemma3", {"sliding_window_pattern": 2}),
    "gemma3, older keys": (
        "gemma3",
        {
            "sliding_window_pattern": 4,
            "rope_theta": 2e6,
            "rope_local_base_freq": 2e4,
            "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3, one per type": (
        "gemma3",
        {"layer_types": MIXED, "rope_parameters": {FULL: {"rope_type": "default"}, SLIDING: DEFAULT}},
    ),
    "gemma3, a type without rotation": (
        "gemma3",
        {
            "layer_types": MIXED,
            "rope_parameters": {
                FULL: {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.0},
                SLIDING: DEFAULT,
            },
        },
    ),
}


def fill(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in {**base, **more}.items() if value is not ...}


@pytest.mark.parametrize("name", FILES)
def test_transformers_runs_the_same(
    bases: Mapping[str, dict[str, Any]], build: Build, live_layers: Live, name: str
) -> None:
    base, more = FILES[name]
    config = fill(bases[base], more)
    shape = parse_shape(config, "test")
    model = build(fill(bases[base], more))  # transformers changes the dicts that it is given
    for (window, frequencies, factor), layer in zip(live_layers(model), shape.positions, strict=True):
        assert window == layer.window_tokens
        assert frequencies == pytest.approx(layer.inv_freq(shape.head_dim), rel=5e-6)
        assert factor == pytest.approx(layer.attention_factor)


def test_defaults_that_are_easily_missed(bases: Mapping[str, dict[str, Any]]) -> None:
    def layers(name: str) -> tuple[Any, ...]:
        base, more = FILES[name]
        return parse_shape(fill(bases[base], more), "test").positions

    assert {layer.window_tokens for layer in layers("mistral that says nothing has a window")} == {4096}
    smollm = layers("smollm3, windows where nothing turns")
    assert [layer.window_tokens for layer in smollm] == [None, None, None, 64] and smollm[3].rope == Nope()
    assert smollm[0].theta == 2e6
    olmo = layers("olmo3, older keys")
    assert [type(layer.rope) for layer in olmo] == [Unchanged, Unchanged, Unchanged, Yarn]
    assert [layer.theta for layer in layers("gemma3, older keys")] == [2e4, 2e4, 2e4, 2e6]


def test_what_gets_stretched_are_the_layers_that_see_all(bases: Mapping[str, dict[str, Any]]) -> None:
    gemma = parse_shape({**bases["gemma3"], "sliding_window_pattern": 4}, "test")
    assert gemma.theta == gemma.base_rope.theta == 1e6 and gemma.stretched.window_tokens is None
    assert parse_shape(bases["gemma3"], "test").theta == 1e4, "six to one leaves four layers without a full one"
    smollm = parse_shape({**bases["smollm3"], **WINDOW, "layer_types": [SLIDING] * 3 + [FULL]}, "test")
    assert smollm.stretched.window_tokens == 64, "the full layer has no RoPE"
    bare = parse_shape({**bases["smollm3"], "no_rope_layers": [0] * 4}, "test")
    assert bare.stretched.rope == Nope() and bare.rope is not None


@pytest.mark.parametrize("base", ["smollm3", "ministral", "olmo3", "gemma3", "mistral, window"])
def test_parameters_are_counted_as_transformers_counts(bases: Mapping[str, dict[str, Any]], base: str) -> None:
    from transformers import AutoConfig

    for bias in (False, True):
        config = {**bases[base], "attention_bias": bias}
        kind = {key: value for key, value in config.items() if key != "model_type"}
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(config["model_type"], **kind))
        shape = parse_shape(config, "test")
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert shape.block_parameters == sum(parameter.numel() for parameter in model.model.layers[0].parameters())


REFUSED: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "chunks": ("ministral", {"layer_types": ["chunked_attention"] * 4}, ("chunked_attention",)),
    "too few types": ("ministral", {"layer_types": [FULL] * 3}, ("3 entries for 4 layers",)),
    "types that mistral ignores": ("mistral", {"sliding_window": 64, "layer_types": MIXED}, ("windows for 2 of 4",)),
    "types without a window": ("olmo3", {"sliding_window": None}, ("sliding_window is null",)),
    "types without a switch": (
        "qwen2",
        {"layer_types": MIXED, "sliding_window": 64},
        ("use_sliding_window is not true",),
    ),
    "a window that is a float": ("mistral", {"sliding_window": 64.0}, ("sliding_window", "64.0")),
    "a window of nothing": ("mistral", {"sliding_window": 0}, ("it is 0",)),
    "a pattern of nothing": ("gemma3", {"sliding_window_pattern": 0}, ("sliding_window_pattern", "it is 0")),
    "an interval of nothing": ("smollm3", {"no_rope_layer_interval": 0}, ("no_rope_layer_interval",)),
    "too few flags": ("smollm3", {"no_rope_layers": [1, 0]}, ("no_rope_layers", "[1, 0]")),
    "one rope where there are two": ("olmo3", {"rope_parameters": YARN}, ("one for sliding_attention", "factor")),
    "two ropes where there is one": (
        "ministral",
        {"layer_types": MIXED, "rope_parameters": {FULL: YARN, SLIDING: DEFAULT}},
        ("full_attention, sliding_attention", "one RoPE for all layers"),
    ),
    "a theta that only old readers use": ("olmo3", {"rope_theta": 1e6}, ("500000", "rope_theta is 1000000")),
    "another theta beside a nested one": (
        "gemma3",
        {"rope_local_base_freq": 5e4, "rope_parameters": {FULL: YARN, SLIDING: DEFAULT}},
        ("rope_local_base_freq is 50000", "10000"),
    ),
    "dialects that disagree on full layers": (
        "olmo3",
        {"rope_parameters": {FULL: {**YARN, "factor": 8.0}}, "rope_scaling": YARN},
        ("factor is 8.0", "factor is 4.0"),
    ),
    "truncate that would be ignored": (
        "olmo3",
        {"rope_parameters": {FULL: {**YARN, "truncate": False}, SLIDING: DEFAULT}},
        ("truncate: false", "rounds the ramp"),
    ),
    "truncate in the older dialect": (
        "olmo3",
        {"rope_scaling": {**YARN, "truncate": False}},
        ("truncate: false", "rounds the ramp"),
    ),
    "an original length told twice": (
        "llama",
        {"rope_scaling": YARN, "original_max_position_embeddings": 64},
        ("original_max_position_embeddings inside is 32", "64"),
    ),
    "a rope type nobody knows": ("llama", {"rope_scaling": {"rope_type": "axial"}}, ("axial",)),
    "a method without its figure": ("llama", {"rope_scaling": {"rope_type": "linear"}}, ("linear", "no factor")),
    "queries that look ahead": ("gemma3", {"use_bidirectional_attention": True}, ("later tokens",)),
    "capped scores": ("gemma3", {"attn_logit_softcapping": 50.0}, ("attn_logit_softcapping", "50.0")),
    "capped logits": ("llama", {"final_logit_softcapping": 30.0}, ("final_logit_softcapping", "30.0")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_their_figures(bases: Mapping[str, dict[str, Any]], name: str) -> None:
    base, more, words = REFUSED[name]
    with pytest.raises(UserError) as caught:
        parse_shape(fill(bases[base], more), "config.json")
    assert "config.json" in caught.value.where
    for word in words:
        assert word in str(caught.value)


def own(bases: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    """A folder in our own spelling: a temperature on every layer."""
    shape = parse_shape(bases["llama"], "test")
    positions = [layer.model_copy(update={"log_n_tokens": 128}) for layer in shape.positions]
    return spell_layers(bases["llama"], positions, context_tokens=512).apply(bases["llama"])


def test_our_own_spelling_is_read_as_the_class_inside(bases: Mapping[str, dict[str, Any]]) -> None:
    shape = parse_shape(own(bases), "test")
    assert (shape.architecture, shape.context_tokens) == ("LlamaForCausalLM", 512)
    assert [layer.log_n_tokens for layer in shape.positions] == [128] * 4


DAMAGED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "a layer missing": (lambda config: config["ropewalk"]["layers"].pop(), "3 entries for 4 layers"),
    "no layers": (lambda config: config["ropewalk"].pop("layers"), "Input should be a valid tuple"),
    "a key of tomorrow": (lambda config: config["ropewalk"]["layers"][1].update(spin=1), "1.spin"),
    "a method left open": (lambda config: config["ropewalk"]["layers"][2].update(rope={"kind": "yarn"}), "factor"),
    "a class we do not know": (
        lambda config: config["ropewalk"].update(architecture="PhiForCausalLM"),
        "PhiForCausalLM",
    ),
    "the name without the key": (lambda config: config.pop("ropewalk"), "missing"),
    "the key without the name": (lambda config: config.update(architectures=["LlamaForCausalLM"]), "is there"),
    "the key is a word": (lambda config: config.update(ropewalk="yes"), "(none)"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_our_own_spelling_damaged(bases: Mapping[str, dict[str, Any]], name: str) -> None:
    damage, words = DAMAGED[name]
    config = own(bases)
    damage(config)
    with pytest.raises(UserError) as caught:
        parse_shape(config, "config.json")
    assert words in str(caught.value)
