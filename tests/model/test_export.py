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
from ropewalk.model.extend import extend
from ropewalk.model.family import CLASSES
from ropewalk.model.load import load_model
from ropewalk.model.verify import compute_logits, verify_export
from ropewalk.model.weights import SINGLE
from ropewalk.rope.scaling import Linear, Llama3, Ntk, NtkByParts, Proportional, Theta, Yarn
from ropewalk.study.verify import verify_model

Save = Callable[..., Path]
METHODS = {
    "theta": Theta(theta=1e6),
    "linear": Linear(),
    "ntk": Ntk(),
    "ntk_by_parts": NtkByParts(),
    "yarn": Yarn(truncate=False, mscale=1.0, mscale_all_dim=0.5),
    "llama3": Llama3(),
    "proportional": Proportional(share=0.5),
}
TEXT = torch.arange(128)[None] * 31 % 97


def compare(folder: Path) -> tuple[float, torch.Tensor]:
    """The largest difference of our logits from plain transformers', relative to their norm, and theirs."""
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)(TEXT, use_cache=False).logits[0]
    ours = compute_logits(folder, {"tokens": TEXT[0], "places": torch.arange(128)})
    return float(((ours - theirs).norm(dim=1) / theirs.norm(dim=1)).max()), theirs


def move(folder: Path) -> dict[str, torch.Tensor]:
    """Weights as training leaves them: float32, not the base's."""
    return {name: tensor.float() + 0.01 for name, tensor in read_weights(folder).items()}


@pytest.mark.parametrize(("architecture", "tied"), [("Olmo2ForCausalLM", False), ("Qwen2ForCausalLM", True)])
def test_exports_verify_in_a_fresh_process(save_tiny: Save, tmp_path: Path, architecture: str, tied: bool) -> None:
    extended, out = tmp_path / "extended", tmp_path / "out"
    extend(save_tiny(architecture, tie_word_embeddings=tied), extended, rope=Yarn(), context_tokens=128)
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
    extend(save_tiny(), out, rope=Theta(theta=1e6), context_tokens=64)
    path = out / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "unheard"'))
    with pytest.raises(UserError, match="does not load in plain transformers"):
        verify_export(out, places=(0, 63))


@pytest.mark.parametrize("architecture", CLASSES)
def test_every_method_is_read_by_plain_transformers(save_tiny: Save, tmp_path: Path, architecture: str) -> None:
    base = save_tiny(architecture)
    _, before = compare(base)
    for name, method in METHODS.items():
        extend(base, tmp_path / name, rope=method, context_tokens=128)
        out = tmp_path / f"{name}-out"
        export(tmp_path / name, tmp_path / name, out, dtype="float32")
        difference, after = compare(out)
        assert difference <= 1e-5, name
        assert float((after - before).norm() / before.norm()) > 1e-3, f"{name} changes nothing, so proves nothing"
        config = json.loads((out / "config.json").read_text())
        assert is_native(out) and config["max_position_embeddings"] == 128
        assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
        scaling = {key: value for key, value in config["rope_parameters"].items() if key != "rope_theta"}
        assert config.get("rope_scaling", {"rope_type": "default"}) == scaling
        sizes = [value for key, value in (config | scaling).items() if key.endswith(("_size", "position_embeddings"))]
        assert len(sizes) >= 4 and {type(size) for size in sizes} == {int}
        assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 128


def ask(folder: Path, engine: str) -> Serving:
    return next(serving for serving in find_commands(folder) if serving.engine == engine)


def test_an_engine_that_runs_another_model_gets_no_command(save_tiny: Save, tmp_path: Path) -> None:
    base = save_tiny()
    for name, method in METHODS.items():
        extend(base, tmp_path / name, rope=method, context_tokens=128)
    for name in ("theta", "ntk", "linear", "llama3"):
        for engine, length in (("vLLM", "--max-model-len 128"), ("SGLang", "--context-length 128")):
            assert ask(tmp_path / name, engine).command.endswith(length)
        assert ask(tmp_path / name, "llama.cpp").command.endswith(f"{tmp_path / name}.gguf -c 128")
    # What llama.cpp multiplies by is 1 + 0.1 ln 4 times this, and 1 was trained.
    assert "llama.rope.scaling.attn_factor=float:0.878248" in ask(tmp_path / "ntk_by_parts", "llama.cpp").command
    assert ask(tmp_path / "ntk_by_parts", "vLLM").command.endswith("--model-impl transformers")
    for name, engine, why in (
        ("ntk_by_parts", "SGLang", "attention_factor"),
        ("yarn", "llama.cpp", "rounds the ends"),
        ("proportional", "llama.cpp", "does not write proportional"),
        ("proportional", "SGLang", "every key of proportional"),
    ):
        refusal = ask(tmp_path / name, engine)
        assert not refusal.command and why in refusal.note
        assert f"{engine:<10} not this folder" in describe_commands(tmp_path / name)


def test_what_llama_cpp_writes_for_llama_only_is_refused_elsewhere(save_tiny: Save, tmp_path: Path) -> None:
    extend(save_tiny("Qwen3ForCausalLM"), tmp_path / "out", rope=Llama3(), context_tokens=128)
    assert "does not write llama3" in ask(tmp_path / "out", "llama.cpp").note


def test_verifying_a_folder_tells_differences_and_commands(save_tiny: Save, tmp_path: Path) -> None:
    extend(save_tiny(), tmp_path / "out", rope=Yarn(), context_tokens=128)
    told = verify_model(str(tmp_path / "out"))
    assert sorted(told["differences"]) == [0, 31, 32, 127] and told["native"]
    assert [engine["engine"] for engine in told["engines"]] == ["vLLM", "SGLang", "llama.cpp"]
    assert "       127   " in told["text"] and "vllm serve" in told["text"]
    with pytest.raises(UserError, match="model"):
        verify_model(str(tmp_path / "nowhere"))
