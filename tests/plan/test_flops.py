"""FLOPs against torch's own count, against published runs, and against a worked table."""

from collections.abc import Mapping

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from ropewalk.plan.flops import TokenFlops, count_document_pairs, token_flops, utilisation
from ropewalk.rope.layers import LayerRule, plain_layers
from ropewalk.rope.scaling import Unchanged
from ropewalk.shape.model_shape import ModelShape

K = 1024


@pytest.mark.parametrize(
    ("model", "context", "share", "giga_flops", "floor", "floor_full"),
    [
        ("llama-1b", 32 * K, 0.46, 13.9, 57_011, 40_410),
        ("llama-1b", 128 * K, 0.78, 33.2, 23_806, 16_275),
        ("llama-1b", 512 * K, 0.93, 110.5, 7_150, 4_802),
        ("llama-1b", 1024 * K, 0.97, 213.6, 3_699, 2_476),
        ("qwen-0.6b", 32 * K, 0.76, 14.9, 53_198, 36_440),
        ("qwen-0.6b", 128 * K, 0.93, 48.7, 16_231, 10_910),
        ("qwen-0.6b", 1024 * K, 0.99, 364, 2_168, 1_447),
        ("llama-8b", 32 * K, 0.36, 70.8, 11_159, 8_005),
        ("llama-8b", 128 * K, 0.70, 148, 5_334, 3_680),
        ("llama-8b", 512 * K, 0.90, 457, 1_727, 1_164),
        ("qwen-8b", 32 * K, 0.39, 74.4, 10_618, 7_594),
        ("qwen-8b", 1024 * K, 0.95, 973, 812, 544),
    ],
)
def test_worked_table_of_one_h200(
    shapes: Mapping[str, ModelShape],
    model: str,
    context: int,
    share: float,
    giga_flops: float,
    floor: int,
    floor_full: int,
) -> None:
    flops = token_flops(shapes[model], context)
    assert flops.attention_share == pytest.approx(share, abs=0.006)
    assert flops.model == pytest.approx(giga_flops * 1e9, rel=0.005)
    assert 790e12 / flops.model == pytest.approx(floor, rel=1e-3)
    assert 790e12 / flops.hardware("full") == pytest.approx(floor_full, rel=1e-3)


@pytest.mark.parametrize(
    ("context", "seconds", "ranks", "reported"),
    [
        (500_000, 16 * 60 + 50, 1, 548.1),
        (160_000, 2 * 60 + 3, 1, 514.4),  # 8 ranks, each with a sequence of its own
        (1_100_000, 9 * 60 + 24, 8, 576.1),
        (1_200_000, 11 * 60 + 43, 8, 548.7),
        (2_400_000, 43 * 60 + 30, 8, 585.8),
        (15_500_000, (7 * 60 + 25) * 60 + 9, 32, 590.6),
    ],
)
def test_published_runs_of_alst(
    shapes: Mapping[str, ModelShape], context: int, seconds: int, ranks: int, reported: float
) -> None:
    # Tables 1 to 4 of arXiv 2506.13996 count attention over the full square, and four passes.
    flops = token_flops(shapes["llama-8b"], context)
    theirs = 4 * (flops.linear + 2 * flops.attention) * context / seconds / ranks
    assert theirs / 1e12 == pytest.approx(reported, rel=2.5e-3)


def test_causal_true_utilisation_of_a_published_run(shapes: Mapping[str, ModelShape]) -> None:
    # The 32-rank row: 590.6 reported is 22 % of an H100's 989 TFLOP/s.
    flops = token_flops(shapes["llama-8b"], 15_500_000)
    rate = 15_500_000 / ((7 * 60 + 25) * 60 + 9)
    assert utilisation(flops, tokens_per_second=rate, peak_flops=32 * 989e12) == pytest.approx(0.22, abs=0.005)


def test_passes() -> None:
    flops = TokenFlops(linear=100, attention=10)
    assert flops.model == 330
    assert flops.hardware("none") == 3 * 100 + 3.5 * 10
    assert flops.hardware("full") == 4 * 100 + 4.5 * 10
    assert flops.hardware("save_attention") == 4 * 100 + 3.5 * 10
    assert flops.seconds("full", matmul=10, forward=2, backward=5) == (40, 5 + 5 + 5)


def test_a_torch_forward_counts_the_same() -> None:
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        attn_implementation="eager",
    )
    shape = ModelShape("LlamaForCausalLM", 32, 4, 2, 16, 48, 96, False, 2048, plain_layers(2, 1e4))
    tokens = 64
    model = LlamaForCausalLM(config)
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, tokens, dtype=torch.long), use_cache=False)
    flops = token_flops(shape, tokens)
    # Eager attention computes the full square, a causal kernel its lower half with the diagonal.
    assert counter.get_total_flops() == tokens * (flops.linear + flops.attention * 2 * tokens / (tokens + 1))


@pytest.mark.parametrize("lengths", [[256], [100, 30, 70, 56], [1, 2, 3], [64, 64]])
@pytest.mark.parametrize("window", [None, 1, 16, 64, 1000])
def test_pairs_are_those_inside_document_and_window(lengths: list[int], window: int | None) -> None:
    documents = [index for index, length in enumerate(lengths) for _ in range(length)]
    pairs = sum(
        documents[query] == documents[key] and (window is None or query - key < window)
        for query in range(len(documents))
        for key in range(query + 1)
    )
    assert count_document_pairs(lengths, window) == pairs


def test_each_layer_counts_its_own_window(shapes: Mapping[str, ModelShape]) -> None:
    full = shapes["llama-1b"]
    hybrid = windowed(full, 48)
    documents = [100, 28, 72]
    flops = token_flops(hybrid, 256, document_tokens=documents)
    pairs = 12 * count_document_pairs(documents, 48) + 4 * count_document_pairs(documents)
    assert flops.attention == 4 * full.query_width * pairs / 256
    assert flops.linear == token_flops(full, 256).linear
    with pytest.raises(AssertionError):
        token_flops(full, 16, document_tokens=[10, 10])


def test_three_windows_and_a_full_layer_at_128ki(shapes: Mapping[str, ModelShape]) -> None:
    # A quarter of the layers reads everything, and 4Ki of 128Ki are 1/16 of a triangle.
    full = token_flops(shapes["llama-8b"], 128 * K)
    hybrid = token_flops(windowed(shapes["llama-8b"], 4 * K), 128 * K)
    assert hybrid.attention / full.attention == pytest.approx(1 / 4 + 3 / 4 * (1 / 16 - 1 / 32**2), rel=1e-4)
    assert full.model / hybrid.model == pytest.approx(1.97, abs=0.01)


def windowed(shape: ModelShape, window: int) -> ModelShape:
    """Every layer but each fourth sees ``window`` tokens."""
    pattern = (LayerRule(window=window),) * 3 + (LayerRule(),)
    return shape.stretch(pattern, rope=Unchanged(), context_tokens=shape.context_tokens)
