"""``auto`` counts are decided before anything counts with them, told in words, and questions are answered."""

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from planned_recipe import make_planned
from ropewalk.cli.main import app
from ropewalk.commands import check as check_module
from ropewalk.commands.check import check_recipe
from ropewalk.commands.decide_open import decide_elsewhere, settle_given
from ropewalk.core.error import UserError
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.settle import settle_recipe
from ropewalk.plan.why_not import explain_why_not
from ropewalk.recipe.check import check
from ropewalk.recipe.load import apply_override
from ropewalk.recipe.schema import make_schema
from ropewalk.recipe.spec import Recipe
from search_cases import SHAPES

LLAMA = SHAPES["8b"]
OPEN: dict[str, Any] = {"hardware": "h100-sxm x 8", "parallel": "auto"}


def make_open(length: str = "128Ki", **given: Any) -> Recipe:
    return make_planned([{"context_length": length}], **{**OPEN, **given})


def test_parallel_auto_leaves_all_counts_open_and_survives_a_file() -> None:
    recipe = make_open()
    assert recipe.open_keys == ("parallel.ranks", "parallel.context_parallel", "parallel.replicas")
    again = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.to_json())))
    assert again == recipe and again.open_keys == recipe.open_keys
    parallel = make_schema("recipe")["properties"]["parallel"]
    assert {"const": "auto", "type": "string"} in parallel["anyOf"]
    with pytest.raises(ValidationError, match="1 or more"):
        make_open(parallel={"ranks": 8, "context_parallel": 0})


def test_auto_is_the_fastest_layout_and_each_line_says_why() -> None:
    settled = settle_recipe(make_open(), LLAMA)
    parallel = settled.recipe.parallel
    assert settled.recipe.open_keys == () and parallel.ranks == 8
    assert [finding for finding in check(settled.recipe, LLAMA) if finding.level == "error"] == []
    (chosen,) = forecast_recipe(settled.recipe, LLAMA)
    assert chosen.fits
    for count in (1, 2, 4, 8):
        pinned = make_open(parallel={"ranks": 8, "context_parallel": count})
        (plan,) = forecast_recipe(pinned, LLAMA)
        assert not plan.fits or chosen.seconds <= 1.001 * plan.seconds
    ranks, context, replicas = settled.lines
    assert ranks.startswith("parallel.ranks: auto is 8; 1 ") and "times as long" in ranks
    assert context.startswith(f"parallel.context_parallel: auto is {parallel.context_parallel}; ")
    assert replicas.startswith("parallel.replicas: auto is 1; 2 ")


def test_a_single_open_key_leaves_the_others_as_they_are() -> None:
    recipe = make_open(parallel={"ranks": 8, "context_parallel": "auto", "replicas": 2, "states": "device"})
    settled = settle_recipe(recipe, LLAMA)
    assert settled.recipe.parallel.replicas == 2 and len(settled.lines) == 1
    assert settle_recipe(settled.recipe, LLAMA).lines == ()


def test_open_ranks_are_all_devices_or_those_that_torchrun_started() -> None:
    two_nodes = settle_recipe(make_open(nodes=2), LLAMA).recipe
    started = settle_recipe(make_open(), LLAMA, started=4).recipe
    assert (two_nodes.parallel.ranks, started.parallel.ranks) == (16, 4)
    with pytest.raises(UserError, match="counts are open"):
        decide_elsewhere(make_open(hardware=None))
    with pytest.raises(UserError, match="counts are open"):
        decide_elsewhere(make_open(hardware=None, parallel={"ranks": 8, "context_parallel": "auto"}))


def test_a_key_may_be_overridden_where_all_counts_are_open() -> None:
    data: dict[str, Any] = {"parallel": "auto"}
    apply_override(data, "parallel.ranks=8")
    assert data["parallel"] == {"ranks": 8, "context_parallel": "auto", "replicas": "auto"}


def test_micro_batches_may_be_open() -> None:
    stage = {"context_length": "4Ki", "micro_batch_size": "auto", "rope": {"kind": "unchanged"}}
    recipe = make_planned([stage], hardware="h200-sxm x 8", parallel={"ranks": 8, "precision": "bfloat16"})
    settled = settle_recipe(recipe, SHAPES["0.6b"])
    assert settled.recipe.stages[0].micro_batch_size > 1
    assert settled.lines[0] == f"stages.0.micro_batch_size: auto is {settled.recipe.stages[0].micro_batch_size}"


def test_where_nothing_fits_the_nearest_layout_is_taken() -> None:
    settled = settle_recipe(make_open("1Mi", hardware="4090 x 2"), SHAPES["70b"])
    assert settled.recipe.parallel.ranks == 2 and all(line.endswith("nothing fits") for line in settled.lines)
    (plan,) = forecast_recipe(settled.recipe, SHAPES["70b"])
    assert not plan.fits


WHY_NOT = [
    ("parallel.context_parallel=3", r"is not possible: parallel\.context_parallel: 8 ranks cannot be divided"),
    ("parallel.recompute=full", r"takes 1\.\d\d times as long, .* instead of .*: attention forward .* more"),
    (  # it leaves room for more blocks
        "parallel.states=8bit",
        r"is faster \(auto never takes it: moments are rounded to 8 bits\): it takes 0\.99 times as long",
    ),
    ("hardware=l40s x 8", r"takes \d\.\d\d times as long|does not fit: stage 0: a rank needs"),
    ("parallel.context_parallel=8", r"takes as long"),
]


@pytest.mark.parametrize(("override", "answer"), WHY_NOT)
def test_why_not_says_what_another_value_comes_to(override: str, answer: str) -> None:
    recipe = make_open()
    plans = forecast_recipe(settle_recipe(recipe, LLAMA).recipe, LLAMA)
    told = explain_why_not(recipe, LLAMA, override, plans)
    assert told.startswith(f"{override} ") and re.search(answer, told), told


def test_why_not_tells_what_would_fit_and_what_would_be_faster() -> None:
    pinned = make_open(parallel={"ranks": 8, "context_parallel": 8, "recompute": "full", "states": "host"})
    plans = forecast_recipe(pinned, LLAMA)
    assert "is faster (set it): it takes 0." in explain_why_not(pinned, LLAMA, "parallel.recompute=auto", plans)
    unfit = make_open("512Ki", parallel={"ranks": 8, "recompute": "none", "states": "device"})
    told = explain_why_not(unfit, LLAMA, "parallel={ranks: 8, context_parallel: 8}", forecast_recipe(unfit, LLAMA))
    assert "fits, as the recipe does not" in told


def test_check_answers_and_explains(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 2048, "num_hidden_layers": 16,
        "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 8192, "vocab_size": 128256,
        "max_position_embeddings": 8192, "rope_theta": 500000.0, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
        "hidden_act": "silu", "torch_dtype": "bfloat16",
    }  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    data = make_open("64Ki").to_json() | {"model": str(model), "run": str(tmp_path / "run")}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data))
    asked = ["check", str(recipe), "--explain", "--why-not", "parallel.context_parallel=2"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "parallel.context_parallel: auto is" in done.output and "parallel.context_parallel=2 " in done.output
    assert re.search(r"  products +[\d.]+ s +[\d.]+%", done.output) and "  states " in done.output
    assert "settings that no other beats in all three" in done.output and "moments in 8 bits" in done.output
    result = json.loads(CliRunner().invoke(app, [*asked, "--json"]).stdout)
    assert set(result["answers"]) == {"parallel.context_parallel=2", "explain"} and len(result["chosen"]) == 3


def test_check_simulates_the_documents_of_a_prepared_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two kinds of packs the heavy one decides the steps of four data ranks."""
    recipe = make_open("32Ki", parallel={"ranks": 8, "context_parallel": 2}, run=str(tmp_path))
    plans = forecast_recipe(recipe, LLAMA)
    (alone,) = check_module.simulate_stages(recipe, LLAMA, plans)
    lengths = ([32 << 10], [1 << 10] * 32)
    held = SimpleNamespace(sequences=2, document_tokens=lambda row: lengths[row])
    monkeypatch.setattr(check_module, "is_finished", lambda _: True)
    monkeypatch.setattr(check_module, "open_corpus", lambda _: None)
    monkeypatch.setattr(check_module, "open_stage", lambda *_: held)
    (packed,) = check_module.simulate_stages(recipe, LLAMA, plans)
    assert alone[0] == 0 and " with " in alone[1] and "the best by Young and Daly" in alone[1] and packed != alone


def test_a_model_that_starts_from_nothing_is_settled_by_its_init() -> None:
    init = {
        "layers": 2, "width": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "mlp_width": 128, "context_length": 256,
        "tokenizer": 512,
    }  # fmt: skip
    given = make_planned(
        [{"context_length": 512, "step_tokens": 4096, "tokens": 8192}],
        model={"init": init}, parallel={"device": "cpu", "ranks": 2, "context_parallel": "auto"},
    )  # fmt: skip
    assert settle_given(given).recipe.open_keys == ()
    with pytest.raises(UserError, match="there is no plan to explain"):
        check_recipe(given, explain=True)
