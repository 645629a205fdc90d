"""``ropewalk import``: bad input is refused and leaves nothing; a good file becomes a base for the other verbs."""

import sys
from pathlib import Path

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from gguf_files import VOCABULARY, write_gguf
from ropewalk.commands.advise import advise_model
from ropewalk.commands.extend import extend_model
from ropewalk.commands.import_gguf import import_model
from ropewalk.core.error import UserError
from ropewalk.model.read_gguf import read_gguf
from ropewalk.shape.read import read_shape


def test_what_is_no_gguf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    cases = {"nowhere.gguf": "no such", ".": "no such", "empty.gguf": "not a GGUF", "model.safetensors": "not a GGUF"}
    for name, what in cases.items():
        with pytest.raises(UserError, match=what) as caught:
            import_model(tmp_path / name, tmp_path / "out", [])
        assert str(tmp_path) in caught.value.where
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="there already"):
        import_model(tmp_path / "nowhere.gguf", tmp_path / "out", [])
    with pytest.raises(UserError, match="dtype"):
        import_model(tmp_path / "nowhere.gguf", tmp_path / "new", ["dtype=float8"])


def test_the_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + bytes(100))
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(UserError, match="needs the package gguf") as caught:
        read_gguf(tmp_path / "m.gguf")
    assert caught.value.fix == "pip install 'ropewalk[gguf]'"


def test_the_folder_is_a_base_for_the_other_verbs(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        head_dim=16, max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    kinds = {"blk.0.ffn_up.weight": gguf.GGMLQuantizationType.Q8_0}
    source = write_gguf(tmp_path / "m.gguf", "llama", LlamaForCausalLM(config), kinds=kinds)
    found = import_model(source, tmp_path / "base", ["dtype=bfloat16"])
    assert "dequantised from Q8_0, stored as bfloat16" in found["text"] and found["context_tokens"] == 64
    assert read_shape(tmp_path / "base").base_rope.theta == 50_000
    extend_model(str(tmp_path / "base"), tmp_path / "long", ["context_length=256", "rope.kind=yarn"])
    assert read_shape(tmp_path / "long").context_tokens == 256
    assert "Recommended" in advise_model(tmp_path / "base", ["context_length=256"])["text"]
