"""A model folder loads whole, or not at all and with a cure."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.activations import ACT2FN

from llama_kin import LLAMA_KIN
from ropewalk.core.error import UserError
from ropewalk.model.load import load_model
from ropewalk.model.weights import INDEX, SINGLE, stored_dtype
from ropewalk.shape.values import ACTIVATIONS

Save = Callable[..., Path]
VOCABULARY = 97


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", LLAMA_KIN)
def test_every_family_loads_and_computes_what_plain_transformers_does(
    save_tiny: Save, architecture: str, tied: bool
) -> None:
    folder = save_tiny(architecture, tie_word_embeddings=tied)
    ours, plain = load_model(folder), AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.arange(40)[None] % VOCABULARY
    torch.testing.assert_close(ours(tokens).logits, plain(tokens).logits, rtol=0, atol=0)


def test_shards_and_types(save_tiny: Save) -> None:
    folder = save_tiny(shard_bytes=10_000)
    assert (folder / INDEX).is_file()
    model = load_model(folder, dtype="bfloat16")
    assert model.dtype == torch.bfloat16 and next(iter(model.buffers())).dtype == torch.float32
    assert stored_dtype(folder) == "float32"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensor(folder: Path, name: str, change: Callable[[torch.Tensor], torch.Tensor | None]) -> None:
    tensors = load_file(folder / SINGLE)
    changed = change(tensors.pop(name))
    save_file(tensors if changed is None else tensors | {name: changed}, folder / SINGLE, metadata={"format": "pt"})


def put_nan(tensor: torch.Tensor) -> torch.Tensor:
    tensor[3, 2] = float("nan")
    return tensor


NAME = "model.layers.1.mlp.up_proj.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / SINGLE).unlink(), "no model.safetensors, no model.safetensors.index.json"),
    "cut short": (
        lambda folder: (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-1000]),
        "the weights are damaged",
    ),
    "missing tensor": (lambda folder: change_tensor(folder, NAME, lambda _: None), rf"1 missing \({NAME}\)"),
    "other shape": (
        lambda folder: change_tensor(folder, NAME, lambda tensor: tensor[1:].clone()),
        r"stored \[47, 32\], expected \[48, 32\]",
    ),
    "nan": (lambda folder: change_tensor(folder, NAME, put_nan), "1 of 1536 values are NaN or infinite"),
    "whole numbers": (
        lambda folder: change_tensor(folder, NAME, lambda tensor: tensor.to(torch.int8)),
        "its type is I8",
    ),
    "fewer layers": (lambda folder: edit(folder, num_hidden_layers=1), "9 unknown"),
    "more layers": (lambda folder: edit(folder, num_hidden_layers=3), "9 missing"),
    "tied by the config only": (lambda folder: edit(folder, tie_word_embeddings=True), "tied in the config, but has"),
    "another width": (lambda folder: edit(folder, intermediate_size=64), "another shape than in the config"),
    "dropout": (lambda folder: edit(folder, attention_dropout=0.1), "attention dropout is not supported"),
    "unsupported": (lambda folder: edit(folder, architectures=["Zamba2ForCausalLM"]), "Zamba2"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_broken_folder_is_refused_with_a_cure(save_tiny: Save, case: str) -> None:
    folder = save_tiny()
    damage, words = DAMAGE[case]
    damage(folder)
    with pytest.raises(UserError, match=words) as caught:
        load_model(folder)
    assert caught.value.fix and str(folder) in caught.value.where


def test_broken_shards_are_refused(save_tiny: Save) -> None:
    folder = save_tiny(shard_bytes=10_000)
    index = json.loads((folder / INDEX).read_text())
    gone = folder / index["weight_map"][NAME]
    content = gone.read_bytes()
    gone.unlink()
    with pytest.raises(UserError, match="this one is missing") as caught:
        load_model(folder)
    assert gone.name in caught.value.where
    gone.write_bytes(content)
    other = next(path for path in folder.glob("model-*.safetensors") if path != gone)
    other.write_bytes(content)
    with pytest.raises(UserError, match=r"is also in|missing"):
        load_model(folder)
    index["weight_map"][NAME] = "../elsewhere.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="points outside the folder"):
        load_model(folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(UserError, match="not an index of weights"):
        load_model(folder)


def test_pickled_weights_are_refused_by_name(save_tiny: Save) -> None:
    folder = save_tiny()
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin, and a pickle can run code"):
        load_model(folder)


def test_a_tied_head_that_is_stored_twice_may_be_equal(save_tiny: Save) -> None:
    folder = save_tiny(tie_word_embeddings=True)
    tensors = load_file(folder / SINGLE)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as Llama 2's first files have it
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    model = load_model(folder)
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_how_a_base_was_run_elsewhere_is_no_matter_here(save_tiny: Callable[..., Path]) -> None:
    base = save_tiny()
    path = base / "config.json"
    config = json.loads(path.read_text())
    for keys in ({"attn_implementation": "flash_attention_2"}, {"auto_map": {"AutoModelForCausalLM": "own.Model"}}):
        path.write_text(json.dumps(config | keys))
        assert load_model(base).config._attn_implementation == "ropewalk"


@pytest.mark.parametrize("keys", [{"rms_norm_eps": 1}, {"num_labels": "abc"}], ids=str)
def test_what_transformers_stops_at_is_an_error_of_the_file(
    save_tiny: Callable[..., Path], keys: dict[str, Any]
) -> None:
    path = save_tiny() / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    with pytest.raises(UserError, match="transformers cannot build this model"):
        load_model(path.parent)


def test_activations_are_those_of_transformers() -> None:
    assert all(ACT2FN[name] is not None for name in ACTIVATIONS)
