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
from ropewalk.model.export import export, read_weights
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.verify import verify_export
from ropewalk.model.weights import SINGLE
from ropewalk.rope.scaling import Theta, Yarn

Save = Callable[..., Path]


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
