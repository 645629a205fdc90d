"""Greedy decoding with a cache: it writes what transformers writes, on any ranks, with windows and sharded weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk.model.greedy_writer import GreedyWriter, write_greedily
from ropewalk.model.load import load_model
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh

SHAPE = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128, "initializer_range": 0.4,
}  # fmt: skip
NO_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
LATENT = {
    "q_lora_rank": None, "kv_lora_rank": 8, "head_dim": 4, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8, "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1,
    "topk_group": 1, "moe_intermediate_size": 16,
}  # fmt: skip
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 9},
    "gemma2": {"sliding_window": 9, "attn_logit_softcapping": 0.5, "tie_word_embeddings": False},
    "gpt_oss": {"sliding_window": 9, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": LATENT,
}
"""Windows, a cap of scores, sinks, and latent attention."""
PROMPTS = [np.random.default_rng(n).integers(0, 97, size=size) for n, size in enumerate((21, 6, 34))]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("writers")
    for name, keys in MODELS.items():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **{**SHAPE, **NO_TOKENS, **keys}))
        for path, parameter in model.named_parameters():
            if path.endswith("sinks"):
                torch.nn.init.normal_(parameter, 2.0, 1.0)
        model.save_pretrained(folder / name)
    return {name: folder / name for name in MODELS}


def generate_plainly(folder: Path) -> list[list[int]]:
    """A forward over the whole text for each token, by transformers' eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    found = []
    for prompt in PROMPTS:
        tokens = prompt.tolist()
        for _ in range(8):
            with torch.no_grad():
                tokens.append(int(model(torch.tensor([tokens]), use_cache=False).logits[0, -1].argmax()))
        found.append(tokens[len(prompt) :])
    return found


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("llama", 1), ("mistral", 1), ("llama", 3), ("mistral", 2), ("gemma2", 2), ("gpt_oss", 2), ("deepseek_v3", 2)],
)
def test_it_writes_what_transformers_writes(folders: dict[str, Path], name: str, ranks: int) -> None:
    def write() -> list[list[int]]:
        learner = GreedyWriter(load_model(folders[name])).eval()
        if ranks > 1:
            shard_model(learner, make_mesh(ranks, 1), precision=None, whole_bytes=0)
        return write_greedily(learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: False)

    expected = generate_plainly(folders[name])
    assert len({token for tokens in expected for token in tokens}) > 4
    for written in [write()] if ranks == 1 else run_ranks(write, ranks):
        assert written == expected


def test_a_prompt_ends_where_it_is_finished(folders: dict[str, Path]) -> None:
    learner = GreedyWriter(load_model(folders["llama"])).eval()
    whole = write_greedily(learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: False)
    ends = [2, 8, 5]
    part = write_greedily(learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: len(tokens) == ends[number])
    assert part == [tokens[:end] for tokens, end in zip(whole, ends, strict=True)]
