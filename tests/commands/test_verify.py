"""The parity gate passes what is right, names what is wrong, and says how far each figure may be off."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ropewalk.cli.main import main
from ropewalk.commands.run import do_part
from ropewalk.commands.verify import BARS, verify_degrees
from ropewalk.core.error import UserError
from ropewalk.model import attention_interface as door
from ropewalk.model import load
from ropewalk.recipe.load import parse_recipe
from ropewalk.recipe.spec import Recipe
from ropewalk.train import batches, parity


def change(recipe: Recipe, **parallel: Any) -> Recipe:
    return parse_recipe(recipe.to_json() | {"parallel": recipe.to_json()["parallel"] | parallel}, where="test")


@pytest.fixture
def prepared(recipe: Recipe) -> Recipe:
    for part in ("prepare", "extend"):
        do_part(part, recipe)
    return recipe


def forget_documents(document: Any, *, ranks: int, **settings: Any) -> Any:
    """A partition over several ranks whose mask knows no documents."""
    return PARTITION(document if ranks == 1 else document * 0, ranks=ranks, **settings)


def lose_key_gradients(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **settings: Any) -> torch.Tensor:
    """Attention that is right forward, and over several ranks sends no key's gradient home."""
    return ATTEND(query, key if settings["partition"].ranks == 1 else key.detach(), value, **settings)


def attend_elsewhere(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **settings: Any) -> Any:
    """transformers' own attention, which gets no documents and no partition."""
    return sdpa_attention_forward(module, query, key, value, None, scaling=settings["scaling"], is_causal=True)


AttentionInterface.register("elsewhere", attend_elsewhere)
PARTITION, ATTEND = batches.choose_partition, door.attend
WRONG = {
    "documents leak": (batches, "choose_partition", forget_documents, "to a token of another document"),
    "gradients are lost": (door, "attend", lose_key_gradients, "layer 0: the gradient of self_attn.k_proj"),
    "another attention runs": (load, "NAME", "elsewhere", "context-parallel attention ran 0 to 0 times per layer"),
}


def test_the_gate(prepared: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(tmp_path.rglob("*"))
    for parallel in ({"precision": "bfloat16"}, {"ulysses_degree": 2}, {"layout": "zigzag", "recompute": "full"}):
        found = verify_degrees(change(prepared, **{"precision": "float32"} | parallel))
        assert found["passed"] and found["faults"] == [] and "PASSED" in found["text"]
        assert ("bfloat16" in found["precisions"]) == (parallel.get("precision") == "bfloat16")
        exact = found["precisions"]["float32"]
        assert exact["crossing"] == exact["passes"] == 2 * len(exact["losses"]) == 2 * parity.STEPS
        assert [layer["layer"] for layer in exact["layers"]] == ["embed_tokens", "layer 0", "layer 1", "norm"]
        assert 0 < max(layer["difference"] for layer in exact["layers"]) <= BARS["float32"].gradient
        assert exact["foreign"] == 0 and exact["own"] > 0
    assert sorted(tmp_path.rglob("*")) == before, "it writes nothing"

    for module, name, wrong, message in WRONG.values():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, name, wrong)
            found = verify_degrees(change(prepared, precision="float32"))
        assert not found["passed"] and any(message in fault for fault in found["faults"]), found["faults"]
        assert "FAILED: do not train with these" in found["text"] and "FAIL, " in found["text"]

    path = tmp_path / "again.yaml"
    path.write_text(yaml.safe_dump(change(prepared, precision="float32").to_json()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "choose_partition", forget_documents)
        patch.setattr(sys, "argv", ["ropewalk", "verify", str(path), "--json"])
        with pytest.raises(SystemExit) as end:
            main()
    assert end.value.code == 2 and json.loads(capsys.readouterr().out)["passed"] is False


def test_what_it_needs(recipe: Recipe) -> None:
    with pytest.raises(UserError, match="nothing to compare"):
        verify_degrees(change(recipe, context_parallel=1))
    with pytest.raises(UserError, match="ropewalk prepare"):
        verify_degrees(recipe)
    do_part("prepare", recipe)
    with pytest.raises(UserError, match="ropewalk extend"):
        verify_degrees(recipe)
    do_part("extend", recipe)
    with pytest.raises(UserError, match="they differ in seed"):
        verify_degrees(recipe.model_copy(update={"seed": 5}))
