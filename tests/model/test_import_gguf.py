"""A GGUF file becomes the model that it was made of: same logits, same tokens, and its quantisation in the manifest."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from gguf_files import END, VOCABULARY, write_gguf
from ropewalk.core.artifact import find_damage, read_manifest
from ropewalk.core.error import UserError
from ropewalk.corpus.tokens.tokenizer import load_tokenizer
from ropewalk.model.extend import extend
from ropewalk.model.import_gguf import import_gguf
from ropewalk.model.load import load_model
from ropewalk.rope.scaling import Theta
from ropewalk.shape.read import read_shape

gguf = pytest.importorskip("gguf")
Make = Callable[..., PreTrainedModel]
ROPES = {"llama": {"rope_type": "default", "rope_theta": 50_000.0}}
ROPES["gemma3"] = {
    "full_attention": ROPES["llama"],
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
KEYS_OF: dict[str, dict[str, Any]] = {"gemma3": {"attention.sliding_window": 6}}
KEYS_OF["gemma2"] = KEYS_OF["gemma3"] | {"attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}
SIZES = {"vocab_size": len(VOCABULARY), "hidden_size": 32, "head_dim": 16, "intermediate_size": 64}


def make(make_tiny: Make, architecture: str, **changes: Any) -> PreTrainedModel:
    kind = f"{architecture.capitalize()}ForCausalLM"
    given = SIZES | {"rope_parameters": ROPES.get(architecture, ROPES["llama"]), "tie_word_embeddings": True} | changes
    if architecture == "gemma2":
        given |= {"query_pre_attn_scalar": 256, "attn_logit_softcapping": 20.0, "final_logit_softcapping": 10.0}
        given |= {"attn_implementation": "eager"}
    if architecture == "gemma3":  # llama.cpp writes no pattern: it is every sixth layer; the scale follows the heads
        given |= {"num_hidden_layers": 6, "layer_types": None, "query_pre_attn_scalar": 256}
    model = make_tiny(kind, **given)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model


def logits(model: Any) -> np.ndarray:
    tokens = torch.arange(40)[None] * 5 % len(VOCABULARY)
    with torch.no_grad():
        return model(tokens).logits[0].double().numpy()


@pytest.mark.parametrize(
    ("architecture", "tied"),
    [("llama", True), ("llama", False), ("qwen2", True), ("qwen3", False), ("gemma2", True), ("gemma3", True)],
)
def test_the_imported_model_is_the_written_one(architecture: str, tied: bool, make_tiny: Make, tmp_path: Path) -> None:
    """Rows of queries and keys, norms that are stored plus one, theta, windows, caps, the head.

    Of Qwen 3 transformers' reader drops the width of heads, of Gemma 2 the caps.
    """
    model = make(make_tiny, architecture, tie_word_embeddings=tied)
    keys = dict(KEYS_OF.get(architecture, {"rope.dimension_count": 16}))
    source = write_gguf(tmp_path / "m.gguf", architecture, model, keys=keys)
    import_gguf(source, tmp_path / "out", dtype="float32")
    assert find_damage(tmp_path / "out") is None
    facts = read_manifest(tmp_path / "out")["facts"]
    assert facts["dequantised"] is False and facts["quantisation"] is None and set(facts["values_by_type"]) == {"F32"}
    expected = logits(model)
    own = [] if architecture == "gemma2" else [load_model(tmp_path / "out")]  # a cap needs the documents
    for read in (*own, AutoModelForCausalLM.from_pretrained(tmp_path / "out")):
        np.testing.assert_allclose(logits(read), expected, atol=2e-5 * np.abs(expected).max())
    assert read_shape(tmp_path / "out").tied is tied
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["rope_theta"] == 50_000.0 and config["rms_norm_eps"] == model.config.rms_norm_eps


def test_tokens_are_those_of_the_file(make_tiny: Make, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "llama", make(make_tiny, "llama"))
    import_gguf(source, tmp_path / "out", dtype="float32")
    tokenizer = load_tokenizer(tmp_path / "out")
    assert [VOCABULARY[token] for token in tokenizer.encode("the th é")] == ["the", "Ġ", "th", "Ġ", "Ã", "©"]
    assert VOCABULARY[tokenizer.eos_id] == END and tokenizer.bos_id is None


@pytest.mark.parametrize(("split", "told"), [("gpt-2", False), ("qwen2", False), ("of its own", True)])
def test_a_split_that_transformers_does_not_know_is_told(
    split: str, told: bool, make_tiny: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_gguf(tmp_path / "m.gguf", "llama", make(make_tiny, "llama"), split=split)
    import_gguf(source, tmp_path / "out", dtype="float32")
    assert ("is unknown to transformers" in capsys.readouterr().err) is told


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_are_the_files_blocks(dtype: Any, make_tiny: Make, tmp_path: Path) -> None:
    """Q4_1 by hand: 32 values a block, a scale and a least value in float16, and sixteen bytes of two halves each."""
    name, model = "blk.0.ffn_down.weight", make(make_tiny, "llama")
    source = write_gguf(tmp_path / "m.gguf", "llama", model, kinds={name: gguf.GGMLQuantizationType.Q4_1})
    import_gguf(source, tmp_path / "out", dtype=dtype)
    facts = read_manifest(tmp_path / "out")["facts"]
    assert facts["quantisation"] == "Q4_1" and facts["dequantised"] and facts["values_by_type"]["Q4_1"] == 32 * 64
    weight = model.model.layers[0].mlp.down_proj.weight.detach().numpy()
    blocks = gguf.quantize(weight, gguf.GGMLQuantizationType.Q4_1).reshape(-1, 20)
    scale, least = (blocks[:, at : at + 2].copy().view(np.float16).astype(np.float32) for at in (0, 2))
    halves = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1)
    expected = torch.from_numpy((scale * halves + least).reshape(weight.shape)).to(getattr(torch, dtype)).float()
    found = load_model(tmp_path / "out").model.layers[0].mlp.down_proj.weight
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, torch.from_numpy(weight))
    extend(tmp_path / "out", tmp_path / "longer", rope=Theta(theta=1e6), context_tokens=512)
    told = read_manifest(tmp_path / "longer")["facts"]
    assert told["dequantised"] is True and told["quantisation"] == "Q4_1"


KEYS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "linear": ("llama", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear"}),
    "yarn": (
        "llama",
        {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 8},
        {"rope_type": "yarn", "original_max_position_embeddings": 8},
    ),
    "no scaling": ("llama", {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {"rope_type": "default"}),
    "no theta": ("llama", {"rope.freq_base": None}, {"rope_theta": 10_000.0}),
    "by layer": (
        "gemma3",
        {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0, "rope.freq_base_swa": 20_000.0},
        {
            "full_attention": {"rope_type": "linear", "rope_theta": 50_000.0, "factor": 8.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 20_000.0},
        },
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_positions_are_those_of_the_file(name: str, make_tiny: Make, tmp_path: Path) -> None:
    """transformers' reader drops every one of these keys and runs plain RoPE."""
    architecture, keys, expected = KEYS[name]
    window = {"attention.sliding_window": 6} if architecture == "gemma3" else {}
    source = write_gguf(tmp_path / "m.gguf", architecture, make(make_tiny, architecture), keys=keys | window)
    import_gguf(source, tmp_path / "out", dtype="float32")
    found = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert {key: found[key] for key in expected} == expected
    load_model(tmp_path / "out")


def llama3_factors(theta: float, factor: float) -> np.ndarray:
    """As llama.cpp's converter writes them: plain frequency over scaled, by wavelength, over 8192 original tokens."""
    factors = []
    for pair in range(8):
        wave = 2 * np.pi * theta ** (pair / 8)
        smooth = (8192 / wave - 1) / (4 - 1)
        factors.append(1.0 if wave < 8192 / 4 else factor if wave > 8192 else 1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)


def test_the_factors_of_llama_3_become_its_method(make_tiny: Make, tmp_path: Path) -> None:
    """transformers drops the table, and the model would run plain RoPE."""
    factors = llama3_factors(50_000.0, 8.0)
    assert len(set(factors.round(3))) == 3, "kept, blended and divided pairs"
    model, keys = make(make_tiny, "llama"), {"context_length": 131072}
    source = write_gguf(tmp_path / "m.gguf", "llama", model, keys=keys, tensors={"rope_freqs.weight": factors})
    import_gguf(source, tmp_path / "out", dtype="float32")
    live = AutoModelForCausalLM.from_pretrained(tmp_path / "out").model.rotary_emb.inv_freq.double().numpy()
    np.testing.assert_allclose(live, 50_000.0 ** (-np.arange(8) / 8) / factors, rtol=1e-5)
    rope = json.loads((tmp_path / "out" / "config.json").read_text())["rope_parameters"]
    assert (rope["rope_type"], rope["factor"], rope["original_max_position_embeddings"]) == ("llama3", 8.0, 8192)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"keys": {"attention.temperature_length": 8192}}, "attention.temperature_length"),
    "values of another width": ({"keys": {"attention.value_length": 8}}, "attention.value_length"),
    "a share of the head": ({"keys": {"rope.dimension_count": 8}}, "rope.dimension_count"),
    "yarn without a length": ({"keys": {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}}, "scaling.type"),
    "longrope": ({"keys": {"rope.scaling.type": "longrope", "rope.scaling.factor": 4.0}}, "rope.scaling.type"),
    "other factors": ({"tensors": {"rope_freqs.weight": np.linspace(1, 8, 8).astype(np.float32)}}, "rope_freqs.weight"),
    "factors below one": ({"tensors": {"rope_freqs.weight": np.full(8, 0.5, np.float32)}}, "rope_freqs.weight"),
    "too few factors": ({"tensors": {"rope_freqs.weight": np.ones(4, np.float32)}}, "rope_freqs.weight"),
    "lists of longrope": ({"tensors": {"rope_factors_long.weight": np.ones(8, np.float32)}}, "rope_factors_long"),
    "a table beside a scaling": (
        {
            "keys": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
            "tensors": {"rope_freqs.weight": np.ones(8, np.float32)},
        },
        "rope.scaling.type",
    ),
    "a bias": ({"tensors": {"blk.0.attn_q.bias": np.ones(64, np.float32)}}, "blk.0.attn_q.bias"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_transformers_would_drop_is_refused_by_its_name(name: str, make_tiny: Make, tmp_path: Path) -> None:
    given, told = REFUSED[name]
    source = write_gguf(tmp_path / "m.gguf", "llama", make(make_tiny, "llama"), **given)
    with pytest.raises(UserError, match="cannot be imported") as caught:
        import_gguf(source, tmp_path / "out", dtype="float32")
    assert told in caught.value.where + caught.value.why
    assert not (tmp_path / "out").exists() and list(tmp_path.iterdir()) == [source]


def test_architectures_are_refused_by_their_names(make_tiny: Make, tmp_path: Path) -> None:
    """One that transformers does not read, and one that it reads and ropewalk does not train."""
    data = write_gguf(tmp_path / "m.gguf", "llama", make(make_tiny, "llama")).read_bytes()
    for name in (b"xlama", b"bloom"):
        (tmp_path / "other.gguf").write_bytes(data.replace(b"llama", name))
        with pytest.raises(UserError, match="cannot be imported") as caught:
            import_gguf(tmp_path / "other.gguf", tmp_path / "out", dtype="float32")
        assert name.decode() in caught.value.where


def test_a_file_that_is_cut_short_is_refused_at_every_length(make_tiny: Make, tmp_path: Path) -> None:
    source = write_gguf(tmp_path / "m.gguf", "llama", make(make_tiny, "llama"))
    data = source.read_bytes()
    for length in (4, 10, 23, 24, 90, 400, 2000, len(data) // 2, len(data) - 64):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(UserError, match="damaged or cut short"):
            import_gguf(tmp_path / "cut.gguf", tmp_path / "out", dtype="float32")
    (tmp_path / "cut.gguf").write_bytes(data[:24] + b"\xff" * 100 + data[124:])
    with pytest.raises(UserError, match="damaged or cut short"):
        import_gguf(tmp_path / "cut.gguf", tmp_path / "out", dtype="float32")
