"""A sharded model reads what a whole one reads, on any ranks, and trains on as if it had not been asked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.tensor import DTensor

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.evaluate.items import Item, lay_sequence, measure
from ropewalk.evaluate.long_context_gain import plan_context_gain
from ropewalk.evaluate.sharded_model import measure_shared
from ropewalk.model.load import load_model
from ropewalk.model.model_with_loss import ModelWithLoss
from ropewalk.parallel.fsdp import shard_model
from ropewalk.parallel.launch import run_ranks
from ropewalk.parallel.mesh import make_mesh
from ropewalk.partition.choose import make_sharing
from ropewalk.partition.cost import Heads

SHARING = make_sharing(Heads(4, 2, 8), device="cpu", element_bytes=4)


@pytest.mark.parametrize(("ranks", "context"), [(1, 1), (2, 2), (2, 1), (4, 2)])
def test_it_is_what_a_whole_model_reads(models: dict[str, Path], corpus: Corpus, ranks: int, context: int) -> None:
    planned = plan_context_gain(corpus, context_tokens=96, truncated_tokens=32, documents=5, seed=1)
    assert planned is not None and len(planned.documents) == 5
    items = [*planned.items, Item(np.arange(7), np.full(7, 1))]  # a length that no ranks divide

    def read_twice() -> list[np.ndarray]:
        mesh, found = make_mesh(ranks, context), []
        learner, whole = (ModelWithLoss(load_model(models["base"])) for _ in range(2))
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        learner.train()
        for _ in range(2):
            shared = measure_shared(learner, items, planned.groups, mesh=mesh, sharing=SHARING, sequence_tokens=128)
            alone = measure(whole.requires_grad_(False), items, planned.groups, name="whole")
            found += [np.stack((each.count, each.nll)) for each in (shared, alone)]
            assert learner.training and all(isinstance(each, DTensor) for each in learner.parameters())
            with torch.no_grad():  # as an optimizer does: what was gathered for reading must not be read again
                for parameter in (*learner.parameters(), *whole.parameters()):
                    parameter.mul_(0.9)
        return found

    for first, whole_first, second, whole_second in run_ranks(read_twice, ranks):
        assert np.allclose(first, whole_first, rtol=1e-5) and np.allclose(second, whole_second, rtol=1e-5)
        assert not np.allclose(first[1], second[1], rtol=1e-3)


def test_only_the_last_tokens_count_and_the_same_in_both_readings(corpus: Corpus) -> None:
    planned = plan_context_gain(corpus, context_tokens=96, truncated_tokens=32, documents=3, seed=1)
    assert planned is not None
    counts = np.zeros(planned.groups)
    for item in planned.items:
        np.add.at(counts, item.group[item.group >= 0], 1)
    assert counts.tolist() == [32] * 6
    whole, *_ = planned.items
    assert np.flatnonzero(whole.group >= 0).tolist() == list(range(64, 96))
    assert plan_context_gain(corpus, context_tokens=63, truncated_tokens=32, documents=3, seed=1) is None, (
        "nothing is far there"
    )
    assert plan_context_gain(corpus, context_tokens=90_000, truncated_tokens=32, documents=3, seed=1) is None


def test_a_rank_without_items_reads_padding() -> None:
    laid = lay_sequence([], multiple=4)
    assert laid.document.tolist() == [-1] * 4 and laid.group.tolist() == [-1] * 4
    laid = lay_sequence([Item(np.arange(3), np.array([-1, 0, 0])), Item(np.arange(2), np.array([-1, 1]))], multiple=4)
    assert laid.document.tolist() == [0, 0, 0, 1, 1, -1, -1, -1]
    assert laid.group.tolist() == [0, 0, -1, 1, -1, -1, -1, -1] and laid.positions.tolist()[:5] == [0, 1, 2, 0, 1]


def test_all_ranks_read_equally_often(models: dict[str, Path]) -> None:
    """Two data ranks and one item: weights are gathered together, so a rank that read nothing would leave the other."""

    def count_reads() -> tuple[int, float]:
        mesh, reads = make_mesh(2, 1), []
        learner = ModelWithLoss(load_model(models["base"]))
        shard_model(learner, mesh, precision="float32", whole_bytes=0)
        learner.register_forward_pre_hook(lambda *_: reads.append(1))
        item = Item(np.arange(7), np.full(7, 0))
        sums = measure_shared(learner, [item], 1, mesh=mesh, sharing=SHARING, sequence_tokens=128)
        return len(reads), float(sums.count[0])

    assert run_ranks(count_reads, 2) == [(1, 6.0), (1, 6.0)]
