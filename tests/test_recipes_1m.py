"""The recipes of a million tokens: they break no rule, fit eight H100 with the time that they state, and train."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from ropewalk.commands.check import check_recipe
from ropewalk.core.record import read_metrics
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.hardware import KNOWN
from ropewalk.recipe.load import load_recipe
from ropewalk.shape.read import parse_shape
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe, write_corpus, write_model

FOLDER = Path(__file__).parents[1] / "recipes"
QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151_936,
    "max_position_embeddings": 32_768,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "torch_dtype": "bfloat16",
}
WIDE = {"hidden_size": 4096, "intermediate_size": 12_288, "num_hidden_layers": 36, "num_attention_heads": 32}
SLIM = {"hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 16}
SIZES: dict[str, tuple[dict[str, Any], float]] = {
    "qwen3-8b-1m": (WIDE | {"tie_word_embeddings": False}, 320.0),
    "qwen3-0.6b-1m": (SLIM | {"tie_word_embeddings": True}, 115.0),
}


@pytest.mark.parametrize("name", SIZES)
def test_it_is_checked_and_planned(name: str, tmp_path: Path) -> None:
    size, most_seconds = SIZES[name]
    config = QWEN3 | size
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = load_recipe(FOLDER / f"{name}.yaml", [f"model={tmp_path}"])
    result = check_recipe(recipe)
    assert result["errors"] == 0, result["text"]
    (plan,) = forecast_recipe(recipe, parse_shape(config, "config.json"), machine=KNOWN["h100-sxm"])
    assert plan.fits and plan.context_tokens == plan.step_tokens == 1 << 20
    assert plan.savings.attention_on_host and plan.recompute == "save_attention"
    assert 0.9 * most_seconds < plan.step_seconds <= most_seconds
    text = (FOLDER / f"{name}.yaml").read_text()
    assert f"{plan.memory.host / 1e9:.0f} GB on each rank" in text, "the head of the recipe"
    assert "host" in dict(plan.rows())


@pytest.mark.parametrize("name", SIZES)
def test_the_same_keys_train_a_tiny_model(name: str, tmp_path: Path) -> None:
    """All keys of the recipe's stage and parallel sections, with sizes of a test, on two ranks of a CPU."""
    given = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    sizes = {"context_length": 64, "tokens": 3 * 64, "step_tokens": 64, "checkpoint_steps": 3}
    stage = {**given["stages"][0], **sizes, "rope": {"kind": "unchanged"}}  # the model was stretched before
    parallel = {**given["parallel"], "ranks": 2, "context_parallel": 2, "mlp_tile_tokens": 16}
    recipe = make_recipe(**stage, log_steps=1, parallel=parallel)
    run, corpus = tmp_path / "run", write_corpus(tmp_path)
    write_model(run, tmp_path / "tokenizer")
    assert recipe.parallel.offload == "attention" and recipe.parallel.precision == "bfloat16"

    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    assert run_ranks(on_rank, 2, threads=1) == ["limit"] * 2
    losses = [row.value for row in read_metrics(run / "metrics.jsonl") if row.name == "loss/train"]
    assert len(losses) == 3 and all(0 < loss < 6 for loss in losses)
