"""A small hybrid is extended, trained on two context ranks as on one, and exported; what it cannot do is refused."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen3_5ForCausalLM, Qwen3_5TextConfig

from ropewalk import parallelize
from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.core.artifact import read_manifest
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.engines import find_commands
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.model.recurrent_layer import RecurrentLayer
from ropewalk.plan.sharing import plan_sharing
from ropewalk.recipe.benchmarks import BenchmarkSpec
from ropewalk.recipe.check import check
from ropewalk.recipe.lora import Lora
from ropewalk.recipe.parallel import Parallel
from ropewalk.recipe.ruler import RulerSpec
from ropewalk.recipe.spec import EvaluateSpec
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Theta
from ropewalk.shape.read import read_shape
from tiny_run import make_recipe, train_extended
from tiny_tokenizer import write_tokenizer

CONTEXT_TOKENS = 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hybrid") / "base"
    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        **{"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "full_attention_interval": 2},
        **{"linear_num_key_heads": 1, "linear_num_value_heads": 2, "linear_key_head_dim": 8},
        **{"linear_value_head_dim": 8, "max_position_embeddings": 32, "initializer_range": 0.1, "eos_token_id": 96},
    )
    Qwen3_5ForCausalLM(config).save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def test_extend_train_on_two_ranks_and_export(base: Path, prepared: tuple[Path, Path], tmp_path: Path) -> None:
    extended, out = tmp_path / "extended", tmp_path / "out"
    extend(base, extended, rope=Theta(theta=1e6), context_tokens=CONTEXT_TOKENS)
    told = read_manifest(extended)["facts"]["layers"]
    assert told == ["0: gated_delta, no positions", "1: theta 10000 -> 1e+06"]
    one, two = (train_extended(tmp_path / str(ranks), extended, prepared[1], ranks) for ranks in (1, 2))
    assert len(one) == 3 and two == pytest.approx(one, rel=1e-5)
    checkpoint = newest(RunFolder(tmp_path / "2").checkpoints(0))
    assert checkpoint is not None
    export(load_weights(checkpoint), extended, out, dtype="float32")
    theirs, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True, dtype=torch.float32)
    assert type(theirs) is Qwen3_5ForCausalLM
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert next(each.note for each in find_commands(out) if each.engine == "vLLM") == ""
    ours = load_model(out)
    assert isinstance(ours.model.layers[0].linear_attn, RecurrentLayer)
    tokens = torch.arange(3, 60)[None]
    with torch.no_grad():
        packed = ours(**parallelize(ours).cut(tokens, document_ids=torch.tensor([[0] * 20 + [1] * 37]))).logits
        alone = torch.cat([theirs.eval()(part).logits for part in tokens.split([20, 37], dim=1)], dim=1)
        torch.testing.assert_close(packed, alone, rtol=0, atol=1e-5)


def test_what_a_hybrid_cannot_do_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all have attention"):
        rules = (LayerRule(window=16), LayerRule())
        extend(base, tmp_path / "no", rope=Theta(theta=1e6), layers=rules, context_tokens=CONTEXT_TOKENS)
    assert not (tmp_path / "no").exists()
    with pytest.raises(UserError, match="partition of tokens") as refused:
        plan_sharing(Parallel(ulysses_degree=2), read_shape(base), device="cpu", element_bytes=4)
    assert "ulysses_degree" in refused.value.where
    asked = BenchmarkSpec(kind="helmet_niah", path="needles.jsonl")
    recipe = make_recipe(parallel={"ulysses_degree": 2}, lora=Lora()).model_copy(
        update={"evaluate": EvaluateSpec(ruler=RulerSpec(), benchmarks=(asked,))}
    )
    found = {finding.key for finding in check(recipe, read_shape(base)) if finding.level == "error"}
    assert {"parallel.ulysses_degree", "evaluate.ruler", "evaluate.benchmarks", "stages.0.lora"} <= found
    with pytest.raises(UserError, match="do not support recurrent layers"):
        attach_adapter(load_model(base), Lora(), seed=0)
    assert parallelize(load_model(base)).sharing.ulysses_degree == 1
