"""Loss by position: the buckets, the same documents for all of them, and the difference that decides."""

from itertools import pairwise

import numpy as np
import pytest

from ropewalk.corpus.tokens.corpus_folder import Corpus
from ropewalk.corpus.tokens.store import all_documents
from ropewalk.evaluate.items import Sums
from ropewalk.evaluate.loss_by_position import PositionLoss, plan_position_loss


def test_the_last_quarters_are_buckets() -> None:
    four = PositionLoss([], base_tokens=512, multiple=4)
    assert four.borders == [0, 128, 256, 384, 512, 768, 1024, 1536, 2048]
    assert PositionLoss([], base_tokens=512, multiple=1).borders == [0, 128, 256, 384, 512]
    assert PositionLoss([], base_tokens=512, multiple=3).borders == [0, 128, 256, 384, 512, 768, 1024, 1152, 1536]
    for base in (64, 100, 512):
        for multiple in (*range(1, 18), 1.5, 2.5, 4.75):
            borders = PositionLoss([], base_tokens=base, multiple=multiple).borders
            pairs = list(pairwise(borders))
            far = round(base * multiple)
            assert (base * 3 // 4, base) in pairs and (far * 3 // 4, far) in pairs
    short = PositionLoss([], base_tokens=512, multiple=1.25)
    assert short.borders == [0, 128, 256, 384, 512, 640], "the base's last quarter is a bucket, and all beyond it"


def test_scores_are_token_weighted_means_of_their_bucket() -> None:
    documents = [np.zeros(256, dtype=np.int64)] * 5
    loss = PositionLoss(documents, base_tokens=64, multiple=4)
    nll = np.random.default_rng(0).random((5, 256))
    nll[:, 0] = 0  # nothing predicts a first token
    items = loss.items
    sums = Sums(*(np.zeros(loss.groups) for _ in range(3)))
    for item, row in zip(items, nll, strict=True):
        np.add.at(sums.count, item.group[1:], 1)
        np.add.at(sums.nll, item.group[1:], row[1:])
    scores = {score.task: score for score in loss.score(sums, model="m")}
    assert scores["nll/position/0-16"].n == 75
    assert scores["nll/position/0-16"].value == pytest.approx(nll[:, 1:16].mean())
    assert scores["nll/position/48-64"].value == pytest.approx(nll[:, 48:64].mean())
    assert scores["nll/position/192-256"].value == pytest.approx(nll[:, 192:256].mean())
    gap = scores["nll/gap"]
    assert gap.value == pytest.approx(nll[:, 192:256].mean() - nll[:, 48:64].mean())
    assert gap.low < gap.value < gap.high and gap.context_tokens == 256


def test_documents_are_held_out_long_enough_and_always_the_same(corpus: Corpus) -> None:
    found = plan_position_loss(corpus, base_tokens=64, multiple=4, documents=12, seed=3)
    again = plan_position_loss(corpus, base_tokens=64, multiple=4, documents=12, seed=3)
    other = plan_position_loss(corpus, base_tokens=64, multiple=4, documents=12, seed=4)
    assert found is not None and again is not None and other is not None
    assert all(len(tokens) == 256 for tokens in found.documents) and len(found.documents) == 12
    assert all(np.array_equal(a, b) for a, b in zip(found.documents, again.documents, strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(found.documents, other.documents, strict=True))
    held = [tokens.tolist() for tokens in all_documents(corpus.held_out("prose"))]
    assert all(tokens.tolist() in [text[:256] for text in held] for tokens in found.documents)


def test_no_document_is_long_enough(corpus: Corpus) -> None:
    assert plan_position_loss(corpus, base_tokens=64, multiple=1000, documents=12, seed=3) is None
