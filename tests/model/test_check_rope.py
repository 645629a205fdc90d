"""The traps between a config and what a model runs: each first shown open in transformers, then closed here."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.attention_interface import NAME
from ropewalk.model.check_rope import check_positions
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.partition import partition_tokens
from ropewalk.rope.layers import LayerPosition, LayerRule
from ropewalk.rope.scaling import Dynamic, Linear, Theta, Unchanged, Yarn
from ropewalk.shape.families import OWN_ARCHITECTURE
from ropewalk.shape.read import read_shape

Save = Callable[..., Path]
Make = Callable[..., PreTrainedModel]
HEAD_DIM, ORIGINAL = 8, 32


def check(model: Any, positions: Any, *, head_dim: int = HEAD_DIM) -> dict[str, float]:
    return check_positions(model, positions, head_dim=head_dim, context_tokens=128)


def read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def edit(folder: Path, **changes: object) -> None:
    (folder / "config.json").write_text(json.dumps(read(folder) | changes))


def test_a_config_changed_after_building_changes_nothing_and_is_found_out(make_tiny: Make) -> None:
    model, tokens = make_tiny("LlamaForCausalLM"), torch.arange(20)[None]
    before = model(tokens).logits
    model.config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}
    model.config.sliding_window = 4
    assert torch.equal(model(tokens).logits, before), "the trap: nothing happens, and nobody says so"
    linear = LayerPosition(rope=Linear(factor=4.0, theta=1e4), theta=1e4)
    with pytest.raises(UserError, match=r"layer 0[\s\S]*pair \d differs by"):
        check(model, [linear, linear])
    model.config.sliding_window = None
    plain = LayerPosition(rope=Unchanged(), theta=1e4)
    assert check(model, [plain, plain])["live_frequency_difference"] < 1e-6


def test_whatever_differs_in_a_layer_is_found(save_tiny: Save) -> None:
    folder = save_tiny("MinistralForCausalLM")
    windowed, full = read_shape(folder).positions
    model: Any = load_model(folder)
    assert check(model, [windowed, full])["live_frequency_difference"] < 1e-6
    with pytest.raises(UserError, match=r"layer 0[\s\S]*its window is 6 tokens, and should be None"):
        check(model, [full, full])
    with pytest.raises(UserError, match=r"layer 1[\s\S]*its window is None tokens, and should be 7"):
        check(model, [windowed, full.model_copy(update={"window_tokens": 7})])
    with pytest.raises(UserError, match="should rotate 8 pairs, not 4"):
        check(model, [windowed, full], head_dim=16)
    with pytest.raises(UserError, match="the temperature differs"):
        check(model, [windowed, full.model_copy(update={"log_n_tokens": ORIGINAL})])
    model.model.rotary_emb.attention_scaling = 1.1
    with pytest.raises(UserError, match="the attention factor differs"):
        check(model, [windowed, full])
    model.model.rotary_emb.attention_scaling = 1.0
    model.model.rotary_emb.inv_freq[3] *= 1.0001
    with pytest.raises(UserError, match=r"pair 3 differs by 1.00e-04"):
        check(model, [windowed, full])


def test_the_switch_for_no_rope_is_read_from_the_layer(save_tiny: Save) -> None:
    folder = save_tiny("SmolLM3ForCausalLM")
    model: Any = load_model(folder)
    model.model.layers[1].self_attn.use_rope = 1
    with pytest.raises(UserError, match=r"layer 1[\s\S]*pair 0 differs"):
        check(model, read_shape(folder).positions)


def test_a_load_stops_where_the_model_does_something_else(save_tiny: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a version of transformers with other formulas would."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    linear = ROPE_INIT_FUNCTIONS["linear"]
    folder = save_tiny(rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0})
    load_model(folder)
    monkeypatch.setitem(ROPE_INIT_FUNCTIONS, "linear", lambda *args, **more: (linear(*args, **more)[0] * 2, 1.0))
    with pytest.raises(UserError, match="has other positions than the method asks for"):
        load_model(folder)


def test_packed_rows_keep_their_borders_whatever_use_cache_says(make_tiny: Make) -> None:
    tokens = torch.randint(97, (1, 32), generator=torch.Generator().manual_seed(2))
    positions = torch.cat([torch.arange(12), torch.arange(20)])[None]
    partition = partition_tokens(np.repeat([0, 1], (12, 20)).astype(np.int32)[None], ranks=1)
    plain, ours = make_tiny("LlamaForCausalLM"), make_tiny("LlamaForCausalLM", attn_implementation=NAME)
    with torch.no_grad():
        alone = plain(tokens[:, 12:]).logits[0]
        trapped = plain(tokens, position_ids=positions).logits[0, 12:]
        assert (trapped - alone).norm() > 0.1 * alone.norm(), "the trap: the default cache hides the borders"
        kept = ours(tokens, position_ids=positions, partition=partition)
        assert (kept.logits[0, 12:] - alone).norm() < 1e-6 * alone.norm()
        with pytest.raises(UserError, match="a cache of earlier keys, which is not in the partition"):
            ours(tokens, position_ids=positions, partition=partition, past_key_values=kept.past_key_values)


def test_a_partial_rotation_that_a_class_ignores_is_refused(save_tiny: Save) -> None:
    folder = save_tiny()
    whole = AutoModelForCausalLM.from_pretrained(folder)
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    edit(folder, rope_parameters=rope)
    half = AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(20)[None]
    assert torch.equal(half(tokens).logits, whole(tokens).logits), "the trap: all pairs turn"
    with pytest.raises(UserError, match="partial rotation is not supported"):
        load_model(folder)


@pytest.mark.parametrize("architecture", ["Olmo3ForCausalLM", "Gemma3ForCausalLM"])
def test_an_untruncated_yarn_per_layer_type_runs_or_stops(save_tiny: Save, tmp_path: Path, architecture: str) -> None:
    base, out = save_tiny(architecture, num_attention_heads=2, num_key_value_heads=1, head_dim=16), tmp_path / "out"
    extend(base, out, rope=Yarn(truncate=False), context_tokens=128)
    assert read(out)["architectures"] == [OWN_ARCHITECTURE], "no class runs it, so no class is named"
    positions = read_shape(out).positions
    check(load_model(out), positions, head_dim=16)
    rounded = positions[1].model_copy(update={"rope": positions[1].rope.model_copy(update={"truncate": True})})
    with pytest.raises(UserError, match=r"layer 1[\s\S]*pair \d differs"):
        check(load_model(out), (positions[0], rounded), head_dim=16)
    # The trap: the same config in the class's own words, as somebody might have written it.
    ropes = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        "full_attention": positions[1].rope.to_hf(1e4),
    }
    edit(base, rope_parameters=ropes, rope_theta=None, rope_scaling=None, max_position_embeddings=128)
    with pytest.raises(UserError, match="layer 1"):
        check(AutoModelForCausalLM.from_pretrained(base), positions, head_dim=16)
    with pytest.raises(UserError, match="truncate: false would be ignored"):
        load_model(base)


def test_dynamic_counts_from_the_length_that_the_base_was_trained_at(save_tiny: Save, tmp_path: Path) -> None:
    extend(save_tiny(), tmp_path / "out", rope=Dynamic(), context_tokens=128)
    assert read(tmp_path / "out")["max_position_embeddings"] == ORIGINAL
    positions = read_shape(tmp_path / "out").positions
    assert check(load_model(tmp_path / "out"), positions)["live_frequency_difference"] < 1e-6
    edit(tmp_path / "out", max_position_embeddings=128)  # the trap: it would now count from 128
    with pytest.raises(UserError, match=r"at 128 tokens pair \d differs"):
        check(load_model(tmp_path / "out"), positions)


def test_a_stretched_folder_is_stretched_again_layer_by_layer(save_tiny: Save, tmp_path: Path) -> None:
    """What a later stage does: it finds what the former one wrote, in a class's words or in ours."""
    hybrid = (LayerRule(window=8, rope=Unchanged()), LayerRule())
    extend(save_tiny(), tmp_path / "own", rope=Yarn(), layers=hybrid, context_tokens=64)
    assert read(tmp_path / "own")["architectures"] == [OWN_ARCHITECTURE]
    extend(tmp_path / "own", tmp_path / "longer", rope=Yarn(), context_tokens=128)
    first, second = read_shape(tmp_path / "longer").positions
    assert first.window_tokens == 8 and isinstance(first.rope, Unchanged)
    assert isinstance(second.rope, Yarn) and second.rope.factor == 4 and second.rope.original_tokens == ORIGINAL
    extend(
        tmp_path / "own",
        tmp_path / "plain",
        rope=Theta(theta=1e6),
        layers=(LayerRule(rope=Unchanged()),),
        context_tokens=64,
    )
    with pytest.raises(UserError, match="linear cannot be applied on top of yarn"):
        extend(tmp_path / "own", tmp_path / "never", rope=Linear(), context_tokens=128)
    assert not (tmp_path / "never").exists()
