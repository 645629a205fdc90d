"""Traffic against a worked table, and where one exchange overtakes another."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from ropewalk.plan.traffic import Traffic, attention_traffic, state_traffic
from ropewalk.shape.model_shape import ModelShape

K = 1024


@pytest.mark.parametrize(
    ("tokens", "ranks", "keys_mb", "heads_mb"),
    [
        (32 * K, 2, 67, 168),
        (32 * K, 8, 117, 73),
        (128 * K, 2, 268, 671),
        (128 * K, 8, 470, 294),
        (128 * K, 16, 503, 189),
        (1024 * K, 8, 3758, 2349),
    ],
)
def test_worked_table(
    shapes: Mapping[str, ModelShape], tokens: int, ranks: int, keys_mb: float, heads_mb: float
) -> None:
    shape = shapes["llama-8b"]
    for exchange in ("ring", "all_gather"):
        assert attention_traffic(shape, tokens, ranks=ranks, exchange=exchange).forward == pytest.approx(
            keys_mb * 1e6, rel=0.01
        )
    heads = attention_traffic(shape, tokens, ranks=ranks, exchange="heads")
    assert heads.forward == heads.backward == pytest.approx(heads_mb * 1e6, rel=0.01)


def test_backward_carries_gradients_in_the_type_of_keys_but_in_a_ring(shapes: Mapping[str, ModelShape]) -> None:
    ring = attention_traffic(shapes["llama-8b"], 32 * K, ranks=8, exchange="ring")
    gathered = attention_traffic(shapes["llama-8b"], 32 * K, ranks=8, exchange="all_gather")
    assert ring.backward / ring.forward == pytest.approx(3)
    assert gathered.backward / gathered.forward == pytest.approx(2)


def test_only_needed_rows_are_sent(shapes: Mapping[str, ModelShape]) -> None:
    whole = attention_traffic(shapes["llama-8b"], 128 * K, ranks=8, exchange="all_gather")
    needed = attention_traffic(shapes["llama-8b"], 128 * K, ranks=8, exchange="needed_kv", needed_share=0.09)
    assert needed.forward == pytest.approx(0.09 * whole.forward)


def test_one_rank_sends_nothing(shapes: Mapping[str, ModelShape]) -> None:
    for exchange in ("ring", "all_gather", "needed_kv", "heads"):
        assert attention_traffic(shapes["llama-8b"], 32 * K, ranks=1, exchange=exchange) == Traffic(0, 0)
    assert state_traffic(shapes["llama-8b"], ranks=1) == 0


def test_states_and_steps(shapes: Mapping[str, ModelShape]) -> None:
    shape = shapes["llama-1b"]
    root = shape.vocabulary * shape.width + shape.width  # tied: stays gathered between forward and backward
    assert state_traffic(shape, ranks=4) == pytest.approx(0.75 * (shape.parameters * 8 - 2 * root))
    replicas = state_traffic(shape, ranks=4, replicas=2)
    assert replicas == pytest.approx(0.5 * (shape.parameters * 8 - 2 * root) + shape.parameters / 2 * 4)
    small = replace(shape, positions=shape.positions[:1], width=64, heads=4, kv_heads=4, mlp_width=96, vocabulary=512)
    assert state_traffic(small, ranks=4) == pytest.approx(0.75 * small.parameters * 6), "one unit is gathered once"
    assert Traffic(forward=1, backward=3).training_bytes(forwards=2) == 5
