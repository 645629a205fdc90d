"""Part 3: each family is extended by each method, and its live angles are those of the formula in float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conformance.row_rules import make_plain
from conformance.tiny_families import CONTEXT_TOKENS, make_model, make_settings
from ropewalk.core.error import UserError
from ropewalk.model.check_rope import check_positions
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.read_rope import read_native
from ropewalk.model.rope_hooks import direct_positions
from ropewalk.rope.scaling import Dynamic, Linear, Llama3, Ntk, Proportional, Rope, Theta, Yarn
from ropewalk.shape.families import SUPPORTED
from ropewalk.shape.layer_keys import spell_layers
from ropewalk.shape.read import parse_shape, read_shape
from tiny_tokenizer import write_tokenizer

TARGET = 4 * CONTEXT_TOKENS
METHODS: dict[str, Rope] = {
    "theta": Theta(theta=1e6),
    "linear": Linear(),
    "ntk": Ntk(),
    "yarn": Yarn(),
    "llama3": Llama3(),
}


@pytest.mark.parametrize("architecture", SUPPORTED)
def test_a_file_without_windows_and_without_a_width_of_heads_is_extended_by_yarn(architecture: str) -> None:
    """As Mixtral 8x7B's: its class has null for the width, from which transformers computes YaRN's range."""
    settings = {key: value for key, value in make_plain(architecture).items() if key != "head_dim"}
    try:
        stretched = parse_shape(settings, "config.json").stretch((), rope=Yarn(), context_tokens=TARGET)
    except UserError:
        return  # the file must give the width, or no layer can be stretched
    spelled = spell_layers(settings, stretched.positions, context_tokens=TARGET)
    if architecture == "HeliumForCausalLM" or not spelled.native:
        return  # Helium's class takes 128
    changed = spelled.apply(settings)
    model, shape = make_model(spelled.architecture, bare=changed), parse_shape(changed, "extended")
    check_positions(model, stretched.positions, head_dim=shape.rotary_dims, context_tokens=TARGET)


def plain(theta: float, dim: int) -> np.ndarray:
    return theta ** (-np.arange(0, dim, 2) / dim)


def slow_yarn(theta: float, dim: int, factor: float, original: int) -> tuple[np.ndarray, float]:
    """Peng et al., 2309.00071, written again from the paper with the ramp rounded to whole pairs."""

    def pair(turns: float) -> float:
        return dim * np.log(original / (turns * 2 * np.pi)) / (2 * np.log(theta))

    low, high = max(np.floor(pair(32)), 0), min(np.ceil(pair(1)), dim - 1)
    ramp = np.clip((np.arange(dim // 2) - low) / max(high - low, 0.001), 0, 1)
    own = plain(theta, dim)
    return own / factor * ramp + own * (1 - ramp), 0.1 * np.log(factor) + 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("architecture", SUPPORTED)
def test_extended_angles_are_those_of_the_method(architecture: str, method: str) -> None:
    settings = make_settings(architecture)
    base = parse_shape(settings, "config.json")
    try:
        stretched = base.stretch((), rope=METHODS[method], context_tokens=TARGET)
    except UserError as refusal:
        runs_scaled = base.stretched.rope.kind != "unchanged"
        assert runs_scaled or base.stretched.window_tokens is not None, refusal  # no full layer turns
        return
    spelled = spell_layers(settings, stretched.positions, context_tokens=TARGET)
    changed = spelled.apply(settings)
    if not spelled.native:
        assert spelled.why_not
        return
    model = make_model(spelled.architecture, **{key: value for key, value in changed.items() if key != "model_type"})
    shape = parse_shape(changed, "extended")
    direct_positions(model, shape.positions, head_dim=shape.rotary_dims, native=True)
    check_positions(model, stretched.positions, head_dim=shape.rotary_dims, context_tokens=TARGET)
    live = next(layer for layer, old in zip(read_native(model), base.positions, strict=True) if old == base.stretched)
    if base.stretched.rope.kind != "unchanged":
        return  # the formulas below are those of a plain base; check_positions compared with ours
    dim, theta = shape.rotary_dim, base.theta
    wanted = {
        "theta": (plain(1e6, dim), 1.0),
        "linear": (plain(theta, dim) / 4, 1.0),
        "ntk": (plain(theta * 4 ** (dim / (dim - 2)), dim), 1.0),
        "yarn": slow_yarn(theta, dim, 4.0, CONTEXT_TOKENS),
    }
    if method in wanted:
        frequencies, factor = wanted[method]
        np.testing.assert_allclose(live.inv_freq, frequencies, rtol=2e-5)
        assert live.attention_factor == pytest.approx(factor, rel=2e-5)
    assert {key: changed[key] for key in settings if key in changed and key not in spelled.keys} == {
        key: settings[key] for key in settings if key in changed and key not in spelled.keys
    }


GOLDEN = Path(__file__).parents[2].parent / "shared" / "reference" / "golden_families.json"


def load_golden() -> dict[str, Any]:
    return json.loads(GOLDEN.read_text())["cases"] if GOLDEN.exists() else {}


@pytest.mark.parametrize("method", [Dynamic(factor=4.0), Proportional(share=0.5)], ids=lambda method: method.kind)
def test_angles_that_phi_cannot_run_go_to_our_own_format(method: Rope) -> None:
    settings = make_settings("Phi3ForCausalLM") | {"sliding_window": None}
    stretched = parse_shape(settings, "config.json").stretch((), rope=method, context_tokens=TARGET)
    spelled = spell_layers(settings, stretched.positions, context_tokens=TARGET)
    assert not spelled.native and "default and longrope only" in spelled.why_not


def test_a_ministral_without_a_rope_block_keeps_its_query_scale() -> None:
    settings = {**make_settings("Ministral3ForCausalLM"), "max_position_embeddings": 262_144}
    settings.pop("rope_parameters")
    shape = parse_shape(settings, "config.json")
    changed = spell_layers(settings, shape.positions, context_tokens=262_144).apply(settings)
    assert changed["rope_parameters"]["llama_4_scaling_beta"] == 0.1
    assert parse_shape(changed, "again").positions == shape.positions


def test_phi_s_method_is_known_where_its_class_has_another_word_for_it(tmp_path: Path) -> None:
    """Its class runs yarn as a longrope; a second stage stretches the yarn."""
    base, first, second = (tmp_path / name for name in ("base", "first", "second"))
    model = make_model("Phi3ForCausalLM", sliding_window=None)
    model.save_pretrained(base)
    write_tokenizer(base)
    extend(base, first, rope=Yarn(), context_tokens=TARGET)
    assert json.loads((first / "config.json").read_text())["rope_parameters"]["rope_type"] == "longrope"
    assert read_shape(first).stretched.rope.kind == "yarn"
    export(first, first, tmp_path / "trained", dtype="float32")
    extend(tmp_path / "trained", second, rope=Yarn(), context_tokens=2 * TARGET)
    found = read_shape(second).stretched.rope
    assert isinstance(found, Yarn) and found.factor == 8
