"""Without a partition the registered attention is transformers' own; with one, no mask of all pairs is ever made."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from llama_kin import LLAMA_KIN
from ropewalk.model.attention_interface import NAME, promise_mask
from ropewalk.partition import partition_tokens

VOCABULARY = 97
Make = Callable[..., PreTrainedModel]
pytestmark = pytest.mark.parametrize("architecture", LLAMA_KIN)


def pair(make_tiny: Make, architecture: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    return make_tiny(architecture, attn_implementation=NAME), make_tiny(architecture)


def test_plain_padded_and_packed_calls_equal_sdpa(make_tiny: Make, architecture: str) -> None:
    ours, plain = pair(make_tiny, architecture)
    tokens = torch.randint(VOCABULARY, (2, 20), generator=torch.Generator().manual_seed(1))
    padded = torch.ones_like(tokens)
    padded[0, :7] = 0
    positions = torch.cat([torch.arange(12), torch.arange(8)])[None].expand(2, -1)
    for arguments in ({}, {"attention_mask": padded}, {"position_ids": positions, "use_cache": False}):
        with torch.no_grad():
            torch.testing.assert_close(
                ours(tokens, **arguments).logits, plain(tokens, **arguments).logits, rtol=0, atol=0
            )


def test_generation_with_a_cache_equals_sdpa(make_tiny: Make, architecture: str) -> None:
    ours, plain = pair(make_tiny, architecture)
    prompt = torch.arange(11)[None]
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    assert torch.equal(ours.generate(prompt, **settings), plain.generate(prompt, **settings))


def test_packed_documents_equal_each_alone(make_tiny: Make, architecture: str) -> None:
    ours, plain = pair(make_tiny, architecture)
    lengths = (9, 1, 22)
    document = np.repeat(np.arange(3, dtype=np.int32), lengths)[None]
    tokens = torch.randint(VOCABULARY, (1, 32), generator=torch.Generator().manual_seed(2))
    positions = torch.cat([torch.arange(length) for length in lengths])[None]
    partition = partition_tokens(document, ranks=1)
    with torch.no_grad():
        packed = ours(tokens, position_ids=positions, use_cache=False, partition=partition).logits[0]
        alone = torch.cat([plain(part, use_cache=False).logits[0] for part in tokens.split(lengths, dim=1)])
    assert (packed - alone).norm() / alone.norm() < 1e-6


def test_a_promised_mask_is_made_once_and_only_if_asked(architecture: str) -> None:
    impossible = promise_mask(batch_size=1, q_length=1 << 40, kv_length=1 << 40)
    assert impossible is not None
    mask = promise_mask(batch_size=1, q_length=4, kv_length=4, allow_is_causal_skip=False)
    assert mask.make() is mask.make()
    assert torch.equal(mask.make()[0, 0], torch.ones(4, 4, dtype=torch.bool).tril())
