"""Chosen attention layers of a Qwen3 become gated delta nets: what stays, what begins, how it is trained."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from pydantic import ValidationError
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3_5ForCausalLM, Qwen3Config, Qwen3ForCausalLM

from packs import pack
from ropewalk import parallelize
from ropewalk.checkpoint.load import load_weights, newest, read_facts
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.lazy_weights import read_weights
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.collective import sum_over_ranks
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import local_shard, partition_tokens
from ropewalk.recipe.check import check
from ropewalk.recipe.spec import Recipe
from ropewalk.recipe.stage import Stage
from ropewalk.recipe.stretch import stretch_stage
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Theta
from ropewalk.shape.read import read_shape
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe
from tiny_tokenizer import write_tokenizer
from tiny_wrappers import save_wrapper

CONTEXT_TOKENS, BASE_TOKENS = 64, 32
RULES = (LayerRule(), LayerRule(mixer="gated_delta"))
SIZES: dict[str, Any] = {
    **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "head_dim": 8},
    **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": BASE_TOKENS},
    **{"initializer_range": 0.1, "eos_token_id": 96, "bos_token_id": None},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 whose norms have other scales than 1."""
    folder = tmp_path_factory.mktemp("qwen3") / "base"
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.3, 1.7)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="module")
def extended(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("converted") / "extended"
    extend(base, out, rope=Theta(theta=1e6), layers=RULES, context_tokens=CONTEXT_TOKENS)
    return out


def test_the_new_class_gets_no_null_that_it_fails_at(base: Path, extended: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "base")
    config = json.loads((base / "config.json").read_text()) | {"use_cache": None, "hidden_act": None}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    extend(tmp_path / "base", tmp_path / "out", rope=Theta(theta=1e6), layers=RULES, context_tokens=CONTEXT_TOKENS)
    tokens = torch.arange(40)[None]
    ours, theirs = (AutoModelForCausalLM.from_pretrained(each)(tokens) for each in (tmp_path / "out", extended))
    assert torch.equal(ours.logits, theirs.logits)


def make_stage(**changes: Any) -> Stage:
    keys = {
        **{"context_length": CONTEXT_TOKENS, "rope": {"kind": "theta", "theta": 1e6}, "tokens": 8 * 256},
        **{"step_tokens": 256, "lr": 1e-3, "layers": [{}, {"mixer": "gated_delta"}], "experimental": {}},
    }
    return Stage.model_validate(keys | changes)


def test_the_shape_is_the_written_models(base: Path, extended: Path) -> None:
    planned, made = stretch_stage(make_stage(), read_shape(base)), read_shape(extended)
    assert [each.mixer for each in planned.positions] == [None, "gated_delta"] * 2
    assert replace(planned, positions=made.positions) == made, "read back, a new theta is plain RoPE"
    assert made.recurrent is not None and made.recurrent.layers == (1, 3)
    model = load_model(extended)
    assert made.parameters == sum(each.numel() for each in model.parameters())
    told = read_manifest(extended)["facts"]
    assert told["layers"][1] == "1, 3: gated_delta in place of attention, no positions"
    assert told["architecture"] == "Qwen3_5ForCausalLM" and "1, 3" in told["converted"]


def test_the_other_layers_compute_what_they_did(base: Path, extended: Path) -> None:
    """With the outputs of layers 1 and 3 set to zero on both sides, all else is equal; RoPE is the new one."""
    ours, theirs = Qwen3_5ForCausalLM.from_pretrained(extended).eval(), Qwen3ForCausalLM.from_pretrained(base)
    theirs.model.rotary_emb.inv_freq.copy_(ours.model.rotary_emb.inv_freq)
    for layer in (1, 3):
        torch.nn.init.zeros_(ours.model.layers[layer].linear_attn.out_proj.weight)
        torch.nn.init.zeros_(theirs.model.layers[layer].self_attn.o_proj.weight)
    tokens = torch.arange(40)[None] % 97
    with torch.no_grad():
        mine, its = ours.double()(tokens).logits, theirs.eval().double()(tokens).logits
    assert float((mine - its).norm() / its.norm()) < 1e-6


def test_new_layers_begin_with_the_attentions_matrices_and_slow_decays(base: Path, extended: Path) -> None:
    old, new = read_weights(base), read_weights(extended)
    path, layer = "model.layers.1.self_attn", "model.layers.1.linear_attn"
    keys = old[f"{path}.k_proj.weight"].unflatten(0, (2, 8)).repeat_interleave(2, 0).flatten(0, 1)
    query, key, _ = new[f"{layer}.in_proj_qkv.weight"].chunk(3)
    assert torch.equal(query, old[f"{path}.q_proj.weight"]) and torch.equal(key, keys)
    taps = new[f"{layer}.conv1d.weight"]
    assert not taps[:, :, :-1].any() and taps[:, :, -1].all(), "at first a token sees itself alone"
    rates = torch.nn.functional.softplus(new[f"{layer}.dt_bias"])
    assert torch.allclose(1 / rates, torch.tensor([1.0, 4.0, 16.0, 64.0])), "1/64 of the context to all of it"
    assert not new[f"{layer}.in_proj_a.weight"].any() and not new[f"{layer}.A_log"].any()


def test_only_new_layers_move_first_and_a_resumed_run_is_the_same(
    extended: Path, prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    flat = {"shape": "constant", "warmup": 0}
    stage = make_stage(lr=1e-2, tokens=4 * 256, checkpoint_steps=2, schedule=flat, experimental={"frozen_steps": 3})
    recipe = make_recipe(parallel={"ranks": 1, "context_parallel": 1})

    def train(run: Path, steps: int) -> dict[str, torch.Tensor]:
        if not run.exists():
            (run / "stages" / "0").mkdir(parents=True)
            (run / "stages" / "0" / "extended").symlink_to(extended)
        one = recipe.model_copy(update={"stages": (stage.model_copy(update={"tokens": steps * 256}),)})
        run_ranks(lambda: train_stage(one, stage=0, run=run, corpus=prepared[1]), 1, threads=1)
        checkpoint = newest(RunFolder(run).checkpoints(0))
        assert checkpoint is not None
        return dict(load_weights(checkpoint))

    first = read_weights(extended)
    early = train(tmp_path / "stopped", 2)
    moved = {name for name, weight in early.items() if not torch.equal(weight, first[name])}
    assert moved and all("linear_attn" in name for name in moved)
    resumed, straight = train(tmp_path / "stopped", 4), train(tmp_path / "straight", 4)
    assert all(not torch.equal(straight[name], first[name]) for name in straight)
    assert all(torch.equal(resumed[name], straight[name]) for name in straight)
    # AdamW's first update of a weight without decay has the size of the rate, whenever it comes
    norms = torch.cat([(straight[name] - first[name]).abs() for name in straight if name.endswith("layernorm.weight")])
    torch.testing.assert_close(norms.median(), torch.tensor(1e-2), rtol=1e-3, atol=0)
    checkpoint = newest(RunFolder(tmp_path / "straight").checkpoints(0))
    assert checkpoint is not None
    missed = read_facts(checkpoint)["missed"]
    assert set(missed.values()) == {3} and not any("linear_attn" in name for name in missed)
    export(straight, extended, tmp_path / "out", dtype="float32")
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(theirs) is Qwen3_5ForCausalLM and not report["missing_keys"] and not report["unexpected_keys"]
    ours, tokens = load_model(tmp_path / "out"), torch.arange(3, 60)[None]
    with torch.no_grad():
        packed = ours(**parallelize(ours).cut(tokens, document_ids=torch.tensor([[0] * 20 + [1] * 37]))).logits
        apart = torch.cat([theirs.eval()(part).logits for part in tokens.split([20, 37], dim=1)], dim=1)
    torch.testing.assert_close(packed, apart, rtol=0, atol=1e-5)


def test_two_context_ranks_learn_as_one_does(extended: Path) -> None:
    """The loss of packed documents and all gradients, in float64."""
    document, generator = pack([33, 1, 22], 64), torch.Generator().manual_seed(1)
    tokens, labels = (torch.randint(97, document.shape, generator=generator).numpy() for _ in range(2))
    positions = np.concatenate([np.arange(length) for length in (33, 1, 22, 8)])[None]
    fields = (tokens, positions, labels, (document >= 0).astype(np.float64))
    learner = ModelWithLoss(load_model(extended).double()).train()

    def learn(ranks: int) -> dict[str, torch.Tensor]:
        rank, group = (dist.get_rank(), dist.group.WORLD) if ranks > 1 else (0, None)
        partition = partition_tokens(document, ranks=ranks)
        own = (torch.from_numpy(local_shard(partition, rank, field)) for field in fields)
        loss, _, _ = learner(*own, partition=partition, context_group=group)
        loss.backward()
        found = {name: each.grad for name, each in learner.named_parameters()} | {"loss": loss.detach()}
        return {name: sum_over_ranks(each) if ranks > 1 else each for name, each in found.items()}

    shared = run_ranks(learn, 2, 2)
    alone = learn(1)
    for found in shared:
        for name, expected in alone.items():
            assert (found[name] - expected).norm() <= 1e-6 * expected.norm(), name


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"experimental": None}, "experimental: {frozen_steps: 0}"),
        ({"layers": [{}]}, "no line has one"),
        ({"layers": [{}, {"mixer": "gated_delta", "window": 16}]}, "remove window"),
        ({"layers": [{}, {"mixer": "mlstm"}]}, "gated_delta"),
        ({"experimental": {"frozen_steps": 9}}, "only 8 steps"),
        ({"lora": {}}, "adapters do not train the new layers"),
        ({"pose": {"reach": "1Ki"}}, "positions to skip"),
        ({"rope_interpolation_steps": 2}, "other layers"),
        ({"merge_with_base": 0.5}, "other weights"),
    ],
)
def test_keys_that_do_not_go_together(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        make_stage(**changes)


def test_a_later_stage_cannot_be_merged_with_the_base_either() -> None:
    later, data = make_recipe(merge_with_base=0.5).stages[0], make_recipe().to_json()
    stages = [stage.model_dump(mode="json") for stage in (make_stage(), later)]
    Recipe.model_validate({**data, "stages": stages[::-1]})
    with pytest.raises(ValidationError, match=r"stages\.1\.merge_with_base: the base has other weights"):
        Recipe.model_validate({**data, "stages": stages})


@pytest.mark.parametrize(
    ("sizes", "layers", "told"),
    [
        ({}, [{"mixer": "gated_delta"}], "no layer would keep attention"),
        ({}, [{"window": 16}, {"mixer": "gated_delta"}], "has no windows"),
        ({"attention_bias": True}, [{}, {"mixer": "gated_delta"}], "has biases"),
        (
            {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
            [{}, {"mixer": "gated_delta"}],
            "a layer with a window",
        ),
    ],
)
def test_bases_and_patterns_that_no_class_can_run(
    sizes: dict[str, Any], layers: list[dict[str, Any]], told: str, tmp_path: Path
) -> None:
    Qwen3Config(**SIZES, **sizes, architectures=["Qwen3ForCausalLM"]).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="cannot become gated delta nets") as refused:
        stretch_stage(make_stage(layers=layers), read_shape(tmp_path))
    assert told in refused.value.why


def test_a_multimodal_base_is_refused(tmp_path: Path) -> None:
    base = save_wrapper(tmp_path, "internvl")
    with pytest.raises(UserError, match="cannot become gated delta nets") as refused:
        extend(base, tmp_path / "out", rope=Theta(theta=1e6), layers=RULES, context_tokens=CONTEXT_TOKENS)
    assert "parts that are not text" in refused.value.why and not (tmp_path / "out").exists()
    recipe = make_recipe().model_copy(update={"stages": (make_stage(),)})
    found = [finding for finding in check(recipe, read_shape(base)) if finding.level == "error"]
    assert any("parts that are not text" in finding.message for finding in found), "before a run begins, too"


def test_another_class_is_refused_by_name_and_by_check(tmp_path: Path) -> None:
    config = LlamaConfig(**SIZES, architectures=["LlamaForCausalLM"])
    config.save_pretrained(tmp_path)
    recipe = make_recipe().model_copy(update={"stages": (make_stage(),)})
    found = [finding for finding in check(recipe, read_shape(tmp_path)) if finding.level == "error"]
    assert any("LlamaForCausalLM" in finding.message for finding in found)
