"""A bias that is learnt is a weight like any other: sharded over ranks, trained, saved, written out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from jaxtyping import config
from torch.nn.attention import flex_attention as flex

from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.core.error import UserError
from ropewalk.core.run_folder import RunFolder
from ropewalk.model import load
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.lazy_weights import read_weights
from ropewalk.parallel.launch import RankError, run_ranks
from ropewalk.rope.layers import LayerRule
from ropewalk.rope.scaling import Unchanged
from ropewalk.train.stage import train_stage
from tiny_run import CONTEXT_TOKENS, make_recipe

RULES = (LayerRule.model_validate({"bias": "fire", "rope": "nope"}), LayerRule(bias="alibi"))


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Takes away what keeps biases off a CPU: our check, FlexAttention's, and types that it cannot trace."""
    monkeypatch.setattr(load, "require_gpu", lambda device: None)
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.mark.filterwarnings("ignore")
def test_a_learnt_bias_trains_on_data_ranks_and_is_refused_on_context_ranks(
    prepared: tuple[Path, Path], new_run: Callable[[str], Path], without_gpu: None, tmp_path: Path
) -> None:
    base, made = prepared[0] / "stages" / "0" / "extended", tmp_path / "made"
    extend(base, made, rope=Unchanged(), layers=RULES, context_tokens=CONTEXT_TOKENS)

    def train(name: str, **parallel: int) -> dict[str, torch.Tensor]:
        run, recipe = new_run(name), make_recipe(tokens=2 * 4 * CONTEXT_TOKENS, parallel=parallel)
        RunFolder(run).extended(0).unlink()
        RunFolder(run).extended(0).symlink_to(made)
        run_ranks(lambda: train_stage(recipe, stage=0, run=run, corpus=prepared[1]), recipe.parallel.ranks, threads=1)
        checkpoint = newest(RunFolder(run).checkpoints(0))
        assert checkpoint is not None
        return load_weights(checkpoint)

    trained = train("data", ranks=2, context_parallel=1)
    first = {name: tensor for name, tensor in read_weights(made).items() if "score_bias" in name}
    assert len(first) == 5
    for name, tensor in first.items():
        assert (trained[name] - tensor).norm() > 0, name
    export(trained, made, tmp_path / "out", dtype="float32")
    assert all(torch.equal(read_weights(tmp_path / "out")[name], trained[name]) for name in first)
    with pytest.raises((UserError, RankError), match=r"parallel\.context_parallel"):
        train("context", ranks=2, context_parallel=2)
