"""Some blocks are recomputed: the peak against a walk over all blocks, and which numbers of blocks fit."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from conformance.tiny_families import make_settings
from ropewalk.plan.block_memory import BlockMemory, ReceivedKeys
from ropewalk.plan.memory import GRADIENT_BYTES, Memory, estimate_memory
from ropewalk.plan.savings import Savings
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

TOKENS = 16_384


def plan(shape: ModelShape, way: Savings, tokens: int = TOKENS, ranks: int = 8) -> Memory:
    return estimate_memory(shape, tokens, ranks=ranks, savings=way, received=ReceivedKeys(0) if ranks > 1 else None)


@pytest.mark.parametrize("recompute", ["full", "save_attention"])
@pytest.mark.parametrize("tokens", [512, 4096, 16_384])
def test_the_peak_is_the_largest_of_all_blocks_one_by_one(
    shapes: Mapping[str, ModelShape], recompute: str, tokens: int
) -> None:
    """A backward over the blocks, the last first: what the blocks before keep, this one's work, gradients so far."""
    shape = shapes["llama-8b"]
    for count in (1, 2, 16, 30, 31):
        way = Savings(recompute, recompute_blocks=count)  # type: ignore[arg-type]
        blocks, found = BlockMemory(shape, tokens, way), plan(shape, way, tokens, ranks=1)
        full, head = blocks.saved(0), GRADIENT_BYTES * shape.vocabulary * shape.width
        attention = tokens * (shape.query_width * 2 + shape.heads * 4) if recompute == "save_attention" else 0.0
        kept = [tokens * shape.width * 2 + attention if index < count else full for index in range(shape.layers)]
        walked = [sum(kept) + found.loss]
        for index in reversed(range(shape.layers)):
            run = full - attention if index < count else 0.0
            done = head + GRADIENT_BYTES * shape.block_parameters * (shape.layers - index) + head * (index == 0)
            walked.append(sum(kept[: index + 1]) + run + done + tokens * shape.width * 10 + blocks.moving())
        assert found.kept == pytest.approx(sum(kept))
        planned = found.peak_bytes - found.states - found.gathered
        assert planned == pytest.approx(max(walked), rel=0.06), (count, planned / max(walked))


@pytest.mark.parametrize("count", [29, 30, 31])
def test_the_last_recomputed_block_may_be_the_peak(shapes: Mapping[str, ModelShape], count: int) -> None:
    """On eight ranks: its second run stands beside the head's gradient, which is whole until the end."""
    shape, way = shapes["llama-8b"], Savings("full", recompute_blocks=count)
    blocks, found = BlockMemory(shape, TOKENS, way, received=ReceivedKeys(0)), plan(shape, way)
    row, whole = TOKENS * shape.width * 10, GRADIENT_BYTES * shape.vocabulary * shape.width
    block = shape.block_parameters
    shards = GRADIENT_BYTES * block * (shape.layers - count + 1) / 8
    peak = count * TOKENS * shape.width * 2 + blocks.saved(0) + blocks.moving() + row + whole + shards + 6 * block
    assert found.border == pytest.approx(peak, rel=0.02)
    assert found.border > found.first_block
    if count == 31:
        assert found.peak_bytes == found.states + found.gathered + found.border


def test_a_block_more_keeps_less_and_takes_longer(shapes: Mapping[str, ModelShape]) -> None:
    """So the fewest that fit are found by halving."""
    for tokens in (2048, TOKENS):
        for way in (Savings("full"), Savings("save_attention", offload=True, attention_on_host=True)):
            peaks = [plan(shapes["llama-8b"], replace(way, recompute_blocks=count), tokens) for count in range(2, 32)]
            assert [each.peak_bytes for each in peaks] == sorted((each.peak_bytes for each in peaks), reverse=True)
            hosts = [each.host for each in peaks]
            assert hosts == sorted(hosts) and (hosts[-1] > hosts[0]) == way.offload


def test_all_blocks_and_no_number_are_the_same(shapes: Mapping[str, ModelShape]) -> None:
    shape = shapes["llama-8b"]
    for way in (Savings("full", 4096), Savings("save_attention")):
        assert plan(shape, replace(way, recompute_blocks=32)) == plan(shape, way)


def test_each_mixer_is_counted_by_itself() -> None:
    """A layer of Falcon-H1 holds both mixers; one of Nemotron-H holds one, or neither (here: recurrence, attention)."""
    both, single = (
        parse_shape(make_settings(name), "config.json") for name in ("FalconH1ForCausalLM", "NemotronHForCausalLM")
    )
    for blocks in range(both.layers + 1):
        assert both.attending[blocks] == both.recurring[blocks] == blocks
    counts = [(single.attending[blocks], single.recurring[blocks]) for blocks in range(5)]
    assert counts == [(0, 0), (0, 1), (1, 1), (1, 1), (1, 1)]
