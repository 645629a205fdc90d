"""Training a mixture of experts: ranks change nothing, a killed run goes on to the bit, and what is frozen stays."""

import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ropewalk.checkpoint.load import newest
from ropewalk.commands.train import read_trained
from ropewalk.core.artifact import new_folder
from ropewalk.core.error import UserError
from ropewalk.core.record import TIMED, read_metrics
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.export import export
from ropewalk.model.lazy_weights import read_weights
from ropewalk.model.weights import SINGLE
from ropewalk.parallel.launch import run_ranks
from ropewalk.recipe.spec import Recipe
from ropewalk.train.stage import train_stage
from tiny_experts import save_mixture
from tiny_run import CONTEXT_TOKENS, VOCABULARY, make_recipe

SHORT = {"tokens": 4 * 4 * CONTEXT_TOKENS, "log_steps": 2, "checkpoint_steps": 2}
ALONE = {"ranks": 1, "context_parallel": 1}
BALANCE = {"balance_loss": 0.5, "balance_counts": "step", "z_loss": 0.01}


@pytest.fixture
def mixture_run(prepared: tuple[Path, Path], tmp_path: Path) -> Callable[..., Path]:
    """``mixture_run(name, kind)``: a run folder whose extended model is a tiny mixture of this model type."""

    def make(name: str, kind: str = "qwen3_moe") -> Path:
        facts = {"context_tokens": CONTEXT_TOKENS}
        sizes = {"vocab_size": VOCABULARY, "max_position_embeddings": CONTEXT_TOKENS, "eos_token_id": 63}
        with new_folder(
            tmp_path / name / "stages" / "0" / "extended", kind="model", inputs={}, facts=lambda: facts
        ) as work:
            save_mixture(work, kind, **sizes)
            for path in (prepared[0] / "stages" / "0" / "extended").glob("token*"):
                shutil.copyfile(path, work / path.name)
        return tmp_path / name

    return make


def train(recipe: Recipe, run: Path, corpus: Path) -> tuple[dict[tuple[int, str], float], dict[str, torch.Tensor]]:
    """Figures by (step, name), and the weights at the end."""
    run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=corpus), recipe.parallel.ranks, threads=1)
    return figures_of(run), weights_of(run)


def figures_of(run: Path) -> dict[tuple[int, str], float]:
    return {(row.step, row.name): row.value for row in read_metrics(run / "metrics.jsonl") if row.name not in TIMED}


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    checkpoint = newest(RunFolder(run).checkpoints(0))
    assert checkpoint is not None
    weights = read_trained(checkpoint, RunFolder(run).extended(0))
    return {name: weights[name] for name in weights}


@pytest.mark.parametrize("kind", ["qwen3_moe", "glm4_moe"])
def test_ranks_change_nothing(kind: str, prepared: tuple[Path, Path], mixture_run: Callable[..., Path]) -> None:
    rules = BALANCE if kind == "qwen3_moe" else {"balance_loss": 0.5, "bias_update": 0.01}
    two = make_recipe(**SHORT, experts=rules, parallel={"recompute": "full"})
    one = make_recipe(**SHORT, experts=rules, micro_batch_size=4, parallel=ALONE)
    found, weights = train(two, mixture_run("two", kind), prepared[1])
    expected, truth = train(one, mixture_run("one", kind), prepared[1])
    assert found.keys() == expected.keys()
    layers = {name for _, name in found if name.startswith("experts/load/layer-")}
    assert layers == {f"experts/load/layer-{layer}" for layer in ((0, 1) if kind == "qwen3_moe" else (1,))}
    for key, value in expected.items():
        if key[1] != "imbalance":
            assert found[key] == pytest.approx(value, rel=2e-4), key
    for name, weight in truth.items():
        torch.testing.assert_close(weights[name], weight, rtol=2e-3, atol=2e-5, msg=name)
    before = read_weights(RunFolder(mixture_run("base", kind)).extended(0))
    assert weights.keys() == set(before)
    moved = {name for name, weight in weights.items() if not torch.equal(weight, before[name])}
    assert moved == set(before), "experts, routers and biases of the choice have all moved"


@pytest.mark.parametrize("kind", ["qwen3_moe", "glm4_moe"])
def test_a_killed_run_goes_on_to_the_bit(
    kind: str,
    prepared: tuple[Path, Path],
    mixture_run: Callable[..., Path],
    losing: Callable[[int], AbstractContextManager[None]],
) -> None:
    rules = {"balance_loss": 0.5} if kind == "qwen3_moe" else {"balance_loss": 0.5, "bias_update": 0.01}
    recipe, run = make_recipe(**SHORT, experts=rules), mixture_run("killed", kind)
    with losing(3):
        train(recipe, run, prepared[1])
    found, weights = train(recipe, run, prepared[1])
    expected, truth = train(recipe, mixture_run("straight", kind), prepared[1])
    assert found == expected
    assert weights.keys() == truth.keys() and all(torch.equal(each, weights[name]) for name, each in truth.items())


def test_frozen_routers_and_an_export_with_the_names_of_the_base(
    prepared: tuple[Path, Path], mixture_run: Callable[..., Path], tmp_path: Path
) -> None:
    for kind in ("glm4_moe", "mixtral"):
        run = mixture_run(kind, kind)
        extended = RunFolder(run).extended(0)
        train(make_recipe(**SHORT, experts={"router": "frozen"}, parallel=ALONE), run, prepared[1])
        checkpoint = newest(RunFolder(run).checkpoints(0))
        assert checkpoint is not None
        export(read_trained(checkpoint, extended), extended, tmp_path / f"out-{kind}", dtype="float32")
        before, after = load_file(extended / SINGLE), load_file(tmp_path / f"out-{kind}" / SINGLE)
        assert before.keys() == after.keys()
        same = {name for name, weight in before.items() if torch.equal(weight, after[name])}
        assert same == {name for name in before if ".gate." in name}, kind


def test_a_dense_model_refuses_the_key(prepared: tuple[Path, Path], new_run: Callable[[str], Path]) -> None:
    recipe = make_recipe(**SHORT, experts={}, parallel=ALONE)
    with pytest.raises(UserError, match="experts does not fit this model"):
        run_ranks(lambda: train_stage(recipe, stage=0, run=new_run("dense"), corpus=prepared[1]), 1, threads=1)


def test_adapters_leave_routers_and_experts_out(
    prepared: tuple[Path, Path], mixture_run: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    recipe: Any = make_recipe(**SHORT, lora={"rank": 2}, parallel=ALONE)
    _, weights = train(recipe, mixture_run("lora"), prepared[1])
    assert "experts and routers get no adapters" in "".join(capfd.readouterr())
    before = read_weights(RunFolder(mixture_run("base")).extended(0))
    same = {name for name in before if torch.equal(before[name], weights[name])}
    assert same == {name for name in before if ".mlp." in name or name == "lm_head.weight"}
    only = make_recipe(**SHORT, lora={"rank": 2, "modules": ["mlp"]}, parallel=ALONE)
    with pytest.raises(UserError, match="no matrix of this model gets an adapter"):
        train(only, mixture_run("only"), prepared[1])
