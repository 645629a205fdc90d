"""A hybrid's plan: its recurrent layers choose the cut with its attention, and what they send is in the bytes."""

import dataclasses

import numpy as np
import pytest

from layer_bytes import largest_block_bytes, stored_block_bytes
from packs import pack
from planned_recipe import make_planned
from ropewalk.partition import partition_tokens
from ropewalk.partition.choose import choose_partition
from ropewalk.partition.recurrent_cost import RecurrentStates
from ropewalk.plan import sharing as sharing_module
from ropewalk.plan.block_memory import ReceivedKeys
from ropewalk.plan.flops import token_flops
from ropewalk.plan.forecast import forecast, forecast_recipe
from ropewalk.plan.hardware import KNOWN
from ropewalk.plan.memory import estimate_memory
from ropewalk.plan.plan import Split
from ropewalk.plan.savings import Savings
from ropewalk.plan.sharing import cut_sequences, plan_sharing
from ropewalk.plan.step_time import attention_share
from ropewalk.plan.traffic import Traffic, attention_traffic, recurrent_traffic
from ropewalk.recipe.parallel import Parallel
from ropewalk.shape.model_shape import ModelShape
from ropewalk.shape.read import parse_shape

K, MIB = 1024, 1 << 20


@pytest.fixture(scope="module")
def hybrid() -> ModelShape:
    """Qwen3.5 9B."""
    heads = {"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 256, "linear_num_key_heads": 16}
    states = {"linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128}
    config = {
        **{"architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "hidden_size": 4096},
        **{"num_hidden_layers": 32, "intermediate_size": 12288, "vocab_size": 248320, "linear_conv_kernel_dim": 4},
        **{"max_position_embeddings": 32 * K, "rope_parameters": {"rope_type": "default", "rope_theta": 1e7}},
        **{"full_attention_interval": 4, "tie_word_embeddings": False},
    }
    return parse_shape(config | heads | states, "config.json")


def test_a_shape_tells_its_states(hybrid: ModelShape) -> None:
    states = RecurrentStates.of_shape(hybrid)
    assert states == RecurrentStates("gated_delta", 32, 128, 128, 3.0, channels=8192, taps=4)
    sharing = plan_sharing(Parallel(), hybrid, device="cuda", element_bytes=2)
    assert sharing.price.recurrent is not None and sharing.price.recurrent.layers == states
    told = choose_partition(pack([16 * K], 16 * K), ranks=4, sharing=sharing).explain()
    assert "recurrent layers: " in told


def test_a_delta_layers_bytes_do_not_grow_and_are_few(hybrid: ModelShape) -> None:
    """One document on 8 ranks; attention's keys grow with the length."""
    sharing, found = plan_sharing(Parallel(), hybrid, device="cuda", element_bytes=2), []
    price = sharing.price.recurrent
    assert price is not None
    for tokens in (128 * K, 1024 * K):
        partition = partition_tokens(np.zeros((1, tokens), np.int32), ranks=8, layout="zigzag")
        traffic = recurrent_traffic(partition, price)
        keys = attention_traffic(hybrid, tokens, ranks=8, exchange="ring").forward
        assert traffic.forward <= keys / 5 and traffic.backward == traffic.forward
        found.append(traffic)
    assert found[0] == found[1]
    assert found[0].forward <= 14 * 4 * MIB + 14 * 3 * 8192 * 2, "two inner segments, of seven readers each"
    whole = partition_tokens(np.repeat(np.arange(8, dtype=np.int32), K)[None], ranks=8)
    assert recurrent_traffic(whole, price) == Traffic(0, 0)
    near, far = (cut_sequences(1024 * K, 1, ranks=ranks, sharing=sharing).recurrent_traffic for ranks in (16, 32))
    assert near is not None and far is not None
    assert far.forward / near.forward == pytest.approx(31 / 15, rel=0.05), "a rank's segments have twice the readers"


def test_a_plan_counts_what_recurrent_layers_send(hybrid: ModelShape) -> None:
    size = {"context_tokens": 128 * K, "tokens": 128 * K, "ranks": 8}
    split = Split(context_ranks=8)
    without = forecast(hybrid, split=split, **size)
    more = forecast(hybrid, split=dataclasses.replace(split, recurrent_traffic=Traffic(3.0 * MIB, 5.0 * MIB)), **size)
    again = more.savings.count_again(hybrid.layers)  # summaries travel again in recomputed blocks
    assert 0 < again < hybrid.layers and hybrid.recurrent is not None
    twice = sum(layer < again for layer in hybrid.recurrent.layers)
    assert more.context_bytes - without.context_bytes == (24 * (3 + 5) + twice * 3) * MIB


def test_a_stage_takes_them_from_its_partition(hybrid: ModelShape, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = {"context_length": "128Ki", "step_tokens": "128Ki", "tokens": "1M", "lr": 1e-3}
    stage["rope"] = {"kind": "theta", "theta": 1e8}
    recipe = make_planned([stage], parallel={"ranks": 8, "context_parallel": 8, "recompute": "save_attention"})
    (plan,) = forecast_recipe(recipe, hybrid, machine=KNOWN["h200-sxm"])
    assert "recurrent layers: 77 summaries to read, at most 52 MiB" in plan.cut and "contiguous would cost" in plan.cut
    cut_sequences.cache_clear()
    monkeypatch.setattr(sharing_module, "recurrent_traffic", lambda *args, **kwargs: Traffic(0.0, 0.0))
    (without,) = forecast_recipe(recipe, hybrid, machine=KNOWN["h200-sxm"])
    sent = (plan.context_bytes - without.context_bytes) / 24 / 3  # forward, once more when a block runs again, and back
    cut_sequences.cache_clear()
    assert 52 * MIB < sent < 53 * MIB


def test_a_recurrent_block_keeps_its_own_tensors(hybrid: ModelShape) -> None:
    """Where nothing runs again all blocks keep theirs; where blocks run again, the largest of them does."""
    none, full = (estimate_memory(hybrid, 16 * K, ranks=8, savings=Savings(way)) for way in ("none", "full"))
    (attention,) = {layer for layer in hybrid.positions if layer.mixer is None}
    attending = dataclasses.replace(hybrid, recurrent=None, positions=(attention,) * 32)
    ratio = stored_block_bytes(hybrid, 1) / stored_block_bytes(attending, 1)
    assert 1.4 < ratio < 2.2, "three of four layers keep their recurrence in float32"
    assert none.kept == 32 * stored_block_bytes(hybrid, 16 * K) and full.kept == 32 * 16 * K * 4096 * 2
    assert full.last_block > largest_block_bytes(hybrid, 16 * K) > stored_block_bytes(hybrid, 16 * K)
    saved = estimate_memory(hybrid, 16 * K, ranks=8, savings=Savings("save_attention"))
    assert saved.kept - full.kept == 8 * 16 * K * (4096 * 2 + 16 * 4), "of the eight layers with attention"
    shared = estimate_memory(hybrid, 16 * K, ranks=8, savings=Savings("none"), received=ReceivedKeys(0))
    assert shared.kept - none.kept == 24 * 16 * K * 4 * 32 * 256 * 3


def test_the_rate_of_attention_is_that_of_the_layers_that_have_it(hybrid: ModelShape) -> None:
    alone = dataclasses.replace(
        hybrid, recurrent=None, positions=tuple(each for each in hybrid.positions if each.mixer is None)
    )
    rates = [attention_share(each, token_flops(each, 4 * K), KNOWN["h200-sxm"]) for each in (hybrid, alone)]
    assert rates[0] == rates[1]
