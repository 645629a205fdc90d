"""Adapters on any ranks: what is meant to move moves, the rest stays to the bit, what is written is plain weights."""

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch.distributed.tensor import DTensor

from ropewalk.checkpoint.load import load_weights, newest, read_facts
from ropewalk.checkpoint.state import TrainState, name_weights
from ropewalk.commands.export import export_checkpoint_on_rank
from ropewalk.core.digest import digest_bytes
from ropewalk.core.record import read_metrics
from ropewalk.core.run_folder import RunFolder, StageFolder
from ropewalk.core.seed import seed_for
from ropewalk.corpus.tokens.corpus_folder import open_corpus
from ropewalk.model.adapter import attach_adapter, merge_adapter
from ropewalk.model.extend import extend
from ropewalk.model.folder import read_config
from ropewalk.model.load import load_model
from ropewalk.model.load_shards import load_shards
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.recipe.gates import Guard
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage_dataset import open_stage
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Theta
from ropewalk.shape.read import read_shape
from ropewalk.train import loop
from ropewalk.train.batches import make_batches
from ropewalk.train.loss_metrics import LossMetrics
from ropewalk.train.optimizer import make_optimizer
from ropewalk.train.parity import compare_degrees
from ropewalk.train.prepare_model import build_model_with_loss
from ropewalk.train.rollback import read_history
from ropewalk.train.stage import train_stage
from ropewalk.train.stage_context import choose_sharing, find_moments_misfit
from ropewalk.train.step import train_step
from tiny_run import make_recipe

NewRun = Callable[[str], Path]
Prepared = tuple[Path, Path]
Losing = Callable[[int], AbstractContextManager[None]]
SETTINGS: dict[str, int] = {"chunk_tokens": 1024, "adapter_seed": seed_for("lora", 3, 0)}
LORA = {"rank": 4, "alpha": 8}


def train(recipe: Recipe, run: Path, corpus: Path, stage: int = 0) -> str:
    def on_rank() -> str:
        return train_stage(recipe, stage=stage, run=run, corpus=corpus)

    return run_ranks(on_rank, recipe.parallel.ranks, threads=1)[0]


def last(run: Path, stage: int = 0) -> Path:
    checkpoint = newest(RunFolder(run).checkpoints(stage))
    assert checkpoint is not None
    return checkpoint


def contents(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"state": (last(run) / "state.json").read_text()}
    for path in last(run).glob("*.safetensors"):
        tensors = load_file(path)
        found |= {f"{path.name}/{name}": digest_bytes(value.numpy().tobytes()) for name, value in tensors.items()}
    return found


@pytest.fixture(scope="module")
def straight(prepared: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps on two context ranks that nothing disturbs."""
    run = tmp_path_factory.mktemp("straight")
    (run / "stages" / "0").mkdir(parents=True)
    (run / "stages" / "0" / "extended").symlink_to(prepared[0] / "stages" / "0" / "extended")
    assert train(make_recipe(lora=LORA), run, prepared[1]) == "limit"
    return run


@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": {"ranks": 2, "context_parallel": 1, "states": "host"}},
        {"parallel": {"ranks": 2, "context_parallel": 2, "recompute": "save_attention", "mlp_tile_tokens": 32}},
    ],
    ids=["data, states on the host", "context, recomputed in tiles"],
)
def test_two_ranks_equal_one(prepared: Prepared, new_run: NewRun, changes: dict[str, Any]) -> None:
    lora = {**LORA, "modules": ["mlp", "q_proj"], "also_train": ["norms"]}
    short = {"tokens": 5 * 4 * 64, "log_steps": 5, "checkpoint_steps": 5, "lora": lora}
    one, two = new_run("one"), new_run("two")
    alone = {"ranks": 1, "context_parallel": 1}
    assert train(make_recipe(**short, micro_batch_size=1, parallel=alone), one, prepared[1]) == "limit"
    assert train(make_recipe(**short, micro_batch_size=2, **changes), two, prepared[1]) == "limit"
    sequences = [
        {
            (metric.step, metric.name): metric.value
            for metric in read_metrics(run / "metrics.jsonl")
            if metric.name in ("loss/train", "grad_norm")
        }
        for run in (one, two)
    ]
    assert sequences[1] == pytest.approx(sequences[0], rel=2e-4)
    alone = load_weights(last(one))
    for name, weight in load_weights(last(two)).items():
        assert (weight - alone[name]).norm() <= 5e-3 * alone[name].norm(), name


def test_only_what_is_meant_moves(straight: Path) -> None:
    extended, lora = straight / "stages/0/extended", Lora.model_validate(LORA)
    trained = load_weights(last(straight))
    whole = {name for name in trained if "lora_" not in name}
    assert whole == {"model.embed_tokens.weight", "model.norm.weight"} | {
        f"model.layers.{layer}.{norm}_layernorm.weight" for layer in (0, 1) for norm in ("input", "post_attention")
    }, "a tied head is the embedding"
    assert len(trained) == len(whole) + 2 * 2 * 7
    assert read_facts(last(straight))["inputs"]["lora"] == lora.model_dump(mode="json")
    before, after = load_file(extended / "model.safetensors"), merge_adapter(trained, extended, lora)
    assert all(not torch.equal(after[name], before[name]) for name in before), "merged, every matrix has moved"
    adapters = {name: tensor for name, tensor in trained.items() if name not in whole}
    for name, tensor in merge_adapter(adapters, extended, lora).items():
        assert torch.equal(tensor, before[name]) == (name in whole)


def test_the_frozen_ones_stay_to_the_bit(prepared: Prepared, new_run: NewRun) -> None:
    """In the live model, sharded block by block, and not in a checkpoint, which does not have them."""
    recipe, run = make_recipe(lora={**LORA, "modules": ["v_proj"], "also_train": []}), new_run("live")
    dataset = open_stage(recipe, 0, open_corpus(prepared[1]), sequences=8)

    def move() -> tuple[set[str], set[str]]:
        mesh, spec = make_mesh(2, 2), recipe.stages[0]
        learner = build_model_with_loss(RunFolder(run).extended(0), spec, **SETTINGS)
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        load_shards(learner, RunFolder(run).extended(0), device=mesh.device)
        state = TrainState(learner, make_optimizer(learner, weight_decay=0.1, betas=(0.9, 0.95)), stage=0)
        before = {name: each.full_tensor().clone() for name, each in learner.named_parameters()}
        sharing = choose_sharing(recipe.parallel, read_shape(RunFolder(run).extended(0)), mesh)
        loss_metrics = LossMetrics(dataset.sources, spec.reach_tokens)
        for cursor in (0, 4):  # the first step moves only what multiplies the zeros
            batches = make_batches(dataset, cursor, sequences=4, spec=spec, mesh=mesh, sharing=sharing)
            settings = {"rate": 0.01, "max_grad_norm": 1.0, "guard": Guard()}
            state = train_step(state, batches, mesh=mesh, loss_metrics=loss_metrics, **settings).state
        after = {name: each.full_tensor() for name, each in learner.named_parameters()}
        moved = {name for name in before if not torch.equal(after[name], before[name])}
        return moved, {name for name, each in learner.named_parameters() if each.requires_grad}

    for moved, learnt in run_ranks(move, 2, threads=1):
        assert moved == learnt
        assert all(".v_proj.lora_" in name for name in learnt) and len(learnt) == 4


def test_resume_after_a_kill_is_bit_identical(
    straight: Path, prepared: Prepared, new_run: NewRun, losing: Losing
) -> None:
    run = new_run("killed")

    with losing(6):
        train(make_recipe(lora=LORA), run, prepared[1])
    assert train(make_recipe(lora=LORA), run, prepared[1]) == "limit"
    assert contents(run) == contents(straight)


def test_going_back_takes_adapters_back(prepared: Prepared, new_run: NewRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps 5 and 7 are poison and step 6 moves: back to step 4, with the adapters and moments of that moment."""
    run, original = new_run("astray"), loop.train_step
    recipe = make_recipe(lora=LORA, checkpoint_steps=2, log_steps=2, guard={"skipped_steps": 1})
    seen: dict[tuple[int, int], list[torch.Tensor]] = {}

    def spoil(state: Any, batches: Any, **settings: Any) -> Any:
        learnt = [each for each in state.model.parameters() if each.requires_grad]
        moments = [each for of in state.optimizer.state.values() for each in of.values()]
        held = [each.to_local() if isinstance(each, DTensor) else each for each in (*learnt, *moments)]
        seen[state.step, state.rollbacks] = [each.detach().clone() for each in held]
        if (state.step, state.rollbacks) == (4, 1):
            assert any(not torch.equal(*pair) for pair in zip(seen[4, 0], seen[6, 0], strict=True))
            assert all(torch.equal(*pair) for pair in zip(seen[4, 0], seen[4, 1], strict=True))
        if state.cursor in (16, 24) and dist.get_rank() == 1:
            micro = dataclasses.replace(batches.micro[0], weights=batches.micro[0].weights * float("nan"))
            batches = dataclasses.replace(batches, micro=(micro, *batches.micro[1:]))
        return original(state, batches, **settings)

    monkeypatch.setattr(loop, "train_step", spoil)
    assert train(recipe, run, prepared[1]) == "limit"
    (entry,) = read_history(StageFolder(run / "stages/0"))
    assert entry == {"from_step": 7, "to_step": 4, "cursor": 28, "skipped": 2}
    assert read_facts(last(run))["rollbacks"] == 1 and all(
        each.isfinite().all() for each in load_weights(last(run)).values()
    )


def test_merged_logits_equal_those_with_adapters(straight: Path, prepared: Prepared) -> None:
    """Three ways to the same model: adapters beside frozen weights, ours merged, peft's merged."""
    extended, lora, recipe = straight / "stages/0/extended", Lora.model_validate(LORA), make_recipe(lora=LORA)
    trained = load_weights(last(straight))
    tokens = torch.arange(64)[None] % 60
    learner = build_model_with_loss(extended, recipe.stages[0], **SETTINGS)
    load_shards(learner, extended, device=torch.device("cpu"))
    with torch.no_grad():
        for name, parameter in name_weights(learner):
            parameter.copy_(trained[name])
    with torch.inference_mode():  # as evaluation reads it
        adapted = learner.causal(tokens).logits
    merged = load_model(extended)
    merged.load_state_dict(
        dict(merge_adapter(trained, extended, lora)) | {"lm_head.weight": trained["model.embed_tokens.weight"]}
    )
    wrapped = get_peft_model(
        load_model(extended), LoraConfig(r=lora.rank, lora_alpha=lora.alpha, target_modules=list(lora.projections))
    )
    wrapped.load_state_dict({f"base_model.model.{name}": tensor for name, tensor in trained.items()}, strict=False)
    theirs = wrapped.merge_and_unload()
    with torch.no_grad():
        plain, base = merged(tokens).logits, load_model(extended)(tokens).logits
        assert (adapted - base).norm() > 0.1 * base.norm()
        assert (adapted - plain).norm() < 1e-5 * plain.norm()
        assert torch.equal(theirs(tokens).logits, plain)


@pytest.mark.parametrize("also_train", [("embeddings", "norms"), ("norms",)])
def test_the_parity_gate_reads_adapters(prepared: Prepared, new_run: NewRun, also_train: tuple[str, ...]) -> None:
    recipe = make_recipe(lora={**LORA, "also_train": list(also_train)})
    model = new_run("parity") / "stages/0/extended"

    def compare() -> Any:
        return compare_degrees(recipe, stage=0, model=model, corpus=prepared[1])

    found = run_ranks(compare, 2, threads=1)[0]["float32"]
    assert found.foreign == 0 and found.own > 0
    assert all(layer.difference < 1e-4 and layer.norm > 0 for layer in found.layers)
    assert {layer.layer for layer in found.layers} == {"layer 0", "layer 1", "norm"} | (
        {"embed_tokens"} if "embeddings" in also_train else set()
    )


def test_first_values_depend_on_the_seed_alone(prepared: Prepared) -> None:
    def draw(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(torch.seed() % 1000)
        model = load_model(prepared[0] / "stages/0/extended")
        attach_adapter(model, Lora(rank=2), seed=seed)
        return {name: each for name, each in model.named_parameters() if "lora_" in name}

    one, again, other = draw(1), draw(1), draw(2)
    for name, tensor in one.items():
        assert torch.equal(tensor, again[name])
        assert torch.equal(tensor, other[name]) == ("lora_B" in name)
        assert bool(tensor.any()) == ("lora_A" in name)


def test_any_checkpoint_becomes_a_plain_folder(straight: Path, tmp_path: Path) -> None:
    like = tmp_path / "like"
    extend(straight / "stages/0/extended", like, rope=Theta(theta=1e6), context_tokens=128)
    export_checkpoint_on_rank(last(straight), like, tmp_path / "plain", "base")
    made, before = (load_file(folder / "model.safetensors") for folder in (tmp_path / "plain", like))
    expected = merge_adapter(load_weights(last(straight)), like, Lora.model_validate(LORA))
    assert made.keys() == before.keys() and "lm_head.weight" not in made, "still tied, and no adapter"
    assert all(torch.equal(made[name], expected[name]) for name in made)
    assert read_config(tmp_path / "plain") == read_config(like)


def test_a_merge_leaves_no_moments_to_carry_on(
    straight: Path, prepared: Prepared, new_run: NewRun, capfd: pytest.CaptureFixture[str]
) -> None:
    run, recipe = new_run("second"), make_recipe(lora=LORA, tokens=2 * 4 * 64)
    (run / "stages/0/checkpoints").symlink_to(straight / "stages/0/checkpoints")
    assert train(recipe, run, prepared[1], stage=1) == "limit"
    assert read_facts(last(run, 1))["updates"] == 2
    assert "stage 1 begins with fresh moments" in capfd.readouterr().err


def test_moments_are_carried_only_to_the_same_weights() -> None:
    plain, other = make_recipe().stages[0], make_recipe(lora=LORA).stages[0]
    mixers = plain.model_copy(update={"layers": (LayerRule(), LayerRule(mixer="gated_delta"))})
    assert find_moments_misfit(plain, plain) is None and find_moments_misfit(plain, mixers) is None
    assert "new adapters" in str(find_moments_misfit(other, other))
    assert "the stage before" in str(find_moments_misfit(plain, other))
    assert "mixer" in str(find_moments_misfit(mixers, plain))
