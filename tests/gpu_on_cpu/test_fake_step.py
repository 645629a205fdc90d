"""A step of Llama-3-8B's width on tensors without values, as one of 8 and of 64 ranks: its peak and its messages.

torch's MemTracker is the oracle of the plan's memory; a mode that counts messages is that of its traffic.
"""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from programs import load_program
from ropewalk.attention import attend
from ropewalk.partition import partition_tokens
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.savings import Savings
from ropewalk.plan.traffic import Exchange, attention_traffic
from ropewalk.rope.layers import plain_layers
from ropewalk.shape.model_shape import ModelShape


@pytest.mark.parametrize(("ranks", "recompute", "median_tokens"), [(8, "save_attention", 4096), (64, "full", None)])
def test_the_plan_knows_the_peak_and_each_byte_of_a_step(
    ranks: int, recompute: str, median_tokens: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The 64 ranks share heads in groups of 8. The program takes all 32 layers, for which it needs minutes."""
    program = load_program("gpu_fake_step", monkeypatch)
    case = program.Case(ranks, recompute, layers=4, median_tokens=median_tokens, chunk_tokens=64)
    tracked, planned = program.track_step(case), program.plan_step(case)
    assert planned.peak_bytes == pytest.approx(tracked.peak_bytes, rel=0.1)
    assert planned.state_bytes == tracked.state_bytes
    assert planned.context_bytes == tracked.context_bytes


def test_the_plan_knows_what_a_block_keeps_where_ranks_share_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 ranks in groups of 8: attention's output is kept by heads, and by tokens for its projection."""
    program = load_program("gpu_fake_step", monkeypatch)
    few, more = (program.Case(64, "none", layers=layers, chunk_tokens=64) for layers in (2, 3))
    assert program.split_by_heads(more.divide())[1] == 8
    tracked = program.track_step(more).peak_bytes - program.track_step(few).peak_bytes
    planned = program.plan_step(more).peak_bytes - program.plan_step(few).peak_bytes
    assert planned == pytest.approx(tracked, rel=0.001)


def test_the_last_reduction_may_be_the_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of few tokens and a large vocabulary: embedding and head are reduced beside the gradients of all blocks."""
    program = load_program("gpu_fake_step", monkeypatch)
    monkeypatch.setattr(program, "LOCAL_TOKENS", 256)
    case = program.Case(4, "full", layers=2, chunk_tokens=64)
    memory = estimate_memory(case.shape, 256, ranks=4, savings=Savings("full"), loss_chunk_tokens=64)
    assert memory.peak_bytes == memory.states + memory.root
    assert memory.peak_bytes == pytest.approx(program.track_step(case).peak_bytes, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("ranks", [3, 4, 8])
@pytest.mark.parametrize("exchange", ["ring", "needed_kv"])
def test_attention_sends_what_the_formula_says(
    monkeypatch: pytest.MonkeyPatch, exchange: Exchange, ranks: int, dtype: torch.dtype
) -> None:
    """A rank's messages are counted as they leave; all ranks together send what is needed, or all, and gradients."""
    program = load_program("gpu_fake_step", monkeypatch)
    tokens = 16 * ranks
    partition = partition_tokens(np.zeros((1, tokens), np.int32), ranks=ranks, layout="zigzag", exchange=exchange)
    sent = 0.0
    for rank in range(ranks):
        monkeypatch.setattr(program, "RANK", rank)
        query, key, value = (torch.zeros(16, heads, 8, dtype=dtype, requires_grad=True) for heads in (4, 2, 2))
        with program.fake_ranks(ranks), program.CountMessages() as messages:
            attend(query, key, value, partition=partition, group=dist.group.WORLD).sum().backward()
        sent += sum(messages.sent_bytes.values()) / ranks
    shape = ModelShape("LlamaForCausalLM", 32, 4, 2, 8, 64, 128, False, 256, plain_layers(1, 1e4))
    needed = partition.traffic_tokens.sum() / ((ranks - 1) * tokens)
    planned = attention_traffic(
        shape, tokens, ranks=ranks, exchange=exchange, element_bytes=dtype.itemsize, needed_share=needed
    )
    assert sent == pytest.approx(planned.training_bytes())
