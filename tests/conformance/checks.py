"""Checks of one family that the mutation test runs again: each raises AssertionError or UserError where it fails."""

from typing import Any

import pytest
import torch

from conformance.tiny_families import make_model, make_settings
from ropewalk.model.architectures import class_of, logit_rules
from ropewalk.model.check_rope import check_positions
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.read import parse_shape

OPTIONAL = (
    *("head_dim", "tie_word_embeddings", "rope_theta", "layer_types", "sliding_window", "rope_parameters"),
    *("partial_rotary_factor", "rotary_pct", "logit_scale", "logits_scaling", "final_logit_softcapping"),
    *("attention_bias", "mlp_bias", "use_bias", "qkv_bias", "attention_out_bias", "use_qkv_bias", "use_qk_norm"),
    *("no_rope_layer_interval", "rotary_dim"),
)
"""Keys that a config.json may lack; the class then has a default, and ours must be the same."""


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
    needed = ("layer_types",) if SUPPORTED[architecture].layer_word else ()
    given = make_settings(architecture)
    settings = {key: value for key, value in given.items() if key not in OPTIONAL or key in needed}
    settings["max_position_embeddings"] = 1 << 17
    if SUPPORTED[architecture].needs_head_dim or architecture == "HeliumForCausalLM":  # its heads must fill its width
        settings["head_dim"] = 16
    shape = parse_shape(settings, "config.json")
    model = make_model(architecture, bare=settings)
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    assert (shape.logit_scale, shape.logit_cap) == pytest.approx(logit_rules(model))
    check_positions(model, shape.positions, head_dim=shape.rotary_dim, context_tokens=shape.context_tokens)
    assert shape.tied == model.config.tie_word_embeddings


def check_live_positions(architecture: str) -> None:
    shape = parse_shape(make_settings(architecture), "config.json")
    model = make_model(architecture)
    check_positions(model, shape.positions, head_dim=shape.rotary_dim, context_tokens=shape.context_tokens)
