"""Tensors that a class of transformers ignores itself stay in the files of a trained model, to the bit."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from conformance.tiny_families import make_model
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.model.carry import write_into_copies
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.file_names import FileNames
from ropewalk.model.load import load_model
from ropewalk.model.read_rows import read_header
from ropewalk.model.weights import SINGLE
from ropewalk.rope.scaling import Theta, Yarn
from tiny_tokenizer import write_tokenizer


def add_layer(folder: Path, extra: dict[str, torch.Tensor], **told: Any) -> dict[str, torch.Tensor]:
    """Put tensors into a folder's file, where the class has no place for them."""
    tensors = load_file(folder / SINGLE) | extra
    save_file(tensors, folder / SINGLE, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | told))
    return tensors


def test_layers_behind_the_last_one_are_carried(save_tiny: Any, tmp_path: Path) -> None:
    """A layer behind the last one predicts a second token (MTP): it has names of a layer, and another type here."""
    base = save_tiny("Qwen3ForCausalLM")
    extra = {
        "model.layers.2.eh_proj.weight": torch.randn(32, 64, dtype=torch.bfloat16),
        "model.layers.2.self_attn.q_proj.weight": torch.randn(3, 5).to(torch.float8_e4m3fn),
    }
    tensors = add_layer(base, extra, num_nextn_predict_layers=1)
    out = tmp_path / "out"
    extend(base, out, rope=Yarn(), context_tokens=128)
    assert "2 tensors unknown to Qwen3ForCausalLM" in (told := read_manifest(out)["facts"]["carried"])
    assert "inexact for speculation only" in told
    model = load_model(out)
    assert not any(name.startswith("model.layers.2") for name in model.state_dict())
    export({name: tensor + 1 for name, tensor in model.state_dict().items()}, out, tmp_path / "again", dtype="float32")
    after = load_file(tmp_path / "again" / SINGLE)
    assert list(after) == list(load_file(base / SINGLE))
    for name, tensor in tensors.items():
        same = torch.equal(after[name].view(torch.uint8), tensor.view(torch.uint8))
        assert same == (name in extra) and after[name].dtype == tensor.dtype
    # Without the count a layer too many is no part of this model.
    add_layer(base, {}, num_nextn_predict_layers=0)
    with pytest.raises(UserError, match="the weights do not match this config"):
        load_model(base)


def test_the_masks_in_files_of_pythia_are_carried_and_called_no_layers(tmp_path: Path) -> None:
    base, out, model = tmp_path / "base", tmp_path / "out", make_model("GPTNeoXForCausalLM")
    model.save_pretrained(base)
    write_tokenizer(base)
    mask = {"gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 32, 32, dtype=torch.bool).tril()}
    add_layer(base, mask | {"gpt_neox.layers.0.attention.masked_bias": torch.tensor(-1e9)})
    extend(base, out, rope=Yarn(), context_tokens=128)
    told = read_manifest(out)["facts"]["carried"]
    assert told == "kept to the bit: 2 tensors unknown to GPTNeoXForCausalLM (gpt_neox.layers.0.attention.bias ..)"
    tokens = torch.arange(20)[None]
    assert torch.equal(load_model(base)(tokens).logits, model(tokens).logits)


def test_experts_that_lie_apart_stay_beside_a_carried_layer(tmp_path: Path) -> None:
    """GLM-4.5: the file has a matrix for each expert, the class one for all; a layer predicts more tokens."""
    base, out = tmp_path / "base", tmp_path / "out"
    model = make_model("Glm4MoeForCausalLM")
    model.save_pretrained(base)
    write_tokenizer(base)
    number = model.config.num_hidden_layers
    extra = {
        f"model.layers.{number}.eh_proj.weight": torch.randn(8, 4),
        f"model.layers.{number}.mlp.experts.0.up_proj.weight": torch.randn(5, 4),
    }
    tensors = add_layer(base, extra, num_nextn_predict_layers=1)
    extend(base, out, rope=Theta(theta=1e6), context_tokens=128)
    trained = {name: tensor + 1 for name, tensor in load_model(out).state_dict().items()}
    export(trained, out, tmp_path / "again", dtype="float32")
    after = load_file(tmp_path / "again" / SINGLE)
    assert list(after) == list(load_file(base / SINGLE))
    assert {name for name in tensors if torch.equal(after[name], tensors[name])} == extra.keys()
    tokens = torch.arange(40)[None]
    with torch.no_grad():
        ours = load_model(tmp_path / "again")(tokens, use_cache=False).logits
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "again").eval()(tokens, use_cache=False).logits
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_the_bias_of_a_choice_stays_exact_beside_a_carried_layer(tmp_path: Path) -> None:
    """An export in bfloat16 would round it, and a choice between near scores hangs on its last bits."""
    base, out = tmp_path / "base", tmp_path / "out"
    model = make_model("Glm4MoeForCausalLM")
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    model.get_buffer(name).copy_(1 + torch.arange(4) * 1e-5)
    model.save_pretrained(base)
    write_tokenizer(base)
    add_layer(base, {"model.layers.4.eh_proj.weight": torch.randn(3, 5)}, num_nextn_predict_layers=1)
    export(base, base, out, dtype="bfloat16")
    assert torch.equal(load_file(out / SINGLE)[name], model.get_buffer(name))
    tensors = load_file(base / SINGLE)
    tensors[name][2] = torch.nan
    save_file(tensors, base / SINGLE, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        load_model(base)


def test_a_tensor_begins_at_a_multiple_of_its_elements_where_those_before_it_get_narrower(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    for folder in (base, out):
        folder.mkdir()
    stored = {"a.weight": torch.tensor([1.0, 2.0, 3.0]), "mtp.weight": torch.tensor([4.0, 5.0])}
    save_file(stored, base / SINGLE, metadata={"format": "pt"})
    names = FileNames({"a.weight": "a.weight"}, carried=("mtp.weight",))
    write_into_copies({"a.weight": torch.full((3,), 7.0)}, base, out, names=names, dtype="bfloat16", where=out)
    begins = read_header(out / SINGLE)[0]["mtp.weight"]["data_offsets"][0]
    assert begins % 4 == 0, "three numbers of two bytes before it would leave it at 6"
    found = load_file(out / SINGLE)
    assert found["a.weight"].tolist() == [7.0] * 3 and torch.equal(found["mtp.weight"], stored["mtp.weight"])
