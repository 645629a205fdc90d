"""Extension changes positions and nothing else, in both dialects, and what runs is what the method says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llama_kin import LLAMA_KIN
from ropewalk.core.artifact import find_damage, is_finished, read_manifest
from ropewalk.core.error import UserError
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.weights import SINGLE
from ropewalk.rope.scaling import Linear, Llama3, Ntk, NtkByParts, Theta, Unchanged, Yarn
from ropewalk.shape.families import SUPPORTED

Save = Callable[..., Path]
METHODS = (
    Theta(theta=1e6),
    Linear(),
    Ntk(),
    NtkByParts(),
    Yarn(),
    Yarn(theta=5e5, truncate=False),
    Llama3(),
    Unchanged(),
)


def read(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def save_full(save_tiny: Save, architecture: str, **changes: Any) -> Path:
    """A base all of whose layers see all tokens."""
    mixed = SUPPORTED[architecture].windows == "some"
    return save_tiny(architecture, **({"layer_types": ["full_attention"] * 2} if mixed else {}), **changes)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_live_positions_are_the_methods(save_tiny: Save, tmp_path: Path, method: Any) -> None:
    extend(save_tiny(), tmp_path / "out", rope=method, context_tokens=256)
    assert is_finished(tmp_path / "out") and find_damage(tmp_path / "out") is None
    facts = read_manifest(tmp_path / "out")["facts"]
    assert facts["live_frequency_difference"] <= 1e-6
    assert facts["layers"][0].startswith(f"0-1: {method.kind}"), "told as asked for, though read back it is plain"
    completed = method.complete(load_shape(tmp_path).base_rope, 256)
    live = AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.rotary_emb
    np.testing.assert_allclose(live.inv_freq.double().numpy(), completed.inv_freq(10_000.0, 8), rtol=1e-6)
    assert live.attention_scaling == pytest.approx(completed.attention_factor, rel=1e-9)


def load_shape(tmp_path: Path) -> Any:
    from ropewalk.shape.read import read_shape

    return read_shape(tmp_path / "base-LlamaForCausalLM")


@pytest.mark.parametrize("architecture", [name for name in LLAMA_KIN if SUPPORTED[name].ropes == "one"])
@pytest.mark.parametrize("method", [Theta(theta=1e6), Yarn()], ids=["theta", "yarn"])
def test_either_dialect_alone_is_read_alike(save_tiny: Save, tmp_path: Path, architecture: str, method: Any) -> None:
    extend(save_full(save_tiny, architecture), tmp_path / "out", rope=method, context_tokens=256)
    config = read(tmp_path / "out")
    assert type(config["max_position_embeddings"]) is int and config["max_position_embeddings"] == 256
    new = {key: value for key, value in config.items() if key not in ("rope_theta", "rope_scaling")}
    old = {key: value for key, value in config.items() if key != "rope_parameters"}
    assert ("rope_scaling" in old) == isinstance(method, Yarn)
    found = []
    for name, content in (("new", new), ("old", old), ("both", config)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(content))
        found.append(AutoConfig.from_pretrained(tmp_path / name).rope_parameters)
    assert found[0]["rope_theta"] == config["rope_theta"] == (1e6 if isinstance(method, Theta) else 1e4)
    assert all(found[0].items() <= other.items() for other in found)


@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_only_positions_change(save_tiny: Save, tmp_path: Path, architecture: str) -> None:
    base = save_full(save_tiny, architecture, tie_word_embeddings=architecture == "Qwen2ForCausalLM")
    out = tmp_path / "out"
    extend(base, out, rope=Theta(theta=1e6), context_tokens=256)
    before, after = read(base), read(out)
    changed = {key for key in before | after if before.get(key) != after.get(key)}
    silent = {"no_rope_layer_interval", "max_window_layers", "sliding_window", "rope_local_base_freq"}  # of no layer
    assert changed <= {"rope_parameters", "rope_theta", "max_position_embeddings", "torch_dtype", *silent}
    assert (out / SINGLE).read_bytes() == (base / SINGLE).read_bytes()
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    text = (base / "tokenizer_config.json").read_bytes()
    assert (out / "tokenizer_config.json").read_bytes() == text.replace(b"32,", b"256,")
    assert AutoTokenizer.from_pretrained(out).model_max_length == 256
    tokens = torch.arange(20)[None]
    first = load_model(base)(tokens).logits[0]
    second = load_model(out)(tokens).logits[0]
    torch.testing.assert_close(second[0], first[0], msg="position 0 does not turn, whatever theta is")
    assert not torch.allclose(second[-1], first[-1])


def test_unchanged_positions_give_the_base_itself(save_tiny: Save, tmp_path: Path) -> None:
    extend(save_tiny(), tmp_path / "yarn", rope=Yarn(), context_tokens=128)
    extend(tmp_path / "yarn", tmp_path / "again", rope=Unchanged(), context_tokens=128)
    assert read(tmp_path / "yarn") == read(tmp_path / "again")
    tokens = torch.arange(60)[None]
    assert torch.equal(load_model(tmp_path / "yarn")(tokens).logits, load_model(tmp_path / "again")(tokens).logits)


def test_bad_bases_leave_nothing_behind(save_tiny: Save, tmp_path: Path) -> None:
    base = save_tiny()
    with pytest.raises(UserError, match="the target is shorter"):
        extend(base, tmp_path / "out", rope=Theta(theta=1e6), context_tokens=16)
    (base / "tokenizer.json").rename(base / "gone")
    with pytest.raises(UserError, match="no fast tokenizer"):
        extend(base, tmp_path / "out", rope=Theta(theta=1e6), context_tokens=256)
    (base / "gone").rename(base / "tokenizer.json")
    config = read(base) | {"vocab_size": 90}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="token id 96, the model 90 embeddings"):
        extend(base, tmp_path / "out", rope=Theta(theta=1e6), context_tokens=256)
    assert sorted(path.name for path in tmp_path.iterdir()) == [base.name]


NULLS = ("tie_word_embeddings", "rms_norm_eps", "hidden_act", "use_cache", "rope_scaling")


@pytest.mark.parametrize("architecture", ["MistralForCausalLM", "Qwen3ForCausalLM"])
def test_a_null_that_the_class_fails_at_is_a_missing_key(save_tiny: Save, tmp_path: Path, architecture: str) -> None:
    base = save_full(save_tiny, architecture, num_key_value_heads=4, sliding_window=None, rms_norm_eps=1e-6)
    tokens, config = torch.arange(20)[None], read(base)
    usual = load_model(base)(tokens).logits
    nulls = (*NULLS, *(["num_key_value_heads", "head_dim"] if architecture == "MistralForCausalLM" else []))
    (base / "config.json").write_text(json.dumps(config | dict.fromkeys(nulls)))
    with pytest.raises(Exception, match="Validation error"):
        AutoConfig.from_pretrained(base)
    assert torch.equal(load_model(base)(tokens).logits, usual)
    extend(base, tmp_path / "out", rope=Unchanged(), context_tokens=config["max_position_embeddings"])
    assert None not in [read(tmp_path / "out").get(key, "") for key in nulls]
    live = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    torch.testing.assert_close(live(tokens).logits, usual)
