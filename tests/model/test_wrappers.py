"""The text part of a multimodal folder: trained as a text model, written back, and everything else to the bit."""

import json
from dataclasses import fields, replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.model.engines import find_commands
from ropewalk.model.export import export
from ropewalk.model.export_parity import verify_both, verify_export
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.plain_reload import generate_tokens, load_plain
from ropewalk.model.read_rows import read_header
from ropewalk.model.weights import INDEX, SINGLE, read_headers, stored_dtype
from ropewalk.recipe.load import parse_stage
from ropewalk.shape.read import read_shape
from ropewalk.shape.wrappers import WRAPPERS, Wrapper
from tiny_wrappers import MORE, SETTINGS, VOCABULARY, is_text, load_whole, make_wrapper, read_tensors, save_wrapper

TEXT_CLASSES = {
    "qwen3_5": "Qwen3_5ForCausalLM",
    "gemma3": "Gemma3ForCausalLM",
    "gemma4": "Gemma4ForCausalLM",
    "mistral3": "MistralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "qwen2_5_vl": "Qwen2ForCausalLM",
    "qwen3_vl": "Qwen3ForCausalLM",
    "qwen3_vl_moe": "Qwen3MoeForCausalLM",
    "internvl": "Qwen3ForCausalLM",
    "llava": "MistralForCausalLM",
    "qwen2_vl": "Qwen2ForCausalLM",
    "smolvlm": "LlamaForCausalLM",
}
TOKENS = torch.arange(200)[None] * 7 % (VOCABULARY - 8)  # longer than the context; without the marks of images
PREFIXES = {
    r"^language_model\.lm_head": "lm_head",
    r"^(language_model\.model|model\.language_model|model\.text_model)\.": "model.",
}


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(TOKENS, use_cache=False).logits


def stretch(base: Path, out: Path, *overrides: str) -> Path:
    stage = parse_stage(["context_length=256", *overrides])
    extend(base, out, rope=stage.rope, layers=stage.layers, context_tokens=stage.reach_tokens)
    return out


def load_as_text(folder: Path, kind: str) -> Any:
    """The text model of a multimodal folder, by plain transformers alone: its class, its config, its names."""
    config = json.loads((folder / "config.json").read_text())
    text_class = getattr(transformers, TEXT_CLASSES[kind])
    text = {**config["text_config"], "model_type": text_class.config_class.model_type}
    text |= {"tie_word_embeddings": config["tie_word_embeddings"]}
    model, report = text_class.from_pretrained(
        folder,
        config=text_class.config_class.from_dict(text),
        dtype=torch.float32,
        key_mapping=PREFIXES,
        output_loading_info=True,
    )
    assert not report["missing_keys"]
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TEXT_CLASSES)
def test_the_text_part_loads_alone_and_computes_what_the_whole_does(kind: str, tied: bool, tmp_path: Path) -> None:
    folder = save_wrapper(tmp_path, kind, tie_word_embeddings=tied)
    shape, ours = read_shape(folder), load_model(folder)
    assert type(ours).__name__ == shape.architecture == TEXT_CLASSES[kind] and shape.tied == tied
    assert sum(parameter.numel() for parameter in ours.parameters()) == shape.parameters
    torch.testing.assert_close(logits(ours), logits(load_whole(folder)), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["qwen2_5_vl", "qwen3_vl"])
def test_positions_with_three_axes_are_plain_rope_on_text(kind: str) -> None:
    """M-RoPE takes each pair's position from one of three axes, and a text token has the same number on all."""
    whole, tokens = make_wrapper(kind), TOKENS[:, :24]
    places = torch.arange(24)
    equal = places.expand(3, 1, -1)
    text = getattr(transformers, TEXT_CLASSES[kind])
    config = whole.config.text_config.to_dict()
    plain = {"rope_type": "default", "rope_theta": config["rope_parameters"]["rope_theta"]}
    made = text.config_class.from_dict({**config, "model_type": text.config_class.model_type, "rope_parameters": plain})
    made.tie_word_embeddings = False
    alone = text(made).eval()
    own = whole.state_dict()
    names = {name: name.replace("model.", "model.language_model.", 1) for name in alone.state_dict()}
    alone.load_state_dict({name: own[names[name]] for name in names})
    with torch.no_grad():
        wanted = alone(tokens, use_cache=False).logits
        torch.testing.assert_close(whole(tokens, position_ids=equal, use_cache=False).logits, wanted, rtol=0, atol=0)
        unequal = torch.stack([places, places // 2, places // 3])[:, None]
        other = whole(tokens, position_ids=unequal, use_cache=False).logits
    assert (other - wanted).abs().max() > 1e-3  # the axes are used: the equality above is no accident


@pytest.mark.parametrize(
    ("kind", "method"),
    [*product(SETTINGS, ("theta", "yarn")), ("smolvlm", "yarn"), ("gemma4", "theta"), ("qwen3_5", "theta")],
)
def test_the_stretched_and_trained_text_part_goes_back_into_its_files(kind: str, method: str, tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, kind, tie_word_embeddings=kind == "gemma3", shard_bytes=60_000)
    settings = ["rope.kind=theta", "rope.theta=5e7"] if method == "theta" else ["rope.kind=yarn"]
    extended = stretch(base, tmp_path / "extended", *settings)
    ours = load_model(extended)
    torch.testing.assert_close(logits(ours), logits(load_whole(extended)), rtol=0, atol=0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.02
    trained = {name: tensor for name, tensor in ours.state_dict().items() if name in read_headers(extended)}
    out = tmp_path / "out"
    export(trained, extended, out, dtype="float32")
    for model in (load_whole(out), load_as_text(out, kind)):
        torch.testing.assert_close(logits(model), logits(ours), rtol=0, atol=0)
    before, after = read_tensors(base), read_tensors(out)
    assert {name for name in before if torch.equal(before[name], after[name])} == {
        name
        for name in before
        if not is_text(name) or name.endswith("layer_scalar")  # Gemma 4: it has no gradient
    }
    files = sorted(path.name for path in base.glob("*.safetensors"))
    assert len(files) > 1 and (out / INDEX).read_bytes() == (base / INDEX).read_bytes()
    for name in files:
        assert read_header(out / name) == read_header(base / name)
    assert "beside its text model" in read_manifest(extended)["facts"]["carried"]
    for name in ("preprocessor_config.json", "processor_config.json"):
        assert (out / name).read_bytes() == (base / name).read_bytes()


def test_only_the_positions_of_the_text_change_in_the_config(tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, "qwen3_vl")
    before = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(before | {"max_position_embeddings": 64}))  # a copy at the top
    after = json.loads((stretch(base, tmp_path / "out", "rope.kind=yarn") / "config.json").read_text())
    text, old = after.pop("text_config"), before.pop("text_config")
    assert after == {**before, "max_position_embeddings": 256, "torch_dtype": "float32"}
    changed = {"rope_parameters", "rope_scaling", "rope_theta", "max_position_embeddings"}
    assert {name: text[name] for name in text if name not in changed} == {
        name: old[name] for name in old if name not in changed
    }
    axes = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}
    assert axes.items() <= text["rope_parameters"].items() and axes.items() <= text["rope_scaling"].items()


def test_another_type_and_back_gives_the_same_files(tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, "qwen3_vl", dtype="bfloat16")
    extended = stretch(base, tmp_path / "extended", "rope.kind=yarn")
    weights = load_model(extended).state_dict()
    export(weights, extended, tmp_path / "wide", dtype="float32")
    wide, old = read_tensors(tmp_path / "wide"), read_tensors(base)
    assert {tensor.dtype for name, tensor in wide.items() if is_text(name)} == {torch.float32}
    assert all(tensor.dtype == torch.bfloat16 for name, tensor in wide.items() if not is_text(name))
    assert all(torch.equal(old[name], tensor) for name, tensor in wide.items() if not is_text(name))
    assert stored_dtype(tmp_path / "wide") == "float32"
    torch.testing.assert_close(logits(load_whole(tmp_path / "wide")), logits(load_model(extended)), rtol=0, atol=0)
    export(tmp_path / "wide", tmp_path / "wide", tmp_path / "back", dtype="bfloat16")
    header, begin = read_header(base / SINGLE)
    again, again_begin = read_header(tmp_path / "back" / SINGLE)
    assert list(again.items()) == list(header.items())
    assert (tmp_path / "back" / SINGLE).read_bytes()[again_begin:] == (base / SINGLE).read_bytes()[begin:]


def test_the_index_of_several_files_has_the_bytes_of_another_type(tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, "qwen3_vl", shard_bytes=20_000)
    export(base, base, tmp_path / "narrow", dtype="bfloat16")
    old, new = (json.loads((folder / INDEX).read_text()) for folder in (base, tmp_path / "narrow"))
    assert len(set(new["weight_map"].values())) > 1 and new["weight_map"] == old["weight_map"]
    stored = sum(tensor.nbytes for tensor in read_tensors(tmp_path / "narrow").values())
    assert new["metadata"]["total_size"] == stored < old["metadata"]["total_size"]


@pytest.mark.usefixtures("forked_reload")
def test_another_process_reloads_the_multimodal_class(tmp_path: Path) -> None:
    out = stretch(save_wrapper(tmp_path, "gemma3"), tmp_path / "out", "rope.kind=yarn")
    assert max(verify_export(out, places=(0, 255)).values()) <= 1e-5
    tensors = load_file(out / SINGLE)
    gone = next(name for name in tensors if not is_text(name))
    (out / SINGLE).unlink()
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, out / SINGLE, {"format": "pt"})
    with pytest.raises(RuntimeError, match="the files lack 1 tensor of Gemma3ForConditionalGeneration"):
        load_plain(str(out))


@pytest.mark.usefixtures("forked_reload")
def test_a_text_without_marks_of_pictures_verifies_a_class_that_reads_another_embedding_there(tmp_path: Path) -> None:
    """Gemma 4 takes the padding's own numbers for each layer at them; a random text of a real vocabulary has some."""
    out = stretch(save_wrapper(tmp_path, "gemma4"), tmp_path / "out", "rope.kind=theta", "rope.theta=5e8")
    differences, generated = verify_both(out)
    assert max(differences.values()) <= 1e-5 and generated is not None and generated.difference <= 1e-5


@pytest.mark.parametrize("kind", SETTINGS)
def test_the_multimodal_class_generates_what_our_logits_choose(kind: str, tmp_path: Path) -> None:
    out = stretch(save_wrapper(tmp_path, kind), tmp_path / "out", "rope.kind=yarn")
    prompt, count = TOKENS[0, :80], 3
    asked = {"tokens": prompt, "generate": torch.tensor(count), "cached": torch.tensor(True)}
    with torch.no_grad():
        theirs = generate_tokens(load_plain(str(out)), asked, generates=True)
        whole = torch.cat([prompt, theirs["written"]])
        ours = load_model(out)(whole[None], use_cache=False).logits[0, len(prompt) - 1 : -1]
    torch.testing.assert_close(theirs["logits"], ours, rtol=1e-5, atol=1e-5)


def flatten(config: dict[str, Any]) -> dict[str, Any]:
    """The config.json of a Qwen2.5-VL as the hub has it: the text's keys at the top, its axes in rope_scaling."""
    text = config.pop("text_config")
    axes = text.pop("rope_parameters")
    del text["layer_types"], text["model_type"]
    return {
        **text,
        **config,
        "rope_theta": axes["rope_theta"],
        "rope_scaling": {"type": "mrope", "mrope_section": axes["mrope_section"]},
        "use_sliding_window": False,
        "sliding_window": 64,
        "max_window_layers": 2,
    }


def test_a_flat_config_of_transformers_4(tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, "qwen2_5_vl")
    config = flatten(json.loads((base / "config.json").read_text()))
    (base / "config.json").write_text(json.dumps(config))
    out = stretch(base, tmp_path / "out", "rope.kind=yarn")
    torch.testing.assert_close(logits(load_model(out)), logits(load_whole(out)), rtol=0, atol=0)
    after = json.loads((out / "config.json").read_text())
    assert "text_config" not in after and after["rope_scaling"]["rope_type"] == "yarn"
    assert after["rope_scaling"]["mrope_section"] == [1, 1, 2] and after["max_position_embeddings"] == 256
    assert after["vision_config"] == config["vision_config"]


def edit(folder: Path, top: dict[str, Any], text: dict[str, Any] | None = None) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | top
    if text is not None:
        config["text_config"] = {k: v for k, v in {**config["text_config"], **text}.items() if v is not ...}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def test_the_top_of_the_config_says_whether_the_head_is_tied(tmp_path: Path) -> None:
    tied = save_wrapper(tmp_path / "tied", "mistral3", tie_word_embeddings=True)
    edit(tied, {}, {"tie_word_embeddings": False})
    out = stretch(tied, tmp_path / "out", "rope.kind=yarn")
    torch.testing.assert_close(logits(load_model(out)), logits(load_whole(out)), rtol=0, atol=0)
    after = json.loads((out / "config.json").read_text())
    assert after["tie_word_embeddings"] is after["text_config"]["tie_word_embeddings"] is True
    # Neither says it, as in files of transformers 4: the default of the text class, and then both readers agree.
    untied = save_wrapper(tmp_path / "untied", "mistral3")
    edit(untied, {"tie_word_embeddings": ...}, {"tie_word_embeddings": ...})
    out = stretch(untied, tmp_path / "silent", "rope.kind=yarn")
    torch.testing.assert_close(logits(load_model(out)), logits(load_whole(out)), rtol=0, atol=0)
    assert json.loads((out / "config.json").read_text())["tie_word_embeddings"] is False
    edit(untied, {"tie_word_embeddings": True})
    with pytest.raises(UserError, match=r"lm_head\.weight is tied in the config, but has its own values"):
        load_model(untied)
    edit(tied, {"tie_word_embeddings": False})
    with pytest.raises(UserError, match="the weights do not match this config") as caught:
        load_model(tied)
    assert "1 missing (lm_head.weight)" in caught.value.why


def keep(folder: Path, choose: Any) -> None:
    tensors = {choose(name): tensor for name, tensor in load_file(folder / SINGLE).items() if choose(name)}
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})


def test_broken_folders_are_refused_by_name(tmp_path: Path) -> None:
    def broken(name: str, choose: Any = lambda name: name, **changes: Any) -> Path:
        folder = save_wrapper(tmp_path / name, "gemma3")
        keep(folder, choose)
        edit(folder, changes)
        return folder

    head = "vision_tower.head.probe"
    for folder, what, why in (
        (broken("other", lambda name: name.replace("language_model.model", "text")), "not in its files", "text.embed"),
        (broken("tower", lambda name: name if name != head else None), "a part of this multimodal", "random ones"),
        (
            broken("alone", lambda name: name if is_text(name) else None),
            "a part of this multimodal",
            "the files have 0",
        ),
        (broken("nothing", text_config=...), "has no text part", "the key is missing"),
        (broken("unknown", architectures=["OtherForConditionalGeneration"]), "OtherForCond", "inputs other than text"),
    ):
        with pytest.raises(UserError, match=what) as caught:
            stretch(folder, tmp_path / "out", "rope.kind=yarn")
        assert why in caught.value.why and str(folder) in caught.value.where


def test_a_class_that_ignores_the_scale_of_its_text_part(tmp_path: Path) -> None:
    """Measured: in transformers Aya Vision's logits are those of the head, and Cohere's are multiplied by 1/16."""
    folder = save_wrapper(tmp_path, "aya_vision")
    with pytest.raises(UserError, match="computes other logits than its text part") as caught:
        load_model(folder)
    assert caught.value.where.endswith("text_config.logit_scale") and "it is 0.0625" in caught.value.why
    edit(folder, {}, {"logit_scale": 1.0})
    torch.testing.assert_close(logits(load_model(folder)), logits(load_whole(folder)), rtol=0, atol=0)
    capped = save_wrapper(tmp_path, "gemma3")
    edit(capped, {}, {"final_logit_softcapping": 2.0})
    with pytest.raises(UserError, match="computes other logits than its text part"):
        load_model(capped)


def test_a_missing_file_of_the_tower_is_named(tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, "qwen3_vl", shard_bytes=60_000)
    places = json.loads((base / INDEX).read_text())["weight_map"]
    gone = next(file for name, file in places.items() if not is_text(name))
    (base / gone).unlink()
    with pytest.raises(UserError, match="the weights are damaged") as caught:
        stretch(base, tmp_path / "out", "rope.kind=yarn")
    assert gone in caught.value.where


@pytest.mark.parametrize(
    ("kind", "settings", "why"),
    [
        ("mistral3", ["rope.kind=yarn", "layers=[{window: 16}, {window: 8}]"], "no class of transformers has them"),
        ("qwen3_vl", ["rope.kind=yarn", "layers=[{window: 16}, {}]"], "has no windows"),
        ("qwen2_5_vl", ["rope.kind=theta", "rope.theta=1e7", "layers=[{}, {rope: nope}]"], "no class of transformers"),
    ],
)
def test_positions_that_the_multimodal_class_has_not(kind: str, settings: list[str], why: str, tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, kind)
    with pytest.raises(UserError, match="cannot have these positions") as caught:
        stretch(base, tmp_path / "out", *settings)
    assert why in caught.value.why and not (tmp_path / "out").exists()


def test_windows_make_another_text_part_where_the_multimodal_class_takes_any(tmp_path: Path) -> None:
    out = stretch(
        save_wrapper(tmp_path, "mistral3"), tmp_path / "out", "rope.kind=unchanged", "layers=[{window: 16}, {}]"
    )
    config = json.loads((out / "config.json").read_text())
    assert (config["model_type"], config["text_config"]["model_type"]) == ("mistral3", "ministral")
    torch.testing.assert_close(logits(load_model(out)), logits(load_whole(out)), rtol=0, atol=1e-6)


def test_engines_get_the_rules_of_the_text_class(tmp_path: Path) -> None:
    gemma = stretch(save_wrapper(tmp_path, "gemma3"), tmp_path / "gemma", "rope.kind=theta", "rope.theta=5e7")
    served = {serving.engine: serving for serving in find_commands(gemma)}
    assert served["vLLM"].command.endswith("--max-model-len 256") and served["SGLang"].command
    qwen = stretch(save_wrapper(tmp_path, "qwen3_vl"), tmp_path / "qwen", "rope.kind=yarn")
    served = {serving.engine: serving for serving in find_commands(qwen)}
    assert served["vLLM"].command and "not tried" in served["llama.cpp"].note


def check_text_ties(folder: Path) -> None:
    """Files before transformers 5 have it in the text config, and these classes take it from there."""
    edit(folder, {"tie_word_embeddings": False}, {"tie_word_embeddings": True})
    out = stretch(folder, folder.parent / "tied", "rope.kind=yarn")
    torch.testing.assert_close(logits(load_model(out)), logits(load_whole(out)), rtol=0, atol=0)


def check_flat(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(flatten(json.loads((folder / "config.json").read_text()))))
    assert read_shape(folder).layers == 2


def check_axes(folder: Path) -> None:
    out = stretch(folder, folder.parent / "axes", "rope.kind=yarn")
    assert "mrope_section" in json.loads((out / "config.json").read_text())["text_config"]["rope_parameters"]


def check_windows(folder: Path) -> None:
    with pytest.raises(UserError, match="cannot have these positions"):
        stretch(folder, folder.parent / "windows", "rope.kind=yarn", "layers=[{window: 16}, {}]")


ROPE_KEYS = ("rope_parameters", "rope_scaling", "layer_types")


ASSUMED = {name: tuple(row.assumed) for name, row in WRAPPERS.items()}
"""The keys of the rows as they are; a test changes the rows."""


def check_assumed(folder: Path) -> None:
    """Every key that the row gives is left out of the file, and the class's default is what is read."""
    text = json.loads((folder / "config.json").read_text())["text_config"]
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    edit(folder, {}, dict.fromkeys(ASSUMED[name], ...) | dict.fromkeys(ROPE_KEYS, ...))
    shape, theirs = read_shape(folder), transformers.AutoConfig.from_pretrained(folder).get_text_config()
    assert (shape.width, shape.vocabulary) == (theirs.hidden_size, theirs.vocab_size)
    block = theirs.rope_parameters.get("full_attention", theirs.rope_parameters)
    assert shape.theta == block["rope_theta"] and text["model_type"] == theirs.model_type


def check_runs(folder: Path) -> None:
    read_shape(folder)


def check_turned(folder: Path) -> None:
    """Qwen3-VL-MoE's published files have [experts, in, out]; those that transformers saves have [experts, out, in]."""
    tensors = read_tensors(folder)
    experts = {name: tensors[name].transpose(1, 2).contiguous() for name in tensors if ".mlp.experts." in name}
    assert len(experts) == 2
    save_file(tensors | experts, folder / SINGLE, {"format": "pt"})
    check_experts(folder)


def check_rules(folder: Path) -> None:
    torch.testing.assert_close(logits(load_model(folder)), logits(load_whole(folder)), rtol=0, atol=1e-6)


def check_always(folder: Path) -> None:
    edit(folder, {}, {"norm_topk_prob": False})  # the class ignores the key and norms
    check_experts(folder)


def check_experts(folder: Path) -> None:
    """Trained experts go back into the files as the base has them, and the multimodal class computes what ours does."""
    ours = load_model(stretch(folder, folder.parent / "extended", "rope.kind=yarn"))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter += 0.02
    out = folder.parent / "out"
    export(ours.state_dict(), folder.parent / "extended", out, dtype="float32")
    assert read_header(out / SINGLE) == read_header(folder / SINGLE)
    torch.testing.assert_close(logits(load_whole(out)), logits(ours), rtol=0, atol=1e-6)


CHECKS = {
    "text_ties": (check_text_ties, True),
    "flat": (check_flat, False),
    "axes": (check_axes, False),
    "windows": (check_windows, False),
    "assumed": (check_assumed, False),
    "runs": (check_runs, False),
    "turned_experts": (check_turned, False),
    "always": (check_always, False),
    "obeys_rules": (check_rules, False),
}
"""For each field of a row: what needs it, and whether the folder's head is tied."""
KINDS = {
    f"{name}ForConditionalGeneration": kind for kind, (name, _) in (SETTINGS | MORE).items() if kind != "ministral3"
}


ELSEWHERE = {
    ("LlavaForConditionalGeneration", "assumed"): "tests/shape/test_wrappers.py, since the text part here is Mistral's"
}
"""Fields of a row that another test holds."""


def needed_fields() -> list[tuple[str, str]]:
    plain = {field.name: field for field in fields(Wrapper)}
    return [
        (name, field)
        for name in KINDS
        for field in CHECKS
        if getattr(WRAPPERS[name], field) not in (plain[field].default, {}) and (name, field) not in ELSEWHERE
    ]


@pytest.mark.parametrize(("name", "field"), needed_fields())
def test_each_field_of_a_row_is_needed(name: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check, tied = CHECKS[field]
    check(save_wrapper(tmp_path / "right", KINDS[name], tie_word_embeddings=tied))
    default: Any = {} if field in ("runs", "assumed", "always") else Wrapper.__dataclass_fields__[field].default
    monkeypatch.setitem(WRAPPERS, name, replace(WRAPPERS[name], **{field: default}))  # type: ignore[arg-type]
    folder = save_wrapper(tmp_path / "wrong", KINDS[name], tie_word_embeddings=tied)
    with pytest.raises((UserError, AssertionError, KeyError, pytest.fail.Exception)):
        check(folder)
