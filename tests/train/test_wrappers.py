"""The text part of a multimodal base trains on two ranks and goes back beside its vision tower."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ropewalk.checkpoint.load import load_weights, newest
from ropewalk.commands.export import export_checkpoint_on_rank
from ropewalk.commands.train import write_trained
from ropewalk.core.run_folder import RunFolder
from ropewalk.model.export import export
from ropewalk.model.extend import extend
from ropewalk.model.load import load_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.rope.scaling import Theta, Yarn
from ropewalk.train.stage import train_stage
from tiny_run import make_recipe
from tiny_wrappers import is_text, load_whole, read_tensors, save_wrapper

TWO_STEPS: dict[str, Any] = {"tokens": 2 * 4 * 64, "log_steps": 1, "checkpoint_steps": 2}


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("gemma3", {}),
        ("mistral3", {"parallel": {"context_parallel": 1}}),
        ("qwen2_5_vl", {"lora": {"rank": 4, "alpha": 8}}),
        ("qwen3_vl", {"parallel": {"ulysses_degree": 2}}),
        ("gemma4", {"parallel": {"recompute": "full"}}),
    ],
)
def test_two_steps_on_two_ranks(
    kind: str, changes: dict[str, Any], prepared: tuple[Path, Path], tmp_path: Path
) -> None:
    recipe = make_recipe(**TWO_STEPS, **changes)
    base, run = save_wrapper(tmp_path, kind, dtype="bfloat16"), RunFolder(tmp_path / "run")
    run.extended(0).parent.mkdir(parents=True)
    method = Theta(theta=5e7) if kind == "gemma4" else Yarn()
    extend(base, run.extended(0), rope=method, context_tokens=256)

    def on_rank() -> str:
        return train_stage(recipe, stage=0, run=run.root, corpus=prepared[1])

    assert run_ranks(on_rank, 2, threads=1) == ["limit", "limit"]
    write_trained(recipe, run, 0)
    trained, out = load_model(run.trained(0)), tmp_path / "out"
    export(run.trained(0), run.trained(0), out, dtype="bfloat16")
    before, after = read_tensors(base), read_tensors(out)
    assert {name for name in before if torch.equal(before[name], after[name])} >= {
        name for name in before if not is_text(name)
    }
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert len(moved) > 10 and list(after) == list(before)
    tokens = torch.arange(150)[None] % 56
    with torch.no_grad():
        for folder, ours in ((run.trained(0), trained), (out, load_model(out))):
            theirs = load_whole(folder)(tokens, use_cache=False).logits
            torch.testing.assert_close(theirs, ours(tokens, use_cache=False).logits, rtol=0, atol=0)
    checkpoint = newest(run.checkpoints(0))
    assert checkpoint is not None
    assert ("lm_head.weight" in load_weights(checkpoint)) == ("lora" not in changes)
    export_checkpoint_on_rank(checkpoint, run.extended(0), tmp_path / "plain", "base")
    plain = read_tensors(tmp_path / "plain")
    assert all(torch.equal(plain[name], after[name]) for name in after)
