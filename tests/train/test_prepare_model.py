"""What ``prepare_model`` does with fused kernels and with activations on the host: that they reach the blocks."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from emulated_liger import NAMESPACE, emulate_liger
from ropewalk.model.attention_interface import NAME
from ropewalk.model.fusion import Fusion
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.host_copies import HostCopies
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.partition import partition_tokens
from ropewalk.plan.savings import Savings
from ropewalk.train.prepare_model import build_model_with_loss, prepare_model
from tiny_run import make_recipe

LAYERS, TOKENS = 3, 24


def train_once(savings: Savings, fusion: Fusion) -> tuple[float, list[Tensor], Counter[str]]:
    """Loss, gradients, and Liger's operators."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=64, attn_implementation=NAME,
    )  # fmt: skip
    learner = ModelWithLoss(LlamaForCausalLM(config)).train()
    prepare_model(learner, make_mesh(1, 1), savings=savings, precision="float32", fusion=fusion)
    tokens = torch.from_numpy(np.random.default_rng(0).integers(64, size=TOKENS))
    partition = partition_tokens(np.zeros((1, TOKENS), dtype=np.int32), ranks=1)
    fields = tokens, torch.arange(TOKENS), tokens.roll(-1), torch.ones(TOKENS)
    with torch.profiler.profile() as profile:
        loss = learner(*fields, partition=partition)[0]
        loss.backward()
    names = (event.name for event in profile.events() or ())
    kernels = Counter(name.partition("::")[2] for name in names if name.startswith(NAMESPACE))
    gradients = [weight.grad.full_tensor() for weight in learner.parameters()]  # type: ignore[union-attr]
    return loss.item(), gradients, kernels


def test_liger_runs_in_every_block() -> None:
    with emulate_liger():
        (loss, slopes, kernels), (expected, plain, none) = (
            run_ranks(train_once, 1, Savings("save_attention", 16), fusion, threads=1)[0]
            for fusion in ("liger", "none")
        )
    assert not none and kernels["rope"] >= 2 * LAYERS and kernels["norm"] >= 2 * LAYERS + 1 and kernels["swiglu"]
    assert loss == pytest.approx(expected, rel=1e-6)
    assert all((mine - theirs).norm() <= 3e-5 * theirs.norm() for mine, theirs in zip(slopes, plain, strict=True))


@pytest.mark.parametrize(
    ("savings", "kept"),
    [
        (Savings("save_attention", 16), 0),
        (Savings("save_attention", 16, offload=True), 1),
        (Savings("save_attention", 16, offload=True, attention_on_host=True), 3),
        (Savings("full", 16, offload=True), 1),
        (Savings("save_attention", 16, offload=True, attention_on_host=True, recompute_blocks=2), 3),
    ],
)
def test_what_goes_to_the_host(savings: Savings, kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every recomputed block but the last: its input, and attention's output and log-sum-exp."""
    taken: list[Any] = []
    take = HostCopies._take
    monkeypatch.setattr(HostCopies, "_take", lambda self, waiting: taken.append(waiting.host) or take(self, waiting))

    def run() -> tuple[int, list[Tensor], int]:
        return len(taken), train_once(savings, "none")[1], len(taken)

    before, slopes, after = run_ranks(run, 1, threads=1)[0]
    assert after - before == kept * (savings.count_again(LAYERS) - 1)
    plain = run_ranks(train_once, 1, Savings(), "none", threads=1)[0][1]
    assert all(torch.allclose(mine, theirs, atol=1e-6) for mine, theirs in zip(slopes, plain, strict=True))


def test_a_learner_is_built_without_memory(prepared: tuple[Path, Path]) -> None:
    """So no rank holds the model before its shards are read."""
    spec, extended = make_recipe().stages[0], prepared[0] / "stages" / "0" / "extended"
    learner = build_model_with_loss(extended, spec, chunk_tokens=None, adapter_seed=0)
    assert {weight.device.type for weight in learner.parameters()} == {"meta"}


def test_a_part_that_liger_has_no_kernel_for_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    def prepare() -> None:
        config = LlamaConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=64,
            hidden_act="gelu", attn_implementation=NAME,
        )  # fmt: skip
        learner = ModelWithLoss(LlamaForCausalLM(config)).train()
        prepare_model(learner, make_mesh(1, 1), savings=Savings(), precision="float32", fusion="liger")

    with emulate_liger():
        run_ranks(prepare, 1, threads=1)
    assert "Liger has no kernel for mlp of LlamaForCausalLM" in capfd.readouterr().err
