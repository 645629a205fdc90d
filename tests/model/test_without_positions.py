"""A base none of whose layers has RoPE: nothing can be stretched, only the context length rises, and this is said."""

import json
from pathlib import Path

import pytest

from conformance.tiny_families import CONTEXT_TOKENS, make_model, make_settings
from ropewalk.commands.advise import advise_model
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.model.extend import extend
from ropewalk.rope.layers import LayerPosition, describe_layers
from ropewalk.rope.scaling import Nope, Theta, Unchanged
from ropewalk.shape.read import read_shape
from tiny_tokenizer import write_tokenizer

TARGET = 4 * CONTEXT_TOKENS
KINDS = {"OlmoHybridForCausalLM": {"rope_theta": None}, "NemotronHForCausalLM": {}, "KimiLinearForCausalLM": {}}


def write_base(architecture: str, folder: Path) -> None:
    model = make_model(architecture, bare=make_settings(architecture) | KINDS[architecture])
    model.save_pretrained(folder)
    write_tokenizer(folder)


@pytest.mark.parametrize("architecture", KINDS)
def test_only_the_context_length_rises(architecture: str, tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    write_base(architecture, base)
    before = json.loads((base / "config.json").read_text())
    with pytest.raises(UserError, match="no positions to change") as refused:
        extend(base, out, rope=Theta(theta=1e6), context_tokens=TARGET)
    assert "kind: unchanged" in refused.value.fix and not out.exists()
    extend(base, out, rope=Unchanged(), context_tokens=TARGET)
    after = json.loads((out / "config.json").read_text())
    assert after["max_position_embeddings"] == TARGET
    written = ("torch_dtype", "rope_theta", "layer_types")  # what both formats name
    changed = {key for key, value in after.items() if before.get(key, ...) != value and key not in written}
    lengths = {"max_position_embeddings", "model_max_length"}
    assert "max_position_embeddings" in changed <= lengths and {after[key] for key in changed} == {TARGET}
    facts = read_manifest(out)["facts"]
    assert facts["longest_wavelength_tokens"] is None and any("no RoPE, as before" in each for each in facts["layers"])
    assert (read_shape(out).context_tokens, read_shape(out).base_rope.turns) == (TARGET, False)


@pytest.mark.parametrize("architecture", KINDS)
def test_advice_says_so(architecture: str, tmp_path: Path) -> None:
    write_base(architecture, tmp_path / "base")
    told = advise_model(tmp_path / "base", [str(tmp_path / "page"), f"context_length={TARGET}"])
    assert told["recommended"] == "unchanged" and "no layer has RoPE" in told["reasons"][0]
    assert "Recommended: unchanged, then training" in told["text"] and "theta" not in told["text"]
    assert "no layer has RoPE" in (tmp_path / "page" / "advice.html").read_text().lower().replace("rope", "RoPE")


def test_a_layer_that_loses_its_rope_is_told_otherwise() -> None:
    had, lost = LayerPosition(rope=Unchanged(), theta=1e4), LayerPosition(rope=Nope(), theta=1e4)
    assert "as before" not in describe_layers([had], [lost], head_dim=8, base_tokens=32)[0]
