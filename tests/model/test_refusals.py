"""What cannot be cut over ranks is refused on every rank, by name, before any of them waits for another."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from ropewalk.core.error import UserError
from ropewalk.model.parallelize import parallelize
from ropewalk.parallel.launch import run_ranks

Make = Callable[..., PreTrainedModel]
Act = Callable[[], Any]
ROW = torch.arange(12)[None]
FALLING = torch.tensor([[0, 1, 2, 3, 3, 4, 0, 1, 2, 3, 4, 5]])
HOLE = torch.tensor([[1, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0]])

BATCHES: dict[str, tuple[dict[str, torch.Tensor], str]] = {
    "a degree that does not divide": ({"input_ids": torch.arange(11)[None]}, "11 tokens"),
    "a row shorter than the ranks": ({"input_ids": torch.arange(2)[:, None]}, r"\[2, 1\], and 2 context ranks"),
    "no rows": ({"input_ids": torch.arange(12)}, r"\[12\]"),
    "positions that stand still": (
        {"input_ids": ROW, "position_ids": FALLING},
        "sequence 0: position 3 is followed by 3 at token 4",
    ),
    "positions that fall in a document": (
        {"input_ids": ROW, "position_ids": FALLING.clamp(max=2), "document_ids": ROW // 8},
        "sequence 0: position 2 is followed by 2 at token 3",
    ),
    "padding inside": ({"input_ids": ROW, "attention_mask": HOLE}, "sequence 0 has padding between its tokens"),
    "labels of another shape": ({"input_ids": ROW, "labels": ROW[:, 1:]}, r"labels.*\n.*\n.*\[1, 11\]"),
}

TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "bos_token_id": None,
    "eos_token_id": None,
}
FEW_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
LATENT = {
    "n_routed_experts": 4,
    "moe_intermediate_size": 16,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "mamba": ({}, "linear_attention"),
    "jamba": ({}, "linear_attention"),
    "deepseek_v32": (LATENT | {"q_lora_rank": 8, "index_topk": 8}, r"an indexer chooses"),
    "llama4_text": (FEW_EXPERTS, "chunked_attention"),
    "bert": ({"attention_probs_dropout_prob": 0.0}, "later tokens"),
    "gemma3_text": ({"use_bidirectional_attention": True}, "later tokens"),
    "llama": ({"attention_dropout": 0.1}, "attention dropout"),
    "mixtral": (FEW_EXPERTS | {"output_router_logits": True}, "balance of its experts"),
    "bloom": ({}, "does not go through transformers' AttentionInterface"),
    "doge": ({}, "no attribute 'dtype'"),
    "phi": (
        {"rope_parameters": LONG | {"original_max_position_embeddings": 32, "partial_rotary_factor": 1.0}},
        "longrope takes the length from the local positions",
    ),
}


def refuse(acts: Mapping[str, Act]) -> dict[str, str]:
    """What each act is refused with on this rank; one that waits for ever fails the test."""
    found = {}
    for name, act in acts.items():
        found[name] = "nothing"
        try:
            act()
        except UserError as refusal:
            found[name] = str(refusal)
    return found


def assert_refused(acts: Mapping[str, Act], messages: Mapping[str, str]) -> None:
    for found in run_ranks(refuse, 2, acts):
        assert found.keys() == messages.keys()
        for name, message in messages.items():
            assert re.search(message, found[name]), (name, found[name])


def test_batches_that_cannot_be_cut(make_tiny: Make) -> None:
    model = make_tiny("LlamaForCausalLM")

    def cut(batch: dict[str, torch.Tensor]) -> Act:
        return lambda: parallelize(model, dist.group.WORLD).cut(**batch)

    assert_refused(
        {name: cut(batch) for name, (batch, _) in BATCHES.items()},
        {name: message for name, (_, message) in BATCHES.items()},
    )


def test_ranks_that_disagree_are_named(make_tiny: Make) -> None:
    model = make_tiny("LlamaForCausalLM")

    def cut(of_rank: Callable[[int], dict[str, Any]], **settings: Callable[[int], str]) -> Act:
        def act() -> None:
            rank = dist.get_rank()
            chosen = {name: choose(rank) for name, choose in settings.items()}
            parallelize(model, dist.group.WORLD, **chosen).cut(**of_rank(rank))

        return act

    acts = {
        "tokens": cut(lambda rank: {"input_ids": ROW + rank}),
        "documents": cut(lambda rank: {"input_ids": ROW, "document_ids": ROW // (3 + rank)}),
        "a field": cut(lambda rank: {"input_ids": ROW, **({"labels": ROW} if rank else {})}),
        "rows, one of which cannot be cut": cut(lambda rank: {"input_ids": ROW[:, rank:]}),
        "the layout": cut(lambda rank: {"input_ids": ROW}, layout=lambda rank: ("zigzag", "contiguous")[rank]),
    }
    assert_refused(acts, dict.fromkeys(acts, r"do not have the same sequences\n  where: rank 1 of 2"))


def test_models_whose_tokens_meet_elsewhere() -> None:
    def make(kind: str, changes: dict[str, Any]) -> Act:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(TINY | changes)))

        def act() -> None:
            before = model.config._attn_implementation
            try:
                parallelize(model, dist.group.WORLD)
            finally:
                assert model.config._attn_implementation == before, "a refused model stays as it was"

        return act

    assert_refused(
        {kind: make(kind, changes) for kind, (changes, _) in MODELS.items()},
        {kind: message for kind, (_, message) in MODELS.items()},
    )


def test_what_is_no_model_no_mesh_no_team_of_heads(make_tiny: Make) -> None:
    three = {"hidden_size": 24, "num_attention_heads": 3, "num_key_value_heads": 1}
    model, odd = make_tiny("LlamaForCausalLM"), make_tiny("LlamaForCausalLM", **three)
    acts = {
        "a module": lambda: parallelize(torch.nn.Linear(2, 2), None),  # type: ignore[arg-type]
        "a grid": lambda: parallelize(model, init_device_mesh("cpu", (2, 1), mesh_dim_names=("data", "rows"))),
        "heads": lambda: parallelize(odd, dist.group.WORLD, ulysses_degree=2),
        "Ulysses groups": lambda: parallelize(model, dist.group.WORLD, ulysses_degree=3),
    }
    messages = {
        "a module": "it is a Linear",
        "a grid": "a dimension named",
        "heads": "3 query heads and 1 key head over 2 ranks",
        "Ulysses groups": "2 context ranks are not a multiple of 3",
    }
    assert_refused(acts, messages)


def test_what_a_layer_asks_in_the_forward(make_tiny: Make) -> None:
    """Dropout that the config no longer tells of, a cache that holds earlier keys, a mask of the caller's own.

    By ``forward``, past the hook that looks at arguments.
    """
    model, dropping = make_tiny("LlamaForCausalLM"), make_tiny("LlamaForCausalLM", attention_dropout=0.1)
    dropping.config.attention_dropout = 0.0

    def go_on_from_a_cache() -> None:
        kwargs = parallelize(model, dist.group.WORLD).cut(ROW) | {"use_cache": True}
        cache = model.forward(**kwargs).past_key_values
        model.forward(**kwargs, past_key_values=cache)

    def mask() -> None:
        kwargs = parallelize(model, dist.group.WORLD).cut(ROW)
        model.forward(**kwargs, attention_mask=torch.ones(1, 1, 6, 6, dtype=torch.bool))

    acts = {
        "dropout": lambda: dropping.train()(**parallelize(dropping, dist.group.WORLD).cut(ROW)),
        "a cache": go_on_from_a_cache,
        "a mask": mask,
    }
    messages = {
        "dropout": "attention dropout",
        "a cache": "a cache of earlier keys",
        "a mask": "a mask that the model makes itself",
    }
    assert_refused(acts, messages)
