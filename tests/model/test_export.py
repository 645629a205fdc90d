"""What is exported is what was trained, and plain transformers says so in a process of its own."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from ropewalk.core.artifact import find_damage
from ropewalk.core.error import UserError
from ropewalk.model.engines import Serving, describe_commands, find_commands, is_native
from ropewalk.model.export import export, read_weights
from ropewalk.model.family import CLASSES
from ropewalk.model.load import load_model
from ropewalk.model.verify import compute_logits, verify_export
from ropewalk.model.weights import SINGLE
from ropewalk.recipe.load import parse_stage
from ropewalk.study.ranks import extend
from ropewalk.study.verify import verify_model

Save = Callable[..., Path]
METHODS = {
    "theta": ["rope.kind=theta", "rope.theta=1e6"],
    "linear": ["rope.kind=linear"],
    "ntk": ["rope.kind=ntk"],
    "ntk_by_parts": ["rope.kind=ntk_by_parts"],
    "yarn": ["rope.kind=yarn", "rope.truncate=false", "rope.mscale=1.0", "rope.mscale_all_dim=0.5"],
    "llama3": ["rope.kind=llama3"],
    "proportional": ["rope.kind=proportional", "rope.share=0.5"],
    "resonance": ["rope.kind=resonance"],
    "nope": ["rope.kind=nope"],
}
TEXT = torch.arange(128)[None] * 31 % 97


def stretch(base: Path, out: Path, overrides: list[str]) -> Path:
    """What a user gets of ``base`` at 128 tokens, exported in float32."""
    extended = out.with_name(f"{out.name}-extended")
    extend(base, extended, parse_stage(["context=128", *overrides]))
    export(extended, extended, out, dtype="float32")
    return out


def compare(folder: Path, tokens: int = 128) -> tuple[float, torch.Tensor]:
    """The largest difference of our logits from a plain call of the loaded model, relative to their norm, and its."""
    text = TEXT[:, :tokens]
    model = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) if is_native(folder) else load_model(folder)
    )
    with torch.no_grad():
        theirs = model(text, use_cache=False).logits[0]
    ours = compute_logits(folder, {"tokens": text[0], "places": torch.arange(tokens)})
    return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max()), theirs


def move(folder: Path) -> dict[str, torch.Tensor]:
    """Weights as training leaves them: float32, not the base's."""
    return {name: tensor.float() + 0.01 for name, tensor in read_weights(folder).items()}


@pytest.mark.parametrize(("architecture", "tied"), [("Olmo2ForCausalLM", False), ("Qwen2ForCausalLM", True)])
def test_exports_verify_in_a_fresh_process(save_tiny: Save, tmp_path: Path, architecture: str, tied: bool) -> None:
    extended, out = tmp_path / "extended", tmp_path / "out"
    extend(save_tiny(architecture, tie_word_embeddings=tied), extended, parse_stage(["context=128", "rope.kind=yarn"]))
    trained = move(extended)
    export(trained, extended, out, dtype="bfloat16")
    assert find_damage(out) is None
    found = verify_export(out)
    assert sorted(found) == [0, 31, 32, 127] and max(found.values()) <= 1e-5
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert config["rope_parameters"]["rope_type"] == config["rope_scaling"]["rope_type"] == "yarn"
    assert AutoModelForCausalLM.from_pretrained(out).dtype == torch.bfloat16
    for name, tensor in load_file(out / SINGLE).items():
        assert torch.equal(tensor, trained[name].bfloat16())


def test_float32_keeps_every_bit_and_a_folder_is_a_source_too(save_tiny: Save, tmp_path: Path) -> None:
    base = save_tiny()
    export(move(base), base, tmp_path / "trained", dtype="float32")
    export(tmp_path / "trained", tmp_path / "trained", tmp_path / "out", dtype="float32")
    assert (tmp_path / "out" / SINGLE).read_bytes() == (tmp_path / "trained" / SINGLE).read_bytes()
    tokens = torch.arange(20)[None]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(plain(tokens).logits, load_model(tmp_path / "trained")(tokens).logits)


def test_wrong_weights_are_refused(save_tiny: Save, tmp_path: Path) -> None:
    base = save_tiny()
    weights = move(base)
    with pytest.raises(UserError, match="1 missing"):
        export({name: weights[name] for name in list(weights)[1:]}, base, tmp_path / "out", dtype="float32")
    weights["model.norm.weight"][3] = float("inf")
    with pytest.raises(UserError, match=r"model\.norm\.weight is not finite"):
        export(weights, base, tmp_path / "out", dtype="float32")
    assert not (tmp_path / "out").exists()


def test_an_export_that_nobody_else_can_load_is_refused(save_tiny: Save, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extend(save_tiny(), out, parse_stage(["context=64", *METHODS["theta"]]))
    path = out / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "unheard"'))
    with pytest.raises(UserError, match="does not load in plain transformers"):
        verify_export(out, places=(0, 63))


@pytest.mark.parametrize("architecture", CLASSES)
def test_every_method_is_read_by_plain_transformers(save_tiny: Save, tmp_path: Path, architecture: str) -> None:
    base = save_tiny(architecture)
    for name, overrides in METHODS.items():
        out = stretch(base, tmp_path / name, overrides)
        assert is_native(out), name
        difference, after = compare(out)
        assert difference <= 1e-5, name
        _, before = compare(base)
        assert float((after - before).norm() / before.norm()) > 1e-3, f"{name} changes nothing, so proves nothing"
        assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 128


@pytest.mark.parametrize("name", METHODS)
def test_both_dialects_tell_the_same_in_whole_numbers(save_tiny: Save, tmp_path: Path, name: str) -> None:
    config = json.loads((stretch(save_tiny(), tmp_path / "out", METHODS[name]) / "config.json").read_text())
    assert config["max_position_embeddings"] == 128
    scaling = {key: value for key, value in config["rope_parameters"].items() if key != "rope_theta"}
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config.get("rope_scaling", {"rope_type": "default"}) == scaling
    sizes = [value for key, value in (config | scaling).items() if key.endswith(("_size", "position_embeddings"))]
    assert len(sizes) >= 4 and {type(size) for size in sizes} == {int}


def ask(folder: Path, engine: str) -> Serving:
    return next(serving for serving in find_commands(folder) if serving.engine == engine)


def test_an_engine_that_runs_another_model_gets_no_command(save_tiny: Save, tmp_path: Path) -> None:
    base = save_tiny()
    for name, overrides in METHODS.items():
        stretch(base, tmp_path / name, overrides)
    for name in ("theta", "ntk", "linear", "llama3"):
        for engine, length in (("vLLM", "--max-model-len 128"), ("SGLang", "--context-length 128")):
            assert ask(tmp_path / name, engine).command.endswith(length)
        assert ask(tmp_path / name, "llama.cpp").command.endswith(f"{tmp_path / name}.gguf -c 128")
    # What llama.cpp multiplies by is 1 + 0.1 ln 4 times this, and 1 was trained.
    assert "llama.rope.scaling.attn_factor=float:0.878248" in ask(tmp_path / "ntk_by_parts", "llama.cpp").command
    for name in ("ntk_by_parts", "proportional", "nope", "resonance"):
        assert ask(tmp_path / name, "vLLM").command.endswith("--model-impl transformers")
    for name, engine, why in (
        ("ntk_by_parts", "SGLang", "attention_factor"),
        ("yarn", "llama.cpp", "rounds the ends"),
        ("proportional", "llama.cpp", "does not know proportional"),
        ("proportional", "SGLang", "every key of proportional"),
    ):
        refusal = ask(tmp_path / name, engine)
        assert not refusal.command and why in refusal.note
        assert f"{engine:<10} not this folder" in describe_commands(tmp_path / name)


@pytest.mark.parametrize(
    ("architecture", "overrides", "why"),
    [
        ("Qwen3ForCausalLM", METHODS["llama3"], "does not know llama3"),
    ],
)
def test_llama_cpp_gets_no_folder_that_its_converter_misreads(
    save_tiny: Save, tmp_path: Path, architecture: str, overrides: list[str], why: str
) -> None:
    refusal = ask(stretch(save_tiny(architecture), tmp_path / "out", overrides), "llama.cpp")
    assert not refusal.command and why in refusal.note


def test_verifying_a_folder_tells_differences_and_commands(save_tiny: Save, tmp_path: Path) -> None:
    told = verify_model(str(stretch(save_tiny(), tmp_path / "out", METHODS["theta"])))
    assert sorted(told["differences"]) == [0, 31, 32, 127] and told["native"]
    assert [engine["engine"] for engine in told["engines"]] == ["vLLM", "SGLang", "llama.cpp"]
    assert "       127   " in told["text"] and "vllm serve" in told["text"]
    with pytest.raises(UserError, match="model"):
        verify_model(str(tmp_path / "nowhere"))
