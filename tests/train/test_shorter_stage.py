"""A stage may train on sequences that are shorter than the model's context, if it keeps the positions."""

from pathlib import Path

from ropewalk.commands.extend import extend_on_rank
from ropewalk.core.record import read_metrics
from ropewalk.parallel.launch import run_ranks
from ropewalk.plan.forecast import forecast_recipe
from ropewalk.plan.hardware import KNOWN
from ropewalk.recipe.check import check
from ropewalk.recipe.load import parse_stage
from ropewalk.recipe.stretch import model_tokens
from ropewalk.rope.layers import plain_layers
from ropewalk.rope.scaling import Theta
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import read_shape
from ropewalk.train.stage import train_stage
from tiny_run import CONTEXT_TOKENS, make_recipe, write_corpus, write_model

SHORT = CONTEXT_TOKENS // 4


def test_it_is_checked_and_planned_for_its_own_length_and_keeps_the_model_s() -> None:
    base = ModelShape("LlamaForCausalLM", 2048, 32, 8, 64, 8192, 128_256, True, 131_072, plain_layers(16, 5e5))
    recipe = make_recipe(context_length="4Ki", step_tokens="1Mi", tokens="2B", rope={"kind": "unchanged"}, lr=1e-5)
    assert [finding for finding in check(recipe, base) if finding.key.startswith("stages.0.context")] == []
    (plan, *_) = forecast_recipe(recipe, base, machine=KNOWN["h100-sxm"])
    assert plan.context_tokens == 4096 and plan.fits
    assert model_tokens(recipe.stages[0], base) == 131_072
    changed = recipe.stages[0].model_copy(update={"rope": Theta(theta=1e6)})
    other = recipe.model_copy(update={"stages": (changed,)})
    (finding,) = [each for each in check(other, base) if each.key == "stages.0.context_length"]
    assert finding.level == "error" and "keeps the positions: rope: {kind: unchanged}" in finding.message


def test_it_trains_and_its_model_reads_as_far_as_before(tmp_path: Path) -> None:
    run, corpus = tmp_path / "run", write_corpus(tmp_path)
    write_model(run, tmp_path / "tokenizer")
    extended = run / "stages" / "0" / "extended"
    stage = parse_stage([f"context_length={SHORT}", "rope.kind=unchanged"])
    made = tmp_path / "made"
    run_ranks(extend_on_rank, 1, extended, made, stage)
    assert read_shape(made).context_tokens == read_shape(extended).context_tokens == CONTEXT_TOKENS
    extended.rename(tmp_path / "base")
    made.rename(extended)
    recipe = make_recipe(
        context_length=SHORT,
        step_tokens=4 * SHORT,
        tokens=12 * SHORT,
        rope={"kind": "unchanged"},
        log_steps=1,
        parallel={"ranks": 1, "context_parallel": 1},
    )

    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run, corpus=corpus)

    assert run_ranks(on_rank, 1, threads=1) == ["limit"]
    losses = [row.value for row in read_metrics(run / "metrics.jsonl") if row.name == "loss/train"]
    assert len(losses) == 3 and all(0 < loss < 6 for loss in losses)
