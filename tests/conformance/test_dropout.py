"""A base whose file has dropout is extended without it, and this is told."""

import json
from pathlib import Path

import pytest

from conformance.tiny_families import CONTEXT_TOKENS, FAMILIES, make_model, make_settings
from ropewalk.core.artifact import read_manifest
from ropewalk.model.extend import extend
from ropewalk.rope.scaling import Theta
from tiny_tokenizer import write_tokenizer


@pytest.mark.parametrize("architecture", ["SeedOssForCausalLM", "StableLmForCausalLM"])
def test_dropout_is_set_to_zero_and_told(architecture: str, tmp_path: Path) -> None:
    base, key = tmp_path / "base", FAMILIES[architecture].no_dropout[0]
    make_model(architecture).save_pretrained(base)
    write_tokenizer(base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | make_settings(architecture) | {key: 0.1}))
    extend(base, tmp_path / "out", rope=Theta(theta=1e6), context_tokens=4 * CONTEXT_TOKENS)
    assert json.loads((tmp_path / "out" / "config.json").read_text())[key] == 0
    assert f"{key} 0.1 is 0 from here on" in read_manifest(tmp_path / "out")["facts"]["dropout"]
