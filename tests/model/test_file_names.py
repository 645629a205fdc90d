"""Which tensors of a file are the class's own, and which are carried."""

from pathlib import Path
from typing import Any

import pytest

from ropewalk.core.error import UserError
from ropewalk.model.file_names import sort_names
from ropewalk.model.read_rows import StoredTensor

EMBEDDING = "model.embed_tokens.weight"


def store(*names: str) -> dict[str, StoredTensor]:
    return {name: StoredTensor(Path("file"), (1,), "F32", 0) for name in names}


def sort(config: dict[str, Any], *names: str) -> tuple[list[str], list[str]]:
    found = sort_names(config, store(*names), Path("folder"))
    assert list(found.trained) == list(found.trained.values())
    return list(found.trained), list(found.carried)


def test_patterns_of_a_class_do_not_take_its_own_layers() -> None:
    """GLM-4.5's class ignores layers 46 and 92: one is behind the last of each size, and the larger has a layer 46."""
    small = {"architectures": ["Glm4MoeForCausalLM"], "num_hidden_layers": 46}
    own, extra = "model.layers.46.mlp.gate.weight", "model.layers.92.eh_proj.weight"
    assert sort(small, EMBEDDING, own) == ([EMBEDDING], [own])
    assert sort(small | {"num_hidden_layers": 92}, EMBEDDING, own, extra) == ([EMBEDDING, own], [extra])
    # Another number of layers than the class expects: the file must say how many layers follow.
    other, behind = small | {"num_hidden_layers": 3}, "model.layers.3.eh_proj.weight"
    assert sort(other, EMBEDDING, behind) == ([EMBEDDING, behind], [])
    assert sort(other | {"num_nextn_predict_layers": 1}, EMBEDDING, behind) == ([EMBEDDING], [behind])


def test_names_that_a_class_ignores() -> None:
    ernie = {"architectures": ["Ernie4_5_MoeForCausalLM"], "num_hidden_layers": 2}
    assert sort(ernie, EMBEDDING, "model.mtp_block.0.mlp.up_proj.weight")[1] == ["model.mtp_block.0.mlp.up_proj.weight"]
    pythia = {"architectures": ["GPTNeoXForCausalLM"], "num_hidden_layers": 2}
    mask, bias = "gpt_neox.layers.0.attention.masked_bias", "gpt_neox.layers.0.attention.dense.bias"
    assert sort(pythia, mask, bias) == ([bias], [mask])


def test_one_embedding_tells_the_prefix() -> None:
    config = {
        "architectures": ["Mistral3ForConditionalGeneration"],
        "text_config": {"model_type": "mistral", "num_hidden_layers": 2},
    }
    for prefix, head in (
        ("language_model.model.", "language_model.lm_head.weight"),
        ("model.language_model.", "lm_head.weight"),
        ("model.text_model.", "lm_head.weight"),
        ("model.", "lm_head.weight"),
    ):
        names = [f"{prefix}embed_tokens.weight", f"{prefix}layers.1.mlp.up_proj.weight", head, "vision_tower.a.weight"]
        found = sort_names(config, store(*names), Path("folder"))
        assert found.trained == {
            EMBEDDING: names[0],
            "model.layers.1.mlp.up_proj.weight": names[1],
            "lm_head.weight": head,
        }
        assert found.carried == ("vision_tower.a.weight",)
        assert found.differ
    with pytest.raises(UserError, match="two text parts are in it"):
        sort_names(config, store(EMBEDDING, "model.language_model.embed_tokens.weight"), Path("folder"))
