"""Latents that travel give the results of keys and values that travel, and of one rank, for an eighth of the bytes."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import get_rank, group
from transformers import DeepseekV2Config, DeepseekV2ForCausalLM, DeepseekV3Config, DeepseekV3ForCausalLM

from ropewalk.attention import use_kernel
from ropewalk.model.adapter import attach_adapter
from ropewalk.model.attention_interface import NAME
from ropewalk.model.latent_attention import LatentAttention, exchange_latents
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.launch import run_ranks
from ropewalk.partition import local_shard, partition_tokens, partition_tokens_and_heads
from ropewalk.recipe.lora import Lora

LENGTHS = (3, 29, 1, 15)
TOKENS = torch.from_numpy(np.random.default_rng(3).integers(0, 50, size=sum(LENGTHS)))
POSITIONS = torch.cat([torch.arange(length) for length in LENGTHS])
WEIGHTS = torch.cat([torch.cat([torch.ones(length - 1), torch.zeros(1)]) for length in LENGTHS]).double()
DOCUMENTS = np.repeat(np.arange(len(LENGTHS), dtype=np.int32), LENGTHS)[None]
TINY = {
    **{"vocab_size": 50, "hidden_size": 32, "intermediate_size": 24, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "num_key_value_heads": 4, "kv_lora_rank": 12, "q_lora_rank": 10},
    **{"qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "first_k_dense_replace": 2},
    **{"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "n_group": 1, "topk_group": 1},
}
V2_LITE = TINY | {
    **{"num_attention_heads": 16, "num_key_value_heads": 16, "kv_lora_rank": 512, "q_lora_rank": None},
    **{"qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "num_hidden_layers": 1},
}
WAYS = [
    ("zigzag", "ring", "cpu"),
    ("balanced", "needed_kv", "cpu"),
    ("zigzag", "all_gather", "reference"),
    ("balanced", "needed_kv", "reference_gathered"),
]


def make(settings: dict[str, Any], *, latents: bool, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    torch.manual_seed(0)
    if settings["q_lora_rank"] is None:
        model: Any = DeepseekV2ForCausalLM(DeepseekV2Config(**settings))
    else:
        model = DeepseekV3ForCausalLM(DeepseekV3Config(**settings))
    model = model.to(dtype).eval()
    model.set_attn_implementation(NAME)
    if latents:
        exchange_latents(model, NAME)
    return model


def run(model: Any, way: Any, ranks: int) -> tuple[float, dict[str, Tensor]]:
    """The loss and the gradients of this rank's tokens."""
    layout, exchange, kernel = way
    if exchange == "heads":
        cut: Any = partition_tokens_and_heads(DOCUMENTS, ranks=ranks, ulysses_degree=ranks)
    else:
        cut = partition_tokens(DOCUMENTS, ranks=ranks, layout=layout, exchange=exchange)
    fields = (TOKENS, POSITIONS, TOKENS.roll(-1), WEIGHTS)
    rank = get_rank() if ranks > 1 else 0
    own = [torch.from_numpy(np.ascontiguousarray(local_shard(cut, rank, each.numpy()[None]))) for each in fields]
    with use_kernel(kernel):
        loss, _, _ = ModelWithLoss(model)(*own, partition=cut, context_group=group.WORLD if ranks > 1 else None)
        loss.backward()
    return float(loss.detach()), {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


def run_adapted(ranks: int) -> tuple[float, dict[str, Tensor]]:
    """With an adapter in each matrix; its second factor is not 0, or the first one would get no gradient."""
    model: Any = make(TINY, latents=True)
    attach_adapter(model, Lora(rank=2, also_train=()), seed=0)
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return run(model.double(), WAYS[0], ranks)


def test_adapters_of_the_expansion() -> None:
    loss, gradients = run_adapted(1)
    parts = run_ranks(partial(run_adapted, 2), 2)
    assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-12)
    assert sum("kv_b_proj" in name for name in gradients) == 2 * 2
    for name, whole in gradients.items():
        found = sum(part[1][name] for part in parts)
        assert float((found - whole).norm()) <= 1e-9 * float(whole.norm()), name


def run_both(ways: list[Any]) -> list[list[tuple[float, dict[str, Tensor]]]]:
    return [[run(make(TINY, latents=latents), way, 2) for latents in (False, True)] for way in ways]


def test_latents_give_what_keys_give_and_what_one_rank_gives() -> None:
    ways = [*WAYS, ("zigzag", "heads", "cpu")]
    loss, gradients = run(make(TINY, latents=True), ("zigzag", "ring", "reference"), 1)
    for way, shares in zip(ways, zip(*run_ranks(partial(run_both, ways), 2), strict=True), strict=True):
        for parts in zip(*shares, strict=True):  # with keys, then with latents
            assert sum(part[0] for part in parts) == pytest.approx(loss, rel=1e-12), way
            for name, whole in gradients.items():
                found = sum(part[1].get(name, torch.zeros(())) for part in parts)
                assert float((found - whole).norm()) <= 1e-9 * float(whole.norm()) + 1e-15, (way, name)


def test_a_rank_that_receives_nothing() -> None:
    """Here only rank 1 reads a key of the other one."""

    def on_rank() -> dict[str, Tensor]:
        model: Any = make(TINY, latents=True)
        cut = partition_tokens(
            np.array([[0] * 5 + [1] * 11], np.int32), ranks=2, layout="contiguous", exchange="needed_kv"
        )
        assert sorted(cut.traffic_tokens.sum(1).tolist())[0] == 0 < cut.traffic_tokens.sum()
        own = cut.owned(get_rank())
        places = torch.from_numpy(np.where(own < 5, own, own - 5))[None]
        settings = {"position_ids": places, "partition": cut, "context_group": group.WORLD, "use_cache": False}
        model(TOKENS[None, own], **settings).logits.square().sum().backward()
        return {name: each.grad for name, each in model.named_parameters() if each.grad is not None}

    parts = run_ranks(on_rank, 2)
    whole = make(TINY, latents=False)
    for first, last in ((0, 5), (5, 16)):
        whole(TOKENS[None, first:last], use_cache=False).logits.square().sum().backward()
    for name, parameter in whole.named_parameters():
        if parameter.grad is not None:
            found = sum(part[name] for part in parts)
            assert float((found - parameter.grad).norm()) <= 1e-9 * float(parameter.grad.norm()), name


def test_the_expansion_gets_its_gradient_on_the_rank_that_expands() -> None:
    """Documents of one rank's own give it half; with a frozen matrix nothing is lost and nothing fails."""
    model = make(TINY, latents=True)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("kv_b_proj" not in name)
    _, gradients = run(model, WAYS[0], 1)
    assert not any("kv_b_proj" in name for name in gradients)
    assert any("kv_a_proj" in name for name in gradients)


@contextmanager
def count_bytes() -> Iterator[list[int]]:
    """The bytes that this rank receives from others."""
    counts = [0]
    both, all_to_all = dist.batch_isend_irecv, dist.all_to_all_single

    def pass_on(operations: list[Any]) -> Any:
        counts[0] += sum(each.tensor.nbytes for each in operations if each.op is dist.irecv)
        return both(operations)

    def exchange(incoming: Tensor, outgoing: Tensor, *args: Any, **kwargs: Any) -> Any:
        counts[0] += incoming.nbytes
        return all_to_all(incoming, outgoing, *args, **kwargs)

    dist.batch_isend_irecv, dist.all_to_all_single = pass_on, exchange
    try:
        yield counts
    finally:
        dist.batch_isend_irecv, dist.all_to_all_single = both, all_to_all


def count_both(exchange: str) -> list[int]:
    found = []
    for latents in (False, True):
        with count_bytes() as counts:
            run(make(V2_LITE, latents=latents, dtype=torch.float32), ("zigzag", exchange, "cpu"), 2)
        found += counts
    return found


@pytest.mark.parametrize("exchange", ["ring", "needed_kv"])
def test_an_eighth_of_the_bytes_travels(exchange: str) -> None:
    for keys, latents in run_ranks(partial(count_both, exchange), 2):
        assert 0 < latents <= keys / 8
        assert latents * (2 * 16 * 192) == keys * 576  # values travel in the width of keys


def test_other_attention_gets_keys_and_values() -> None:
    """The derived class is the class itself for SDPA, for eager attention, and for ours without a partition."""
    tokens = TOKENS[None, 3:32]
    plain = make(TINY, latents=False)
    plain.set_attn_implementation("sdpa")
    ours = make(TINY, latents=True)
    assert isinstance(ours.model.layers[0].self_attn, LatentAttention)
    wanted = plain(tokens).logits
    for name in (NAME, "sdpa"):
        ours.set_attn_implementation(name)
        torch.testing.assert_close(ours(tokens, use_cache=False).logits, wanted, rtol=0, atol=0)
    ours.set_attn_implementation("eager")
    torch.testing.assert_close(ours(tokens).logits, wanted, rtol=1e-6, atol=1e-6)
    names = [name for name, _ in ours.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()]


def test_generation_with_a_cache_of_latents() -> None:
    ours, plain = make(TINY, latents=True), make(TINY, latents=False)
    plain.set_attn_implementation("sdpa")
    settings = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    prompt = TOKENS[None, :9]
    assert ours.generate(prompt, **settings).tolist() == plain.generate(prompt, **settings).tolist()
