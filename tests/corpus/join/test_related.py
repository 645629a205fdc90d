"""Planted relations are found, near copies never stand together, and each text is used once."""

from collections import Counter
from itertools import pairwise
from math import log

import numpy as np
import pytest
from jaxtyping import UInt32

from made_texts import WORDS
from ropewalk.core.record import Shard
from ropewalk.core.seed import stream
from ropewalk.corpus.dedup.minhash import sign
from ropewalk.corpus.join import rare_terms
from ropewalk.corpus.join.rare_terms import list_related
from ropewalk.corpus.join.related import chain_related
from ropewalk.corpus.join.write_pieces import PartOrder
from ropewalk.corpus.join_rules import RelatedRules
from ropewalk.corpus.spec import CorpusSpec
from ropewalk.corpus.tokens.store import StoredDocuments

EVENTS, OF_EACH = 60, 8
Stored = tuple[StoredDocuments, UInt32[np.ndarray, "documents 128"]]


def plant(seed: int = 0, copies: int = 0, events: int = EVENTS) -> tuple[list[str], list[int]]:
    """Reports on invented events, in any order: eight of each share four names that other reports never have; all
    other words are common to all, as often as the words of a language. Some are copied: every twentieth word changed.
    """
    common = [first + second for first in WORDS for second in WORDS]
    often = 1 / np.arange(1, len(common) + 1)
    texts, event_of = [], []
    for event in range(events):
        names = [f"name{event}-{at}" for at in range(4)]
        for at in range(OF_EACH):
            random = stream("report", event, at)
            words = random.choice(common, 120, p=often / often.sum()).tolist()
            for name in random.choice(names, 9).tolist():
                words[int(random.integers(len(words)))] = name
            texts.append(" ".join(words))
            event_of.append(event)
            if at == 0 and event < copies:
                texts.append(" ".join("changed" if number % 20 == 3 else word for number, word in enumerate(words)))
                event_of.append(event)
    order = stream("order", seed).permutation(len(texts)).tolist()
    return [texts[at] for at in order], [event_of[at] for at in order]


def store(texts: list[str]) -> Stored:
    """Texts in the order of their letters, as the store's documents in the order of their digests; a token a word."""
    numbers = {word: number for number, word in enumerate(sorted({word for text in texts for word in text.split()}))}
    ids = [np.array([numbers[word] for word in text.split()], dtype=np.uint32) for text in texts]
    tokens = np.concatenate(ids)
    ends = np.cumsum([len(each) for each in ids]).astype(np.uint64)
    shard = Shard(tokens=tokens, ends=ends, mask=np.ones(len(tokens), dtype=np.uint8), manifest={})
    order = np.array(sorted(range(len(texts)), key=lambda at: texts[at]), dtype=np.int64)
    return StoredDocuments((shard,), order), np.stack([sign(texts[at]) for at in order.tolist()])


def chains(order: PartOrder) -> list[list[int]]:
    borders = np.flatnonzero(order.opens)[1:]
    return [part.tolist() for part in np.split(order.documents, borders)]


def join(stored: Stored, **rules: float | bool) -> list[list[int]]:
    documents, signatures = stored
    given = RelatedRules.model_validate({"target_tokens": 1000, **rules})
    return chains(chain_related(documents, documents.lengths, signatures, given))


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], list[int], Stored]:
    texts, event_of = plant()
    return texts, event_of, store(texts)


def list_slowly(documents: StoredDocuments, terms: int, neighbours: int) -> list[list[int]]:
    """The nearest documents by dictionaries: tokens and pairs by their names, each pair of documents by itself."""
    counted = [Counter([*ids.tolist(), *pairwise(ids.tolist())]) for ids in documents]
    holders = Counter(term for own in counted for term in own)
    rarity = {term: round(1024 * log(len(documents) / count)) for term, count in holders.items()}
    most_common = max(8, len(documents) // 4)
    kept = []
    for own in counted:
        fit = [term for term in own if 2 <= holders[term] <= most_common]
        scores = {term: round((1 + log(own[term])) * rarity[term]) for term in fit}
        kept.append({term: round(16 * (1 + log(own[term]))) for term in sorted(fit, key=lambda t: -scores[t])[:terms]})
    found = []
    for own in kept:
        shared = [own.keys() & other.keys() for other in kept]
        sums = [sum(rarity[t] * own[t] * other[t] for t in both) for both, other in zip(shared, kept, strict=True)]
        near = [at for at, both in enumerate(shared) if len(both) >= 2 and kept[at] is not own]
        found.append(sorted(near, key=lambda at: (-sums[at], at))[:neighbours])
    return found


def test_the_nearest_texts_are_those_of_a_slow_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many terms that all are kept: which of equal terms is kept goes by numbers that only the table has."""
    monkeypatch.setattr(rare_terms, "_LEAST_BITS", 26)  # no two terms share a number
    texts, _ = plant(copies=3, events=4)
    documents, _ = store([*texts, "alone", "alone again", ""])
    rules = RelatedRules(target_tokens=1000, terms=1000, neighbours=5)
    slow = list_slowly(documents, 1000, 5)
    for tokens, shared in ((1 << 16, 1 << 18), (200, 500)):
        monkeypatch.setattr(rare_terms, "_STEP_TOKENS", tokens)
        monkeypatch.setattr(rare_terms, "_STEP_SHARED", shared)
        assert [*list_related(documents, rules)] == slow
    assert sum(map(len, slow)) > 100 and [] in slow
    assert [*list_related(documents.take(np.empty(0, dtype=np.int64)), rules)] == []


def test_planted_relations_are_found(planted: tuple[list[str], list[int], Stored]) -> None:
    texts, event_of, stored = planted
    found = join(stored, target_tokens=4000)
    assert Counter(number for chain in found for number in chain) == Counter(range(len(texts)))  # each once
    assert max(sum(len(texts[number].split()) for number in chain) for chain in found) <= 4000
    pairs = [(event_of[a], event_of[b]) for chain in found for a, b in pairwise(chain)]
    right = sum(a == b for a, b in pairs)
    assert right / len(pairs) >= 0.9, "precision"
    assert right / (EVENTS * (OF_EACH - 1)) >= 0.9, "recall"


def test_random_joins_are_the_control(planted: tuple[list[str], list[int], Stored]) -> None:
    texts, event_of, stored = planted
    found = join(stored, control=True)
    assert Counter(number for chain in found for number in chain) == Counter(range(len(texts)))
    pairs = [(event_of[a], event_of[b]) for chain in found for a, b in pairwise(chain)]
    assert len(pairs) > 300 and sum(a == b for a, b in pairs) / len(pairs) < 0.1


def test_the_control_has_documents_of_the_same_lengths() -> None:
    """Of texts of 40 to 120 words, of which each has up to seven related ones: documents do not reach the target."""
    texts, _ = plant()
    sizes = stream("sizes").integers(40, 121, len(texts)).tolist()
    stored = store([" ".join(text.split()[-size:]) for text, size in zip(texts, sizes, strict=True)])
    lengths = dict(zip(stored[0].chosen.tolist(), stored[0].lengths.tolist(), strict=True))
    related, random = (
        np.array([sum(lengths[number] for number in chain) for chain in join(stored, control=control)])
        for control in (False, True)
    )
    left_over = random[len(related) :]  # a text that fits in no place is alone
    assert len(left_over) <= 1 and related.sum() == random.sum()
    assert (np.abs(related - random[: len(related)]) / related).mean() < 0.05 and random.max() <= 1000


@pytest.mark.parametrize("control", [False, True])
def test_a_corpus_with_chains_of_before_is_another_corpus(control: bool) -> None:
    """Such corpora recorded the rules as they were given."""
    rules = {"related": {"target_tokens": 1000, "control": control}}
    source = {"name": "x", "path": "x", "role": "general", "join": rules}
    spec = CorpusSpec.model_validate({"sources": [source], "mix": {"x": 1}})
    (recorded,) = spec.content["sources"]
    assert recorded["join"] != spec.sources[0].model_dump(mode="json")["join"]
    assert recorded["join"]["related"]["target_tokens"] == 1000
    assert bool(recorded["join"]["related"]["control"]) is control and recorded["join"]["related"]["weights"] == 2


@pytest.mark.parametrize("control", [False, True])
def test_near_copies_never_stand_in_one_chain(control: bool) -> None:
    texts, _ = plant(copies=15, events=30)
    stored = documents, signatures = store(texts)
    sign_of = dict(zip(documents.chosen.tolist(), signatures, strict=True))
    alike = [
        float((sign_of[a] == sign_of[b]).mean())
        for chain in join(stored, target_tokens=3000, control=control)
        for at, a in enumerate(chain)
        for b in chain[:at]
    ]
    assert len(alike) > 500 and max(alike) < 0.3
    pairs = (signatures[:, None] == signatures[None]).mean(axis=2)
    assert (np.triu(pairs, 1) >= 0.3).sum() == 15


def test_the_order_of_the_texts_does_not_matter() -> None:
    (one, _), (two, _) = plant(0, 10, events=20), plant(1, 10, events=20)
    found, again = ([[texts[at] for at in chain] for chain in join(store(texts))] for texts in (one, two))
    assert one != two and found == again
