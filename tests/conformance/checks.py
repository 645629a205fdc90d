"""Checks of one family that the mutation test runs again: each raises AssertionError or UserError where it fails."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.tiny_families import CONTEXT_TOKENS, FAMILIES, FULL, WINDOWED, make_model, make_settings
from ropewalk.model.architectures import attention_of, blocks_of, class_of, logit_rules
from ropewalk.model.check_rope import check_positions
from ropewalk.model.rope_hooks import direct_positions
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape

OPTIONAL = (
    *("head_dim", "tie_word_embeddings", "rope_theta", "rotary_emb_base", "layer_types", "sliding_window"),
    "rope_parameters",
    *("partial_rotary_factor", "rotary_pct", "logit_scale", "logits_scaling", "final_logit_softcapping"),
    *("attention_bias", "mlp_bias", "use_bias", "qkv_bias", "attention_out_bias", "use_qkv_bias", "use_qk_norm"),
    *("no_rope_layer_interval", "rotary_dim", "tie_embedding"),
)
"""Keys that a config.json may lack; the class then has a default, and ours must be the same."""


NEEDS_BOTH = ("OlmoHybridForCausalLM",)
"""Classes that refuse a model whose layers are all of one kind."""


def build_empty(settings: dict[str, Any]) -> torch.nn.Module:
    kind = class_of(settings["architectures"][0])
    config = kind.config_class(**{key: value for key, value in settings.items() if key != "model_type"})
    with torch.device("meta"):
        return kind(config)


def check_parameters(architecture: str) -> None:
    settings = make_settings(architecture)
    model = build_empty(settings)
    assert parse_shape(settings, "config.json").parameters == sum(each.numel() for each in model.parameters())


def check_defaults(architecture: str) -> None:
    """A file without optional keys: the shape and the positions are those of the class."""
    needed = ("layer_types",) if SUPPORTED[architecture].layer_word or SUPPORTED[architecture].own_names else ()
    given = make_settings(architecture)
    for key in ("layer_types", "layers_block_type"):
        given |= {key: 2 * given[key]} if key in given else {}
    settings = {key: value for key, value in given.items() if key not in OPTIONAL or key in needed}
    settings |= {"max_position_embeddings": 1 << 17, "num_hidden_layers": 8}
    settings |= {"model_max_length": 1 << 17} if "model_max_length" in settings else {}
    if SUPPORTED[architecture].needs_head_dim or architecture == "HeliumForCausalLM":  # its heads must fill its width
        settings["head_dim"] = 16
    shape = parse_shape(settings, "config.json")
    model = make_model(architecture, bare=settings)
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    assert (shape.logit_scale, shape.logit_cap) == pytest.approx(logit_rules(model))
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)
    assert shape.tied == model.config.tie_word_embeddings


def check_live_positions(architecture: str) -> None:
    shape = parse_shape(make_settings(architecture), "config.json")
    model = make_model(architecture)
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)


def check_rope_without_theta(architecture: str) -> None:
    """A rope block without theta gets the default of the class."""
    settings = {
        key: value for key, value in make_settings(architecture).items() if key != FAMILIES[architecture].theta_key
    }
    if FAMILIES[architecture].ropes == "one" and not FAMILIES[architecture].kept_rope_keys:
        settings["rope_parameters"] = {"rope_type": "default"}
    shape, model = parse_shape(settings, "config.json"), make_model(architecture, bare=settings)
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)


def check_layer_kinds(architecture: str) -> None:
    """A file with windows and without layer_types: the class decides which layers have one."""
    settings = {key: value for key, value in make_settings(architecture).items() if key != "layer_types"}
    if FAMILIES[architecture].layer_word or FAMILIES[architecture].own_names:  # which need the key, or one of their own
        return
    settings |= {"num_kv_shared_layers": 0}  # layers that share keys need both kinds before them
    shape, model = parse_shape(settings, "config.json"), make_model(architecture, bare=settings)
    check_positions(model, shape.positions, head_dim=shape.rotary_dims, context_tokens=shape.context_tokens)


def check_without_rope(architecture: str) -> None:
    """A file whose ``position_embedding_type``, or null for theta, switches RoPE off: no layer of the class turns."""
    settings = make_settings(architecture)
    if "position_embedding_type" in settings:
        settings["position_embedding_type"] = "nope"
    elif FAMILIES[architecture].nope == "null_theta":
        settings["rope_theta"] = None
    else:
        return
    shape, model = parse_shape(settings, "config.json"), make_model(architecture, bare=settings)
    assert {position.rope.kind for position in shape.positions} == {"nope"}
    check_positions(model, shape.positions, head_dim=shape.rotary_dim, context_tokens=shape.context_tokens)


def check_reach(architecture: str) -> None:
    """What a layer sees and whether it turns, by the derivative of its last output: the class itself is asked."""
    settings = make_settings(architecture) | {"num_hidden_layers": 1, "mlp_only_layers": [], "decoder_sparse_step": 1}
    settings |= {"moe_layer_start_index": 0, "first_k_dense_replace": 0, "max_window_layers": 0}
    settings |= {"num_kv_shared_layers": 0}
    if (experts := FAMILIES[architecture].experts) and experts.dense == "types":
        settings["mlp_layer_types"] = ["sparse"]
    key = "layers_block_type" if FAMILIES[architecture].single else "layer_types"
    given = settings.get(key)
    for kind in dict.fromkeys(given or [None]):
        if FAMILIES[architecture].unequal and kind == WINDOWED:
            continue  # the class gives its last layer no window
        if given:
            settings[key] = [kind]
        if architecture in NEEDS_BOTH:
            settings |= {"num_hidden_layers": 2, "layer_types": [next(each for each in given if each != kind), kind]}
        if FAMILIES[architecture].nope == "switch":
            settings["no_rope_layers"] = [int(kind == FULL)]
        shape = parse_shape(settings, "config.json")
        position = shape.positions[-1]
        model = make_model(architecture, bare=settings)
        if architecture in NEEDS_BOTH:  # the other layer adds nothing
            attention_of(model, blocks_of(model)[0]).get_parameter("o_proj.weight").data.zero_()
        model.set_attn_implementation("eager")
        tokens = torch.arange(3, 3 + CONTEXT_TOKENS // 2)[None]
        inputs = model.get_input_embeddings()(tokens).detach().requires_grad_()
        places = torch.arange(tokens.shape[1])[None]
        logits = model(inputs_embeds=inputs, position_ids=places, use_cache=False).logits[0, -1]
        (slope,) = torch.autograd.grad(logits.square().sum(), inputs)
        seen = int((slope[0].abs().amax(dim=1) > 0).sum())
        reach = shape.recurrent.taps if position.mixer == "convolution" and shape.recurrent else position.window_tokens
        reach = 1 if kind in ("mlp", "moe") else reach
        assert seen == min(reach or tokens.shape[1], tokens.shape[1])
        with torch.no_grad():
            # with a mask the gaps are no borders of documents
            whole = torch.ones_like(tokens)
            apart = model(inputs_embeds=inputs, attention_mask=whole, position_ids=3 * places, use_cache=False).logits[
                0, -1
            ]
        turns = bool((apart - logits).abs().max() > 1e-6)
        assert turns == (position.rope.kind != "nope")


def with_theta(architecture: str, theta: float) -> dict[str, Any]:
    """Settings with plain RoPE, in the block of transformers 5; in full layers alone where a class has a block each."""
    family, settings = FAMILIES[architecture], make_settings(architecture)
    settings.pop(family.theta_key, None)
    block = {"rope_type": "default", "rope_theta": theta}
    if family.ropes == "by_type":
        settings["rope_parameters"] = {FULL: block, WINDOWED: {**block, "rope_theta": 1e4}}
    else:
        kept = settings.get("rope_parameters", {})
        settings["rope_parameters"] = block | {key: kept[key] for key in family.kept_rope_keys}
    return settings


def check_directed(architecture: str) -> None:
    """Angles that hooks pass give what the class's own give, in its own layout and for each type of layers."""
    settings, other = with_theta(architecture, 1e4), with_theta(architecture, 5e4)
    wanted, own = parse_shape(other, "config.json"), parse_shape(settings, "config.json")
    model, like = make_model(architecture, bare=settings), make_model(architecture, bare=other)
    direct_positions(model, wanted.positions, head_dim=wanted.rotary_dims, native=False, former=own.positions)
    tokens = torch.arange(3, 17)[None]
    for each in (model, like):
        each.set_attn_implementation("eager")
    with torch.no_grad():
        found, expected = (
            each(tokens, position_ids=torch.arange(14)[None], use_cache=False).logits for each in (model, like)
        )
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def check_saved(architecture: str, folder: Path) -> None:
    """What the class saves of a config has the same shape."""
    settings = make_settings(architecture)
    config = class_of(architecture).config_class(**{k: v for k, v in settings.items() if k != "model_type"})
    config.architectures = [architecture]
    config.save_pretrained(folder)
    saved = json.loads((folder / "config.json").read_text())
    assert parse_shape(saved, "saved") == parse_shape(settings, "config.json")
