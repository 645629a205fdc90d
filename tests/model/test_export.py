"""What is exported is what was trained, and plain transformers says so in a process of its own."""

import json
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from llama_kin import LLAMA_KIN
from ropewalk.cli.main import app
from ropewalk.commands.verify_export import verify_model
from ropewalk.core.artifact import find_damage
from ropewalk.core.error import UserError
from ropewalk.model.engines import Serving, describe_commands, find_commands, is_native
from ropewalk.model.export import export
from ropewalk.model.export_parity import compute_logits, verify_export, verify_generation
from ropewalk.model.extend import extend
from ropewalk.model.lazy_weights import read_weights
from ropewalk.model.load import load_model
from ropewalk.model.weights import SINGLE
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.load import parse_stage
from ropewalk.rope.scaling import Theta, Yarn
from ropewalk.shape.families import OWN_ARCHITECTURE

Save = Callable[..., Path]
FACTORS = "[1.0, 1.5, 2.0, 4.0]"
METHODS = {
    "theta": ["rope.kind=theta", "rope.theta=1e6"],
    "linear": ["rope.kind=linear"],
    "ntk": ["rope.kind=ntk"],
    "ntk_by_parts": ["rope.kind=ntk_by_parts"],
    "yarn": ["rope.kind=yarn", "rope.mscale=1.0", "rope.mscale_all_dim=0.5"],
    "not_truncated": ["rope.kind=yarn", "rope.truncate=false"],
    "llama3": ["rope.kind=llama3"],
    "proportional": ["rope.kind=proportional", "rope.share=0.5"],
    "dynamic": ["rope.kind=dynamic"],
    "longrope": ["rope.kind=longrope", f"rope.long_factor={FACTORS}"],
    "resonance": ["rope.kind=resonance"],
    "nope": ["rope.kind=nope"],
}
BY_LENGTH = {"dynamic", "longrope"}
WINDOWS = "layers=[{window: 16}, {}]"
# A Ministral has one RoPE for all layers, and only its full ones are stretched; where there is one for each type of
# layer, transformers does not read truncate.
OURS = {("MinistralForCausalLM", name) for name in METHODS if name != "nope"}
OURS |= {("Olmo3ForCausalLM", "not_truncated"), ("Gemma3ForCausalLM", "not_truncated")}
PATTERNS = [
    ("LlamaForCausalLM", ["rope.kind=yarn", WINDOWS], "MinistralForCausalLM"),
    ("LlamaForCausalLM", ["rope.kind=theta", "rope.theta=1e6", "layers=[{}, {rope: nope}]"], "SmolLM3ForCausalLM"),
    ("MistralForCausalLM", ["rope.kind=unchanged", "layers=[{window: 16}, {rope: nope}]"], "SmolLM3ForCausalLM"),
    ("MistralForCausalLM", ["rope.kind=linear", "layers=[{window: 64}]"], "MistralForCausalLM"),
    ("Qwen2ForCausalLM", ["rope.kind=yarn", WINDOWS], "Qwen2ForCausalLM"),
    ("Qwen3ForCausalLM", ["rope.kind=linear", WINDOWS], "Qwen3ForCausalLM"),
    ("Olmo2ForCausalLM", ["rope.kind=yarn", "layers=[{window: 16, rope: unchanged}, {}]"], "Olmo3ForCausalLM"),
    ("LlamaForCausalLM", ["rope.kind=yarn", "layers=[{window: 16, rope: unchanged}, {}]"], OWN_ARCHITECTURE),
    ("LlamaForCausalLM", ["rope.kind=theta", "rope.theta=1e6", "layers=[{temperature: log_n}]"], OWN_ARCHITECTURE),
    ("Qwen3ForCausalLM", ["rope.kind=dynamic", "layers=[{window: 16}, {rope: nope}]"], OWN_ARCHITECTURE),
]
TEXT = torch.arange(128)[None] * 31 % 97


def stretch(base: Path, out: Path, overrides: list[str]) -> Path:
    """What a user gets of ``base`` at 128 tokens, exported in float32."""
    extended = out.with_name(f"{out.name}-extended")
    stage = parse_stage(["context_length=128", *overrides])
    extend(base, extended, rope=stage.rope, layers=stage.layers, context_tokens=128)
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


def test_an_export_verifies_in_a_fresh_process(save_tiny: Save, tmp_path: Path) -> None:
    extended, out = tmp_path / "extended", tmp_path / "out"
    extend(save_tiny("Qwen2ForCausalLM", tie_word_embeddings=True), extended, rope=Yarn(), context_tokens=128)
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


@pytest.mark.usefixtures("forked_reload")
def test_an_export_that_nobody_else_can_load_is_refused(save_tiny: Save, tmp_path: Path) -> None:
    out = tmp_path / "out"
    extend(save_tiny(), out, rope=Theta(theta=1e6), context_tokens=64)
    path = out / "config.json"
    path.write_text(path.read_text().replace('"model_type": "llama"', '"model_type": "unheard"'))
    with pytest.raises(UserError, match="has changed since it was written"):
        verify_export(out)
    (out / "manifest.json").unlink()  # changed on purpose
    with pytest.raises(UserError, match="does not load in plain transformers"):
        verify_export(out, places=(0, 63))


@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_every_method_is_read_by_plain_transformers(save_tiny: Save, tmp_path: Path, architecture: str) -> None:
    base = save_tiny(architecture)
    _, before = compare(base)
    for name, overrides in METHODS.items():
        out = stretch(base, tmp_path / name, overrides)
        assert is_native(out) != ((architecture, name) in OURS), name
        difference, after = compare(out)
        assert difference <= 1e-5, name
        assert float((after - before).norm() / before.norm()) > 1e-3, f"{name} changes nothing, so proves nothing"
        if name in BY_LENGTH:
            assert compare(out, tokens=32)[0] <= 1e-5, name
        assert json.loads((out / "tokenizer_config.json").read_text())["model_max_length"] == 128


@pytest.mark.parametrize("name", sorted(BY_LENGTH))
def test_far_positions_turn_by_the_same_bits(save_tiny: Save, tmp_path: Path, name: str) -> None:
    factors = [f"rope.long_factor={[1 + pair / 7 for pair in range(16)]}"] if name == "longrope" else []
    rope = parse_stage(["context_length=32Ki", f"rope.kind={name}", *factors]).rope
    extend(save_tiny(head_dim=32), tmp_path / "far", rope=rope, context_tokens=1 << 15)
    ours, places = load_model(tmp_path / "far"), torch.tensor([[0, 5000, 20000, 32767]])
    told: dict[str, Any] = {}
    attention: Any = ours.model.layers[0].self_attn
    attention.register_forward_pre_hook(lambda module, args, given: told.update(given), with_kwargs=True)
    ours(torch.arange(4)[None], position_ids=places, use_cache=False)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "far").model.rotary_emb(torch.zeros(1), places)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(told["position_embeddings"], plain, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_both_dialects_tell_the_same_in_whole_numbers(save_tiny: Save, tmp_path: Path, name: str) -> None:
    config = json.loads((stretch(save_tiny(), tmp_path / "out", METHODS[name]) / "config.json").read_text())
    assert config["max_position_embeddings"] == (32 if name == "dynamic" else 128)
    scaling = {key: value for key, value in config["rope_parameters"].items() if key != "rope_theta"}
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    assert config.get("rope_scaling", {"rope_type": "default"}) == scaling
    sizes = [value for key, value in (config | scaling).items() if key.endswith(("_size", "position_embeddings"))]
    assert len(sizes) >= 4 and {type(size) for size in sizes} == {int}


@pytest.mark.parametrize(("architecture", "overrides", "becomes"), PATTERNS, ids=str)
def test_patterns_become_a_class_that_has_them_or_are_ours(
    save_tiny: Save, tmp_path: Path, architecture: str, overrides: list[str], becomes: str
) -> None:
    out = stretch(save_tiny(architecture), tmp_path / "out", overrides)
    assert json.loads((out / "config.json").read_text())["architectures"] == [becomes]
    assert compare(out)[0] <= 1e-5
    assert (out / "LOADING.md").exists() == (becomes == OWN_ARCHITECTURE)
    if becomes == OWN_ARCHITECTURE:
        with pytest.raises(ValueError, match="ropewalk"):
            AutoModelForCausalLM.from_pretrained(out)
        assert not any(serving.command for serving in find_commands(out))


def test_what_only_our_loader_runs_is_verified_by_it_in_a_fresh_process(save_tiny: Save, tmp_path: Path) -> None:
    out = stretch(save_tiny(), tmp_path / "out", ["rope.kind=yarn", "layers=[{window: 16, rope: unchanged}, {}]"])
    told = verify_model(str(out))
    assert max(told["differences"].values()) <= 1e-5 and not told["native"]
    assert "ropewalk.model.load.load_model" in told["text"] and "vllm serve" not in told["text"]


def test_a_long_text_alone_does_not_prove_a_method_that_looks_at_lengths(
    save_tiny: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stretch(save_tiny(), tmp_path / "out", METHODS["longrope"])
    lengths: list[int] = []

    def answer(_: Path, asked: list[dict[str, torch.Tensor]], device: torch.device) -> list[dict[str, torch.Tensor]]:
        lengths.extend(len(each["tokens"]) for each in asked)
        return [{"logits": torch.ones(len(each["places"]), 4)} for each in asked]

    monkeypatch.setattr("ropewalk.model.export_parity._ask_fresh_process", answer)
    monkeypatch.setattr(
        "ropewalk.model.export_parity._compute_ours", lambda _, text, places, *__: torch.ones(len(places), 4)
    )
    assert sorted(verify_export(out)) == [0, 31, 32, 127] and lengths == [128, 32]


def test_a_fresh_process_that_the_system_ends_is_told_as_such(
    save_tiny: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stretch(save_tiny(), tmp_path / "out", METHODS["yarn"])
    killed = subprocess.CompletedProcess([], -9, "", "a warning of transformers")
    monkeypatch.setattr("ropewalk.model.export_parity.subprocess.run", lambda *_, **__: killed)
    with pytest.raises(UserError, match="ended with code -9") as refused:
        verify_export(out)
    assert "warning" not in refused.value.why


@pytest.mark.usefixtures("forked_reload")
@pytest.mark.parametrize(
    "overrides", [METHODS["yarn"], METHODS["dynamic"], [*METHODS["theta"], "layers=[{temperature: log_n}]"]], ids=str
)
def test_another_process_writes_on_past_the_length_of_the_base(
    save_tiny: Save, tmp_path: Path, overrides: list[str]
) -> None:
    out = stretch(save_tiny(), tmp_path / "out", overrides)
    generated = verify_generation(out)
    assert generated is not None and generated.prompt_tokens > 32 and generated.written_tokens > 1
    assert generated.difference <= 1e-5
    (out / "generation_config.json").write_text('{"max_length": 32}')
    with pytest.raises(UserError, match="the maximal length of generation is below the context length"):
        verify_generation(out)


@pytest.mark.usefixtures("forked_reload")
def test_an_export_that_writes_something_else_is_refused(
    save_tiny: Save, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stretch(save_tiny(), tmp_path / "out", METHODS["theta"])
    ours = stretch(save_tiny(), tmp_path / "ours", METHODS["linear"])

    def compute(_: Path, text: torch.Tensor, places: list[int], *_settings: Any) -> torch.Tensor:
        return compute_logits(ours, {"tokens": text, "places": torch.tensor(places)})

    monkeypatch.setattr("ropewalk.model.export_parity._compute_ours", compute)
    with pytest.raises(UserError, match="differs from the trained model") as caught:
        verify_generation(out)
    assert "tokens generated after 37" in caught.value.why


CARRIED = {
    "additional_chat_templates/tools.jinja": "{{ tools }}",
    "chat_template.jinja": "{{ messages }}",
    "tekken.json": "{}",
    "tokenizer.model.v3": "v3",
    "qwen.tiktoken": "IQ== 0",
    "spiece.model": "s",
    "vocab.txt": "a",
    "tokenization_own.py": "from .own_parts import part\n",
    "own_parts.py": "part = 1\n",
    "LICENSE.txt": "free",
}


def test_what_stands_beside_the_weights_comes_along_at_its_new_length(save_tiny: Save, tmp_path: Path) -> None:
    base, out = save_tiny(), tmp_path / "out"
    for name, text in CARRIED.items():
        (base / name).parent.mkdir(exist_ok=True)
        (base / name).write_text(text)
    (base / "generation_config.json").write_text('{"max_length": 32,  "top_p": 0.9}')
    config = json.loads((base / "config.json").read_text())
    told = {
        "auto_map": {"AutoModel": "own.Model"},
        "max_sequence_length": 32,
        "attn_implementation": "flash_attention_2",
    }
    (base / "config.json").write_text(json.dumps(config | told))
    tokenizer = json.loads((base / "tokenizer.json").read_text())
    cut = {"direction": "Right", "max_length": 32, "strategy": "LongestFirst", "stride": 0}
    (base / "tokenizer.json").write_text(json.dumps(tokenizer | {"truncation": cut}))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    auto_map = {"AutoTokenizer": ["tokenization_own.Own", None]}
    (base / "tokenizer_config.json").write_text(json.dumps(settings | {"auto_map": auto_map}))
    stretch(base, out, METHODS["theta"])
    assert {name: (out / name).read_text() for name in CARRIED} == CARRIED
    assert (out / "generation_config.json").read_text() == '{"max_length": 128,  "top_p": 0.9}'
    after = json.loads((out / "config.json").read_text())
    assert after["max_sequence_length"] == 128 and not {"auto_map", "attn_implementation"} & set(after)
    assert json.loads((out / "tokenizer.json").read_text())["truncation"] == {**cut, "max_length": 128}
    assert json.loads((out / "tokenizer_config.json").read_text())["auto_map"] == auto_map
    assert find_damage(out) is None
    (base / "own_parts.py").unlink()
    (base / "generation_config.json").write_text('{"max_length": 4096}')
    stretch(base, tmp_path / "torn", METHODS["theta"])
    assert "auto_map" not in json.loads((tmp_path / "torn" / "tokenizer_config.json").read_text())
    assert (tmp_path / "torn" / "generation_config.json").read_text() == '{"max_length": 4096}'


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
    longrope = ask(tmp_path / "longrope", "vLLM")
    assert longrope.command.endswith("--max-model-len 128") and "short prompts too" in longrope.note
    stretch(base, tmp_path / "sharper", [*METHODS["longrope"], "rope.fixed_attention_factor=1.3"])
    for name, engine, why in (
        ("sharper", "vLLM", "computes the attention factor itself"),
        ("ntk_by_parts", "SGLang", "attention_factor"),
        ("not_truncated", "llama.cpp", "rounds the ends"),
        ("proportional", "llama.cpp", "does not know proportional"),
        ("proportional", "SGLang", "every key of proportional"),
        ("dynamic", "vLLM", "one theta for all prompts"),
        ("longrope", "SGLang", "one set of frequencies"),
        ("longrope", "llama.cpp", "does not know longrope"),
    ):
        refusal = ask(tmp_path / name, engine)
        assert not refusal.command and why in refusal.note
        assert f"{engine:<10} not this folder" in describe_commands(tmp_path / name)


@pytest.mark.parametrize(
    ("architecture", "overrides", "why"),
    [
        ("Qwen3ForCausalLM", METHODS["llama3"], "does not know llama3"),
        ("Qwen3ForCausalLM", ["rope.kind=linear", WINDOWS], "full attention in every layer"),
        ("LlamaForCausalLM", ["rope.kind=linear", WINDOWS], "refuses MinistralForCausalLM"),
        ("LlamaForCausalLM", ["rope.kind=linear", "layers=[{}, {rope: nope}]"], "three of four layers"),
    ],
)
def test_llama_cpp_gets_no_folder_that_its_converter_misreads(
    save_tiny: Save, tmp_path: Path, architecture: str, overrides: list[str], why: str
) -> None:
    refusal = ask(stretch(save_tiny(architecture), tmp_path / "out", overrides), "llama.cpp")
    assert not refusal.command and why in refusal.note


def test_a_shell_reads_the_commands_of_a_folder_with_blanks(save_tiny: Save, tmp_path: Path) -> None:
    out = stretch(save_tiny(), tmp_path / "模型 of mine", METHODS["theta"])
    for serving in find_commands(out):
        assert {f"{out}", f"{out}.gguf"} & {*shlex.split(serving.command)}, serving


@pytest.mark.usefixtures("forked_reload")
def test_verifying_a_folder_tells_differences_and_commands(save_tiny: Save, tmp_path: Path) -> None:
    told = verify_model(str(stretch(save_tiny(), tmp_path / "out", METHODS["theta"])))
    assert sorted(told["differences"]) == [0, 31, 32, 127] and told["native"]
    assert [engine["engine"] for engine in told["engines"]] == ["vLLM", "SGLang", "llama.cpp"]
    assert "       127   " in told["text"] and "vllm serve" in told["text"]
    with pytest.raises(UserError, match="model"):
        verify_model(str(tmp_path / "nowhere"))


@pytest.mark.parametrize("arguments", [[], ["export.dtype=bfloat16", "--verify"]])
def test_a_model_folder_is_an_export_already(tmp_path: Path, arguments: list[str]) -> None:
    refused = CliRunner().invoke(app, ["export", str(tmp_path), *arguments]).exception
    assert isinstance(refused, UserError) and f"ropewalk export {tmp_path} --verify" in refused.fix


@pytest.mark.parametrize("tied", [False, True])
def test_our_logits_are_the_same_on_a_sharded_model(save_tiny: Save, tied: bool) -> None:
    folder = save_tiny("Qwen3ForCausalLM", tie_word_embeddings=tied)
    request = {"tokens": torch.arange(30), "places": torch.tensor([0, 17, 29])}
    whole = compute_logits(folder, request)
    for found in run_ranks(lambda: compute_logits(folder, request, whole_bytes=0), 2, threads=1):
        assert torch.equal(found, whole)
