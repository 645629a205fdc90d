"""Greedy decoding with a cache: it writes what transformers writes, on any ranks, with windows and sharded weights."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ropewalk.model.greedy_writer import GreedyWriter, Written, write_greedily
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


def read_plainly(folder: Path, prompt: np.ndarray, draft: np.ndarray) -> list[float]:
    """The nll of a draft after its prompt, by transformers' eager attention."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    text = torch.from_numpy(np.concatenate((prompt, draft)))
    with torch.no_grad():
        logits = model(text[None], use_cache=False).logits[0].double().log_softmax(-1)
    return [-float(logits[len(prompt) + place - 1, token]) for place, token in enumerate(draft.tolist())]


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("llama", 1), ("mistral", 1), ("llama", 3), ("mistral", 2), ("gemma2", 2), ("gpt_oss", 2), ("deepseek_v3", 2)],
)
def test_it_writes_what_transformers_writes(folders: dict[str, Path], name: str, ranks: int) -> None:
    expected = generate_plainly(folders[name])
    assert len({token for tokens in expected for token in tokens}) > 4
    # right to the end, wrong from the fourth token on, none
    drafts = [np.array(expected[0]), np.array([*expected[1][:3], (expected[1][3] + 1) % 97, 5]), PROMPTS[2][:0]]

    def write() -> tuple[list[Written], list[Written]]:
        learner = GreedyWriter(load_model(folders[name])).eval()
        if ranks > 1:
            shard_model(learner, make_mesh(ranks, 1), precision=None, whole_bytes=0)
        plain = write_greedily(learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: False)
        return plain, write_greedily(
            learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: False, drafts=drafts
        )

    for plain, drafted in [write()] if ranks == 1 else run_ranks(write, ranks):
        assert [each.tokens for each in plain] == expected and [each.tokens for each in drafted] == expected
        assert [each.correct.tolist() for each in drafted] == [[True] * 8, [True] * 3 + [False, False], []] or (
            drafted[1].correct[4] and drafted[1].correct[:4].tolist() == [True, True, True, False]
        )
        for each, prompt, draft in zip(drafted, PROMPTS, drafts, strict=True):
            assert each.nll == pytest.approx(read_plainly(folders[name], prompt, draft), rel=1e-4, abs=1e-5)


def test_a_prompt_ends_where_it_is_finished(folders: dict[str, Path]) -> None:
    learner = GreedyWriter(load_model(folders["llama"])).eval()
    whole = [
        each.tokens for each in write_greedily(learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: False)
    ]
    ends = [2, 8, 5]
    for drafts in (None, [np.array(tokens) for tokens in whole]):
        part = write_greedily(
            learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: len(tokens) == ends[number], drafts=drafts
        )
        assert [each.tokens for each in part] == [tokens[:end] for tokens, end in zip(whole, ends, strict=True)]


def test_a_right_draft_is_read_once_and_nothing_is_written_alone(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = GreedyWriter(load_model(folders["llama"])).eval()
    drafts = [np.array(tokens) for tokens in generate_plainly(folders["llama"])]
    read: list[int] = []
    plain = GreedyWriter.forward

    def count(self: GreedyWriter, tokens: torch.Tensor, *given: Any, **keys: Any) -> torch.Tensor:
        read.append(len(tokens))
        return plain(self, tokens, *given, **keys)

    monkeypatch.setattr(GreedyWriter, "forward", count)
    write_greedily(learner, PROMPTS, most_tokens=8, finished=lambda number, tokens: False, drafts=drafts)
    assert read == [sum(map(len, PROMPTS)) + 3 * 8]
