"""Every architecture, whole: loss and every gradient on 2 and 4 ranks are those of one, and the same twice."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from llama_kin import LLAMA_KIN
from packs import pack
from ropewalk.model.attention_interface import NAME
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import local_shard, partition_tokens_and_heads
from sum_tensors import sum_tensors

Make = Callable[..., PreTrainedModel]
Found = dict[str, torch.Tensor]
VOCABULARY = 97
WINDOW = {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}
CASES: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in LLAMA_KIN} | {
    "Mistral, windowed": ("MistralForCausalLM", {"sliding_window": 6}),
    "Qwen2, windowed": ("Qwen2ForCausalLM", WINDOW),
    "Qwen3, windowed": ("Qwen3ForCausalLM", WINDOW),
    "SmolLM3, windowed": ("SmolLM3ForCausalLM", WINDOW | {"layer_types": ["sliding_attention", "full_attention"]}),
}
"""The other classes of windows have one in every second layer already."""
CUTS: dict[int, list[dict[str, Any]]] = {
    1: [{}],
    2: [{"layout": "zigzag"}, {"ulysses_degree": 2}],
    4: [
        {"layout": "balanced"},
        {"layout": "zigzag", "exchange": "ring"},
        {"layout": "contiguous", "ulysses_degree": 2},
    ],
}


def learn(model: PreTrainedModel, settings: dict[str, Any]) -> Found:
    """Loss and gradients of packed rows in float64, added up over ranks: called by run_ranks."""
    document, generator = pack([33, 1, 38, 9], 96), torch.Generator().manual_seed(1)
    tokens, labels = (torch.randint(VOCABULARY, document.shape, generator=generator).numpy() for _ in range(2))
    weights = torch.rand(document.shape, generator=generator).double().numpy() * (document >= 0)
    positions = torch.cat([torch.arange(length) for length in (33, 1, 38, 9, 15)])[None].numpy()
    ranks, rank = dist.get_world_size(), dist.get_rank()
    partition = partition_tokens_and_heads(document, ranks=ranks, **settings)
    learner = ModelWithLoss(model).train()
    learner.zero_grad()
    fields = (torch.from_numpy(local_shard(partition, rank, field)) for field in (tokens, positions, labels, weights))
    loss, _, _ = learner(*fields, partition=partition, context_group=dist.group.WORLD if ranks > 1 else None)
    loss.backward()
    found = {"loss": loss.detach()} | {name: each.grad.clone() for name, each in model.named_parameters()}
    sum_tensors([*found.values()])
    return found


def learn_all(models: dict[str, PreTrainedModel]) -> dict[tuple[str, int], Found]:
    cuts = CUTS[dist.get_world_size()]
    return {(name, index): learn(model, each) for name, model in models.items() for index, each in enumerate(cuts)}


@pytest.fixture
def models(make_tiny: Make) -> dict[str, PreTrainedModel]:
    made = {name: make_tiny(kind, attn_implementation=NAME, **changes) for name, (kind, changes) in CASES.items()}
    return {name: model.double() for name, model in made.items()}


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_equal_one_in_loss_and_every_gradient_and_two_of_them_twice_to_the_last_bit(
    models: dict[str, PreTrainedModel], ranks: int
) -> None:
    (one,) = run_ranks(learn_all, 1, models)
    first = run_ranks(learn_all, ranks, models)
    again = run_ranks(learn_all, ranks, models) if ranks == 2 else first  # four on two cores take their time
    for rank, others in zip(first, again, strict=True):
        for (name, index), found in rank.items():
            for tensor, expected in one[name, 0].items():
                where = (name, CUTS[ranks][index], tensor)
                # Norms are computed in float32 whatever the model's type, and a rounding there may fall the other way.
                assert (found[tensor] - expected).norm() <= 1e-6 * expected.norm(), where
                assert torch.equal(found[tensor], others[name, index][tensor]), where
