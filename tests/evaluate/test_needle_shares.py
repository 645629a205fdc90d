"""Attention on needles: the weights of plain softmax, on any ranks, and heads chosen by them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from ropewalk.corpus.tokens.tokenizer import Tokenizer
from ropewalk.evaluate.items import Item
from ropewalk.evaluate.needle_shares import Head, NeedleShares, choose_heads, find_needles
from ropewalk.evaluate.retrieval import plan_retrieval
from ropewalk.evaluate.sharded_model import measure_shared
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.partition.choose import make_sharing
from ropewalk.partition.cost import Heads
from ropewalk.probe.key_value import KeyValue

SHARING = make_sharing(Heads(4, 2, 8), device="cpu", element_bytes=4)


def test_needles_are_the_earlier_places_of_an_answer() -> None:
    tokens = np.array([5, 7, 8, 1, 7, 9, 2, 7, 8, 3, 4])
    group = np.array([-1, -1, -1, -1, -1, -1, -1, 6, 6, -1, 9])  # answers "7 8" and "4"
    needle, asked = find_needles(Item(tokens, group))
    assert needle.tolist() == [-1, 0, 0, -1, -1, -1, -1, -1, -1, -1, -1], "7 9 is no place of 7 8, and 4 has none"
    assert asked.tolist() == [-1, -1, -1, -1, -1, -1, 0, 0, -1, -1, -1]


def softmax_shares(folder: Path, items: list[Item]) -> dict[Head, float]:
    """The shares by transformers' own matrices of weights, one prompt at a time."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    total, queries = 0.0, 0
    for item in items:
        needle, asked = find_needles(item)
        with torch.no_grad():
            weights = torch.stack(model(torch.from_numpy(item.tokens)[None], output_attentions=True).attentions)[:, 0]
        for query in np.flatnonzero(asked >= 0):
            total = total + weights[:, :, query, np.flatnonzero(needle == asked[query])].sum(-1).double()
            queries += 1
    return {(layer, head): float(value) / queries for (layer, head), value in np.ndenumerate(np.asarray(total))}


@pytest.mark.parametrize(("ranks", "context"), [(1, 1), (2, 2), (2, 1)])
def test_shares_are_those_of_a_softmax(models: dict[str, Path], tokenizer: Tokenizer, ranks: int, context: int) -> None:
    planned = plan_retrieval(KeyValue(pairs=(2, 4)), tokenizer, lengths=[60, 100], answers=12, depths=5, seed=1)
    assert planned is not None

    def read() -> dict[Head, float]:
        mesh, shares = make_mesh(ranks, context), NeedleShares()
        learner = ModelWithLoss(load_model(models["base"]))
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        asked = {"mesh": mesh, "sharing": SHARING, "sequence_tokens": 128}
        measure_shared(learner, planned.items, planned.groups, shares=shares, **asked)  # type: ignore[arg-type]
        chosen = choose_heads(shares)
        found = shares.of_each()
        assert chosen is not None and chosen.heads == (max(found, key=lambda head: found[head]),)
        assert chosen.share(shares) == chosen.base_share == max(found.values())
        return found

    true = softmax_shares(models["base"], planned.items)
    assert len(true) == 2 * 4 and max(true.values()) > 0.01
    for found in run_ranks(read, ranks, threads=1):
        assert found == pytest.approx(true, rel=1e-4)


def test_without_needles_there_are_no_heads() -> None:
    assert choose_heads(NeedleShares()) is None
