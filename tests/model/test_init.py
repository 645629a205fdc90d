"""A new model's weights are a function of its spec and seed, and its folder is like any other."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ropewalk.core.artifact import find_damage
from ropewalk.model.init import init_model
from ropewalk.model.load import load_model
from ropewalk.model.weights import SINGLE
from ropewalk.recipe.spec import Init
from ropewalk.shape.read import read_shape


@pytest.fixture
def spec(save_tiny: object) -> Init:
    return Init(
        layers=2,
        width=64,
        heads=4,
        kv_heads=2,
        head_dim=16,
        mlp_width=128,
        context_length=64,
        theta=5e3,
        tied=True,
        deviation=0.05,
        embedding_deviation=0.2,
        final_norm=0.3,
        tokenizer="given",
    )


@pytest.fixture
def tokenizer(save_tiny: object) -> Path:
    folder: Path = save_tiny()  # type: ignore[operator]
    return folder


def test_same_seed_same_bytes_other_seed_other_weights(spec: Init, tokenizer: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("three", 2)):
        init_model(spec, tmp_path / name, tokenizer=tokenizer, seed=seed)
        assert find_damage(tmp_path / name) is None
    one, two, three = ((tmp_path / name / SINGLE).read_bytes() for name in ("one", "two", "three"))
    assert one == two != three


def test_shape_scales_and_tokens_are_as_asked(spec: Init, tokenizer: Path, tmp_path: Path) -> None:
    init_model(spec, tmp_path / "out", tokenizer=tokenizer, seed=1)
    shape = read_shape(tmp_path / "out")
    assert (shape.layers, shape.width, shape.heads, shape.kv_heads, shape.head_dim) == (2, 64, 4, 2, 16)
    assert (shape.context_tokens, shape.theta, shape.rope, shape.vocabulary, shape.tied) == (64, 5e3, None, 97, True)
    assert (shape.bos_id, shape.eos_id) == (None, 96)
    model = load_model(tmp_path / "out")
    assert sum(parameter.numel() for parameter in model.parameters()) == shape.parameters
    assert model.config.bos_token_id is None, "a silent config would mean token 1"
    tensors = load_file(tmp_path / "out" / SINGLE)
    deviations = {
        "model.embed_tokens.weight": 0.2,
        "model.layers.0.self_attn.q_proj.weight": 0.05,
        "model.layers.0.self_attn.o_proj.weight": 0.05,
        "model.layers.1.mlp.down_proj.weight": 0.05,
    }
    for name, deviation in deviations.items():
        assert tensors[name].std().item() == pytest.approx(deviation, rel=0.05), name
    assert torch.equal(tensors["model.norm.weight"], torch.full((64,), 0.3))
    assert torch.equal(tensors["model.layers.1.input_layernorm.weight"], torch.ones(64))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rope_theta"] == 5e3
